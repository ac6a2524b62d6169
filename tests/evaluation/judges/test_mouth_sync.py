"""The stand-in for SyncNet: its distances against numpy's own correlation (tolerance 1e-5), its times against the lip
transform's own windows (1e-4), and true voices against others on the example clip and on a mouth that obeys a voice."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from talkswap.errors import TrainingDataError
from talkswap.evaluation.judges.mouth_sync import MouthJudge, curve_distances
from talkswap.evaluation.metrics.lip_sync import SyncScore
from talkswap.faces.analyse import CompactAnalyser
from talkswap.faces.measures import INNER_BOTTOM, MOUTH_SPREAD
from talkswap.faces.mesh import mean_face
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.sound import load_voice
from talkswap.types import FloatArray
from talkswap.voice.features import MelFeatures, cut_windows

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def judge() -> MouthJudge:
    return MouthJudge()


@pytest.fixture(scope="module")
def voices() -> dict[str, FloatArray]:
    example = ROOT / "examples"
    return {name: load_voice(example / name).samples for name in ("target.mp4", "voice.wav")}


def score(judge: MouthJudge, landmarks: FloatArray, voice: FloatArray, rate: float = 25.0) -> SyncScore:
    return judge(iter(()), landmarks, np.arange(len(landmarks)) / rate, voice)


def test_distance_is_one_less_mean_correlation() -> None:
    random = np.random.default_rng(0)
    seen, expected = random.normal(size=(30, 7)), random.normal(size=(70, 7))
    rows = np.sort(random.choice(40, 30, replace=False))
    found = curve_distances(seen.astype(np.float32), expected.astype(np.float32), rows)
    for offset in range(31):
        pieces = expected[rows + offset]
        wanted = 1 - np.mean([np.corrcoef(seen[:, m], pieces[:, m])[0, 1] for m in range(7)])
        assert found[offset] == pytest.approx(wanted, abs=1e-5)


def test_expected_shapes_lie_where_the_lip_transform_hears_them(
    judge: MouthJudge, voices: dict[str, FloatArray]
) -> None:
    """At moments that are whole tokens both are the same number; 0.2 s are 16 features and 8 tokens."""
    voice, features = voices["voice.wav"], MelFeatures()
    found = judge.expected(voice, 100)
    assert found.shape == (130, 7)
    times = [Fraction(k, 5) for k in range(20)]
    config = judge.network.config
    windows = cut_windows(features(voice), features.rate, times, config.window, features.silence())
    with torch.inference_mode():
        tokens = judge.network.tokens(torch.from_numpy(windows))
        centre = judge.network.shapes(tokens)[:, tokens.shape[1] // 2]
    np.testing.assert_allclose(found[15::5][:20], centre.numpy(), atol=1e-4)


def obeying_mouth(judge: MouthJudge, voice: FloatArray, late: int = 0) -> FloatArray:
    """A mean face whose lower lip follows what a voice asks for, 25 frames/s."""
    count = len(voice) * 25 // 16000
    opening = judge.expected(voice, count)[15 - late :][:count, 0].clip(0) * MOUTH_SPREAD[0]
    points = mean_face().points
    landmarks = np.repeat(points[None], count, 0)
    eyes = np.linalg.norm(points[33, :2] - points[263, :2])
    for point in (*INNER_BOTTOM, 17, 152):
        landmarks[:, point, 1] += opening * eyes
    return (landmarks * 100 + 100).astype(np.float32)


def test_a_mouth_that_obeys_its_voice_scores_far_above_one_with_another(
    judge: MouthJudge, voices: dict[str, FloatArray]
) -> None:
    names = list(voices)
    for name, other in zip(names, names[::-1], strict=True):
        mouth = obeying_mouth(judge, voices[name])
        true, shuffled = score(judge, mouth, voices[name]), score(judge, mouth, voices[other])
        assert true.offset == 0 and true.frames == len(mouth)
        assert true.confidence > 2 * shuffled.confidence and true.distance < shuffled.distance - 0.2
    late = score(judge, obeying_mouth(judge, voices["voice.wav"], late=4), voices["voice.wav"])
    assert late.offset == 4  # the sound comes four frames before the picture


def test_the_example_clip_knows_its_own_voice(judge: MouthJudge, voices: dict[str, FloatArray]) -> None:
    """Its jaw was moved by a rule, not by a speaker, so that the margin is smaller than on real clips."""
    analyser = CompactAnalyser(ROOT / "weights" / "compact")
    landmarks: list[FloatArray] = []
    with ClipReader(probe(ROOT / "examples" / "target.mp4")) as reader:
        for frame in reader.frames():
            face = analyser.follow(frame.rgb, landmarks[-1]) if landmarks else analyser.detect(frame.rgb)[0]
            assert face is not None
            landmarks.append(face.landmarks)
    own, other = voices["target.mp4"], voices["voice.wav"]
    wrong = [other, *(np.roll(voice, 16000 * k) for voice in (own, other) for k in (1, 2, 3))]
    true = score(judge, np.stack(landmarks), own).confidence
    shuffled = [score(judge, np.stack(landmarks), voice).confidence for voice in wrong]
    assert true > 1.3 * float(np.mean(shuffled)), (true, shuffled)


def test_a_still_mouth_and_a_silent_voice_have_no_confidence(judge: MouthJudge, voices: dict[str, FloatArray]) -> None:
    still = np.repeat((mean_face().points * 100)[None], 60, 0).astype(np.float32)
    assert score(judge, still, voices["voice.wav"]).confidence == pytest.approx(0, abs=1e-6)
    obeying = obeying_mouth(judge, voices["voice.wav"])
    assert score(judge, obeying, np.zeros(48000, np.float32)).confidence == pytest.approx(0, abs=1e-3)


def test_less_than_a_second_with_a_face_is_refused(judge: MouthJudge, voices: dict[str, FloatArray]) -> None:
    mouth = obeying_mouth(judge, voices["voice.wav"])
    lost = mouth.copy()
    lost[20:] = np.nan
    for landmarks, voice in ((mouth[:20], voices["voice.wav"]), (lost, voices["voice.wav"]), (mouth, mouth[:0, 0, 0])):
        with pytest.raises(TrainingDataError):
            score(judge, landmarks, voice)
    gaps = mouth.copy()
    gaps[10:15] = np.nan
    assert score(judge, gaps, voices["voice.wav"]).offset == 0
