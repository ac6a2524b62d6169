"""Hair on a photo's face gives way to skin; what belongs to the face stays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.faces.mesh import FACE_OVAL, LEFT_EYE_RING, OUTER_LIPS, RIGHT_EYE_RING, mean_face
from talkswap.faces.skin_fill import bare_face
from talkswap.types import FloatArray, UInt8Image

SIZE, EYES = 320, 75.0
SKIN, HAIR = np.array([205, 165, 145]), np.array([40, 28, 22])


@pytest.fixture
def landmarks() -> FloatArray:
    return np.asarray(mean_face().points * EYES + np.array([160, 125, 0]), np.float32)


@pytest.fixture
def photo(landmarks: FloatArray) -> UInt8Image:
    """A face with a little texture, eyes and lips, on a grey wall."""
    picture = np.full((SIZE, SIZE, 3), 150, np.uint8)
    cv2.fillPoly(picture, [cv2.convexHull(landmarks[list(FACE_OVAL), :2].round().astype(np.int32))], SKIN.tolist())
    for ring, colour in ((LEFT_EYE_RING, (70, 50, 40)), (RIGHT_EYE_RING, (70, 50, 40)), (OUTER_LIPS, (170, 80, 80))):
        cv2.fillPoly(picture, [landmarks[list(ring), :2].round().astype(np.int32)], colour)
    noise = np.random.default_rng(0).normal(0, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def box(landmarks: FloatArray, point: int, half: int) -> tuple[slice, slice]:
    x, y = landmarks[point, :2].round().astype(int)
    return slice(y - half, y + half), slice(x - half, x + half)


def test_a_bare_face_keeps_its_bits(photo: UInt8Image, landmarks: FloatArray) -> None:
    result = bare_face(photo, landmarks)
    assert result.share == 0
    np.testing.assert_array_equal(result.rgb, photo)


def test_a_fringe_over_the_whole_forehead_becomes_skin(photo: UInt8Image, landmarks: FloatArray) -> None:
    photo[: round(float(landmarks[151, 1]))] = HAIR
    result = bare_face(photo, landmarks)
    filled = result.rgb[box(landmarks, 151, 6)].reshape(-1, 3).mean(0)
    assert result.share > 0.05
    assert np.abs(filled - SKIN).max() < 15


def test_a_lock_on_one_side_takes_the_other_half_with_its_texture(photo: UInt8Image, landmarks: FloatArray) -> None:
    pores = np.where((np.indices((SIZE, SIZE)).sum(0) // 2) % 2, 8, -8)[:, :, None]
    photo[:] = np.clip(photo.astype(int) + pores, 0, 255)
    there = box(landmarks, 68, 12)  # the forehead's left in the picture
    photo[there[0], : there[1].stop] = HAIR
    result = bare_face(photo, landmarks)
    filled = result.rgb[box(landmarks, 68, 4)].astype(float)
    assert np.abs(filled.reshape(-1, 3).mean(0) - SKIN).max() < 15
    assert filled.std((0, 1)).mean() > 4, "the counterpart's pores, not a smooth colour"


def test_a_mole_in_the_cheek_stays(photo: UInt8Image, landmarks: FloatArray) -> None:
    mole = box(landmarks, 50, 4)
    photo[mole] = (60, 40, 35)
    result = bare_face(photo, landmarks)
    np.testing.assert_array_equal(result.rgb[mole], photo[mole])


def test_a_beard_stays(photo: UInt8Image, landmarks: FloatArray) -> None:
    chin = box(landmarks, 152, 14)
    photo[chin] = HAIR
    result = bare_face(photo, landmarks)
    np.testing.assert_array_equal(result.rgb[chin], photo[chin])


def test_eyes_brows_and_lips_stay(photo: UInt8Image, landmarks: FloatArray) -> None:
    photo[: round(float(landmarks[10, 1])) + 12] = HAIR  # so that something is filled
    for point in (159, 386, 0, 17, 105, 334):
        part = box(landmarks, point, 2)
        np.testing.assert_array_equal(bare_face(photo, landmarks).rgb[part], photo[part], err_msg=str(point))


def test_dark_skin_is_no_hair(landmarks: FloatArray, photo: UInt8Image) -> None:
    dark = np.clip(photo * 0.3, 0, 255).astype(np.uint8)
    assert bare_face(dark, landmarks).share == 0


def test_side_light_is_no_hair(landmarks: FloatArray, photo: UInt8Image) -> None:
    light = np.linspace(0.6, 1.1, SIZE)[None, :, None]
    assert bare_face(np.clip(photo * light, 0, 255).astype(np.uint8), landmarks).share < 0.02
