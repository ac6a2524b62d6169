"""Following faces: seldom detecting, losing and finding again, cuts, numbers that stay with a person."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from talkswap.faces.geometry import ffhq_quad, transform_points
from talkswap.faces.measures import yaw_degrees
from talkswap.faces.people import FaceChooser
from talkswap.faces.track import CutFinder, FaceTracker, TrackConfig, turned_away
from talkswap.types import Face, FloatArray, Frame, UInt8Image

from .discs import COLOURS, HEIGHT, WIDTH, DiscAnalyser, choose_all, frames, run, scene, unit


def test_one_face_is_detected_seldom_and_followed_between() -> None:
    pictures = [scene(0, ("anna", 100 + k, 90, 30)) for k in range(41)]
    results, analyser = run(pictures, TrackConfig(detect_every=10))
    assert [len(faces) for faces in results] == [1] * 41
    assert {faces[0].track_id for faces in results} == {0}
    assert analyser.detected == 5  # frames 0, 10, 20, 30, 40
    assert analyser.embedded == 5  # once when it appears, then once in each run of the detector
    assert [faces[0].fresh for faces in results] == [True] + [False] * 40
    last = results[-1][0]
    assert last.landmarks[:, 0].mean() == pytest.approx(last.face.landmarks[:, 0].mean(), abs=2)
    crop = transform_points(last.affine(160), last.landmarks)
    assert crop[[468, 473], 1].std() < 1 and 60 < crop[:, 0].mean() < 100  # the square holds the face, upright
    np.testing.assert_allclose(last.centre, ffhq_quad(last.landmarks)[0], atol=3)


def test_frames_without_a_face_are_empty_and_the_face_is_found_at_once() -> None:
    empty = [scene(0)] * 7
    pictures = empty + [scene(0, ("anna", 100, 90, 30))] * 5 + empty + [scene(0, ("anna", 200, 60, 30))] * 3
    results, _ = run(pictures)
    assert [len(faces) for faces in results] == [0] * 7 + [1] * 5 + [0] * 7 + [1] * 3
    assert {f.track_id for faces in results for f in faces} == {0}  # the same person came back elsewhere
    assert results[19][0].fresh
    np.testing.assert_allclose(results[19][0].landmarks, results[19][0].face.landmarks, atol=0.05)  # filters anew


def test_a_short_loss_keeps_the_filters_going() -> None:
    face = scene(0, ("anna", 100, 90, 30))
    results, _ = run([face] * 4 + [scene(0)] * 2 + [face] * 3)
    assert [len(faces) for faces in results] == [1] * 4 + [0] * 2 + [1] * 3
    assert not results[6][0].fresh


def test_a_cut_is_found_and_numbers_follow_the_person_not_the_place() -> None:
    first = [scene(0, ("anna", 80, 90, 30), ("bert", 240, 90, 30))] * 6
    second = [scene(9, ("bert", 80, 90, 30), ("anna", 240, 90, 30))] * 6
    results, analyser = run(first + second, TrackConfig(detect_every=100))
    assert analyser.detected == 2
    before = {f.track_id: f.landmarks[:, 0].mean() for f in results[5]}
    after = {f.track_id: f.landmarks[:, 0].mean() for f in results[6]}
    assert set(before) == set(after) == {0, 1}
    for number in (0, 1):
        assert after[number] == pytest.approx(320 - before[number], abs=3)
    assert all(f.fresh for f in results[6])


def test_somebody_new_after_a_cut_gets_a_new_number() -> None:
    results, _ = run([scene(0, ("anna", 160, 90, 30))] * 4 + [scene(9, ("cleo", 160, 90, 30))] * 4)
    assert results[3][0].track_id == 0
    assert results[4][0].track_id == 1


def test_without_identity_a_place_keeps_its_number_only_for_a_while() -> None:
    face, empty = scene(0, ("anna", 100, 90, 30)), scene(0)
    short, _ = run([face] * 3 + [empty] * 10 + [face] * 2, embed=False)
    assert short[-1][0].track_id == 0
    long, _ = run([face] * 3 + [empty] * 60 + [face] * 2, embed=False)
    assert long[-1][0].track_id == 1


def test_faces_that_appear_later_are_found_by_the_next_detection() -> None:
    pictures = [scene(0, ("anna", 80, 90, 30))] * 12
    pictures += [scene(0, ("anna", 80, 90, 30), ("bert", 240, 90, 24))] * 12
    results, _ = run(pictures, TrackConfig(detect_every=10))
    assert len(results[11]) == 1
    assert [f.track_id for f in results[20]] == [0, 1]


def test_crossing_people_keep_their_numbers() -> None:
    pictures = []
    for k in range(60):
        pictures.append(scene(0, ("bert", 280 - 4 * k, 60, 22), ("anna", 40 + 4 * k, 110, 26)))
    results, _ = run(pictures, TrackConfig(detect_every=5))
    final = {f.track_id: f.landmarks[:, 0].mean() for f in results[-1]}
    assert len(final) == 2
    start = {f.track_id: f.landmarks[:, 0].mean() for f in results[0]}
    for number, x in start.items():
        assert (final[number] > 160) != (x > 160)


def test_two_tracks_on_one_face_become_one() -> None:
    analyser = DiscAnalyser()
    tracker = FaceTracker(analyser, TrackConfig(detect_every=100))
    tracker.update(Frame(scene(0, ("anna", 80, 90, 30), ("anna", 240, 90, 30)), Fraction(0), 0))
    assert len(tracker.active) == 2
    tracker.active[1].face = tracker.active[0].face  # as a landmark network that slid over would leave it
    faces = tracker.update(Frame(scene(0, ("anna", 80, 90, 30)), Fraction(1, 25), 1))
    assert [f.track_id for f in faces] == [0]
    assert [t.track_id for t in tracker.gone] == [1]  # remembered


def test_of_two_tracks_on_one_face_its_owner_stays_and_the_other_comes_back() -> None:
    analyser = DiscAnalyser()
    tracker = FaceTracker(analyser, TrackConfig(detect_every=4), analyser.embed)
    pictures = frames([scene(0, ("anna", 80, 90, 30), ("bert", 240, 90, 30))] * 6)
    colour = {f.track_id: f.face.embedding for f in tracker.update(pictures[0])}
    tracker.active[0].face = tracker.active[1].face  # the older one slid
    assert [f.track_id for f in tracker.update(pictures[1])] == [1]
    for frame in pictures[2:]:
        faces = tracker.update(frame)
    assert [f.track_id for f in faces] == [0, 1]
    for face in faces:
        view, known = face.face.embedding, colour[face.track_id]
        assert view is not None and known is not None
        np.testing.assert_allclose(view, known, atol=0.05)


class PoorAtFirst(DiscAnalyser):
    """Its first views say little: they lie ``cosine`` from the person's later ones."""

    def __init__(self, poor: int, cosine: float) -> None:
        super().__init__()
        self.poor, self.cosine = poor, cosine

    def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
        clear = super().embed(rgb, landmarks)
        if self.embedded > self.poor:
            return clear
        aside = unit(*np.cross(clear, [0.3, 0.5, 0.8]))
        return self.cosine * clear + np.float32(np.sqrt(1 - self.cosine**2)) * aside


@pytest.mark.parametrize("cosine", [0.3, 0.1])
def test_a_poor_first_view_is_mended_at_the_next_detection(cosine: float) -> None:
    analyser = PoorAtFirst(1, cosine)
    tracker = FaceTracker(analyser, TrackConfig(detect_every=5, same_person=0.28), analyser.embed)
    results = [tracker.update(f) for f in frames([scene(0, ("anna", 100, 90, 30))] * 30)]
    chosen = choose_all(results, FaceChooser(unit(*COLOURS["anna"])))
    assert chosen[:5] == [None] * 5
    assert None not in chosen[5:] and len(set(chosen[5:])) == 1
    final = results[-1][0].face.embedding
    assert final is not None and final @ unit(*COLOURS["anna"]) > 0.95
    assert analyser.embedded <= 2 + analyser.detected  # two more at most: for each appearance


class TurnedAtFirst(DiscAnalyser):
    """Sees the face from the side in its first views, where all faces look alike."""

    def _turn(self, face: Face | None) -> Face | None:
        if face is None or self.detected + self.followed > 5:
            return face
        middle = face.landmarks.mean(0)
        turn = np.array([[0.5, 0, -0.866], [0, 1, 0], [0.866, 0, 0.5]], np.float32)  # 60 degrees
        return Face(face.box, face.score, (face.landmarks - middle) @ turn.T + middle)

    def detect(self, rgb: UInt8Image) -> list[Face]:
        return [turned for face in super().detect(rgb) if (turned := self._turn(face)) is not None]

    def follow(self, rgb: UInt8Image, landmarks: FloatArray) -> Face | None:
        return self._turn(super().follow(rgb, landmarks))

    def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
        clear = super().embed(rgb, landmarks)
        return unit(0.05, 0.05, 1) if abs(yaw_degrees(landmarks)) > 50 else clear


def test_views_from_the_side_tell_nobody_apart_and_give_way_to_the_first_clear_one() -> None:
    analyser = TurnedAtFirst()
    tracker = FaceTracker(analyser, TrackConfig(detect_every=4), analyser.embed)
    results = [tracker.update(f) for f in frames([scene(0, ("anna", 100, 90, 30))] * 20)]
    assert abs(results[0][0].yaw) > 50 and abs(results[-1][0].yaw) < 10
    assert {f.track_id for faces in results for f in faces} == {0}
    known = results[-1][0].face.embedding
    assert known is not None and known @ unit(*COLOURS["anna"]) > 0.999


def test_landmarks_that_run_on_through_an_unseen_cut_do_not_take_the_number_along() -> None:
    blind = TrackConfig(detect_every=5, cut_likeness=-1, suspicion=-1)
    pictures = [scene(0, ("anna", 160, 90, 30))] * 7 + [scene(0, ("bert", 162, 90, 30))] * 13
    results, analyser = run([*pictures, *[scene(0, ("anna", 160, 90, 30))] * 10], blind)
    assert analyser.detected == 6  # nothing was lost, each run was a regular one
    assert [faces[0].track_id for faces in results] == [0] * 10 + [1] * 10 + [0] * 10
    assert results[10][0].fresh and results[20][0].fresh  # no smoothing from one person to the other
    assert choose_all(results, FaceChooser(unit(*COLOURS["anna"]))) == [0] * 10 + [None] * 10 + [0] * 10


def test_a_sudden_change_makes_the_detector_run_early() -> None:
    config = TrackConfig(detect_every=50, cut_likeness=-1)  # takes no change for a cut
    pictures = [scene(0, ("anna", 160, 90, 40))] * 8 + [scene(4, ("bert", 160, 90, 40))] * 8
    results, analyser = run(pictures, config)
    assert analyser.detected == 2
    assert [faces[0].track_id for faces in results] == [0] * 8 + [1] * 8


def test_faces_that_pass_each_other_are_looked_at_more_often() -> None:
    apart = [scene(0, ("anna", 90, 90, 30), ("bert", 230, 90, 30))] * 10
    results, analyser = run(apart, TrackConfig(detect_every=10))
    assert analyser.detected == 1
    touching = [scene(0, ("bert", 170, 100, 30), ("anna", 125, 80, 30))] * 10
    results, analyser = run(touching, TrackConfig(detect_every=10, soonest=3))
    assert analyser.detected == 4  # frames 0, 3, 6, 9
    assert all([f.track_id for f in faces] == [0, 1] for faces in results)


def test_two_who_swapped_their_faces_get_their_numbers_back() -> None:
    analyser = DiscAnalyser()
    tracker = FaceTracker(analyser, TrackConfig(detect_every=3), analyser.embed)
    pictures = frames([scene(0, ("anna", 80, 90, 30), ("bert", 240, 90, 30))] * 8)
    before = {f.track_id: f.centre for f in tracker.update(pictures[0])}
    a, b = tracker.active
    a.face, b.face = b.face, a.face  # as after a crossing
    after = [tracker.update(frame) for frame in pictures[1:]]
    assert [f.track_id for f in after[-1]] == [0, 1]
    for face in after[-1]:
        np.testing.assert_allclose(face.centre, before[face.track_id], atol=1)


def test_doubtful_views_are_borne_for_a_while_and_spoil_no_mean() -> None:
    class Doubtful(DiscAnalyser):
        def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
            self.embedded += 1
            return unit(1, 0, 0) if self.embedded <= 2 else unit(0.3, np.sqrt(1 - 0.09), 0)

    analyser = Doubtful()
    tracker = FaceTracker(analyser, TrackConfig(detect_every=1, doubts=3), analyser.embed)
    results = [tracker.update(f) for f in frames([scene(0, ("anna", 100, 90, 30))] * 7)]
    assert [faces[0].track_id for faces in results] == [0] * 5 + [1] * 2
    known = results[4][0].face.embedding
    assert known is not None and known[0] == pytest.approx(1)


def test_in_a_crowd_faces_take_turns() -> None:
    people = [("anna", 40.0 + 60 * k, 90.0, 14.0) for k in range(5)]
    analyser = DiscAnalyser()
    tracker = FaceTracker(analyser, TrackConfig(detect_every=1, views=2), analyser.embed)
    for k, frame in enumerate(frames([scene(0, *people)] * 6)):
        tracker.update(frame)
        assert analyser.embedded == 5 + 2 * k
    assert min(t.checked for t in tracker.active) >= Fraction(3, 25)


def test_light_is_no_cut_and_a_new_scene_is() -> None:
    cut = CutFinder(TrackConfig())
    base = scene(0, ("anna", 160, 90, 40))
    assert not cut(base)
    assert not cut(np.clip(base.astype(int) + 60, 0, 255).astype(np.uint8))  # a flash
    assert not cut(scene(0, ("anna", 175, 95, 40)))
    assert cut(scene(3, ("anna", 175, 95, 40)))
    assert not cut(scene(3, ("anna", 176, 95, 40)))
    even = CutFinder(TrackConfig())
    noise = np.random.default_rng(0)
    assert not any(even(noise.integers(100, 104, (HEIGHT, WIDTH, 3), np.uint8)) for _ in range(5))


def test_a_head_that_turns_away_fades_out() -> None:
    config = TrackConfig(yaw_limit=50, yaw_end=70)
    assert turned_away(-49, config) == 1 and turned_away(71, config) == 0
    assert turned_away(60, config) == pytest.approx(0.5)


def test_following_loads_no_network_library() -> None:
    program = (
        "import sys, talkswap.faces.track, talkswap.faces.people, talkswap.faces.paste\n"
        "print([m for m in ('torch', 'onnxruntime', 'insightface', 'av', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
