"""FFHQ alignment: the square around a face that every network of talkswap looks at.

The quad follows the data set's rule: eyes and mouth fix centre, roll and size, so that roll is removed
by construction and a wide-open mouth does not leave the crop.
"""

from __future__ import annotations

import cv2
import numpy as np

from talkswap.types import AlignedFace, FloatArray, UInt8Image

LEFT_EYE = (33, 160, 158, 133, 153, 144)  # of the 478-point mesh; "left" in the picture
RIGHT_EYE = (362, 385, 387, 263, 373, 380)
MOUTH_CORNERS = (61, 291)


def ffhq_quad(landmarks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centre and half-side vector of the FFHQ square.

    Args:
        landmarks: 478 x 2 or 478 x 3, px.

    Returns:
        (centre, x): both 2-vectors in px; ``x`` points from the centre to the middle of the right side,
        so its length is half the side and its angle the roll.
    """
    points = np.asarray(landmarks, np.float32)[:, :2]
    left, right = points[list(LEFT_EYE)].mean(0), points[list(RIGHT_EYE)].mean(0)
    eyes = (left + right) / 2
    mouth = points[list(MOUTH_CORNERS)].mean(0)
    eye_to_eye, eye_to_mouth = right - left, mouth - eyes
    direction = eye_to_eye - np.array([-eye_to_mouth[1], eye_to_mouth[0]], np.float32)
    direction /= max(float(np.hypot(*direction)), 1e-6)
    half = max(2.0 * float(np.hypot(*eye_to_eye)), 1.8 * float(np.hypot(*eye_to_mouth)))
    centre = eyes + 0.1 * eye_to_mouth
    return centre.astype(np.float32), (direction * half).astype(np.float32)


def quad_affine(centre: FloatArray, x: FloatArray, size: int) -> FloatArray:
    """Affine (2 x 3) from picture px to px of a ``size`` square that shows the quad."""
    half = float(np.hypot(*x))
    cos, sin = float(x[0]) / half, float(x[1]) / half
    scale = size / (2 * half)
    a, b = scale * cos, scale * sin
    affine = np.array([[a, b, 0.0], [-b, a, 0.0]], np.float64)
    affine[:, 2] = (size - 1) / 2 - affine[:, :2] @ centre
    return affine.astype(np.float32)


def ffhq_affine(landmarks: FloatArray, size: int) -> FloatArray:
    """Affine (2 x 3) from picture px to the FFHQ crop of ``size`` px; ``landmarks`` are 478 x 2 or 3."""
    return quad_affine(*ffhq_quad(landmarks), size)


def transform_points(affine: FloatArray, points: FloatArray) -> FloatArray:
    """Apply a 2 x 3 similarity to N x 2 or N x 3 points; z is scaled alike."""
    points = np.asarray(points, np.float32)
    moved = points[:, :2] @ affine[:, :2].T + affine[:, 2]
    if points.shape[1] == 2:
        return moved.astype(np.float32)
    scale = float(np.sqrt(abs(np.linalg.det(affine[:, :2].astype(np.float64)))))
    return np.concatenate([moved, points[:, 2:] * scale], 1).astype(np.float32)


def invert_affine(affine: FloatArray) -> FloatArray:
    """The 2 x 3 inverse of a 2 x 3 affine."""
    return np.asarray(cv2.invertAffineTransform(affine.astype(np.float64)), np.float32)


def warp_crop(rgb: UInt8Image, affine: FloatArray, size: int) -> UInt8Image:
    """Cut the crop that ``affine`` describes.

    A face larger than the crop is first averaged down, since bilinear sampling alone would alias
    and make the crop shimmer from frame to frame.
    """
    scale = float(np.hypot(affine[0, 0], affine[1, 0]))
    matrix = affine.astype(np.float64)
    if scale < 0.5:
        factor = int(1 / scale)
        corners = transform_points(invert_affine(affine), np.array([[0, 0], [size, 0], [size, size], [0, size]]))
        # Whole cells of the picture's own grid: a cut that began elsewhere in each frame would make the crop flicker.
        low = np.floor(corners.min(0) / factor).astype(int) - 2
        high = np.ceil(corners.max(0) / factor).astype(int) + 2
        cells = np.maximum(np.array([rgb.shape[1], rgb.shape[0]]) // factor, 1)
        low, high = np.clip(low, 0, cells - 1), np.clip(high, 1, cells)
        high = np.maximum(high, low + 1)
        cut = rgb[low[1] * factor : high[1] * factor, low[0] * factor : high[0] * factor]
        columns, rows = (int(n) for n in high - low)
        ratio = np.array(
            [cut.shape[1] / columns, cut.shape[0] / rows]
        )  # factor, or less in a picture of under one cell
        rgb = np.asarray(cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
        # px centres: x_full = (x_small + 0.5) * ratio - 0.5 + start
        matrix[:, 2] += matrix[:, :2] @ (0.5 * ratio - 0.5 + low * factor)
        matrix[:, :2] *= ratio
    crop = cv2.warpAffine(rgb, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(crop, np.uint8)


def align(rgb: UInt8Image, landmarks: FloatArray, size: int, index: int = 0) -> AlignedFace:
    """Cut one face out as the FFHQ crop of ``size`` px."""
    affine = ffhq_affine(landmarks, size)
    return AlignedFace(warp_crop(rgb, affine, size), affine, transform_points(affine, landmarks), index)
