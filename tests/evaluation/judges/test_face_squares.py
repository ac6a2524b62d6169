"""The protocol's face square against its closed form: a picture whose px say where they lie."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.judges.face_squares import GREY, cut_square, cut_squares, square_places
from talkswap.types import FloatArray, UInt8Image


def face(left: float, top: float, right: float, bottom: float) -> FloatArray:
    """478 points in a box, two of them in its corners."""
    points = np.random.default_rng(0).uniform(size=(478, 3)).astype(np.float32)
    points[0, :2], points[1, :2] = 0, 1
    return points * np.array([right - left, bottom - top, 1], np.float32) + np.array([left, top, 0], np.float32)


def test_square_is_two_point_eight_times_half_the_face() -> None:
    place = square_places(face(100, 60, 160, 160)[None])[0]
    assert place.tolist() == pytest.approx([130, 110, 50])
    # x to the right in red, y down in green; the square spans 60 to 200 and 60 to 200
    y, x = np.mgrid[0:256, 0:256]
    square = cut_square(np.stack([x, y, 0 * x], 2).astype(np.uint8), place, 140)
    assert square[0, 0].tolist() == pytest.approx([60, 60, 0], abs=1)
    assert square[139, 139].tolist() == pytest.approx([199, 199, 0], abs=1)
    assert square[70, 35].tolist() == pytest.approx([95, 130, 0], abs=1)
    small = cut_square(np.stack([x, y, 0 * x], 2).astype(np.uint8), place, 35)  # each px the mean of four by four
    assert small[0, 0, :2].tolist() == pytest.approx([61.5, 61.5], abs=1)


def test_beyond_the_picture_is_grey() -> None:
    square = cut_square(np.full((100, 100, 3), 200, np.uint8), np.array([50.0, 80.0, 40.0]), 112)
    assert square[20, 56].tolist() == [200] * 3 and square[111, 56].tolist() == [GREY] * 3
    assert square[20, 0].tolist() == [GREY] * 3


def test_lost_frames_lie_between_their_neighbours_and_jumps_are_smoothed_away() -> None:
    track = np.stack([face(100 + k, 60, 160 + k, 160) for k in range(31)])
    track[10:13] = np.nan
    track[20] = face(300, 60, 360, 160)
    places = square_places(track)
    assert places[6:-6, 0].tolist() == pytest.approx([130 + k for k in range(6, 25)], abs=1.01)
    with pytest.raises(TrainingDataError):
        square_places(np.full((3, 478, 3), np.nan, np.float32))


def test_pictures_are_taken_once_and_used_as_often_as_chosen() -> None:
    pictures: list[UInt8Image] = [np.full((64, 64, 3), 10 * k, np.uint8) for k in range(5)]
    places = np.tile([32.0, 32.0, 10.0], (5, 1))
    found = [int(square[4, 4, 0]) for square in cut_squares(iter(pictures), places, [0, 0, 2, 3, 3], 8)]
    assert found == [0, 0, 20, 30, 30]
    with pytest.raises(TrainingDataError):
        list(cut_squares(iter(pictures[:3]), places, [0, 2, 4], 8))
