"""Soft masks from dense landmarks: which part of a crop a result may change.

A ring of landmarks is filled and blurred, and the blur's inner flank becomes the ramp.  The mask is 0 on the ring
itself and reaches 1 a little further in, so that hairline and jaw border stay the target's.  It is drawn anti-aliased
on a coarse grid, in sixteenths of a cell, so that it moves as smoothly as the landmarks do.
"""

from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np

from talkswap.faces.geometry import smooth_step
from talkswap.faces.mesh import FACE_OVAL, LEFT_EYE_RING, RIGHT_EYE_RING
from talkswap.types import FloatArray

# From the top of the forehead over the nose to the chin; with half the oval it bounds half the face.
MIDLINE = (
    10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 164, 0, 11, 12, 13, 14, 15, 16, 17, 18, 200, 199, 175, 152,
)  # fmt: skip
_CHIN = FACE_OVAL.index(152)
RIGHT_HALF = FACE_OVAL[: _CHIN + 1] + MIDLINE[-2:0:-1]  # right in the picture
LEFT_HALF = FACE_OVAL[_CHIN:] + MIDLINE[:-1]

# Under the nose and across the cheeks, then down and around the jaw; in halves too.
_LOWER_MIDLINE = MIDLINE[MIDLINE.index(2) : -1]
LOWER_RIGHT = (
    2, 326, 327, 423, 425, 411, 376, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, *_LOWER_MIDLINE[:0:-1],
)  # fmt: skip
LOWER_LEFT = (152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 147, 187, 205, 203, 98, 97, *_LOWER_MIDLINE)
MOUTH = (57, 186, 92, 165, 167, 164, 393, 391, 322, 410, 287, 273, 335, 406, 313, 18, 83, 182, 106, 43)

POLYGON_EXCESS = 0.62  # cells by which cv2.fillPoly's anti-aliased polygons are too wide, measured on discs


@dataclass(frozen=True)
class MaskConfig:
    """The soft edge of a mask."""

    feather: float = 0.22  # width of the ramp from 0 to 1, in distances between the eyes
    outset: float = 0.0  # where the ramp starts, in eye distances outside the ring; negative = inside
    grid: int = 80  # cells along the crop's side on which the mask is drawn


def eye_distance(landmarks: FloatArray) -> float:
    """Distance between the eyes' centres, px.  In three dimensions, so that it does not shrink as the head turns."""
    points = np.asarray(landmarks, np.float32)
    return float(np.linalg.norm(points[list(RIGHT_EYE_RING)].mean(0) - points[list(LEFT_EYE_RING)].mean(0)))


def soft_ring(
    landmarks: FloatArray, rings: tuple[tuple[int, ...], ...], size: int, config: MaskConfig | None = None
) -> FloatArray:
    """The union of filled rings with a ramp along its border.

    Args:
        landmarks: 478 x 2 or 3 in px of the ``size`` square.
        rings: landmark indices in order around each contour; they may overlap.
        size: side of the mask, px.

    Returns:
        size size float32 in [0, 1].
    """
    config = config or MaskConfig()
    points = np.asarray(landmarks, np.float32)
    grid = min(config.grid, size)
    scale = grid / size
    drawn = 2 * grid
    cells = np.round(((points[:, :2] + 0.5) * (drawn / size) - 0.5) * 16).astype(np.int32)
    picture = np.zeros((drawn, drawn), np.uint8)
    for ring in rings:  # one call each: within one call overlapping rings would cancel
        cv2.fillPoly(picture, [cells[list(ring)]], 255, lineType=cv2.LINE_AA, shift=4)
    feather = config.feather * eye_distance(points) * scale  # cells
    shift = config.outset * eye_distance(points) * scale - POLYGON_EXCESS * grid / drawn
    # A straight edge blurred with sigma s follows the normal distribution, nearly straight within 1.2 s of the edge.
    sigma = max((feather + abs(2 * shift)) / 2.4, 0.6)
    picture = np.asarray(cv2.resize(picture, (grid, grid), interpolation=cv2.INTER_AREA), np.uint8)
    flank = np.asarray(cv2.GaussianBlur(picture.astype(np.float32) / np.float32(255), (0, 0), sigma), np.float32)
    low, high = (NormalDist().cdf(place / sigma) for place in (-shift, feather - shift))
    mask = np.asarray(smooth_step(flank, low, high), np.float32)
    if grid != size:
        mask = np.clip(cv2.resize(mask, (size, size), interpolation=cv2.INTER_LINEAR), 0, 1)
    return np.asarray(mask, np.float32)


def face_mask(landmarks: FloatArray, size: int, config: MaskConfig | None = None) -> FloatArray:
    """The whole face as far as the mesh reaches, forehead included (for a swap).

    Each half is bounded by its side of the oval and by the midline, so that a turned head's nose, which stands
    out over the far cheek, stays inside; so do the lips.

    Args:
        landmarks: 478 x 2 or 3 in px of the ``size`` square.
        size: side of the crop, px.

    Returns:
        size size float32 in [0, 1].
    """
    return soft_ring(landmarks, (LEFT_HALF, RIGHT_HALF, MOUTH), size, config)


def lower_face_mask(landmarks: FloatArray, size: int, config: MaskConfig | None = None) -> FloatArray:
    """From under the nose to the jaw (size size, [0, 1]): all that speech moves, for a render without a swap."""
    return soft_ring(landmarks, (LOWER_LEFT, LOWER_RIGHT, MOUTH), size, config)
