"""ArcFace's alignment: five points of a face and the similarity that takes them to a recognition network's square."""

from __future__ import annotations

import numpy as np

from talkswap.faces.align import LEFT_EYE, RIGHT_EYE
from talkswap.types import FloatArray

ARCFACE_SIZE = 112  # px
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""Where eyes, nose tip and mouth corners lie in that square, px; "left" in the picture comes first."""


def five_points(landmarks: FloatArray) -> FloatArray:
    """Eye centres, nose tip and mouth corners (5 x 2, px) of 478 mesh points; "left" in the picture comes first."""
    points = np.asarray(landmarks, np.float32)[:, :2]
    eyes = [points[list(eye)].mean(0) for eye in (LEFT_EYE, RIGHT_EYE)]
    return np.stack([*eyes, points[1], points[61], points[291]]).astype(np.float32)


def similarity(source: FloatArray, target: FloatArray) -> FloatArray:
    """Least-squares similarity (2 x 3, rotation, scale and shift) that takes N x 2 ``source`` points to ``target``.

    With centred points as complex numbers s, t the rotation and scale are <s, t> / <s, s>.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    square = max(float((s**2).sum()), 1e-9)
    a = float((s * t).sum()) / square
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / square
    linear = np.array([[a, -b], [b, a]], np.float64)
    return np.column_stack([linear, target_mean - linear @ source_mean]).astype(np.float32)
