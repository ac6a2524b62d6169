"""PSNR against torchmetrics (1e-5 dB) and a closed form (1e-4 dB)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.pixels import CEILING, psnr

Faces = tuple[np.ndarray, np.ndarray]


def test_it_equals_torchmetrics(face_crops: Faces) -> None:
    truth = face_crops[0][:3]
    result = np.stack([cv2.GaussianBlur(crop, (0, 0), 1.5) for crop in truth])
    wanted = [
        float(peak_signal_noise_ratio(torch.tensor(made).double(), torch.tensor(true).double(), data_range=255.0))
        for made, true in zip(result, truth, strict=True)
    ]
    np.testing.assert_allclose(psnr(result, truth), wanted, atol=1e-5)


def test_an_even_error_has_its_closed_form() -> None:
    truth = np.full((2, 40, 40, 3), 100, np.uint8)
    result = truth + np.array([2, 10], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(psnr(result, truth), 20 * np.log10(255 / np.array([2, 10])), atol=1e-4)


def test_it_is_signed_like_no_byte() -> None:
    truth, result = np.full((1, 8, 8, 3), 250, np.uint8), np.full((1, 8, 8, 3), 5, np.uint8)
    np.testing.assert_allclose(psnr(result, truth), psnr(truth, result))
    np.testing.assert_allclose(psnr(result, truth), 20 * np.log10(255 / 245), atol=1e-4)


def test_equal_frames_count_as_the_ceiling(face_crops: Faces) -> None:
    assert psnr(face_crops[0][:2], face_crops[0][:2]).tolist() == [CEILING, CEILING]


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(TrainingDataError):
        psnr(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8))
