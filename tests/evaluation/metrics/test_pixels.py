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
from talkswap.evaluation.metrics.pixels import (
    CEILING,
    CELL,
    CONTRAST,
    LUMINANCE,
    MARGIN,
    changes,
    flicker,
    psnr,
    ssim,
    still_skin,
)

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


# --- Flicker: closed forms (noise of known strength over a still picture, 3 %), a plain count in numpy (1e-4), and what it


GENERATOR = np.random.default_rng(8)
Faces = tuple[np.ndarray, np.ndarray]
Clip = tuple[np.ndarray, np.ndarray]


def noisy(still: np.ndarray, sigma: float, frames: int = 6) -> np.ndarray:
    clip = still[None] + GENERATOR.normal(0, sigma, (frames, *still.shape))
    return np.clip(np.rint(clip), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def standing(face_crops: Faces) -> Clip:
    """One face, six times: its crop and its landmarks."""
    crop = face_crops[0][0]
    return np.clip(crop, 40, 215), np.repeat(face_crops[1][:1], 6, 0)


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_noise_over_a_still_face_has_its_closed_form(standing: Clip, factor: float) -> None:
    still, landmarks = standing
    result, truth = noisy(still, 6 * factor), noisy(still, 6)
    np.testing.assert_allclose(flicker(result, truth, landmarks), factor, rtol=0.03)
    # the mean distance of two normal values is 2 sigma / sqrt(pi)
    measured = changes(result, truth, landmarks).mean(0)
    np.testing.assert_allclose(measured, np.array([6 * factor, 6]) * 2 / np.sqrt(np.pi), rtol=0.03)


def test_it_equals_a_plain_count_where_all_skin_is_quiet(standing: Clip) -> None:
    still, landmarks = standing
    truth = np.stack([still + np.uint8(step % 2) for step in range(6)])  # every px changes by one level
    result = noisy(still, 5)
    skin = still_skin(landmarks[0], 320).repeat(CELL, 0).repeat(CELL, 1)
    wanted = np.mean([np.abs(result[n + 1].astype(int) - result[n])[skin].mean() for n in range(5)])
    np.testing.assert_allclose(flicker(result, truth, landmarks), wanted, rtol=1e-4)


def test_the_truth_is_as_calm_as_itself(face_crops: Faces) -> None:
    crops, landmarks = face_crops
    assert flicker(crops, crops, landmarks) == 1


def test_mouth_chin_and_background_do_not_count(standing: Clip) -> None:
    still, landmarks = standing
    truth = noisy(still, 3)
    skin = still_skin(landmarks[0], 320).repeat(CELL, 0).repeat(CELL, 1)
    assert 0.05 < skin.mean() < 0.4
    assert not skin[int(landmarks[0, 0, 1]) :].any()  # from the upper lip down
    result = truth.copy()
    result[1::2][:, ~skin] = 255
    assert flicker(result, truth, landmarks) == 1


def test_the_truths_own_motion_does_not_count(standing: Clip) -> None:
    still, landmarks = standing
    truth, result = noisy(np.clip(still, 50, 200), 3), noisy(np.clip(still, 50, 200), 3)
    truth[1::2, :, :140] += 30  # a light falls on the smaller part of the face, in the truth only
    np.testing.assert_allclose(flicker(result, truth, landmarks), 1, rtol=0.03)


def test_a_result_whose_brightness_jumps_flickers(face_crops: Faces) -> None:
    crops, landmarks = face_crops
    order = []
    for jump in (0, 2, 6):
        result = np.clip(crops, 20, 230)
        result[::2] += np.uint8(jump)
        order.append(flicker(result, crops, landmarks))
    assert order == sorted(order)
    assert order[2] > 2 * order[0]


def test_cuts_gaps_and_steps_between_are_left_out(face_crops: Faces) -> None:
    crops, landmarks = face_crops[0].copy(), face_crops[1].copy()
    assert np.flatnonzero(np.isfinite(changes(crops, crops, landmarks, every=3)).all(1)).tolist() == [1, 4, 7, 10]
    landmarks[4] = np.nan
    crops[8:] = 255 - crops[8:]  # another shot
    known = np.isfinite(changes(crops, crops, landmarks)).all(1)
    assert np.flatnonzero(~known).tolist() == [3, 4, 7]


def test_what_cannot_be_measured_is_nan_and_what_does_not_fit_is_named(standing: Clip) -> None:
    still, landmarks = standing
    stills = np.repeat(still[None], 6, 0)
    assert np.isnan(flicker(noisy(still, 3), stills, landmarks))  # a photograph for a truth
    assert np.isnan(flicker(stills[:1], stills[:1], landmarks[:1]))
    assert np.isnan(flicker(stills[:0], stills[:0], landmarks[:0]))
    with pytest.raises(TrainingDataError):
        flicker(stills[:3], stills, landmarks)
