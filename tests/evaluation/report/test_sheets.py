"""Strips of faces and mouths: what is cut, from which frames, and what stands there without a face."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkswap.errors import OutputUnwritableError
from talkswap.evaluation.report.sheets import GREY, SheetConfig, SheetMaker, face_tile, moments, mouth_tile, write_photo
from talkswap.faces.mesh import OUTER_LIPS, mean_face
from talkswap.types import FloatArray

CONFIG = SheetConfig()


def face(x: float, y: float, eyes: float = 60.0) -> FloatArray:
    """The mean face with its eyes so far apart (px of the outer corners, about), the middle of its lips at x, y."""
    points = np.asarray(mean_face().points, np.float32).copy()
    points *= eyes / np.linalg.norm(points[33, :2] - points[263, :2])
    points[:, :2] += np.float32([x, y]) - points[list(OUTER_LIPS), :2].mean(0)
    return points


@given(st.integers(1, 3000), st.integers(1, 40))
def test_moments_are_spread_evenly(frames: int, count: int) -> None:
    chosen = moments(frames, count)
    assert len(chosen) == min(frames, count) == len(set(chosen))
    assert list(chosen) == sorted(chosen) and chosen[0] >= 0 and chosen[-1] < frames
    gaps = np.diff([-0.5, *chosen, frames - 0.5])
    assert gaps.max() <= frames / len(chosen) + 1


def test_strips_hold_the_chosen_moments_in_their_order(tmp_path: Path) -> None:
    maker = SheetMaker(100)
    for number in range(100):
        maker.add(number, np.full((240, 320, 3), number * 2, np.uint8), face(160, 150))
    faces, mouths = (cv2.imread(str(path)) for path in maker.write(tmp_path, "strip"))
    assert faces.shape == (CONFIG.face_side, CONFIG.faces * CONFIG.face_side, 3)
    assert mouths.shape == (CONFIG.mouth_height, CONFIG.mouths * CONFIG.mouth_width, 3)
    for strip, width, count in ((faces, CONFIG.face_side, CONFIG.faces), (mouths, CONFIG.mouth_width, CONFIG.mouths)):
        shown = strip.reshape(strip.shape[0], count, width, 3).mean((0, 2, 3))
        assert np.abs(shown - np.array(moments(100, count)) * 2).max() < 2


def test_the_mouth_stands_in_the_middle_at_a_size_that_its_opening_does_not_change() -> None:
    rgb = np.zeros((240, 320, 3), np.uint8)
    points = face(203, 121)
    cv2.circle(rgb, (203, 121), 5, (255, 255, 255), -1)
    rows, columns = np.nonzero(mouth_tile(rgb, points, CONFIG)[:, :, 0] > 128)
    assert abs(rows.mean() - CONFIG.mouth_height / 2) < 1.5 and abs(columns.mean() - CONFIG.mouth_width / 2) < 1.5
    # a wide open mouth: the same scale
    opened = points.copy()
    opened[list(OUTER_LIPS), 1] = 121 + (opened[list(OUTER_LIPS), 1] - 121) * 3
    spread = np.ptp(np.nonzero(mouth_tile(rgb, opened, CONFIG)[:, :, 0] > 128)[1])
    assert abs(spread - np.ptp(columns)) <= 1


def test_without_a_face_the_mouth_is_grey_and_the_face_stays_in_place(tmp_path: Path) -> None:
    rgb = np.zeros((240, 320, 3), np.uint8)
    cv2.circle(rgb, (60, 100), 20, (255, 0, 0), -1)
    lost = np.full((478, 3), np.nan, np.float32)
    maker = SheetMaker(2, SheetConfig(faces=2, mouths=2))
    maker.add(0, rgb, face(60, 110))
    maker.add(1, rgb, lost)
    faces, mouths = (cv2.imread(str(path)) for path in maker.write(tmp_path, "strip"))
    left, right = np.split(faces.astype(int), 2, axis=1)
    assert np.abs(left - right).mean() < 1
    assert (np.abs(mouths[:, 80:].astype(int) - GREY) < 4).all()
    assert mouths[:, :40].mean() < 100


def test_a_face_at_the_edge_repeats_the_edge() -> None:
    rgb = np.full((100, 100, 3), 200, np.uint8)
    assert (face_tile(rgb, face(0, 0), CONFIG) == 200).all()


def test_no_frame_at_all_still_gives_pictures(tmp_path: Path) -> None:
    faces, mouths = SheetMaker(0).write(tmp_path, "empty")
    assert cv2.imread(str(faces)).shape[:2] == (CONFIG.face_side, CONFIG.face_side)
    assert cv2.imread(str(mouths)).shape[:2] == (CONFIG.mouth_height, CONFIG.mouth_width)


def test_colours_are_kept(tmp_path: Path) -> None:
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[..., 0] = 220
    blue, green, red = cv2.imread(str(write_photo(tmp_path / "p.jpg", rgb, None))).reshape(-1, 3).mean(0)
    assert red > 200 and blue < 20 and green < 20


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritableError, match="cannot write"):
        SheetMaker(0).write(tmp_path / "missing", "x")
