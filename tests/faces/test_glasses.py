"""Glasses of a photo: found by the frame across the nose, and filled from the skin beside it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.faces.expression import LEFT_IRIS, RIGHT_IRIS
from talkswap.faces.glasses import frame_mask, without_glasses
from talkswap.faces.guide import LEFT_BROW, RIGHT_BROW
from talkswap.faces.mesh import FACE_OVAL, LEFT_EYE_RING, RIGHT_EYE_RING, mean_face
from talkswap.types import FloatArray, UInt8Image

SIZE = 320
SKIN = (205, 165, 145)


@pytest.fixture
def landmarks() -> FloatArray:
    return np.asarray(mean_face().points * 75 + np.array([160, 125, 0]), np.float32)


@pytest.fixture
def bare(landmarks: FloatArray) -> UInt8Image:
    picture = np.full((SIZE, SIZE, 3), 150, np.uint8)

    def fill(ring: tuple[int, ...], colour: tuple[int, int, int]) -> None:
        cv2.fillPoly(picture, [cv2.convexHull(landmarks[list(ring), :2].round().astype(np.int32))], colour)

    fill(FACE_OVAL, SKIN)
    for brow, ring, iris in ((LEFT_BROW, LEFT_EYE_RING, LEFT_IRIS), (RIGHT_BROW, RIGHT_EYE_RING, RIGHT_IRIS)):
        fill(brow, (60, 40, 30))
        fill(ring, (230, 225, 220))
        fill(iris, (50, 40, 40))
    noise = np.random.default_rng(0).normal(0, 2, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def centres(landmarks: FloatArray) -> list[tuple[int, int]]:
    eyes = [landmarks[list(ring), :2].mean(0).round().astype(int) for ring in (LEFT_EYE_RING, RIGHT_EYE_RING)]
    return [(int(x), int(y) + 4) for x, y in eyes]


def wear(bare: UInt8Image, landmarks: FloatArray, colour: tuple[int, int, int], lens: bool = False) -> UInt8Image:
    picture = bare.copy()
    (left, y), (right, _) = centres(landmarks)
    for x in (left, right):
        cv2.ellipse(picture, (x, y), (30, 22), 0, 0, 360, colour, -1 if lens else 4, cv2.LINE_AA)
    cv2.line(picture, (left + 30, y - 4), (right - 30, y - 4), colour, 4, cv2.LINE_AA)
    return picture


def test_a_face_without_glasses_keeps_its_bits(bare: UInt8Image, landmarks: FloatArray) -> None:
    assert frame_mask(bare, landmarks) is None
    rgb, glasses = without_glasses(bare, landmarks)
    assert rgb is bare and not glasses


@pytest.mark.parametrize("scale", [1, 3])
def test_a_frame_gives_way_to_skin_and_the_eyes_stay(bare: UInt8Image, landmarks: FloatArray, scale: int) -> None:
    photo = wear(bare, landmarks, (40, 30, 30))
    points = np.asarray(landmarks * scale, np.float32)
    points[:, :2] += (scale - 1) / 2
    large = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), np.uint8)
    rgb, glasses = without_glasses(large, points)
    assert glasses
    (left, y), (right, _) = centres(landmarks)
    for x, row in ((left, y + 22), (right, y + 22), ((left + right) // 2, y - 4), (left - 30, y), (right + 30, y)):
        before, after = large[row * scale, x * scale].astype(int), rgb[row * scale, x * scale].astype(int)
        assert np.abs(before - SKIN).max() > 80 and np.abs(after - SKIN).max() < 25, (x, row)
    for iris in (LEFT_IRIS, RIGHT_IRIS):
        x, row = points[list(iris), :2].mean(0).round().astype(int)
        np.testing.assert_array_equal(rgb[row - 2 : row + 3, x - 2 : x + 3], large[row - 2 : row + 3, x - 2 : x + 3])
    assert (rgb != large).any(2).mean() < 0.08
    for brow in (LEFT_BROW, RIGHT_BROW):
        x, row = points[list(brow), :2].mean(0).round().astype(int)
        assert rgb[row, x].max() < 110, "the brow stays"


def test_dark_lenses_are_named_but_not_holed(bare: UInt8Image, landmarks: FloatArray) -> None:
    photo = wear(bare, landmarks, (30, 25, 25), lens=True)
    rgb, glasses = without_glasses(photo, landmarks)
    assert glasses and rgb is photo
