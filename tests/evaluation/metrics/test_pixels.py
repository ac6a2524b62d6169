"""SSIM against scikit-image (1e-5), torchmetrics with its border left out (1e-4), a closed form (5e-5: all in float32).

PSNR against torchmetrics (1e-5 dB) and a closed form (1e-4 dB)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.pixels import CEILING, CONTRAST, LUMINANCE, MARGIN, psnr, ssim

Faces = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def damaged(face_crops: Faces) -> tuple[np.ndarray, np.ndarray]:
    truth = face_crops[0][:3]
    noise = np.random.default_rng(3).normal(0, 12, truth[1].shape)
    noisy = np.clip(truth[1] + noise, 0, 255).astype(np.uint8)
    return np.stack([cv2.GaussianBlur(truth[0], (0, 0), 2), noisy, truth[2] // 2]), truth


def test_it_equals_scikit_image(damaged: Faces) -> None:
    result, truth = damaged
    wanted = [
        structural_similarity(
            made, true, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for made, true in zip(result, truth, strict=True)
    ]
    np.testing.assert_allclose(ssim(result, truth, every=1), wanted, atol=1e-5)


def test_it_equals_torchmetrics(damaged: Faces) -> None:
    result, truth = (torch.tensor(part).permute(0, 3, 1, 2).float() for part in damaged)
    _, full = structural_similarity_index_measure(result, truth, data_range=255.0, return_full_image=True)
    wanted = full[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN].mean((1, 2, 3))
    np.testing.assert_allclose(ssim(*damaged, every=1), wanted.numpy(), atol=1e-4)


def test_even_pictures_have_a_closed_form() -> None:
    result, truth = np.full((1, 20, 20, 3), 60, np.uint8), np.full((1, 20, 20, 3), 90, np.uint8)
    wanted = (2 * 60 * 90 + LUMINANCE) * CONTRAST / ((60**2 + 90**2 + LUMINANCE) * CONTRAST)
    np.testing.assert_allclose(ssim(result, truth, every=1), wanted, atol=5e-5)


def test_equal_frames_give_one_and_others_are_left_out(face_crops: Faces) -> None:
    crops = face_crops[0]
    values = ssim(crops, crops)
    assert np.flatnonzero(np.isfinite(values)).tolist() == [2, 7]
    np.testing.assert_allclose(values[[2, 7]], 1, atol=1e-6)


def test_crops_below_the_window_are_refused() -> None:
    with pytest.raises(TrainingDataError):
        ssim(np.zeros((1, 10, 10, 3), np.uint8), np.zeros((1, 10, 10, 3), np.uint8))


def test_psnr_equals_torchmetrics(face_crops: Faces) -> None:
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
