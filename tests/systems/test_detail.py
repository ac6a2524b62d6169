"""Fine detail joined by frequency."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.systems.swaptalk.detail import DetailConfig, add_detail, detail_share


def noise(size: int = 160) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8)


def smooth(picture: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma))


def test_coarse_content_is_the_networks_and_fine_content_the_pictures() -> None:
    config, whole = DetailConfig(), np.ones((160, 160), np.float32)
    picture = smooth(noise(), 1.0)
    made = np.clip(smooth(picture, 4.0).astype(int) + 30, 0, 255).astype(np.uint8)  # blurred, and of another light
    joined = add_detail(made, picture, whole, config)
    sigma = 3 * config.sigma * 160 / 320
    assert np.abs(smooth(joined, sigma).astype(float) - smooth(made, sigma)).mean() < 1.5
    sharpness = [cv2.Laplacian(x, cv2.CV_64F).var() for x in (made, joined, picture)]
    assert sharpness[1] == pytest.approx(sharpness[2], rel=0.25) and sharpness[0] < 0.1 * sharpness[2]


def test_no_share_leaves_the_networks_answer_bit_by_bit() -> None:
    made = noise()
    assert np.array_equal(
        add_detail(made, noise()[::-1].copy(), np.zeros((160, 160), np.float32), DetailConfig()), made
    )


def test_a_perfect_answer_stays_as_it_is() -> None:
    made = noise()
    assert np.array_equal(add_detail(made, made, np.ones((160, 160), np.float32), DetailConfig()), made)


def test_where_speech_moves_the_face_the_networks_decide() -> None:
    change = np.zeros((20, 20), np.float32)
    change[14, 8:12] = 0.6
    share = detail_share(change, 320, DetailConfig())
    assert share[14 * 16 + 8, 8 * 16 : 12 * 16].max() == 0, "lips that move keep the networks' look"
    assert share[: 11 * 16].min() == 1, "eyes keep the picture's"
    assert detail_share(np.zeros((20, 20), np.float32), 320, DetailConfig()).min() == 1


def test_colour_is_the_pictures_and_light_the_networks() -> None:
    whole = np.ones((160, 160), np.float32)
    grey = np.full((160, 160, 3), 120, np.uint8)
    green = grey.copy()
    green[60:100, 60:100] = (100, 130, 100)  # an iris painted green
    brighter = cv2.add(green, np.full_like(green, 20))
    joined = add_detail(brighter, grey, whole, DetailConfig())[70:90, 70:90].reshape(-1, 3).astype(float).mean(0)
    assert np.ptp(joined) < 2, "the hue of the picture"
    light = brighter[80, 80] @ np.array([0.299, 0.587, 0.114])
    assert joined.mean() == pytest.approx(light, abs=2), "the brightness of the networks' answer"
    untinted = add_detail(brighter, grey, whole, DetailConfig(tint=0.0))[80, 80].astype(float)
    assert np.ptp(untinted) > 20
