"""Sharpness ratio: closed forms (a scaled contrast to 2 %, a known Laplacian to 1e-4), and order on a real face."""

from __future__ import annotations

import cv2
import numpy as np

from talkswap.evaluation.metrics.sharpness import detail, sharpness

Faces = tuple[np.ndarray, np.ndarray]


def test_the_detail_of_a_chequered_picture_is_known() -> None:
    y, x = np.mgrid[:32, :32]
    picture = np.where((x + y) % 2 == 0, 110, 100).astype(np.uint8)[..., None].repeat(3, 2)
    # each px differs by 10 from its four neighbours
    np.testing.assert_allclose(detail(picture, np.ones((32, 32), np.float32)), 40, rtol=1e-4)


def test_half_the_contrast_is_half_the_detail(face_crops: Faces) -> None:
    crops, landmarks = face_crops
    even = (crops[:3] // 4) * 4  # so that halving is exact
    np.testing.assert_allclose(sharpness(even // 2, even, landmarks[:3]), 0.5, rtol=0.02)


def test_blur_lowers_it_and_noise_raises_it(face_crops: Faces) -> None:
    crops, landmarks = face_crops[0][:2], face_crops[1][:2]
    blurred = [np.stack([cv2.GaussianBlur(crop, (0, 0), sigma) for crop in crops]) for sigma in (0.7, 1.2, 2.4)]
    noisy = np.clip(crops + np.random.default_rng(1).normal(0, 6, crops.shape), 0, 255).astype(np.uint8)
    order = [float(sharpness(made, crops, landmarks).mean()) for made in (*blurred[::-1], crops, noisy)]
    assert order == sorted(order)
    assert order[3] == 1
    assert order[2] < 0.9


def test_only_the_face_counts_and_no_face_is_not_measured(face_crops: Faces) -> None:
    crops, landmarks = face_crops[0][:2], face_crops[1][:2].copy()
    changed = crops.copy()
    changed[:, :20, :20] = 0
    landmarks[1] = np.nan
    values = sharpness(changed, crops, landmarks)
    assert values[0] == 1
    assert np.isnan(values[1])
    even = np.full_like(crops, 90)
    assert np.isnan(sharpness(crops, even, landmarks)).all()
