"""Flicker: closed forms (noise of known strength over a still picture, 3 %), a plain count in numpy (1e-4), and what it
must not see: the mouth, the background, the truth's own motion.
"""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.flicker import CELL, changes, flicker, still_skin

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
