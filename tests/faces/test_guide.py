"""The guide: proportions, light, mouth and gaze of a source laid over a target."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from talkswap.faces import expression, guide, mesh
from talkswap.faces.geometry import EYE_CORNERS, ffhq_affine, transform_points
from talkswap.faces.guide import FaceGuide, GuideConfig
from talkswap.faces.measures import LID_MIDDLES, eye_openings
from talkswap.types import FloatArray, UInt8Image

SIZE = 160


def person(
    yaw: float = 0.0, mouth: float = 0.0, blink: float = 0.0, nose: float = 0.0, glance: float = 0.0, size: int = SIZE
) -> FloatArray:
    """The mean face with a few changes (eye distances), turned by ``yaw`` degrees and aligned into a crop."""
    points = mesh.mean_face().points.copy()
    points[list(mesh.INNER_LIPS[11:]), 1] += mouth
    for ring, iris in (
        (mesh.LEFT_EYE_RING, expression.LEFT_IRIS),
        (mesh.RIGHT_EYE_RING, expression.RIGHT_IRIS),
    ):
        middle = points[list(ring), 1].mean()
        points[list(ring), 1] = middle + (points[list(ring), 1] - middle) * (1 - blink)
        points[list(iris), 0] += glance
    points[[1, 4, 5, 195, 197], 1] += nose
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    points = (points @ turn.T * size / 4 + size / 2).astype(np.float32)
    return transform_points(ffhq_affine(points, size), points)


def portrait(points: FloatArray, skin: tuple[int, int, int], size: int = SIZE) -> UInt8Image:
    """A drawn face: skin, brows, whites, irises, lips and, between them, teeth."""
    picture = np.full((size, size, 3), 40, np.uint8)

    def fill(ring: tuple[int, ...], colour: tuple[int, int, int]) -> None:
        cv2.fillPoly(picture, [points[list(ring), :2].round().astype(np.int32)], colour)

    fill(mesh.FACE_OVAL, skin)
    fill(guide.LEFT_BROW, (50, 30, 20))
    fill(guide.RIGHT_BROW, (50, 30, 20))
    fill(mesh.OUTER_LIPS, (170, 60, 70))
    fill(mesh.INNER_LIPS, (250, 250, 250))
    for ring, iris in ((mesh.LEFT_EYE_RING, expression.LEFT_IRIS), (mesh.RIGHT_EYE_RING, expression.RIGHT_IRIS)):
        fill(ring, (235, 235, 235))
        centre = points[list(iris), :2].mean(0)
        cv2.circle(picture, (round(float(centre[0])), round(float(centre[1]))), size // 53, (20, 60, 120), -1)
    return picture


def test_pose_is_recovered_and_shape_is_free_of_it() -> None:
    straight, turned = person(), person(yaw=25)
    pose = guide.fit_pose(turned)
    assert np.degrees(np.arctan2(pose.turn[2, 0], pose.turn[2, 2])) == pytest.approx(25, abs=0.5)
    assert np.linalg.det(pose.turn) == pytest.approx(1, abs=1e-5)
    assert np.abs(guide.canonical_shape(turned) - guide.canonical_shape(straight)).max() < 1e-3
    assert np.abs(guide.canonical_shape(straight) - mesh.mean_face().points).max() < 1e-3


def test_a_share_of_the_proportions_moves_and_outline_and_openings_stay() -> None:
    source, target = person(nose=0.1), person(yaw=15, mouth=0.15, blink=0.4)
    shape = guide.canonical_shape(source)
    whole, half = (guide.lend_shape(shape, target, share) for share in (1.0, 0.5))
    scale = guide.fit_pose(target).scale
    assert np.array_equal(guide.lend_shape(shape, target, 0), target)
    assert (whole[4, 1] - target[4, 1]) / scale > 0.03
    assert (half - target)[:, :2] == pytest.approx((whole - target)[:, :2] / 2, abs=1e-3)
    assert np.abs((whole - target)[list(mesh.FACE_OVAL)]).max() < 1e-3

    def opening(points: FloatArray, top: int, bottom: int) -> float:
        return float(np.linalg.norm(points[top] - points[bottom]))

    for top, bottom in ((13, 14), (159, 145), (386, 374)):
        assert opening(whole, top, bottom) == pytest.approx(opening(target, top, bottom), rel=1e-3)


def test_an_averaged_target_shape_leaves_its_movement_alone() -> None:
    shape, mean = guide.canonical_shape(person(nose=0.1)), guide.canonical_shape(person())
    moves = []
    for raised in (0.0, 0.1):
        target = person()
        scale = guide.fit_pose(target).scale
        target[[105, 334], 1] -= raised * scale
        moves.append(guide.lend_shape(shape, target, 1.0, mean) - target)
    brows = [105, 334]
    assert np.abs(moves[0][brows] - moves[1][brows]).max() < 0.3  # px: both frames get the same offset


def test_the_source_s_features_reach_the_target_and_the_rest_stays() -> None:
    source, target = person(), person(yaw=12)
    source_rgb, target_rgb = portrait(source, (190, 140, 120)), portrait(target, (190, 140, 120))
    spot = np.round(source[50, :2]).astype(int)  # a mole on the cheek
    cv2.circle(source_rgb, (int(spot[0]), int(spot[1])), 4, (40, 10, 10), -1)
    laid = FaceGuide(source_rgb, source).lay(target_rgb, target)
    x, y = np.round(laid.landmarks[50, :2]).astype(int)
    assert laid.crop[y, x].mean() < 0.6 * target_rgb[y, x].mean()
    outside = laid.mask == 0
    assert outside.mean() > 0.4 and np.array_equal(laid.crop[outside], target_rgb[outside])
    assert laid.mask.min() >= 0 and laid.mask.max() <= 1 and laid.crop.dtype == np.uint8


def test_the_target_s_light_is_taken_unless_switched_off() -> None:
    source, target = person(), person()
    source_rgb, target_rgb = portrait(source, (210, 160, 140)), portrait(target, (110, 80, 70))
    lit = FaceGuide(source_rgb, source).lay(target_rgb, target).crop
    unlit = FaceGuide(source_rgb, source, GuideConfig(colour=0)).lay(target_rgb, target).crop
    x, y = np.round(target[50, :2]).astype(int)
    assert np.abs(lit[y, x].astype(int) - target_rgb[y, x]).max() < 12
    assert np.abs(unlit[y, x].astype(int) - source_rgb[y, x]).max() < 12


def test_teeth_come_from_the_target_and_lids_follow_it() -> None:
    source, target = person(), person(mouth=0.2)
    source_rgb, target_rgb = portrait(source, (190, 140, 120)), portrait(target, (190, 140, 120))
    laid = FaceGuide(source_rgb, source).lay(target_rgb, target)
    x, y = np.round(laid.landmarks[[13, 14], :2].mean(0)).astype(int)
    assert laid.crop[y, x].min() > 200  # white between the lips although the source's were shut


def test_the_gaze_follows_the_target() -> None:
    source, target = person(size=320), person(glance=0.05, size=320)
    source_rgb, target_rgb = portrait(source, (190, 140, 120), 320), portrait(target, (190, 140, 120), 320)
    for share, wanted in ((0.0, expression.gaze(source)), (1.0, expression.gaze(target))):
        crop = FaceGuide(source_rgb, source, GuideConfig(gaze=share, colour=0)).lay(target_rgb, target).crop
        for eye, (left, right) in enumerate(EYE_CORNERS):
            y = round(float(target[[left, right], 1].mean()))
            row = crop[y, round(float(target[left, 0])) + 5 : round(float(target[right, 0])) - 4].astype(float).sum(1)
            dark = np.clip(600 - row, 0, None)
            place = (dark @ np.arange(len(row)) / dark.sum() + 5) / float(target[right, 0] - target[left, 0])
            assert place == pytest.approx(wanted[eye], abs=0.06)


def test_openings_are_measured_in_parts_of_the_face() -> None:
    open_eyes, half = person(), person(blink=0.5, yaw=10)
    assert eye_openings(open_eyes).shape == (2,)
    assert eye_openings(3 * open_eyes) == pytest.approx(eye_openings(open_eyes), rel=1e-4)
    assert eye_openings(half) == pytest.approx(
        eye_openings(open_eyes) / 2, rel=0.1
    )  # a turned face is nearer on one side
    both = eye_openings(np.stack([open_eyes, half]))
    assert np.allclose(both, [eye_openings(open_eyes), eye_openings(half)])


def test_an_eye_counts_as_shut_only_near_the_end_of_a_blink() -> None:
    usual = np.array([0.1, 0.1], np.float32)
    shares = [float(expression.closing(usual * part, usual, (0.4, 0.2))[0]) for part in (1.0, 0.4, 0.3, 0.2, 0.0)]
    assert shares == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-5)


def test_shut_lids_are_the_target_s_own_in_the_colour_laid_around_them() -> None:
    """An open eye pressed into a slit is a dark bar; the lid's own line shows instead, and nothing changes when open."""
    size = 320
    source, target = person(size=size), person(blink=0.92, size=size)
    source_rgb, target_rgb = portrait(source, (190, 140, 120), size), portrait(target, (150, 110, 95), size)
    for ring in (mesh.LEFT_EYE_RING, mesh.RIGHT_EYE_RING):  # skin where the eye is shut, as a lid would show
        centre, width = target[list(ring), :2].mean(0), float(np.ptp(target[list(ring), 0]))
        box = ((float(centre[0]), float(centre[1])), (1.1 * width, 0.5 * width), 0.0)
        cv2.ellipse(target_rgb, box, (150, 110, 95), -1)
    shown, hidden = (
        FaceGuide(source_rgb, source, GuideConfig(lids=share, colour=0)).lay(target_rgb, target) for share in (1.0, 0.0)
    )
    skin = np.array([190, 140, 120])
    for eye in LID_MIDDLES:
        x, y = np.round(shown.landmarks[list(eye), :2].mean(0)).astype(int)
        assert np.abs(hidden.crop[y, x].astype(int) - skin).max() > 60  # the source's iris, pressed flat
        assert np.abs(shown.crop[y, x].astype(int) - skin).max() < 25
    opened = person(blink=0.3, size=size)
    rgb = portrait(opened, (150, 110, 95), size)
    with_lids, without = (FaceGuide(source_rgb, source, GuideConfig(lids=s)).lay(rgb, opened).crop for s in (1.0, 0.0))
    assert np.array_equal(with_lids, without)


def test_hair_on_the_target_s_forehead_stays_in_front() -> None:
    source, target = person(), person()
    source_rgb, target_rgb = portrait(source, (200, 150, 130)), portrait(target, (200, 150, 130))
    x, edge = round(float(target[9, 0])), round(float(target[[151, 9], 1].mean()))
    target_rgb[:edge] = (20, 15, 10)  # a fringe down to the brows
    y = round(float(0.4 * target[10, 1] + 0.6 * target[151, 1]))
    kept = FaceGuide(source_rgb, source).lay(target_rgb, target).crop
    lost = FaceGuide(source_rgb, source, GuideConfig(hair=0)).lay(target_rgb, target).crop
    assert kept[y, x].mean() < lost[y, x].mean() - 30


def test_one_guide_is_cheap() -> None:
    source, target = person(size=320), person(yaw=10, size=320)
    laid = FaceGuide(portrait(source, (190, 140, 120), 320), source)
    target_rgb = portrait(target, (150, 110, 90), 320)
    laid.lay(target_rgb, target)
    started = time.process_time()
    for _ in range(10):
        laid.lay(target_rgb, target)
    assert (time.process_time() - started) / 10 < 0.05  # about 7 ms on a quiet core


def test_highlights_of_dark_skin_do_not_burn_out_on_a_light_face() -> None:
    source, target = person(), person(yaw=8)
    dark, light = portrait(source, (100, 66, 50)), portrait(target, (225, 180, 160))
    x, y = np.round(source[50, :2]).astype(int)
    cv2.circle(dark, (int(x), int(y)), 6, (140, 108, 92), -1)  # a highlight on the cheek
    spots = {}
    for name, flatten in (("flat", GuideConfig().flatten), ("plain", (1e9, 0.0))):
        laid = FaceGuide(dark, source, GuideConfig(flatten=flatten)).lay(light, target)
        x, y = np.round(laid.landmarks[50, :2]).astype(int)
        spots[name] = laid.crop[y, x].astype(int)
        x, y = np.round(laid.landmarks[280, :2]).astype(int)  # the other cheek, as light as the target's
        assert np.abs(laid.crop[y, x].astype(int) - light[y, x]).max() < 16
    assert spots["plain"][0] == 255, "the red channel is at its end"
    assert spots["flat"].max() < 250 and spots["flat"].min() > 180


def test_a_bare_forehead_stays_where_the_photo_s_is_covered() -> None:
    source, target = person(), person()
    source_rgb, target_rgb = portrait(source, (190, 140, 120)), portrait(target, (190, 140, 120))
    x, y = np.round(target[151, :2]).astype(int)  # the middle of the forehead
    spot = (slice(y - 2, y + 3), slice(x - 2, x + 3))
    source_rgb[spot] = (150, 100, 80)
    target_rgb[spot] = (205, 155, 135)
    cover = np.zeros((80, 80), np.float32)
    cover[: round(target[8, 1] / 2)] = 1  # down to the brows
    bare, covered = (FaceGuide(source_rgb, source, cover=c).lay(target_rgb, target) for c in (None, cover))
    assert np.abs(covered.crop[spot].astype(int) - target_rgb[spot]).mean() < 16
    assert np.abs(bare.crop[spot].astype(int) - target_rgb[spot]).mean() > 25
    brow = target[list(guide.LEFT_BROW), :2].mean(0).round().astype(int)
    assert covered.mask[brow[1], brow[0]] > 0.8 * bare.mask[brow[1], brow[0]] > 0.3, "brows stay the photo's"
