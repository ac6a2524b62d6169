"""The lips' borders: over teeth that the landmarks count to a lip they move outward, on the lip they stay."""

from __future__ import annotations

import cv2
import numpy as np

from talkswap.animation.lip_border import FARTHEST, LOWER_OUTER, true_border
from talkswap.animation.space import LOWER_INNER, UPPER_INNER
from talkswap.faces.mesh import INNER_LIPS, OUTER_LIPS, mean_face
from talkswap.types import FloatArray, UInt8Image

EYES = 160.0
SKIN, LIP, TOOTH = (205, 165, 145), (170, 85, 85), (235, 230, 220)


def drawn() -> tuple[UInt8Image, FloatArray]:
    """A face whose lips are one colour from the outer ring to the inner one, with teeth between."""
    points = np.asarray(mean_face().points * EYES + np.array([480, 320, 0]), np.float32)
    points[list(LOWER_INNER), 1] += 10
    picture = np.full((900, 960, 3), SKIN, np.uint8)
    cv2.fillPoly(picture, [points[list(OUTER_LIPS), :2].round().astype(np.int32)], LIP)
    cv2.fillPoly(picture, [points[list(INNER_LIPS), :2].round().astype(np.int32)], TOOTH)
    return picture, points


def test_a_border_that_lies_on_the_teeth_moves_to_the_lip() -> None:
    picture, points = drawn()
    wrong = points.copy()
    wrong[list(LOWER_INNER)[2:7], 1] -= 6  # into the mouth, as the network has it
    moved = true_border(picture, wrong)
    middle = list(LOWER_INNER)[3:6]
    off = np.abs(moved[middle, 1] - points[middle, 1])
    assert off.max() < 2.5, "px from the true border"


def test_an_upper_border_that_lies_on_the_teeth_moves_to_the_lip() -> None:
    picture, points = drawn()
    wrong = points.copy()
    wrong[list(UPPER_INNER), 1] += 5
    moved = true_border(picture, wrong)
    middle = list(UPPER_INNER)[3:6]
    assert np.abs(moved[middle, 1] - points[middle, 1]).max() < 3, "px from the true border"


def test_a_border_that_lies_on_the_lip_stays() -> None:
    picture, points = drawn()
    right = points.copy()
    right[list(LOWER_INNER), 1] += 2  # px: surely on the lip
    right[list(UPPER_INNER), 1] -= 3
    assert np.abs(true_border(picture, right) - right).max() < 1.0


def test_a_lip_whose_colour_cannot_be_told_gives_way_to_a_limit() -> None:
    _, points = drawn()
    noise = np.random.default_rng(0).integers(0, 256, (900, 960, 3), np.uint8)
    moved = true_border(noise, points)
    height = np.linalg.norm(points[list(LOWER_OUTER)] - points[list(LOWER_INNER)], axis=1)
    travel = np.linalg.norm((moved - points)[list(LOWER_INNER)], axis=1)
    assert (travel <= FARTHEST * height + 1e-3).all()
