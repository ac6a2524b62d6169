"""Expression error: closed forms on the mean face (2 % of the value), and what it must not see: pose, size and shape."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.pose import LEAST_FRAMES, expression_errors, motion
from talkswap.faces.mesh import FACE_OVAL, INNER_LIPS, OUTER_LIPS, STEADY, mean_face

GENERATOR = np.random.default_rng(4)
FRAMES = 20


def speech(amount: float = 0.2) -> np.ndarray:
    """FRAMES 478 3: the mean face, upright, whose lower lip and chin go down and up; in eye distances."""
    faces = np.repeat(mean_face().points[None].astype(np.float64), FRAMES, 0)
    lips = mean_face().points[[*OUTER_LIPS, *INNER_LIPS]]
    lower = mean_face().points[:, 1] > np.median(lips[:, 1])
    opening = np.sin(np.arange(FRAMES) / FRAMES * 2 * np.pi)  # its median is 0
    faces[:, lower, 1] += amount * opening[:, None]
    return faces


def posed(faces: np.ndarray, size: float = 90) -> np.ndarray:
    """Another turn and place in every frame."""
    turns = Rotation.from_euler("yxz", GENERATOR.uniform(-20, 20, (len(faces), 3)), degrees=True).as_matrix()
    shifts = GENERATOR.uniform(100, 200, (len(faces), 1, 3))
    return np.asarray(size * faces @ turns.transpose(0, 2, 1) + shifts, np.float32)


def test_a_clip_is_at_no_distance_from_itself() -> None:
    clip = posed(speech())
    assert not expression_errors(clip, clip).any()


def test_pose_place_and_size_do_not_count() -> None:
    np.testing.assert_allclose(expression_errors(posed(speech(), 120), posed(speech(), 60)), 0, atol=1e-3)


def test_another_persons_shape_hardly_counts() -> None:
    mean = mean_face()
    shape = np.tensordot(GENERATOR.normal(0, 1, 20) * mean.deviations[:20], mean.components[:20], 1)
    assert np.abs(shape).mean() > 0.01  # somebody else
    seen = expression_errors(posed(speech() + shape), posed(speech())).mean()
    frozen = expression_errors(posed(0 * speech() + mean.points), posed(speech())).mean()
    assert seen < 0.1 * frozen


def test_a_frozen_face_misses_the_whole_motion() -> None:
    clip = posed(speech())
    frozen = posed(speech(0))
    wanted = 100 * np.linalg.norm(motion(clip), axis=2).mean(1)
    np.testing.assert_allclose(expression_errors(frozen, clip), wanted, atol=1e-3)
    np.testing.assert_allclose(expression_errors(clip, frozen), wanted, atol=1e-3)


def test_the_motion_of_a_whole_region_has_its_closed_form() -> None:
    # every point that may move goes down together: neighbours change nothing, and the steady points keep the pose
    free = np.setdiff1d(np.arange(478), [*STEADY, *FACE_OVAL])
    faces = np.repeat(mean_face().points[None].astype(np.float64), FRAMES, 0)
    shift = 0.05 * np.sin(np.arange(FRAMES) / FRAMES * 2 * np.pi)
    faces[:, free, 1] += shift[:, None]
    still = np.repeat(mean_face().points[None].astype(np.float64), FRAMES, 0)
    counted = np.setdiff1d(np.arange(468), FACE_OVAL)
    share = np.isin(counted, free).mean()  # most of them
    errors = expression_errors(np.asarray(80 * faces, np.float32), np.asarray(80 * still, np.float32))
    np.testing.assert_allclose(errors, 100 * np.abs(shift) * share, rtol=0.02, atol=1e-3)


def test_less_motion_is_a_smaller_error() -> None:
    truth = posed(speech(0.2))
    order = [float(expression_errors(posed(speech(amount)), truth).mean()) for amount in (0.2, 0.15, 0.1, 0.0)]
    assert order == sorted(order)
    np.testing.assert_allclose(order[2], order[3] / 2, rtol=0.01)


def test_trembling_points_count_less_than_moving_regions() -> None:
    clip = posed(speech(0))
    trembling = clip + np.float32(90 * 0.01) * GENERATOR.standard_normal(clip.shape).astype(np.float32)
    assert expression_errors(trembling, clip).mean() < 1.2  # 1.25 without the neighbours and a perfect pose


def test_frames_without_a_face_and_short_clips_are_not_measured() -> None:
    truth = posed(speech())
    result = truth.copy()
    result[0], truth[3] = np.nan, np.nan
    errors = expression_errors(result, truth)
    assert np.flatnonzero(np.isnan(errors)).tolist() == [0, 3]
    assert np.isnan(expression_errors(truth[4 : 3 + LEAST_FRAMES], truth[4 : 3 + LEAST_FRAMES])).all()
    with pytest.raises(TrainingDataError):
        expression_errors(result[:4], truth)
