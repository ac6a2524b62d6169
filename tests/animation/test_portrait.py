"""The portrait of a person, gathered from meshes whose shape, speech and faults are known."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from talkswap.animation.mouth import InnerMouth
from talkswap.animation.portrait import (
    Portrait,
    PortraitCollector,
    PortraitConfig,
    at_rate,
    usual_opening,
    usual_template,
)
from talkswap.animation.space import lip_opening
from talkswap.faces.geometry import ffhq_quad
from talkswap.faces.guide import canonical_shape, fit_pose
from talkswap.faces.measures import degrees_from_front
from talkswap.faces.track import TrackedFace
from talkswap.systems import contract
from talkswap.types import AlignedFace, Face, Frame

SIDE = 480  # px of the pictures


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


def mesh(opening: float = 0.0, aside: float = 0.0) -> np.ndarray:
    """A face 90 px from eye to eye, its lips open by ``opening``, its head turned aside by some degrees."""
    shape = usual_template() + opening * usual_opening()
    c, s = np.cos(np.radians(aside)), np.sin(np.radians(aside))
    turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return np.asarray(90 * shape @ turn.T + (SIDE / 2, SIDE / 3, 0), np.float32)


def tracked(landmarks: np.ndarray, score: float = 1.0) -> TrackedFace:
    centre, x = ffhq_quad(landmarks)
    box = np.concatenate([landmarks[:, :2].min(0), landmarks[:, :2].max(0)])
    return TrackedFace(0, Face(box, score, landmarks), landmarks, centre, x, 0.0, 1.0, False)


def reference(index: int = 0) -> AlignedFace:
    return AlignedFace(np.zeros((8, 8, 3), np.uint8), np.eye(2, 3, dtype=np.float32), mesh(0.1), index)


def collect(faces: list[TrackedFace], picture: np.ndarray, rate: int = 25) -> PortraitCollector:
    collector = PortraitCollector(reference(), config=PortraitConfig(size=96))
    for k, face in enumerate(faces):
        collector.add(Frame(picture, Fraction(k, rate), k), face, 0, 8 * k // len(faces))
    return collector


def speech(count: int, rate: int = 25) -> np.ndarray:
    """Lip openings of somebody who says three syllables a second."""
    return 0.1 - 0.1 * np.cos(2 * np.pi * 3 * np.arange(count) / rate)


def test_a_portrait_of_nothing_but_a_reference_can_speak() -> None:
    portrait = contract.Portrait(reference())
    assert contract.Portrait is Portrait
    assert portrait.template.shape == (478, 3) and abs(float(lip_opening(portrait.template[None])[0])) < 0.01
    assert portrait.style.shape == (0, 478, 3)
    assert portrait.references == portrait.mouths == ()


def test_template_and_style_of_known_speech(noise: np.ndarray) -> None:
    openings = speech(60)
    portrait = collect([tracked(mesh(o)) for o in openings], noise).finish()
    assert np.abs(portrait.template - usual_template()).max() < 0.02
    assert len(portrait.style) == 60
    assert lip_opening(portrait.template + portrait.style) == pytest.approx(openings, abs=0.01)
    assert len(portrait.references) == 8 and portrait.reference.index == 0
    widths = [mouth.opening for mouth in portrait.mouths]
    assert widths == sorted(widths, reverse=True) and widths[0] > 0.2 and widths[-1] < 0.1


def test_a_style_has_at_most_ninety_rows_and_leaves_out_who_is_silent(noise: np.ndarray) -> None:
    openings = np.concatenate([np.zeros(30), speech(60), np.zeros(30), speech(60)])
    portrait = collect([tracked(mesh(o)) for o in openings], noise).finish()
    assert len(portrait.style) == 90
    assert lip_opening(portrait.template + portrait.style).std() == pytest.approx(speech(60).std(), rel=0.1)


def test_fast_clips_give_rows_at_the_rate_of_the_network(noise: np.ndarray) -> None:
    openings = speech(60, 50)
    portrait = collect([tracked(mesh(o)) for o in openings], noise, 50).finish()
    assert lip_opening(portrait.template + portrait.style) == pytest.approx(speech(30), abs=0.01)


def test_silence_short_clips_and_closed_lips_leave_their_fields_empty(noise: np.ndarray) -> None:
    still = collect([tracked(mesh(0.01)) for _ in range(40)], noise).finish()
    assert len(still.style) == 0 and still.mouths == () and len(still.references) == 8
    short = collect([tracked(mesh(o)) for o in speech(8)], noise).finish()
    assert len(short.style) == 0 and short.mouths
    single = collect([tracked(mesh(0.2))], noise)
    assert single.usable_frames == 1
    assert abs(float(lip_opening(single.finish().template[None])[0])) < 0.02


def test_without_a_usable_frame_the_reference_gives_the_template(noise: np.ndarray) -> None:
    for faces in ([], [tracked(mesh(0.1, aside=60))] * 5, [tracked(mesh(0.1), score=0.2)] * 5):
        collector = collect(faces, noise)
        assert collector.usable_frames == 0
        portrait = collector.finish()
        assert np.abs(portrait.template - usual_template()).max() < 0.02
        assert portrait.references == portrait.mouths == () and len(portrait.style) == 0


def test_turned_faint_and_slipped_meshes_stay_out(noise: np.ndarray) -> None:
    faces = [tracked(mesh(o)) for o in speech(40)]
    slipped = mesh(0.1)
    slipped[:200] += 40 * np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    faces[5:8] = [tracked(mesh(0.1, aside=50)), tracked(mesh(0.4), score=0.3), tracked(slipped)]
    collector = collect(faces, noise)
    assert collector.usable_frames == 37
    assert np.abs(collector.finish().template - usual_template()).max() < 0.02


def test_blurred_views_are_no_references_and_lend_no_mouth(noise: np.ndarray) -> None:
    blurred = cv2.GaussianBlur(noise, (0, 0), 6)
    collector = PortraitCollector(reference(), config=PortraitConfig(size=96))
    openings = [0.05, 0.12, 0.22, 0.3]
    for k, opening in enumerate(openings):
        picture = blurred if k % 2 else noise
        collector.add(Frame(picture, Fraction(k, 25), k), tracked(mesh(opening)), 0, 2 * k)
    portrait = collector.finish()
    assert [view.index for view in portrait.references] in ([0, 2], [2, 0])
    assert [mouth.landmarks.tolist() for mouth in portrait.mouths] == [mesh(0.22).tolist(), mesh(0.05).tolist()]


def test_covered_mouths_are_not_learned_from(noise: np.ndarray) -> None:
    answers = iter([0.0, 0.9, 0.0, 0.9])
    collector = PortraitCollector(
        reference(), None, PortraitConfig(size=96), lambda crop: np.full((24, 24), next(answers), np.float32)
    )
    for k in range(4):
        collector.add(Frame(noise, Fraction(k, 25), k), tracked(mesh(0.1 * (k + 1))), 0, 2 * k)
    portrait = collector.finish()
    assert collector.usable_frames == 2 and {view.index for view in portrait.references} == {0, 2}
    assert [m.landmarks.tolist() for m in portrait.mouths] == [mesh(0.3).tolist(), mesh(0.1).tolist()]


def test_open_mouths_are_spread_by_opening_and_pose(noise: np.ndarray) -> None:
    faces = [tracked(mesh(o, a)) for a in (-20, 0, 20) for o in np.linspace(0.05, 0.4, 12)]
    mouths = collect(faces, noise).finish().mouths
    assert len(mouths) == 8
    aside = np.array([degrees_from_front(mouth.landmarks)[0] for mouth in mouths])
    assert (aside < -15).any() and (abs(aside) < 5).any() and (aside > 15).any()
    assert mouths[0].opening > 0.3 and mouths[-1].opening < 0.12


def test_rows_are_interpolated_but_not_over_gaps() -> None:
    seconds = np.array([0.0, 0.05, 0.1, 0.5, 0.55])
    rows = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    assert at_rate(rows, seconds, 20, 0.1)[:, 0, 0] == pytest.approx([0, 1, 2, 3, 4])
    assert at_rate(rows, seconds, 40, 0.1)[:, 0, 0] == pytest.approx([0, 0.5, 1, 1.5, 2, 3, 3.5, 4])
    assert at_rate(rows[:1], seconds[:1], 25, 0.1).shape == (0, 2, 3)


def test_a_mouth_of_which_nothing_is_known_is_painted_dark(noise: np.ndarray) -> None:
    landmarks = mesh(0.3)
    picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
    InnerMouth([]).show(picture, canonical_shape(landmarks), fit_pose(landmarks), landmarks)
    x, y = np.round(landmarks[[13, 14], :2].mean(0)).astype(int)
    r, g, b = (int(v) for v in picture[y, x])
    assert 10 < r < 90 and r > g and r > b  # the dark of a mouth, not a hole
    assert (picture[: y - 60] == 200).all()
