"""From a voice to the windows of a system."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from talkswap.types import Voice
from talkswap.voice.features import MelFeatures, cut_windows, listen
from talkswap.voice.mel import SILENCE, log_mel

TIMES = [Fraction(1001 * index, 24000) for index in range(96)]


def buzz_between_hiss() -> np.ndarray:
    """Four seconds of hiss 30 dB under a swelling buzz that sounds from 1.5 to 2.5 s."""
    clock = np.arange(64000) / 16000
    buzz = sum(np.sin(2 * np.pi * 130 * harmonic * clock) / harmonic for harmonic in range(1, 20))
    buzz = 0.1 * buzz * (0.2 + np.abs(np.sin(2 * np.pi * 2 * clock))) * ((clock > 1.5) & (clock < 2.5))
    return (buzz + 0.003 * np.random.default_rng(0).normal(size=64000)).astype(np.float32)


def test_ungated_is_the_plain_window() -> None:
    samples = buzz_between_hiss()
    track = listen(Voice(samples, 16000), MelFeatures(), 16, gate=False)
    expected = cut_windows(log_mel(samples), Fraction(80), TIMES, 16, SILENCE)
    np.testing.assert_array_equal(track.at(TIMES), expected)


def test_gate_keeps_speech_and_silences_noise() -> None:
    samples = buzz_between_hiss()
    heard = listen(Voice(samples, 16000), MelFeatures(), 16).features
    plain = log_mel(samples)
    np.testing.assert_array_equal(heard[125:195], plain[125:195])  # features 80 a second: 1.56 to 2.44 s
    assert (heard[:100] == SILENCE).all() and (heard[240:] == SILENCE).all()
    assert (plain[:100] > SILENCE).any()  # the hiss was there to be heard


def test_a_silent_voice_is_silence_at_every_time() -> None:
    track = listen(Voice(np.zeros(16000, np.float32), 16000), MelFeatures(), 16)
    assert (track.at(TIMES) == SILENCE).all()


def test_clock_and_silence_of_mel() -> None:
    features = MelFeatures()
    assert (features.rate, features.start) == (80, 0)
    np.testing.assert_array_equal(features.silence(), features(np.zeros(800, np.float32))[0])
