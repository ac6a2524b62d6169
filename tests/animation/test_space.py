from __future__ import annotations

import numpy as np
import pytest

from talkswap.animation.space import lip_opening, meet_lips, mouth_width, pose_free, template_of
from talkswap.faces.guide import canonical_shape, rigid_weights
from talkswap.faces.mesh import mean_face

LOWER, UPPER = [87, 14, 317], [82, 13, 312]


def turned(points: np.ndarray, yaw: float, scale: float) -> np.ndarray:
    """The same face seen from elsewhere, in px."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    return (points @ turn.T * scale + np.array([200.0, 150.0, 3.0])).astype(np.float32)


def opened(by: float) -> np.ndarray:
    """The mean face with its inner lips ``by`` apart in the middle, in eye distances."""
    points = mean_face().points.copy()
    middle = (points[LOWER] + points[UPPER]) / 2
    points[LOWER], points[UPPER] = middle, middle
    points[LOWER, 1] += by
    return points


def test_the_same_shape_comes_from_every_pose() -> None:
    face = mean_face().points
    shapes = pose_free(np.stack([turned(face, yaw, scale) for yaw, scale in ((0.0, 50.0), (0.5, 80.0), (-0.3, 20.0))]))
    assert shapes.dtype == np.float32
    for shape in shapes:
        assert shape == pytest.approx(face, abs=2e-4)


def test_it_agrees_with_the_shape_of_a_single_frame() -> None:
    random = np.random.default_rng(0)
    frames = np.stack([turned(mean_face().points, 0.2, 60) + random.normal(0, 1.0, (478, 3)) for _ in range(3)])
    assert pose_free(frames.astype(np.float32)) == pytest.approx(
        np.stack([canonical_shape(f.astype(np.float32)) for f in frames]), abs=1e-5
    )


def test_some_of_the_points_give_the_same_pose() -> None:
    points = np.flatnonzero(rigid_weights() > 0)[::3]
    frame = turned(mean_face().points, 0.4, 70)
    assert pose_free(frame[None, points], points)[0] == pytest.approx(mean_face().points[points], abs=2e-4)


def test_a_frame_without_a_face_stays_empty() -> None:
    frames = np.stack([turned(mean_face().points, 0, 50)] * 3)
    frames[1] = np.nan
    assert np.isfinite(pose_free(frames)[:, 0, 0]).tolist() == [True, False, True]


def test_opening_is_signed_and_width_is_not_changed_by_it() -> None:
    shapes = np.stack([opened(by) for by in (-0.05, 0.0, 0.1)])
    eyes = np.linalg.norm(mean_face().points[263] - mean_face().points[33])
    assert lip_opening(shapes) == pytest.approx(np.array([-0.05, 0.0, 0.1]) / eyes, abs=1e-5)
    assert np.ptp(mouth_width(shapes)) < 1e-6


def test_a_template_is_the_closed_mouth_whatever_was_said() -> None:
    axis = (opened(0.1) - opened(0.0)) / lip_opening(opened(0.1)[None])[0]
    quiet, loud = ([opened(by) for by in said] for said in ((0.0, 0.02, 0.05), (0.1, 0.2, 0.3)))
    for shapes in (quiet, loud):
        frames = np.stack([*shapes, np.full_like(shapes[0], np.nan)])
        assert template_of(frames, axis) == pytest.approx(opened(0.0), abs=1e-5)


def test_lips_that_cross_meet_and_open_ones_stay() -> None:
    met = meet_lips(np.stack([opened(-0.04), opened(0.1)]))
    assert lip_opening(met)[0] == pytest.approx(0.0, abs=1e-6)
    assert met[1] == pytest.approx(opened(0.1))
    assert met[0, LOWER, 1] == pytest.approx(opened(-0.04)[LOWER, 1] + 0.02, abs=1e-6), "each lip goes half the way"
