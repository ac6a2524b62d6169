"""Pose errors of mean faces turned by known angles (0.01 degrees), the angles against SciPy's Euler angles (1e-6)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.pose import angle_between, angles, pose_errors
from talkswap.faces.measures import yaw_degrees
from talkswap.faces.mesh import mean_face

GENERATOR = np.random.default_rng(9)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Y X Z by SciPy, whose angles turn the other way about x and y in a picture whose y points down."""
    return Rotation.from_euler("YXZ", [-yaw, -pitch, roll], degrees=True).as_matrix()


def turned(yaw: float, pitch: float, roll: float, size: float = 80) -> np.ndarray:
    return (size * mean_face().points @ rotation(yaw, pitch, roll).T + [160, 150, 0]).astype(np.float32)


@pytest.mark.parametrize("wanted", [(0, 0, 0), (30, 0, 0), (0, 20, 0), (0, 0, 15), (-40, 12, -25), (60, -30, 80)])
def test_angles_equal_scipys(wanted: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(angles(rotation(*wanted)), wanted, atol=1e-6)


def test_signs_are_those_that_the_tracker_uses() -> None:
    face = turned(25, 10, 5)
    assert abs(yaw_degrees(face) - 25) < 0.01
    nose, eyes = turned(0, 20, 0)[1], turned(0, 20, 0)[[33, 263]].mean(0)
    assert nose[1] - eyes[1] < turned(0, 0, 0)[1, 1] - turned(0, 0, 0)[[33, 263], 1].mean()  # the nose rises


def test_errors_of_known_turns() -> None:
    truth = np.stack([turned(10, 5, 2), turned(-30, 0, 0), turned(0, 0, 178)])
    result = np.stack([turned(14, 2, 3, size=100), turned(-30, 0, 0) + 7, turned(0, 0, -178)])
    errors = pose_errors(result, truth)
    np.testing.assert_allclose(errors[:, 1:], [[4, 3, 1], [0, 0, 0], [0, 0, 4]], atol=0.01)
    whole = np.degrees(
        (Rotation.from_matrix(rotation(14, 2, 3)) * Rotation.from_matrix(rotation(10, 5, 2)).inv()).magnitude()
    )
    np.testing.assert_allclose(errors[:, 0], [whole, 0, 4], atol=0.01)


def test_the_angle_between_equals_scipys_magnitude() -> None:
    pairs = Rotation.random(40, rng=GENERATOR), Rotation.random(40, rng=GENERATOR)
    for first, second in zip(*pairs, strict=True):
        wanted = np.degrees((second * first.inv()).magnitude())
        np.testing.assert_allclose(angle_between(first.as_matrix(), second.as_matrix()), wanted, atol=1e-6)
    tiny = Rotation.from_rotvec([1e-4, 0, 0], degrees=True).as_matrix()
    np.testing.assert_allclose(angle_between(np.eye(3), tiny), 1e-4, rtol=1e-6)


def test_frames_without_a_face_are_not_measured() -> None:
    truth = np.stack([turned(0, 0, 0)] * 3)
    result = truth.copy()
    result[0], truth[1] = np.nan, np.nan
    assert np.isfinite(pose_errors(result, truth)).all(1).tolist() == [False, False, True]
    with pytest.raises(TrainingDataError):
        pose_errors(result[:2], truth)
