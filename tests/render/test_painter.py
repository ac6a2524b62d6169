"""The guide of a frame: painted at the frame's own size, cut out as its crop is, and moved by the voice at its own time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkswap.animation.motion import load_sync_former
from talkswap.animation.portrait import Portrait
from talkswap.animation.space import lip_opening, pose_free
from talkswap.checkpoints.presets import find_preset
from talkswap.device import choose_device
from talkswap.faces.analyse import load_analyser
from talkswap.faces.geometry import align, warp_crop
from talkswap.faces.guide import FaceGuide
from talkswap.media.sound import load_voice
from talkswap.render.painter import Painter, VoiceMotion, guide_crop
from talkswap.types import AlignedFace, Voice
from talkswap.voice.activity import SpeechGate

ROOT = Path(__file__).parents[2]
Scene = tuple[np.ndarray, AlignedFace, np.ndarray]  # picture, face in its crop, landmarks in px of the picture


@pytest.fixture(scope="module")
def voice() -> VoiceMotion:
    network = load_sync_former(find_preset("compact", ROOT / "weights" / "compact"), choose_device("cpu"))
    assert network is not None
    return VoiceMotion(network, load_voice(ROOT / "examples" / "voice.wav"))


@pytest.fixture(scope="module")
def scene(example_pictures: list[np.ndarray]) -> Scene:
    picture = example_pictures[0]
    analyser = load_analyser("compact", find_preset("compact", ROOT / "weights" / "compact"))
    landmarks = analyser.detect(picture)[0].landmarks
    return picture, align(picture, landmarks, 320), landmarks


def portrait_of(scene: Scene) -> Portrait:
    _, face, landmarks = scene
    return Portrait(face, template=pose_free(landmarks[None])[0])


def test_the_mouth_follows_the_voice_at_the_frames_own_time(voice: VoiceMotion, scene: Scene) -> None:
    picture, _, landmarks = scene
    painter = Painter(portrait_of(scene), None, voice, None, 1.0)
    times = [Fraction(k, 10) for k in range(5, 25)]
    assert painter.motion is not None
    asked = lip_opening(painter.face.template + painter.motion.at(times))
    shown = []
    for time in times:
        painted = painter.paint(picture, landmarks, time)
        assert painted is not None
        shown.append(lip_opening(pose_free(painted.landmarks[None]))[0])
    assert np.corrcoef(np.maximum(asked, 0), shown)[0, 1] > 0.98
    assert np.ptp(shown) > 0.05


def test_strength_and_gate_lead_back_to_the_frames_own_mouth(voice: VoiceMotion, scene: Scene) -> None:
    picture, _, landmarks = scene

    class Gate(SpeechGate):
        def __init__(self, openness: float) -> None:
            self.openness = openness

        def at(self, times: Sequence[Fraction]) -> np.ndarray:
            return np.full(len(times), self.openness, np.float32)

    time = Fraction(3, 2)
    moved = []
    for gate, strength in ((None, 1.0), (Gate(0.5), 1.0), (Gate(0.0), 1.0), (None, 0.0)):
        painted = Painter(portrait_of(scene), None, voice, gate, strength).paint(picture, landmarks, time)
        moved.append(0.0 if painted is None else float(np.abs(painted.landmarks - landmarks).max()))
    assert moved[0] > moved[1] > 0 and moved[2] == moved[3] == 0


def test_a_swap_without_a_voice_keeps_the_targets_lips(scene: Scene) -> None:
    picture, face, landmarks = scene
    skin = FaceGuide(np.ascontiguousarray(face.crop[:, ::-1]), mirrored(face))
    painted = Painter(portrait_of(scene), skin, None, None, 1.0).paint(picture, landmarks, Fraction(0))
    assert painted is not None
    before, after = (lip_opening(pose_free(points[None]))[0] for points in (landmarks, painted.landmarks))
    assert after == pytest.approx(before, abs=0.01)
    assert np.abs(painted.patch.rgb.astype(int) - picture[painted.patch.place]).max() > 20


def mirrored(face: AlignedFace) -> np.ndarray:
    from talkswap.faces.mesh import mean_face

    points = face.landmarks[mean_face().mirror].copy()
    points[:, 0] = face.crop.shape[1] - 1 - points[:, 0]
    return points


def test_a_guides_crop_is_that_of_the_finished_frame(voice: VoiceMotion, scene: Scene) -> None:
    picture, face, landmarks = scene
    painted = Painter(portrait_of(scene), None, voice, None, 1.0).paint(picture, landmarks, Fraction(3, 2))
    assert painted is not None
    before, frame = picture.copy(), picture.copy()
    crop = guide_crop(frame, painted, face)
    np.testing.assert_array_equal(frame, before)
    frame[painted.patch.place] = painted.patch.rgb
    np.testing.assert_array_equal(crop.crop, warp_crop(frame, face.affine, 320))
    assert (
        np.abs(crop.landmarks[:, :2] - (painted.landmarks[:, :2] @ face.affine[:, :2].T + face.affine[:, 2])).max()
        < 0.01
    )


def test_silence_leaves_the_mouth_shut(voice: VoiceMotion, scene: Scene) -> None:
    silent = VoiceMotion(voice.network, Voice(np.zeros(32000, np.float32), 16000))
    portrait = portrait_of(scene)
    opening = lip_opening(portrait.template + silent.of(portrait.style).at([Fraction(k, 10) for k in range(20)]))
    assert opening.max() < lip_opening(portrait.template[None])[0] + 0.04
