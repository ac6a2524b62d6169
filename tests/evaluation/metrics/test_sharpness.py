"""Sharpness ratio: closed forms (a scaled contrast to 2 %, a known Laplacian to 1e-4), and order on a real face.

CPBD against closed forms (ramps of known width and contrast: exact) and a plain walk along each row (exact).

That it agrees with the Python package ``cpbd`` 1.0.7 to 0.003 was measured once, on 30 real crops; the package cannot be
installed beside today's SciPy.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.sharpness import canny_edges, cpbd, detail, edge_widths, frame_cpbd, sharpness

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


def ramps(width: int, contrast: int, size: int = 128) -> np.ndarray:
    """Upright edges, one in the middle of each block: straight slopes of ``width`` px, up and down in turn."""
    x = np.arange(size)
    up = np.clip((x % 64 - 32) / width + 0.5, 0, 1)
    profile = np.where(x // 64 % 2 == 0, up, 1 - up)
    luma = np.rint(60 + contrast * profile).astype(np.uint8)
    return np.broadcast_to(luma[None, :, None], (size, size, 3)).copy()


@pytest.mark.parametrize("width", [2, 4, 6, 10])
def test_a_ramp_has_its_own_width(width: int) -> None:
    widths = edge_widths(np.ascontiguousarray(ramps(width, 120)[:, :, 0]))
    found = widths[widths > 0]
    assert found.size
    assert set(found.tolist()) == {width}


@pytest.mark.parametrize(
    ("width", "contrast", "sharp"),
    [(2, 120, 1.0), (4, 120, 0.0), (4, 40, 1.0), (6, 40, 0.0), (2, 40, 1.0), (10, 120, 0.0)],
)
def test_the_just_noticeable_width_follows_the_contrast(width: int, contrast: int, sharp: float) -> None:
    assert frame_cpbd(ramps(width, contrast)) == sharp


@pytest.mark.parametrize(("width", "contrast"), [(3, 120), (5, 40)])
def test_an_edge_of_just_the_noticeable_width_is_sharp(width: int, contrast: int) -> None:
    # 1 - 1/e = 63.2 %, which the histogram of whole percents counts with 63
    luma = np.full((64, 64), 60, np.uint8)
    luma[:, 30 : 30 + width] = np.rint(60 + contrast * np.arange(1, width + 1) / width)[None]
    luma[:, 30 + width :] = 60 + contrast
    assert set(edge_widths(luma)[edge_widths(luma) > 0].tolist()) == {width}
    assert frame_cpbd(luma[..., None].repeat(3, 2)) == 1
    wider = np.full((64, 64), 60, np.uint8)
    wider[:, 30 : 31 + width] = np.rint(60 + contrast * np.arange(1, width + 2) / (width + 1))[None]
    wider[:, 31 + width :] = 60 + contrast
    assert frame_cpbd(wider[..., None].repeat(3, 2)) == 0


def walked(luma: np.ndarray, row: int, column: int) -> int:
    """Width at one px by walking to both extrema."""
    levels = luma[row].astype(int)
    sign = 1 if levels[column + 1] > levels[column - 1] else -1
    low = high = column
    while low > 0 and sign * (levels[low] - levels[low - 1]) > 0:
        low -= 1
    while high < len(levels) - 1 and sign * (levels[high + 1] - levels[high]) > 0:
        high += 1
    return high - low


def test_widths_equal_a_walk_along_the_row(face_crops: Faces) -> None:
    luma = cv2.cvtColor(cv2.GaussianBlur(face_crops[0][0], (0, 0), 0.8), cv2.COLOR_RGB2GRAY)
    widths = edge_widths(luma)
    places = np.argwhere(widths > 0)
    assert len(places) > 500
    for row, column in places[::7]:
        assert widths[row, column] == walked(luma, row, column)


def test_it_falls_with_blur(face_crops: Faces) -> None:
    crops = face_crops[0][:2]
    order = [
        float(np.mean(cpbd(np.stack([cv2.GaussianBlur(crop, (0, 0), sigma) for crop in crops]), every=1)))
        for sigma in (0.3, 0.6, 0.9, 1.3)
    ]
    assert order == sorted(order, reverse=True)
    assert order[0] > 0.2 > 0.05 > order[-1]


def test_an_even_picture_has_no_edge() -> None:
    even = np.full((1, 128, 128, 3), 77, np.uint8)
    assert not canny_edges(even[0, :, :, 0]).any()
    assert np.isnan(cpbd(even, every=1)).all()


def test_frames_between_are_left_out_and_small_crops_refused() -> None:
    crops = np.stack([ramps(2, 120)] * 6)
    assert np.flatnonzero(np.isfinite(cpbd(crops))).tolist() == [2]
    with pytest.raises(TrainingDataError):
        cpbd(np.zeros((1, 63, 63, 3), np.uint8))
