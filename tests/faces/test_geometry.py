"""Geometry of faces: a face comes out upright, centred and of one size, and goes back where it was."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkswap.faces.geometry import (
    align,
    box_overlap,
    ffhq_affine,
    ffhq_quad,
    five_points,
    invert_affine,
    quad_affine,
    similarity_affine,
    spatial_similarity,
    transform_points,
    warp_crop,
)
from talkswap.faces.mesh import mean_face
from talkswap.types import FloatArray, UInt8Image


def posed(x: float, y: float, size: float, roll: float) -> FloatArray:
    """The mean face with its eyes' middle at (x, y), ``size`` px between the eyes, turned by ``roll`` radians."""
    points = mean_face().points * np.float32(size)
    cos, sin = np.cos(roll), np.sin(roll)
    turned = points[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + [x, y]
    return np.concatenate([turned, points[:, 2:]], 1).astype(np.float32)


def picture(height: int, width: int, cells: int = 12) -> UInt8Image:
    noise = np.random.default_rng(2).integers(0, 256, (cells, cells, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-200, 900),
    st.floats(-200, 900),
    st.floats(8, 400),
    st.floats(-3.1, 3.1),
    st.sampled_from([160, 256, 320, 512]),
)
def test_every_pose_gives_the_same_crop_landmarks(x: float, y: float, size: float, roll: float, side: int) -> None:
    reference = posed(0, 0, 100, 0)
    expected = transform_points(ffhq_affine(reference, side), reference)
    landmarks = posed(x, y, size, roll)
    moved = transform_points(ffhq_affine(landmarks, side), landmarks)
    np.testing.assert_allclose(moved, expected, atol=0.05 * side / 100)


def test_the_crop_holds_the_face_as_the_data_set_does() -> None:
    landmarks = posed(500, 300, 80, 0.3)
    moved = transform_points(ffhq_affine(landmarks, 320), landmarks)
    left, right, chin = moved[468, :2], moved[473, :2], moved[152, :2]
    assert left[1] == pytest.approx(right[1], abs=2)  # upright
    assert (left[0] + right[0]) / 2 == pytest.approx(159.5, abs=3)
    assert 70 < right[0] - left[0] < 100 and 250 < chin[1] < 320


def test_quad_turns_with_the_head() -> None:
    centre, x = ffhq_quad(posed(100, 100, 50, 0.5))
    assert np.arctan2(x[1], x[0]) == pytest.approx(0.5, abs=1e-3)
    assert np.hypot(*x) == pytest.approx(np.hypot(*ffhq_quad(posed(0, 0, 50, 0))[1]), rel=1e-4)
    assert centre.dtype == np.float32


def test_affine_maps_the_quad_to_the_square() -> None:
    centre, x = np.array([200.0, 100.0], np.float32), np.array([30.0, 40.0], np.float32)
    affine = quad_affine(centre, x, 101)
    np.testing.assert_allclose(transform_points(affine, centre[None]), [[50, 50]], atol=1e-3)
    right = transform_points(affine, (centre + x)[None])[0]
    np.testing.assert_allclose(right, [50 + 101 / 2, 50], atol=1e-3)


def test_there_and_back() -> None:
    landmarks = posed(321, 123, 37, -0.7)
    affine = ffhq_affine(landmarks, 320)
    back = transform_points(invert_affine(affine), transform_points(affine, landmarks))
    np.testing.assert_allclose(back, landmarks, atol=2e-2)
    flat = transform_points(affine, landmarks[:, :2])
    assert flat.shape == (478, 2)
    np.testing.assert_array_equal(flat, transform_points(affine, landmarks)[:, :2])


@pytest.mark.parametrize("eyes", [30.0, 80.0, 130.0, 260.0])
def test_crop_shows_the_picture_where_the_affine_says(eyes: float) -> None:
    """At every scale, also those that average first, a crop px holds the picture's colour at its own place."""
    height, width = 1500, 1700
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ramp = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], 2).round().astype(np.uint8)
    landmarks = posed(820.3, 640.7, eyes, 0.25)
    face = align(ramp, landmarks, 160, index=7)
    rows, columns = np.mgrid[8:152:16, 8:152:16]
    places = transform_points(
        invert_affine(face.affine), np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float32)
    )
    expected = np.stack(
        [places[:, 0] * 255 / width, places[:, 1] * 255 / height, places.sum(1) * 255 / (width + height)], 1
    )
    inside = (places > 4).all(1) & (places[:, 0] < width - 5) & (places[:, 1] < height - 5)
    assert inside.sum() > 40
    assert np.abs(face.crop[rows.ravel(), columns.ravel()][inside] - expected[inside]).max() < 1.3
    assert face.index == 7 and face.landmarks.shape == (478, 3)


def test_a_large_face_is_averaged_not_sampled() -> None:
    board = ((np.indices((1200, 1200)).sum(0) % 2) * 255).astype(np.uint8)
    crop = warp_crop(np.repeat(board[:, :, None], 3, 2), ffhq_affine(posed(600, 500, 200, 0), 160), 160)
    assert np.abs(crop[20:140, 20:140].astype(int) - 127).max() <= 16  # three cells by three leave one odd


def test_a_slow_move_does_not_make_a_large_face_flicker() -> None:
    """Between two frames a tenth of a px apart, no crop px may jump: the averaging grid belongs to the picture."""
    rgb = picture(1400, 1600, cells=60)
    crops = [warp_crop(rgb, ffhq_affine(posed(800 + k * 0.1, 600, 210, 0), 160), 160) for k in range(12)]
    steps = [np.abs(b.astype(int) - a).max() for a, b in zip(crops, crops[1:], strict=False)]
    assert max(steps) <= 6


def test_a_face_at_the_edge_is_completed_by_reflection() -> None:
    rgb = picture(200, 200)
    face = align(rgb, posed(10, 10, 40, 0), 160)
    assert face.crop.shape == (160, 160, 3)
    assert face.crop[:20, :20].std() > 5  # no flat fill
    small = align(picture(600, 600), posed(5, 5, 280, 0), 160)
    assert small.crop.std() > 5


def test_overlap_of_boxes() -> None:
    a = np.array([0, 0, 10, 10], np.float32)
    assert box_overlap(a, a) == pytest.approx(1)
    assert box_overlap(a, a + 20) == 0
    assert box_overlap(a, a + np.array([5, 0, 5, 0], np.float32)) == pytest.approx(1 / 3)


def test_similarity_puts_points_where_they_belong() -> None:
    points = five_points(posed(60, 50, 30, 0.1))
    affine = np.array([[0.3, -0.4, 7], [0.4, 0.3, -2]], np.float32)
    assert np.abs(similarity_affine(points, transform_points(affine, points)) - affine).max() < 1e-4


def test_similarity_recovers_a_known_motion() -> None:
    generator = np.random.default_rng(3)
    shape = generator.normal(size=(30, 3))
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    scale, rotation, shift = spatial_similarity(shape, 2.5 * shape @ turn.T + [1, 2, 3])
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(rotation, turn, atol=1e-9)
    np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-9)
