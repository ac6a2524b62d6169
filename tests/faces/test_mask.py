"""Soft masks: where they are one, where zero, and that they move as smoothly as the landmarks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.faces.geometry import ffhq_affine, transform_points
from talkswap.faces.mask import MaskConfig, eye_distance, face_mask, lower_face_mask, soft_ring
from talkswap.faces.mesh import FACE_OVAL, mean_face
from talkswap.types import FloatArray

SIZE = 160


def landmarks_at(yaw: float = 0.0, size: int = SIZE) -> FloatArray:
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    points = (mean_face().points @ turn.T * size / 4 + size / 2).astype(np.float32)
    return transform_points(ffhq_affine(points, size), points)


def value(mask: FloatArray, point: FloatArray) -> float:
    x, y = np.round(point[:2]).astype(int)
    return float(mask[y, x])


@pytest.mark.parametrize("yaw", [-30, 0, 30])
def test_face_mask_covers_the_features_and_ends_on_the_oval(yaw: float) -> None:
    landmarks = landmarks_at(yaw)
    mask = face_mask(landmarks, SIZE)
    assert mask.shape == (SIZE, SIZE) and mask.dtype == np.float32
    assert mask.min() == 0 and mask.max() == 1
    near_eye, far_eye = (468, 473) if yaw > 0 else (473, 468)
    for point in (near_eye, 13, 17, 50 if yaw > 0 else 280):  # eye, lips, chin, cheek
        assert value(mask, landmarks[point]) > 0.6, point
    assert value(mask, landmarks[far_eye]) > (0.9 if yaw == 0 else 0.3)
    outside = mask > 0.02
    hull = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.round(landmarks[:, :2]).astype(np.int32)), 1)
    assert not (outside & (cv2.dilate(hull, np.ones((3, 3), np.uint8)) == 0)).any()


def test_the_border_belongs_to_the_target() -> None:
    landmarks = landmarks_at()
    mask = face_mask(landmarks, SIZE)
    on_oval = [value(mask, landmarks[i]) for i in FACE_OVAL]
    assert max(on_oval) < 0.1
    wide = face_mask(landmarks, SIZE, MaskConfig(outset=0.15))
    assert wide.sum() > mask.sum() * 1.1
    assert np.mean([value(wide, landmarks[i]) for i in FACE_OVAL]) > 0.2


def test_feather_sets_the_width_of_the_ramp() -> None:
    landmarks = landmarks_at(size=320)
    for feather in (0.15, 0.4):
        row = soft_ring(landmarks, (FACE_OVAL,), 320, MaskConfig(feather=feather))[:160, 160]
        ramp = ((row > 0.02) & (row < 0.98)).sum()
        assert ramp == pytest.approx(
            feather * eye_distance(landmarks) * 0.84, rel=0.25
        )  # smooth step's 2 to 98 percent


def test_lower_face_leaves_the_eyes_and_the_nose() -> None:
    for yaw in (-40, 0, 40):
        landmarks = landmarks_at(yaw)
        lower = lower_face_mask(landmarks, SIZE)
        for eye in (468, 473):
            assert value(lower, landmarks[eye]) == 0
        assert value(lower, landmarks[6]) == 0
        for lip in (13, 14, 61, 291):
            assert value(lower, landmarks[lip]) > 0.3, (yaw, lip)
        assert value(lower, landmarks[17]) > 0.9
        assert 0 < lower.sum() < face_mask(landmarks, SIZE).sum()


def test_a_small_move_changes_the_mask_a_little_everywhere() -> None:
    landmarks = landmarks_at(size=320)
    masks = [face_mask(landmarks + np.array([shift, 0, 0], np.float32), 320) for shift in np.arange(0, 4, 0.25)]
    steps = np.array([np.abs(b - a).max() for a, b in zip(masks, masks[1:], strict=False)])
    assert steps.max() < 0.05
    centres = np.array([(m.sum(0) * np.arange(320)).sum() / m.sum() for m in masks])
    np.testing.assert_allclose(np.diff(centres), 0.25, atol=0.08)


def test_the_grid_hardly_matters() -> None:
    landmarks = landmarks_at(size=320)
    fine = face_mask(landmarks, 320, MaskConfig(grid=320))
    assert np.abs(fine - face_mask(landmarks, 320)).max() < 0.2
    assert np.abs(fine - face_mask(landmarks, 320)).mean() < 0.004
