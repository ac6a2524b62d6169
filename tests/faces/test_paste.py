"""Paste-back: exact outside the mask, faithful inside, and fitted to the target's light at the border."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.faces.geometry import quad_affine, warp_crop
from talkswap.faces.paste import PasteConfig, add_change, box_of_mask, fit_crop, lay_patch, paste
from talkswap.faces.warp import Patch
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


# --- a painted part of the picture, and what is added to a crop


def patch_of(rgb: UInt8Image, x: int = 40, y: int = 30, width: int = 200, height: int = 180) -> Patch:
    return Patch(np.asarray(255 - rgb[y : y + height, x : x + width], np.uint8), x, y)


def test_a_patch_is_laid_whole_or_by_its_share() -> None:
    rgb = picture()
    patch, affine = patch_of(rgb), affine_at(140, 120, 60)
    whole, half = rgb.copy(), rgb.copy()
    lay_patch(whole, patch, affine, SIZE)
    np.testing.assert_array_equal(whole[patch.place], patch.rgb)
    lay_patch(half, patch, affine, SIZE, fade=0.5)
    between = (rgb[patch.place].astype(float) + patch.rgb) / 2
    assert np.abs(half[patch.place] - between).max() <= 1
    outside = np.ones(rgb.shape[:2], bool)
    outside[patch.place] = False
    for result in (whole, half):
        np.testing.assert_array_equal(result[outside], rgb[outside])


@pytest.mark.parametrize("half", [30.0, 60.0, 90.0])
def test_what_is_in_front_keeps_the_targets_bits(half: float) -> None:
    rgb = picture()
    patch, affine = patch_of(rgb), affine_at(140, 120, half)
    free = np.ones((SIZE // 4, SIZE // 4), np.float32)
    free[:, : SIZE // 8] = 0  # the left half of the crop is covered
    result = rgb.copy()
    lay_patch(result, patch, affine, SIZE, free=free)
    cell = int(np.ceil(2 * half / free.shape[0]))
    rows = slice(max(patch.y, 121 - int(half)), 119 + int(half))
    covered = (rows, slice(patch.x, 140 - cell))
    np.testing.assert_array_equal(result[covered], rgb[covered])
    shown = (rows, slice(140 + cell, min(patch.x + 200, 139 + int(half))))
    np.testing.assert_array_equal(result[shown], 255 - rgb[shown])


@pytest.mark.parametrize("half", [25.0, 64.0, 150.0])  # a face smaller than its crop, as large, larger
def test_a_change_of_the_crop_comes_to_its_place_in_the_picture(half: float) -> None:
    rgb = np.full((400, 400, 3), 100, np.uint8)
    affine = affine_at(200, 200, half)
    y, x = np.mgrid[:SIZE, :SIZE]
    spot = np.exp(-((x - 80) ** 2 + (y - 50) ** 2) / (2 * 10.0**2)).astype(np.float32)
    change = spot[:, :, None] * np.array([60, -40, 0], np.float32)
    result = add_change(Patch(rgb, 0, 0), change, affine).rgb.astype(float) - 100
    per_px = 2 * half / SIZE  # picture px per crop px
    y, x = np.mgrid[:400, :400]
    for channel, height in ((0, 60), (1, -40)):
        weight = result[:, :, channel] / height
        centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        place = (np.array([80, 50]) - affine[:, 2]) / affine[0, 0]
        assert np.abs(centre - place).max() < 0.3
        assert weight.sum() == pytest.approx(2 * np.pi * (10 * per_px) ** 2, rel=0.08)
    assert np.abs(result[:, :, 2]).max() == 0 and np.abs(result[0]).max() == 0
