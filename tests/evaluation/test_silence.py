"""Silence against its closed form: the example voice with two seconds of nothing, mouths of known opening (1e-3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from talkswap.evaluation.metrics.mouth import silence, silent_moments
from talkswap.faces.measures import INNER_BOTTOM
from talkswap.media.sound import load_voice
from talkswap.types import FloatArray

VOICE = Path(__file__).parents[2] / "examples" / "voice.wav"


def mouths(openings: np.ndarray) -> FloatArray:
    landmarks = np.zeros((len(openings), 478, 3), np.float32)
    landmarks[:, 263, 0] = 100
    landmarks[:, list(INNER_BOTTOM), 1] = 100 * openings[:, None]
    return landmarks


@pytest.fixture(scope="module")
def voice() -> FloatArray:
    """1.5 s of speech without a pause, 2 s of nothing, the speech again."""
    spoken = load_voice(VOICE).samples[56000:80000]
    return np.concatenate([spoken, np.zeros(32000, np.float32), spoken])


def test_only_what_is_away_from_speech_is_silent(voice: FloatArray) -> None:
    quiet = np.flatnonzero(silent_moments(voice, 125)) / 25
    assert quiet.min() >= 1.5 and quiet.max() <= 3.5 and len(quiet) > 35


def test_excess_over_the_truth_counts_and_only_in_silence(voice: FloatArray) -> None:
    times, truth_times = np.arange(150) / 30, np.arange(125) / 25
    resting = mouths(np.full(125, 0.02))
    speaking = (times < 1.4) | (times > 3.6)  # wide open there, which is no error
    for opening, wanted in ((0.10, 8.0), (0.02, 0.0), (0.0, 0.0)):
        result = mouths(np.where(speaking, 0.4, opening))
        assert silence(result, times, resting, truth_times, voice) == pytest.approx(wanted, abs=1e-3)
    half = mouths(np.where(speaking, 0.4, np.where(times < 2.5, 0.10, 0.0)))
    assert 3 < silence(half, times, resting, truth_times, voice) < 5


def test_without_silence_or_a_face_there_is_no_figure(voice: FloatArray) -> None:
    times = np.arange(30) / 25
    mouth = mouths(np.full(30, 0.1))
    spoken = load_voice(VOICE).samples[16000:35000]
    assert silent_moments(spoken, 29).sum() < 5
    assert np.isnan(silence(mouth, times, mouth, times, spoken))
    nobody = np.full_like(mouth, np.nan)
    assert np.isnan(silence(nobody, times, mouth, times, np.zeros(32000, np.float32)))
    assert np.isnan(silence(mouth[:0], times[:0], mouth, times, voice))
