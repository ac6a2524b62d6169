"""Skin that moves with its mesh: what stays keeps its bits, what moves lands where its points go."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from talkswap.faces.mesh import INNER_LIPS, mean_face
from talkswap.faces.warp import SkinConfig, move_skin, with_ring
from talkswap.types import FloatArray, UInt8Image

EYES = 100.0  # px between the eyes
CHIN, NOSE_BRIDGE, LOWER_LIP = 152, 168, 14


@pytest.fixture
def points() -> FloatArray:
    return np.asarray(mean_face().points * EYES + np.array([300, 200, 0]), np.float32)


@pytest.fixture
def picture() -> UInt8Image:
    """A smooth ramp: red tells the column, green the row, so that a px says where it came from."""
    rows, columns = np.mgrid[0:560, 0:600].astype(np.float32)
    return np.stack([columns * 0.4, rows * 0.4, np.full_like(rows, 90)], 2).astype(np.uint8)


def test_a_mesh_that_stays_moves_nothing(picture: UInt8Image, points: FloatArray) -> None:
    assert move_skin(picture, points, points) is None


def test_px_far_from_moved_points_keep_their_bits(points: FloatArray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (560, 600, 3), np.uint8)
    moved = points.copy()
    moved[LOWER_LIP, 1] += 5
    patch = move_skin(noise, points, moved)
    assert patch is not None
    result = noise.copy()
    result[patch.place] = patch.rgb
    changed = (result != noise).any(2)
    assert changed.any()
    rows, columns = np.nonzero(changed)
    distance = np.hypot(columns - points[LOWER_LIP, 0], rows - points[LOWER_LIP, 1])
    assert distance.max() < 0.6 * EYES  # only the triangles around the lip


def test_skin_lands_where_its_points_go(picture: UInt8Image, points: FloatArray) -> None:
    moved = points.copy()
    lower = points[:, 1] > points[2, 1]
    share = np.clip((points[:, 1] - points[2, 1]) / (points[CHIN, 1] - points[2, 1]), 0, 1)
    moved[:, 1] += 10 * share
    patch = move_skin(picture, points, moved)
    assert patch is not None
    height, width = patch.rgb.shape[:2]
    for number in np.flatnonzero(lower)[::9]:
        x, y = moved[number, 0] - patch.x, moved[number, 1] - patch.y
        if not (1 < x < width - 2 and 1 < y < height - 2):
            continue
        seen = cv2.getRectSubPix(patch.rgb, (1, 1), (float(x), float(y)))[0, 0]
        assert abs(seen[0] / 0.4 - points[number, 0]) < 4, number
        assert abs(seen[1] / 0.4 - points[number, 1]) < 4, number


def test_the_ring_around_the_face_stays(picture: UInt8Image, points: FloatArray) -> None:
    moved = points.copy()
    moved[:, 1] += 15  # the whole face
    patch = move_skin(picture, points, moved)
    assert patch is not None
    ring = with_ring(points, SkinConfig().outset)[478:]
    result = picture.copy()
    result[patch.place] = patch.rgb
    for x, y in ring[:, :2].astype(int):
        if 2 < x < 598 and 2 < y < 558:
            assert np.abs(result[y, x].astype(int) - picture[y, x].astype(int)).max() <= 6


def test_a_face_at_the_edge_of_the_picture(points: FloatArray) -> None:
    small = np.zeros((260, 320, 3), np.uint8)
    moved = points.copy()
    moved[CHIN, 1] += 10
    patch = move_skin(small, points, moved)
    assert patch is None or (patch.place[0].stop <= 260 and patch.place[1].stop <= 320)
    outside = points + np.array([2000, 0, 0], np.float32)
    assert move_skin(small, outside, outside + np.array([0, 5, 0], np.float32)) is None


def test_large_faces_keep_fine_detail(points: FloatArray) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1120, 1200, 3), np.uint8)
    large = points * 2
    moved = large.copy()
    moved[:, 1] += np.where(points[:, 1] > points[2, 1], 8.0, 0.0).astype(np.float32)  # whole px below the nose
    patch = move_skin(noise, large, moved)
    assert patch is not None
    chin = moved[18, :2].astype(int)  # under the lower lip, far from the step at the nose
    there = patch.rgb[chin[1] - patch.y - 20 : chin[1] - patch.y, chin[0] - patch.x - 20 : chin[0] - patch.x + 20]
    source = noise[chin[1] - 28 : chin[1] - 8, chin[0] - 20 : chin[0] + 20]
    assert np.abs(there.astype(int) - source.astype(int)).mean() < 2


@pytest.mark.parametrize("eyes", [60.0, 100.0, 220.0])
def test_lips_that_shut_leave_no_teeth_between_them(eyes: float) -> None:
    """The flow jumps at the lips; enlarged from cells it would squeeze the teeth into a line."""
    shut = np.asarray(mean_face().points * eyes + np.array([3 * eyes, 2 * eyes, 0]), np.float32)
    upper, lower = (191, 80, 81, 82, 13, 312, 311, 310, 415), (95, 88, 178, 87, 14, 317, 402, 318, 324)
    shut[list(upper), 1] = shut[list(lower), 1] = (shut[list(upper), 1] + shut[list(lower), 1]) / 2
    gap = 0.12 * eyes * np.sin(np.linspace(0.3, np.pi - 0.3, 9)).astype(np.float32)
    opened = shut.copy()
    opened[list(upper), 1] -= gap / 2
    opened[list(lower), 1] += gap / 2
    picture = np.full((round(5.6 * eyes), round(6 * eyes), 3), (170, 80, 80), np.uint8)
    ring = opened[list(INNER_LIPS), :2]
    # teeth begin a little inside of the ring, so that what's interpolated at its border is lip
    middle = np.interp(ring[:, 0], shut[list(upper), 0], shut[list(upper), 1])
    inside = ring.copy()
    inside[:, 1] -= np.sign(ring[:, 1] - middle) * np.minimum(2, np.abs(ring[:, 1] - middle))
    cv2.fillPoly(picture, [np.round(inside).astype(np.int32)], (235, 230, 220))
    patch = move_skin(picture, opened, shut)
    assert patch is not None
    picture[patch.place] = patch.rgb
    line = shut[list(upper)]
    for x, y, _ in line[2:7]:
        near = picture[round(float(y)) - 4 : round(float(y)) + 5, round(float(x))]
        assert near[:, 1].max() < 120, "green of teeth on the line of shut lips"
