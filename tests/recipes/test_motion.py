from __future__ import annotations

import numpy as np

from recipes.motion import decode_points


def test_coded_points_come_back_within_their_rounding() -> None:
    """Code a walk of points as the set's README says, and read it."""
    random = np.random.default_rng(0)
    shift = np.array([2, 3, 3], np.uint8)
    step = 1 << shift.astype(np.int64)[None, :, None]
    true = np.cumsum(random.integers(-90, 90, (40, 3, 3)), 0) + 5000
    coded = np.round(true / step).astype(np.int64)
    common = random.integers(-4, 5, (39, 3))  # in steps of 8
    residual = np.diff(coded, axis=0) - common[:, None] * 8 // step
    stored = {
        "q0": coded[0].astype(np.int32),
        "c": common.T.astype(np.int16),
        "lo": (residual.transpose(1, 2, 0) & 255).astype(np.uint8),
        "hi": (residual.transpose(1, 2, 0) >> 8).astype(np.int8).view(np.uint8),
    }
    points = decode_points(stored, shift)
    assert points.shape == (40, 3, 3)
    assert np.abs(points - true).max() <= 4
    assert np.array_equal(points, coded * step)
