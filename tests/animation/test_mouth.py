"""What is between the lips: the teeth keep their size and place, the dark fills the rest, closed lips hide all."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.animation.mouth import LOWER, UPPER, InnerMouth, MouthConfig, cut_mouth
from talkswap.faces.guide import canonical_shape, fit_pose
from talkswap.faces.mesh import INNER_LIPS, OUTER_LIPS, mean_face
from talkswap.types import FloatArray, UInt8Image

EYES = 120.0
SKIN, LIP, TOOTH, DARK = (200, 160, 140), (170, 80, 80), (235, 230, 220), (30, 15, 15)
TEETH = 0.12  # eye distances from the upper lip's rest to the end of the upper teeth


def opened(gap: float, turn: float = 0.0) -> FloatArray:
    """The mean face with a mouth open by ``gap`` eye distances (478 3, px), turned to the side by radians."""
    shape = mean_face().points.copy()
    middle = shape[[UPPER, LOWER], 1].mean()
    half = np.abs(shape[list(INNER_LIPS), 0]).max()
    for number, point in enumerate(shape):
        if number in INNER_LIPS or number in OUTER_LIPS:
            share = max(0.0, 1 - (point[0] / half) ** 2)
            below = number in (*INNER_LIPS[11:], *OUTER_LIPS[11:])
            now = point[1] - middle if number in INNER_LIPS else 0.0
            shape[number, 1] += (gap * share if below else 0.0) - now
    cosine, sine = np.cos(turn), np.sin(turn)
    shape = shape @ np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]], np.float32)
    return np.asarray(shape * EYES + np.array([300, 220, 0]), np.float32)


def drawn(landmarks: FloatArray) -> UInt8Image:
    """A face with upper teeth that hang from the skull, and the dark under them."""
    import cv2

    picture = np.full((560, 600, 3), SKIN, np.uint8)
    outer = landmarks[list(OUTER_LIPS), :2].round().astype(np.int32)
    inner = landmarks[list(INNER_LIPS), :2].round().astype(np.int32)
    cv2.fillPoly(picture, [outer], LIP)
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(inside, [inner], 1)
    end = mean_face().points[[UPPER, LOWER], 1].mean() * EYES + 220 + TEETH * EYES
    rows = np.arange(picture.shape[0])[:, None]
    picture[(inside > 0) & (rows < end)] = TOOTH
    picture[(inside > 0) & (rows >= end)] = DARK
    return picture


@pytest.fixture(scope="module")
def mouth() -> InnerMouth:
    faces = [opened(gap) for gap in (0.32, 0.2, 0.1)]
    return InnerMouth([cut_mouth(drawn(face), face) for face in faces])


def shown(mouth: InnerMouth, gap: float, turn: float = 0.0) -> tuple[UInt8Image, FloatArray]:
    landmarks = opened(gap, turn)
    picture = np.full((560, 600, 3), SKIN, np.uint8)
    mouth.show(picture, canonical_shape(landmarks), fit_pose(landmarks), landmarks)
    return picture, landmarks


def column(picture: UInt8Image, landmarks: FloatArray) -> FloatArray:
    """Brightness down the middle of the mouth, from lip to lip."""
    x = round(float(landmarks[UPPER, 0]))
    return picture[round(float(landmarks[UPPER, 1])) + 1 : round(float(landmarks[LOWER, 1])), x].mean(1)


@pytest.mark.parametrize("gap", [0.16, 0.24, 0.32, 0.45])
def test_teeth_keep_their_length_at_any_opening(mouth: InnerMouth, gap: float) -> None:
    light = column(*shown(mouth, gap))
    teeth = int((light > 120).sum())
    assert abs(teeth - min(TEETH, gap) * EYES) <= 5, "px of teeth"


def test_behind_the_teeth_it_is_dark(mouth: InnerMouth) -> None:
    light = column(*shown(mouth, 0.45))
    below = light[int((TEETH + 0.06) * EYES) :]
    assert below.mean() < 90


def test_a_small_opening_shows_teeth_alone(mouth: InnerMouth) -> None:
    light = column(*shown(mouth, 0.08))
    assert light[2:-2].min() > 100


def test_closed_lips_change_nothing(mouth: InnerMouth) -> None:
    picture, _ = shown(mouth, 0.0)
    assert (picture == np.array(SKIN)).all()


def test_only_the_opening_changes(mouth: InnerMouth) -> None:
    picture, landmarks = shown(mouth, 0.3)
    rows, columns = np.nonzero((picture != np.array(SKIN)).any(2))
    ring = landmarks[list(INNER_LIPS), :2]
    assert columns.min() >= ring[:, 0].min() - 3 and columns.max() <= ring[:, 0].max() + 3
    assert rows.min() >= ring[:, 1].min() - 3 and rows.max() <= ring[:, 1].max() + 3


def test_teeth_turn_with_the_head(mouth: InnerMouth) -> None:
    straight, landmarks = shown(mouth, 0.3)
    turned, turned_landmarks = shown(mouth, 0.3, 0.5)

    def width(picture: UInt8Image, row: int) -> int:
        return int((picture[row].mean(1) > 205).sum())

    row, turned_row = (round(float(points[UPPER, 1])) + 8 for points in (landmarks, turned_landmarks))
    assert 0.7 < width(turned, turned_row) / width(straight, row) < 0.97  # cos 0.5 = 0.88


def test_opening_grows_smoothly(mouth: InnerMouth) -> None:
    """No step between two openings that are nearly the same: a mouth must not flicker."""
    before, _ = shown(mouth, 0.2)
    after, _ = shown(mouth, 0.205)
    assert np.abs(before.astype(int) - after.astype(int)).mean() < 0.3


def test_without_an_open_mouth_there_is_a_hint_of_upper_teeth_over_the_dark() -> None:
    picture, landmarks = shown(InnerMouth([]), 0.3)
    light = column(picture, landmarks)
    assert 60 < light[: len(light) // 4].max() < 160  # dim: nobody has shown such teeth
    assert light[len(light) // 2 :].max() < 90


def clenched(landmarks: FloatArray) -> UInt8Image:
    """As :func:`drawn`, but with lower teeth right under the upper ones, a thin dark line between."""
    picture = drawn(landmarks)
    end = round(mean_face().points[[UPPER, LOWER], 1].mean() * EYES + 220 + TEETH * EYES)
    rows = np.arange(picture.shape[0])[:, None]
    picture[(picture == np.array(DARK)).all(2) & (rows > end + 2)] = (190, 185, 175)
    return picture


def test_two_mouths_never_make_two_edges_of_teeth() -> None:
    """Of a clenched and an open mouth each gives what it shows best; their mean would show both."""
    wide, grin = opened(0.32), opened(0.26)
    mouth = InnerMouth([cut_mouth(drawn(wide), wide), cut_mouth(clenched(grin), grin)])
    light = column(*shown(mouth, 0.32))
    bright = light > 130
    assert int((np.diff(bright.astype(int)) != 0).sum()) <= 2, "one row of teeth: it begins, and it ends"
    assert abs(int(bright.sum()) - TEETH * EYES) <= 5


def test_lower_teeth_are_not_taken_for_upper_ones() -> None:
    face = opened(0.3)
    picture = drawn(face)
    teeth, dark = (picture == np.array(TOOTH)).all(2), (picture == np.array(DARK)).all(2)
    picture[teeth], picture[dark] = DARK, TOOTH
    light = column(*shown(InnerMouth([cut_mouth(picture, face)]), 0.3))
    assert light[3 : int(0.06 * EYES)].max() < 90 and light[-8:-3].min() > 110


@pytest.mark.parametrize("exposure", [0.75, 1.25])
def test_teeth_have_the_frames_light(mouth: InnerMouth, exposure: float) -> None:
    landmarks = opened(0.24)
    pictures = [np.full((560, 600, 3), np.multiply(SKIN, share), np.uint8) for share in (1, exposure)]
    for picture in pictures:
        mouth.show(picture, canonical_shape(landmarks), fit_pose(landmarks), landmarks)
    usual, now = (column(picture, landmarks)[3:10].mean() for picture in pictures)
    assert abs(now / usual - (exposure if exposure < 1 else min(exposure, 250 / usual))) < 0.12


def test_teeth_between_the_frames_and_the_persons_never_mix(mouth: InnerMouth) -> None:
    """From a small share on the person's own layers cover the frame's mouth wholly: a cross-fade shows teeth twice."""
    landmarks = opened(0.24)
    pictures = [np.full((560, 600, 3), SKIN, np.uint8) for _ in range(2)]
    for picture, share in zip(pictures, (0.4, 1.0), strict=True):
        mouth.show(picture, canonical_shape(landmarks), fit_pose(landmarks), landmarks, share)
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_the_widest_mouths_are_used_and_shut_ones_are_not() -> None:
    faces = [opened(gap) for gap in (0.0, 0.01, 0.3)]
    mouth = InnerMouth([cut_mouth(drawn(face), face) for face in faces], MouthConfig())
    light = column(*shown(mouth, 0.3))
    assert light[: int(0.08 * EYES)].mean() > 150


def test_a_mouth_at_the_edge_of_the_picture_is_cut() -> None:
    landmarks = opened(0.3) - np.array([260, 300, 0], np.float32)
    picture = np.full((120, 90, 3), SKIN, np.uint8)
    piece = cut_mouth(picture, landmarks)
    assert piece.patch.rgb.size > 0
    InnerMouth([piece]).show(picture, canonical_shape(landmarks), fit_pose(landmarks), landmarks)
