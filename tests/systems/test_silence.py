"""What the mouth does where nobody speaks, and when it moves, with the compact weights that ship."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from talkswap.checkpoints.presets import find_preset
from talkswap.device import choose_device
from talkswap.media.sound import load_voice
from talkswap.systems.contract import Portrait, Source
from talkswap.systems.swaptalk import SwapTalkOptions
from talkswap.systems.swaptalk.system import SwapTalk
from talkswap.types import AlignedFace, Voice
from talkswap.voice.activity import SpeechGate, active_steps
from talkswap.voice.features import MelFeatures, listen

ROOT = Path(__file__).parents[2]
RATE = 25
Crops = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def system() -> SwapTalk:
    preset = find_preset("compact", ROOT / "weights" / "compact")
    system = SwapTalk.load("swaptalk", preset, choose_device("cpu"), SwapTalkOptions(networks="alone"))
    assert isinstance(system, SwapTalk)
    return system


@pytest.fixture(scope="module")
def faces(face_crops: Crops) -> list[AlignedFace]:
    still = np.zeros((2, 3), np.float32)
    return [AlignedFace(crop, still, points, k) for k, (crop, points) in enumerate(zip(*face_crops, strict=True))]


@pytest.fixture(scope="module")
def word() -> np.ndarray:
    """One second out of the example's voice, loud from its first sample."""
    samples = load_voice(ROOT / "examples" / "voice.wav").samples
    first = 160 * int(np.flatnonzero(active_steps(samples))[0])
    return samples[first : first + 16000]


def test_a_shut_gate_shows_the_mouth_that_the_swap_alone_shows(system: SwapTalk, faces: list[AlignedFace]) -> None:
    """Open is the dub, shut the target's own mouth, and halfway lies between."""

    class Speech:
        def at(self, times: Sequence[Fraction]) -> np.ndarray:
            size = (len(times), system.lip_sync.config.window, 80)
            return np.random.default_rng(0).normal(0.3, 0.3, size).astype(np.float32)

    class Gate(SpeechGate):
        def __init__(self, openness: np.ndarray) -> None:
            self.openness = openness

        def at(self, times: Sequence[Fraction]) -> np.ndarray:
            return self.openness

    def rendered(openness: np.ndarray | None, sync: bool = True) -> np.ndarray:
        gate = None if openness is None else Gate(openness)
        performance = system.begin(Portrait(faces[0]), Source(faces[0]), Speech() if sync else None, gate)
        return np.stack(performance.render(faces[:3], [Fraction(k, RATE) for k in range(3)])).astype(float)

    dub, own = rendered(None), rendered(None, sync=False)
    mixed = rendered(np.array([1.0, 0.0, 0.5], np.float32))
    assert np.abs(dub - own).mean() > 1
    assert np.abs(mixed[0] - dub[0]).mean() < 0.05
    assert np.abs(mixed[1] - own[1]).mean() < 0.05
    apart = [np.abs(mixed[2] - other[2]).mean() / np.abs(dub[2] - own[2]).mean() for other in (dub, own)]
    assert max(apart) < 0.9


def wanted_openings(system: SwapTalk, samples: np.ndarray, count: int, rate: int = RATE) -> np.ndarray:
    """How far the mouth is asked to open at each of ``count`` times, ``rate`` a second."""
    track = listen(Voice(samples, 16000), MelFeatures(), system.lip_sync.config.window)
    speech = system.lip_sync.transform.speech
    windows = torch.from_numpy(track.at([Fraction(k, rate) for k in range(count)]))
    with torch.inference_mode():
        kind = next(speech.parameters()).dtype
        return np.asarray(speech.target_shape(speech.tokens(windows.to(kind))).float().numpy()[:, 0])


@pytest.mark.parametrize("start", [1.0, 1.3])
def test_the_mouth_moves_when_the_voice_does(system: SwapTalk, word: np.ndarray, start: float) -> None:
    """A word in silence: the mouth rests before and after, and the middle of its movement lies at the middle of the
    word within one frame.  It opens a little early and shuts a little late, as mouths do; a filter that lags would
    move both edges one way.
    """
    samples = np.zeros(4 * 16000, np.float32)
    samples[round(start * 16000) : round(start * 16000) + len(word)] = word
    opening = wanted_openings(system, samples, 400, 100)
    rest = opening[:40].mean()
    assert np.abs(opening[-40:] - rest).max() < 0.02
    moved = np.flatnonzero(opening - rest > 0.5 * (np.quantile(opening, 0.9) - rest))
    begun, ended = moved[0] / 100, moved[-1] / 100
    assert abs((begun + ended) / 2 - (start + 0.5)) <= 1 / RATE + 0.005  # half a step of the measurement
    assert begun >= start - 0.25 and ended <= start + 1.25


def test_a_voice_that_comes_a_frame_later_moves_the_mouth_a_frame_later(system: SwapTalk, word: np.ndarray) -> None:
    early, late = np.zeros(48000, np.float32), np.zeros(48000, np.float32)
    early[16000:32000] = word
    late[16000 + 640 * 5 : 32000 + 640 * 5] = word  # five frames: sixteen steps of the features
    first, second = (wanted_openings(system, samples, 70) for samples in (early, late))
    np.testing.assert_allclose(second[5:], first[:-5], atol=2e-2)
