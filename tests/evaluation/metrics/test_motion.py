"""LMD and LMD-m: closed forms (1e-4 px), and a plain loop over points with numpy's own mean (1e-4 px)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.motion import (
    LEAST_FRAMES,
    MOUTH_OF_68,
    angle_between,
    angles,
    expression_errors,
    landmark_distance,
    motion,
    mouth_distance,
    pose_errors,
)
from talkswap.faces.insightface import MESH_OF_68
from talkswap.faces.measures import yaw_degrees
from talkswap.faces.mesh import FACE_OVAL, INNER_LIPS, OUTER_LIPS, STEADY, mean_face

Faces = tuple[np.ndarray, np.ndarray]


def test_a_face_is_at_no_distance_from_itself(face_crops: Faces) -> None:
    landmarks = face_crops[1]
    assert not landmark_distance(landmarks, landmarks, 320).any()
    assert not mouth_distance(landmarks, landmarks, 320).any()


def test_the_points_are_68_and_the_mouths_20_of_them() -> None:
    assert len(set(MESH_OF_68)) == 68
    assert len(MOUTH_OF_68) == 20
    assert set(MOUTH_OF_68) <= set(OUTER_LIPS) | set(INNER_LIPS)


def test_a_shift_counts_for_the_face_and_not_for_the_mouth(face_crops: Faces) -> None:
    landmarks = face_crops[1]
    moved = landmarks + np.array([3, 4, 50], np.float32)
    np.testing.assert_allclose(landmark_distance(moved, landmarks, 320), 5, atol=1e-4)
    np.testing.assert_allclose(mouth_distance(moved, landmarks, 320), 0, atol=1e-4)


def test_crops_of_every_size_give_one_figure(face_crops: Faces) -> None:
    landmarks = face_crops[1]
    other = landmarks[::-1].copy()
    np.testing.assert_allclose(
        landmark_distance(2 * other, 2 * landmarks, 640), landmark_distance(other, landmarks, 320), rtol=1e-5
    )


def test_it_equals_a_plain_loop(face_crops: Faces) -> None:
    truth, result = face_crops[1][:4], face_crops[1][4:8]
    for index in range(4):
        apart = [math.dist(result[index, p, :2], truth[index, p, :2]) for p in MESH_OF_68]
        np.testing.assert_allclose(landmark_distance(result, truth, 320)[index], np.mean(apart), atol=1e-4)
        a, b = (face[index][list(MOUTH_OF_68), :2] for face in (result, truth))
        apart = [math.dist(p - a.mean(0), q - b.mean(0)) for p, q in zip(a, b, strict=True)]
        np.testing.assert_allclose(mouth_distance(result, truth, 320)[index], np.mean(apart), atol=1e-4)


def test_one_moved_point_has_its_closed_form(face_crops: Faces) -> None:
    truth = face_crops[1][:1]
    result = truth.copy()
    assert 78 in MOUTH_OF_68
    result[0, 78, 1] += 20
    # one point 20 px away, the middle moved by 1: 19 for it and 1 for each of the others
    np.testing.assert_allclose(mouth_distance(result, truth, 320), (19 + 19 * 1) / 20, atol=1e-4)
    np.testing.assert_allclose(landmark_distance(result, truth, 320), 20 / 68, atol=1e-4)


def test_landmarks_of_frames_without_a_face_are_not_measured(face_crops: Faces) -> None:
    result, truth = face_crops[1][:3].copy(), face_crops[1][:3].copy()
    result[0], truth[2] = np.nan, np.nan
    assert np.isfinite(landmark_distance(result, truth, 320)).tolist() == [False, True, False]
    with pytest.raises(TrainingDataError):
        landmark_distance(result[:2], truth, 320)
    with pytest.raises(TrainingDataError):
        landmark_distance(result, truth, 0)


# --- Pose errors of mean faces turned by known angles (0.01 degrees), the angles against SciPy's Euler angles (1e-6).


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


RANDOM = np.random.default_rng(4)
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
    turns = Rotation.from_euler("yxz", RANDOM.uniform(-20, 20, (len(faces), 3)), degrees=True).as_matrix()
    shifts = RANDOM.uniform(100, 200, (len(faces), 1, 3))
    return np.asarray(size * faces @ turns.transpose(0, 2, 1) + shifts, np.float32)


def test_a_clip_is_at_no_distance_from_itself() -> None:
    clip = posed(speech())
    assert not expression_errors(clip, clip).any()


def test_pose_place_and_size_do_not_count() -> None:
    np.testing.assert_allclose(expression_errors(posed(speech(), 120), posed(speech(), 60)), 0, atol=1e-3)


def test_another_persons_shape_hardly_counts() -> None:
    mean = mean_face()
    shape = np.tensordot(RANDOM.normal(0, 1, 20) * mean.deviations[:20], mean.components[:20], 1)
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
    trembling = clip + np.float32(90 * 0.01) * RANDOM.standard_normal(clip.shape).astype(np.float32)
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
