"""Fine detail joined by frequency."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.systems.swaptalk.detail import DetailConfig, add_detail, detail_share, fitting_strength


def noise(size: int = 160) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8)


def smooth(picture: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma))


def waves(length: float, size: int = 160) -> np.ndarray:
    """Grey waves of +-20 levels, ``length`` px from crest to crest."""
    return np.repeat(np.tile(20 * np.sin(2 * np.pi * np.arange(size) / length), (size, 1))[:, :, None], 3, 2)


def test_shapes_are_the_networks_and_the_finest_and_the_widest_bands_the_pictures() -> None:
    whole = np.ones((160, 160), np.float32)
    picture = np.clip(0.6 * smooth(noise(), 1.0) + 50, 0, 255).astype(np.uint8)
    shapes = smooth(picture, 4.0).astype(float) + waves(24)
    made = np.clip(shapes + 30, 0, 255).astype(np.uint8)  # blurred, with shapes of its own, and of another light
    joined = add_detail(made, picture, whole, DetailConfig())
    assert joined.mean() == pytest.approx(picture.mean(), abs=3), "the light is the picture's"
    left = (smooth(joined, 1.5).astype(float) - smooth(picture, 1.5))[20:-20, 20:-20].mean((0, 2))
    assert np.corrcoef(left, waves(24)[0, 20:-20, 0])[0, 1] > 0.95, "the shapes are the networks'"
    assert np.ptp(left) > 24
    sharpness = [cv2.Laplacian(x, cv2.CV_64F).var() for x in (made, joined, picture)]
    assert sharpness[1] == pytest.approx(sharpness[2], rel=0.25) and sharpness[0] < 0.1 * sharpness[2]


def test_a_moved_mouth_takes_on_the_light_of_the_face_around_it() -> None:
    share = np.ones((320, 320), np.float32)
    share[200:280, 100:220] = 0
    picture = np.full((320, 320, 3), (150, 120, 100), np.uint8)
    made = np.full((320, 320, 3), (170, 110, 120), np.uint8)  # tinted
    made[230:240, 130:190] = (60, 20, 30)  # the opening that speech asks for
    joined = add_detail(made, picture, share, DetailConfig()).astype(float)
    assert np.abs(joined[210:225, 110:210] - picture[0, 0]).max() < 6
    mouth = joined[233:237, 150:170].mean((0, 1))
    assert np.abs(mouth - [40, 30, 10]).max() < 8, "its shape stays, moved by the same tint"


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
    green[76:84, 76:84] = (120, 160, 120)  # an iris painted green, too small for the widest band
    joined = add_detail(green, grey, whole, DetailConfig())[80, 80].astype(float)
    untinted = add_detail(green, grey, whole, DetailConfig(tint=0.0))[80, 80].astype(float)
    assert np.ptp(joined) < 3 < 12 < np.ptp(untinted), "the hue of the picture"
    assert joined.mean() > 125, "the brightness of the networks' answer"


def test_a_blurred_target_gets_less_of_a_sharp_photos_detail() -> None:
    config, sharp = DetailConfig(), smooth(noise(), 0.8)
    assert fitting_strength(sharp, sharp, config) == 1.0
    assert fitting_strength(smooth(sharp, 2.0), sharp, config) == 1.0, "never more than the photo has"
    strength = fitting_strength(sharp, smooth(sharp, 1.0), config)
    assert config.least < strength < 0.9
    assert fitting_strength(sharp, smooth(sharp, 6.0), config) == config.least
    whole, made = np.ones((160, 160), np.float32), smooth(sharp, 3.0)
    spread = [
        cv2.Laplacian(add_detail(made, sharp, whole, config, f), cv2.CV_64F).var()
        for f in (1.0, strength, config.least)
    ]
    assert spread[0] > 1.2 * spread[1] > 1.2 * spread[2]
