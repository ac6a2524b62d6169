"""People of a clip: who they are, whose face a render changes, and never one face for two."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from talkswap.faces.people import FaceChooser, PeopleChooser, SelectConfig, survey
from talkswap.faces.track import FaceTracker, TrackConfig, TrackedFace
from talkswap.types import Face, FloatArray, UInt8Image

from .discs import COLOURS, HEIGHT, WIDTH, DiscAnalyser, choose_all, frames, run, scene, unit

ANNA, BERT, STRANGER = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)
SISTER = unit(0.9, 0, 0.44)  # so like Anna that she would be taken for her


def test_survey_lists_people_by_how_much_they_are_on_screen() -> None:
    pictures = [scene(0, ("bert", 60, 60, 14), ("anna", 160, 90, 36))] * 5 + [scene(5, ("cleo", 150, 90, 30))] * 2
    analyser = DiscAnalyser()
    people = survey(frames(pictures, 2), FaceTracker(analyser, TrackConfig(detect_every=1), analyser.embed))
    assert [p.index for p in people] == [0, 1, 2]
    assert [p.frames for p in people] == [5, 2, 5]  # anna, cleo, bert
    anna = people[0].embedding
    assert anna is not None and anna[0] > 0.9
    assert people[0].share == pytest.approx(5 / 7) and people[0].size > people[1].size > people[2].size
    assert people[0].time == 0 and people[1].time == Fraction(5, 2)


def test_chooser_takes_the_leading_face_and_stays_with_it() -> None:
    shots = [[scene(0, ("bert", 40, 40, 14), ("anna", 160, 90, 36))] * 3]
    shots += [[scene(7, ("bert", 160, 90, 40), ("anna", 40, 40, 14))] * 3]  # the other one comes to the front
    shots += [[scene(8, ("bert", 160, 90, 40))] * 3]  # she is away: nobody takes her place
    shots += [[scene(9, ("anna", 100, 90, 30))] * 2]
    results, _ = run([p for shot in shots for p in shot])
    anna = max(results[0], key=lambda f: f.landmarks[:, 0].mean()).track_id
    assert choose_all(results, FaceChooser()) == [anna] * 6 + [None] * 3 + [anna] * 2


def test_chooser_by_likeness_never_takes_another_face() -> None:
    results, _ = run(
        [scene(0, ("bert", 60, 60, 20), ("anna", 200, 90, 36))] * 3 + [scene(7, ("cleo", 160, 90, 40))] * 3
    )
    bert = np.array(COLOURS["bert"], np.float32)
    chosen = choose_all(results, FaceChooser(bert / np.linalg.norm(bert), SelectConfig(0.5)))
    number = min(results[0], key=lambda f: f.landmarks[:, 0].mean()).track_id
    assert chosen == [number] * 3 + [None] * 3
    stranger = FaceChooser(np.array([-1, 0, 0], np.float32))
    assert choose_all(results, stranger) == [None] * 6


def test_chooser_without_identity_goes_on_with_whoever_leads() -> None:
    shots = [scene(0, ("anna", 160, 90, 36))] * 3 + [scene(7, ("anna", 60, 90, 30))] * 3
    results, _ = run(shots, embed=False)
    assert choose_all(results, FaceChooser()) == [0] * 3 + [1] * 3


def test_chooser_lets_go_of_somebody_whose_better_views_are_another() -> None:
    face = run([scene(0, ("anna", 160, 90, 36))])[0][0][0]
    wanted = unit(1, 0, 0)
    chooser = FaceChooser(wanted, SelectConfig(least_likeness=0.35, release=0.25))

    def seen(cosine: float) -> list[TrackedFace]:
        return [replace(face, face=replace(face.face, embedding=unit(cosine, np.sqrt(1 - cosine**2), 0)))]

    chosen = [chooser(seen(c), HEIGHT, WIDTH) is not None for c in (0.3, 0.4, 0.3, 0.2, 0.3, 0.6)]
    assert chosen == [False, True, True, False, False, True]


def test_survey_of_far_apart_frames_searches_each_by_itself() -> None:
    pictures = [scene(0, ("anna", 60 + 15 * k, 90, 30)) for k in range(6)] + [scene(0, ("bert", 150, 90, 30))] * 3
    analyser = DiscAnalyser()
    tracker = FaceTracker(analyser, TrackConfig(detect_every=1, follow=False), analyser.embed)
    people = survey(frames(pictures, 1), tracker)
    assert analyser.followed == 0 and analyser.detected == 9
    assert [p.frames for p in people] == [6, 3]
    assert people[0].picture.shape == (192, 192, 3) and people[0].width == pytest.approx(60, abs=2)
    assert people[0].picture[96, 96, 0] > 200 and people[1].picture[96, 96, 1] > 200


def test_survey_joins_numbers_whose_means_turn_out_alike() -> None:
    class Wandering(DiscAnalyser):
        def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
            self.embedded += 1
            angle = np.radians({1: 0, 2: 80, 3: 80}.get(self.embedded, 40))
            return unit(np.cos(angle), np.sin(angle), 0)

    pictures = frames([scene(0, ("anna", 160, 90, 30))] * 8, 1)
    analyser = Wandering()
    tracker = FaceTracker(analyser, TrackConfig(detect_every=1), analyser.embed)
    assert len({f.track_id for frame in pictures for f in tracker.update(frame)}) == 2
    analyser = Wandering()
    (person,) = survey(pictures, FaceTracker(analyser, TrackConfig(detect_every=1), analyser.embed))
    assert person.frames == 8 and person.share == 1
    assert person.embedding is not None and np.linalg.norm(person.embedding) == pytest.approx(1)


def test_survey_keeps_people_apart_who_are_in_one_frame() -> None:
    pictures = frames([scene(0, ("anna", 80, 90, 30), ("anna", 240, 90, 30))] * 3, 1)
    analyser = DiscAnalyser()
    people = survey(pictures, FaceTracker(analyser, TrackConfig(detect_every=1, follow=False), analyser.embed))
    assert [p.frames for p in people] == [3, 3]


def test_survey_ends_when_it_has_seen_enough() -> None:
    empty, face = scene(0), scene(0, ("anna", 160, 90, 30))
    analyser = DiscAnalyser()
    people = survey(frames([empty] * 4 + [face] * 9), FaceTracker(analyser, TrackConfig(detect_every=1)), enough=2)
    assert people[0].frames == 2 and people[0].share == pytest.approx(2 / 6)


def seen(number: int, view: FloatArray, x: float = 100.0) -> TrackedFace:
    points = np.zeros((478, 3), np.float32)
    face = Face(np.array([x - 20, 60, x + 20, 110], np.float32), 0.9, points, view)
    centre = np.array([x, 90], np.float32)
    return TrackedFace(number, face, points, centre, np.array([30, 0], np.float32), 0.0, 1.0, False)


def numbers(chooser: PeopleChooser, *faces: TrackedFace) -> list[int | None]:
    return [None if f is None else f.track_id for f in chooser(faces, HEIGHT, WIDTH)]


def test_each_gets_their_own_whatever_the_order() -> None:
    chooser = PeopleChooser([ANNA, BERT])
    assert numbers(chooser, seen(7, BERT), seen(3, ANNA)) == [3, 7]
    assert numbers(chooser, seen(3, ANNA), seen(7, BERT)) == [3, 7]
    assert numbers(chooser, seen(7, BERT)) == [None, 7]
    assert numbers(chooser) == [None, None]


def test_nobody_takes_a_stranger() -> None:
    chooser = PeopleChooser([ANNA, BERT])
    assert numbers(chooser, seen(1, STRANGER), seen(2, BERT)) == [None, 2]


def test_one_face_goes_to_whom_it_is_more_like() -> None:
    """Both would take the sister's face; it is the sister's, and Anna waits for her own."""
    chooser = PeopleChooser([ANNA, SISTER])
    assert numbers(chooser, seen(5, SISTER)) == [None, 5]
    assert numbers(chooser, seen(5, SISTER), seen(6, ANNA)) == [6, 5]


def test_who_lost_a_face_to_another_looks_among_the_rest() -> None:
    """Anna's best match is taken by her sister; the other face is still hers."""
    chooser = PeopleChooser([ANNA, SISTER])
    likewise = unit(0.6, 0.8, 0)
    assert numbers(chooser, seen(1, SISTER), seen(2, likewise)) == [2, 1]


def test_alone_it_is_the_chooser_of_one() -> None:
    chooser = PeopleChooser([None])
    assert numbers(chooser, seen(1, STRANGER, x=40), seen(2, BERT, x=160)) == [2], "the middle leads"
    assert numbers(chooser, seen(1, STRANGER, x=160), seen(2, BERT, x=40)) == [2], "and stays"
