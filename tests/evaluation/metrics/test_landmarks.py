"""LMD and LMD-m: closed forms (1e-4 px), and a plain loop over points with numpy's own mean (1e-4 px)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.landmarks import MOUTH_OF_68, landmark_distance, mouth_distance
from talkswap.faces.insightface import MESH_OF_68
from talkswap.faces.mesh import INNER_LIPS, OUTER_LIPS

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


def test_frames_without_a_face_are_not_measured(face_crops: Faces) -> None:
    result, truth = face_crops[1][:3].copy(), face_crops[1][:3].copy()
    result[0], truth[2] = np.nan, np.nan
    assert np.isfinite(landmark_distance(result, truth, 320)).tolist() == [False, True, False]
    with pytest.raises(TrainingDataError):
        landmark_distance(result[:2], truth, 320)
    with pytest.raises(TrainingDataError):
        landmark_distance(result, truth, 0)
