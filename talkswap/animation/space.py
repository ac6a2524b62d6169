"""The pose-free space in which a face's mesh moves, and what speech does in it.

A mesh turned to the front is a *shape* (478 3, eye distances).  A person's *template* is their shape with the lips closed;
a *displacement* is a shape less the template (ReSyncer 3.1), so zero displacement is a closed mouth at rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from talkswap.faces.guide import rigid_weights
from talkswap.faces.mesh import POINTS, mean_face
from talkswap.types import FloatArray

UPPER_INNER, LOWER_INNER = (191, 80, 81, 82, 13, 312, 311, 310, 415), (95, 88, 178, 87, 14, 317, 402, 318, 324)
"""Facing points of the inner lips, from corner to corner."""
LIP_ROWS = (
    ((183, 42, 41, 38, 12, 268, 271, 272, 407), (96, 89, 179, 86, 15, 316, 403, 319, 325), (0.66, 0.72)),
    ((184, 74, 73, 72, 11, 302, 303, 304, 408), (77, 90, 180, 85, 16, 315, 404, 320, 307), (0.30, 0.36)),
)
"""Rows of points between the inner and the outer lips, and how far each goes with the upper and the lower inner lip."""
OUTER_CORNERS, MOUTH_CORNERS = (33, 263), (61, 291)


def pose_free(landmarks: FloatArray, points: NDArray[np.int64] | None = None) -> FloatArray:
    """Shapes of many frames: each mesh by the similarity that takes it nearest to the mean face (Umeyama 1991).

    Args:
        landmarks: T P 3, px, nan where no face; z on the scale of x.
        points: P, which of the 478 points these are; None: all of them.

    Returns:
        float32 T P 3 in eye distances, nan where no face.
    """
    chosen = np.arange(POINTS) if points is None else np.asarray(points)
    model = mean_face().points[chosen].astype(np.float64)
    weight = rigid_weights()[chosen].astype(np.float64)
    weight /= weight.sum()
    shapes = np.full(landmarks.shape, np.nan, np.float32)
    rows = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
    for first in range(0, len(rows), 2048):  # a long clip's meshes in float64 would be large
        block = rows[first : first + 2048]
        seen = landmarks[block].astype(np.float64)  # T P 3
        middle = np.einsum("p,tpc->tc", weight, seen)
        a, b = model - weight @ model, seen - middle[:, None]
        left, spread, right = np.linalg.svd(np.einsum("tpi,p,pj->tij", b, weight, a))
        flip = np.ones((len(block), 3))
        flip[:, 2] = np.sign(np.linalg.det(left) * np.linalg.det(right))  # a rotation, never a reflection
        turn = (left * flip[:, None]) @ right  # T 3 3
        scale = (spread * flip).sum(1) / (weight @ (a * a).sum(1))
        shift = middle - scale[:, None] * (turn @ (weight @ model))
        shapes[block] = ((seen - shift[:, None]) @ turn / scale[:, None, None]).astype(np.float32)
    return shapes


def lip_opening(shapes: FloatArray) -> FloatArray:
    """Signed distance of the inner lips (T) over that of the outer eye corners; 0 is closed.

    Args:
        shapes: T 478 3.
    """
    lower, upper = list(LOWER_INNER)[3:6], list(UPPER_INNER)[3:6]  # the three in the middle
    gap = shapes[:, lower].mean(1) - shapes[:, upper].mean(1)
    eyes = shapes[:, OUTER_CORNERS[1]] - shapes[:, OUTER_CORNERS[0]]
    size = np.linalg.norm(gap, axis=1) * np.sign(gap[:, 1])
    return np.asarray(size / np.maximum(np.linalg.norm(eyes, axis=1), 1e-6), np.float32)


def mouth_width(shapes: FloatArray) -> FloatArray:
    """Distance of the mouth's corners (T) over that of the outer eye corners."""
    mouth = np.linalg.norm(shapes[:, MOUTH_CORNERS[1]] - shapes[:, MOUTH_CORNERS[0]], axis=1)
    eyes = np.linalg.norm(shapes[:, OUTER_CORNERS[1]] - shapes[:, OUTER_CORNERS[0]], axis=1)
    return np.asarray(mouth / np.maximum(eyes, 1e-6), np.float32)


def template_of(shapes: FloatArray, opening_axis: FloatArray) -> FloatArray:
    """A person's template (478 3): the mean of their shapes less what the opening of the mouth adds to it.

    Args:
        shapes: T 478 3, nan where no face.
        opening_axis: 478 3, displacement per unit of :func:`lip_opening`.
    """
    seen = shapes[np.isfinite(shapes[:, 0, 0])]
    return np.asarray(seen.mean(0) - np.maximum(lip_opening(seen), 0).mean() * opening_axis, np.float32)


def move_inner_lips(points: FloatArray, upper: FloatArray, lower: FloatArray) -> FloatArray:
    """Points (... 478 3) whose inner lips move, and the lips behind them less and less, so that no triangle folds over.

    Args:
        upper, lower: ... 9 3, of :data:`UPPER_INNER` and :data:`LOWER_INNER`.
    """
    moved = np.asarray(points, np.float32).copy()
    rows = (UPPER_INNER, LOWER_INNER, (1.0, 1.0)), *LIP_ROWS
    for of_upper, of_lower, shares in rows:
        moved[..., list(of_upper), :] += shares[0] * upper
        moved[..., list(of_lower), :] += shares[1] * lower
    return moved


def meet_lips(shapes: FloatArray) -> FloatArray:
    """The shapes (... 478 3) with inner lips that would pass through each other laid onto their common middle."""
    upper, lower = list(UPPER_INNER), list(LOWER_INNER)
    crossing = np.zeros((*shapes.shape[:-2], 9, 3), np.float32)
    crossing[..., 1] = np.minimum(shapes[..., lower, 1] - shapes[..., upper, 1], 0) / 2
    return move_inner_lips(shapes, crossing, -crossing)
