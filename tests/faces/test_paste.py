"""Paste-back: exact outside the mask, faithful inside, and fitted to the target's light at the border."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.faces.geometry import quad_affine, warp_crop
from talkswap.faces.paste import PasteConfig, box_of_mask, fit_crop, paste
from talkswap.types import FloatArray, UInt8Image

SIZE = 128
PLAIN = PasteConfig(colour=0)


def picture(height: int = 270, width: int = 480, cells: int = 24, seed: int = 1) -> UInt8Image:
    noise = np.random.default_rng(seed).integers(20, 236, (cells, cells, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def disc(size: int = SIZE, radius: float = 0.35, ramp: float = 0.1) -> FloatArray:
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    return np.clip((radius - np.hypot(x, y)) / ramp, 0, 1).astype(np.float32)


def affine_at(x: float, y: float, half: float, roll: float = 0.0, size: int = SIZE) -> FloatArray:
    direction = np.array([np.cos(roll), np.sin(roll)], np.float32) * half
    return quad_affine(np.array([x, y], np.float32), direction.astype(np.float32), size)


@pytest.mark.parametrize("half", [20.0, 55.0, 64.0, 120.0])
@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_outside_the_mask_every_bit_stays(half: float, roll: float) -> None:
    rgb = picture()
    affine = affine_at(200.3, 140.7, half, roll)
    mask = disc()
    result = paste(rgb, np.full((SIZE, SIZE, 3), 255, np.uint8), affine, mask, config=PLAIN)
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    places = np.stack([x, y], -1).reshape(-1, 2) @ affine[:, :2].T + affine[:, 2]
    distance = np.hypot(*(places / (SIZE - 1) - 0.5).T).reshape(x.shape)
    margin = 2.5 / SIZE * max(1.0, SIZE / (2 * half))  # the mask's own interpolation reaches one cell further
    outside = distance > 0.35 + margin
    assert outside.any()
    assert (result[outside] == rgb[outside]).all()
    inside = distance < 0.25 - margin
    assert inside.any() and (result[inside] >= 254).all()
    assert not np.shares_memory(result, rgb)


@pytest.mark.parametrize(("half", "least"), [(30.0, 38.0), (64.0, 40.0), (100.0, 38.0)])
def test_an_untouched_crop_pastes_back_as_the_picture(half: float, least: float) -> None:
    rgb = picture(cells=16)
    affine = affine_at(210.2, 130.4, half, 0.2)
    result = paste(rgb, warp_crop(rgb, affine, SIZE), affine, disc(), config=PLAIN)
    changed = result != rgb
    error = (result.astype(float) - rgb)[changed.any(2)]
    assert changed.any()
    assert 10 * np.log10(255**2 / max((error**2).mean(), 1e-9)) > least


def test_a_small_face_is_averaged_not_sampled() -> None:
    """A checkerboard finer than the picture's px must come back grey, in every px."""
    board = ((np.indices((SIZE, SIZE)).sum(0) % 2) * 255).astype(np.uint8)
    crop = np.repeat(board[:, :, None], 3, 2)
    result = paste(np.zeros((90, 90, 3), np.uint8), crop, affine_at(45, 45, 16), disc(), config=PLAIN)
    inner = result[42:48, 42:48].astype(int)
    assert np.abs(inner - 127).max() <= 3


def test_partly_and_fully_outside_the_picture() -> None:
    rgb = picture(100, 100)
    white = np.full((SIZE, SIZE, 3), 255, np.uint8)
    corner = paste(rgb, white, affine_at(0, 0, 40), disc(), config=PLAIN)
    assert (corner[0, 0] >= 254).all() and (corner[60:, 60:] == rgb[60:, 60:]).all()
    assert (paste(rgb, white, affine_at(-200, -200, 40), disc(), config=PLAIN) == rgb).all()
    assert box_of_mask(affine_at(-200, -200, 40), disc(), rgb.shape) is None
    assert box_of_mask(affine_at(50, 50, 40), np.zeros((SIZE, SIZE), np.float32), rgb.shape) is None


def test_box_is_the_mask_not_the_crop() -> None:
    x0, y0, x1, y1 = box_of_mask(affine_at(200, 130, 64), disc(), (270, 480, 3)) or (0, 0, 0, 0)
    reach = 0.35 * 2 * 64
    assert x0 == pytest.approx(200 - reach, abs=3) and x1 == pytest.approx(200 + reach, abs=3)
    assert y0 == pytest.approx(130 - reach, abs=3) and y1 == pytest.approx(130 + reach, abs=3)


def test_fade_scales_the_blend_and_zero_leaves_the_picture() -> None:
    rgb = np.full((100, 100, 3), 100, np.uint8)
    white = np.full((SIZE, SIZE, 3), 200, np.uint8)
    affine = affine_at(50, 50, 40)
    assert (paste(rgb, white, affine, disc(), fade=0.5, config=PLAIN)[50, 50] == 150).all()
    assert (paste(rgb, white, affine, disc(), fade=0.0, config=PLAIN) == rgb).all()


def test_in_place_writes_into_the_picture() -> None:
    rgb = np.zeros((100, 100, 3), np.uint8)
    result = paste(
        rgb, np.full((SIZE, SIZE, 3), 9, np.uint8), affine_at(50, 50, 40), disc(), config=PLAIN, in_place=True
    )
    assert result is rgb and (rgb[50, 50] == 9).all()


def test_colour_field_closes_the_seam() -> None:
    target = picture(SIZE, SIZE, cells=4)
    darker = np.clip(target.astype(int) - 25, 0, 255).astype(np.uint8)
    mask = disc(ramp=0.12)
    fitted = fit_crop(darker, mask, target)
    ring = (mask > 0.1) & (mask < 0.9)
    assert np.abs(fitted[ring].astype(int) - target[ring]).mean() < 3
    assert np.abs(fitted[60:68, 60:68].astype(int) - target[60:68, 60:68]).mean() < 6  # light reaches the middle
    assert fit_crop(darker, mask, target, config=PasteConfig(colour=0)) is darker


def test_colour_field_follows_a_light_from_one_side() -> None:
    target = np.full((SIZE, SIZE, 3), 120, np.uint8)
    target[:, : SIZE // 2] = 150
    crop = np.full((SIZE, SIZE, 3), 135, np.uint8)
    mask = disc(ramp=0.12)
    fitted = fit_crop(crop, mask, target).astype(int)
    ring = (mask > 0.2) & (mask < 0.8)
    left, right = ring.copy(), ring.copy()
    left[:, SIZE // 3 :] = False
    right[:, : SIZE - SIZE // 3] = False
    assert fitted[left].mean() > 145 and fitted[right].mean() < 125


def test_hair_over_the_border_is_not_taken_for_light() -> None:
    target = np.full((SIZE, SIZE, 3), 160, np.uint8)
    crop = target.copy()
    target[: SIZE // 3] = 10  # a fringe, black, over the forehead
    fitted = fit_crop(crop, disc(ramp=0.12), target).astype(int)
    assert fitted[SIZE // 2 :, SIZE // 2].min() > 150
    assert abs(fitted[SIZE // 4, SIZE // 2].mean() - 160) <= 41


def test_openings_of_the_mask_do_not_tint_the_skin() -> None:
    target = np.full((SIZE, SIZE, 3), 150, np.uint8)
    mask = disc(radius=0.42)
    mask[56:66, 40:56] = 0  # an eye that stays the target's
    target[52:70, 36:60] = 120
    fitted = fit_crop(np.full((SIZE, SIZE, 3), 150, np.uint8), mask, target).astype(int)
    assert np.abs(fitted - 150).max() <= 2
