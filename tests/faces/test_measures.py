"""What is read from a mesh: mouth, eyes and head, in units that do not depend on the face's size."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.faces.measures import eye_openings, mouth_opening, mouth_shape, pearson, yaw_degrees
from talkswap.faces.mesh import mean_face
from talkswap.types import FloatArray


def landmarks(count: int, opening: float = 0.1) -> FloatArray:
    """T 478 3: a face with 28 px between the outer eye corners that moves one px to the right per frame."""
    points = np.full((count, 478, 3), 64.0, np.float32)
    points[:, :, :2] += np.random.default_rng(0).uniform(-10, 10, (1, 478, 2)).astype(np.float32)
    points[:, 33], points[:, 263] = (50, 54, 0), (78, 54, 0)
    points[:, 61], points[:, 291] = (56, 78, 0), (72, 78, 0)
    points[:, (82, 13, 312)], points[:, (87, 14, 317)] = (64, 78 - 14 * opening, 0), (64, 78 + 14 * opening, 0)
    points[:, :, 0] += np.arange(count)[:, None]
    return points


def test_pearson_of_a_still_series_is_zero() -> None:
    series = np.arange(5, dtype=np.float32)
    assert pearson(series, series * 2 + 1) == pytest.approx(1)
    assert pearson(series, np.ones(5, np.float32)) == 0


def test_opening_is_the_lips_distance_in_eye_distances() -> None:
    points = landmarks(3, opening=0.25)
    assert mouth_opening(points).tolist() == pytest.approx([0.25] * 3, abs=1e-5)
    assert mouth_opening(points * 2).tolist() == pytest.approx([0.25] * 3, abs=1e-5)


def test_shape_is_opening_and_differences_to_the_clips_median() -> None:
    points = landmarks(9)
    points[8, 291, 0] += 2.8  # a tenth of the eye distance wider in one frame
    points[4] = np.nan
    shape = mouth_shape(points)
    assert np.isnan(shape[4]).all()
    assert shape[:4, 0].tolist() == pytest.approx([0.1 / 0.08] * 4, rel=1e-3)
    assert np.abs(shape[:4, 1:]).max() < 1e-4
    assert shape[8, 1] == pytest.approx(0.1 / 0.04, rel=1e-2)


def test_each_eye_opens_on_its_own() -> None:
    points = mean_face().points[None].copy()
    points[0, 386] = points[0, 374]  # the right eye is shut
    left, right = eye_openings(points)[0]
    assert left > 0.05 and right == 0
    np.testing.assert_allclose(eye_openings(points * 3), eye_openings(points), rtol=1e-5)


@pytest.mark.parametrize("yaw", [-60.0, -20.0, 0.0, 35.0])
def test_yaw_is_positive_where_the_nose_points_to_the_right(yaw: float) -> None:
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    turned = (mean_face().points @ turn.T * 70 + 200).astype(np.float32)
    assert yaw_degrees(turned) == pytest.approx(yaw, abs=0.5)
    nose = turned[1, 0] - turned[[33, 263], 0].mean()
    assert yaw == 0 or np.sign(nose) == np.sign(yaw)
