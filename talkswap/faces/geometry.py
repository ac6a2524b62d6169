"""Geometry of faces: named points of the mesh, similarities, boxes, and the square that every network looks at.

The square follows the FFHQ data set's rule: eyes and mouth fix its centre, roll and size.  So roll is removed by
construction, and a wide-open mouth doesn't leave the crop.  Everything here works on points and pictures alone; what
needs the mean face is in :mod:`talkswap.faces.mesh` and :mod:`talkswap.faces.measures`.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.types import AlignedFace, FloatArray, UInt8Image

# Points of the 478-point mesh.  "Left" always means left in the picture, and comes first.
LEFT_EYE = (33, 160, 158, 133, 153, 144)
RIGHT_EYE = (362, 385, 387, 263, 373, 380)
EYE_CORNERS = ((33, 133), (362, 263))  # left and right corner of each eye
OUTER_EYE_CORNERS = (33, 263)
MOUTH_CORNERS = (61, 291)
NOSE_TIP = 1

ARCFACE_SIZE = 112  # px
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""Where ArcFace networks expect :func:`five_points` in their square, px."""


def eyes_and_mouth(landmarks: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Centres (2-vectors, px) of the left eye, the right eye and the mouth of 478 mesh points."""
    points = np.asarray(landmarks, np.float32)[:, :2]
    left, right, mouth = (points[list(part)].mean(0) for part in (LEFT_EYE, RIGHT_EYE, MOUTH_CORNERS))
    return left, right, mouth


def five_points(landmarks: FloatArray) -> FloatArray:
    """Eye centres, nose tip and mouth corners (5 x 2, px) of 478 mesh points."""
    points = np.asarray(landmarks, np.float32)[:, :2]
    left, right, _ = eyes_and_mouth(landmarks)
    return np.stack([left, right, points[NOSE_TIP], *points[list(MOUTH_CORNERS)]]).astype(np.float32)


def outer_eye_distance(landmarks: FloatArray) -> FloatArray:
    """Distance between the outer corners of the eyes (...), the unit of many measures.

    Args:
        landmarks: ... 478 2 or 3; give two coordinates for a distance in the picture plane.
    """
    first, second = OUTER_EYE_CORNERS
    return np.asarray(np.linalg.norm(landmarks[..., first, :] - landmarks[..., second, :], axis=-1))


# Similarities


def planar_similarity(source: NDArray[Any], target: NDArray[Any]) -> tuple[complex, complex]:
    """(a, b) of the least-squares similarity ``a w + b`` in the complex plane that takes N x 2 points to others.

    With centred points w, z as complex numbers, a = <w, z> / <w, w>; ``abs(a)`` is the scale, its angle the rotation.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    w, z = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    centred = w - w.mean()
    # Points that coincide have no scale: a tiny floor keeps the answer finite.
    a = complex(np.vdot(centred, z - z.mean()) / max(np.vdot(centred, centred).real, 1e-9))
    return a, complex(z.mean() - a * w.mean())


def similarity_affine(source: FloatArray, target: FloatArray) -> FloatArray:
    """:func:`planar_similarity` as an affine (2 x 3)."""
    a, b = planar_similarity(source, target)
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]], np.float32)


def spatial_similarity(
    shape: NDArray[np.float64], reference: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Best s, R, t with ``s shape R^T + t`` nearest to ``reference`` in (weighted) least squares (Umeyama 1991).

    Args:
        shape: N 3.
        reference: N 3.
        weights: N, relative trust in each point.

    Returns:
        (scale, rotation 3 3, shift 3).
    """
    weights = np.ones(len(shape)) if weights is None else weights
    weights = weights / weights.sum()
    shape_mean, reference_mean = weights @ shape, weights @ reference
    centred, goal = shape - shape_mean, reference - reference_mean
    u, spread, vt = np.linalg.svd((goal * weights[:, None]).T @ centred)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])  # a rotation, never a reflection
    rotation = (u * sign) @ vt
    scale = float((spread * sign).sum() / (weights @ (centred**2).sum(1)))
    return scale, rotation, reference_mean - scale * rotation @ shape_mean


# Boxes and weights


def box_around(points: FloatArray) -> FloatArray:
    """The smallest box (x0 y0 x1 y1) around points (N 2 or 3)."""
    return np.concatenate([points[:, :2].min(0), points[:, :2].max(0)]).astype(np.float32)


def box_overlap(a: FloatArray, b: FloatArray) -> float:
    """Intersection over union of two boxes (x0 y0 x1 y1)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(both / max(areas - both, 1e-6))


def smooth_step(x: NDArray[Any] | float, low: float, high: float) -> NDArray[Any]:
    """3 t^2 - 2 t^3 of the place t of ``x`` between ``low`` (0) and ``high`` (1); ``low`` may be the larger one."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def neighbour_weights(points: NDArray[Any], sigma: float) -> NDArray[Any]:
    """How much each point's neighbours count (N N, rows sum to one): a Gaussian of ``sigma`` over distances.

    Args:
        points: N D, in the unit of ``sigma``.
    """
    squared = ((points[:, None] - points[None]) ** 2).sum(2)
    weights = np.exp(-squared / (2 * sigma**2))
    return np.asarray(weights / weights.sum(1, keepdims=True))


# The FFHQ square


def ffhq_quad(landmarks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centre and half-side vector of the FFHQ square.

    Args:
        landmarks: 478 x 2 or 478 x 3, px.

    Returns:
        (centre, x): both 2-vectors in px; ``x`` points from the centre to the middle of the right side,
        so its length is half the side and its angle the roll.
    """
    left, right, mouth = eyes_and_mouth(landmarks)
    eyes = (left + right) / 2
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
        # The ratio is the factor, or less in a picture of under one cell.
        ratio = np.array([cut.shape[1] / columns, cut.shape[0] / rows])
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
