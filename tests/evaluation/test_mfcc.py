"""Cepstra against the package that SyncNet's authors used (1e-5), and against the definition with plain sums (1e-4)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from talkswap.evaluation.judges.syncnet import COEFFICIENTS, mfcc
from talkswap.media.sound import load_voice
from talkswap.types import FloatArray

VOICE = Path(__file__).parents[2] / "examples" / "voice.wav"


@pytest.fixture(scope="module")
def voice() -> FloatArray:
    return load_voice(VOICE).samples[8000:16000]


def whole_numbers(samples: FloatArray) -> np.ndarray:
    return np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("count", [8000, 1, 399, 400, 401, 560, 561])
def test_equals_python_speech_features(voice: FloatArray, count: int) -> None:
    """Package python_speech_features with its own defaults, tolerance 1e-5."""
    import python_speech_features as reference

    wanted = reference.mfcc(whole_numbers(voice[:count]), 16000)
    found = mfcc(voice[:count])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-5


def test_one_frame_by_its_definition(voice: FloatArray) -> None:
    """Every sum written out for the third frame, tolerance 1e-4."""
    samples = [float(x) for x in whole_numbers(voice)]
    emphasised = [samples[0]] + [b - 0.97 * a for a, b in zip(samples[:-1], samples[1:], strict=True)]
    frame = emphasised[320:720]
    power = []
    for k in range(257):
        turn = 2 * math.pi * k / 512
        real = math.fsum(x * math.cos(turn * n) for n, x in enumerate(frame))
        imaginary = math.fsum(x * math.sin(turn * n) for n, x in enumerate(frame))
        power.append((real**2 + imaginary**2) / 512)
    top = 2595 * math.log10(1 + 8000 / 700)
    corners = [math.floor(513 * 700 * (10 ** (top * i / 27 / 2595) - 1) / 16000) for i in range(28)]
    bands = []
    for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
        rising = sum(power[k] * (k - low) / (middle - low) for k in range(low, middle))
        bands.append(math.log(rising + sum(power[k] * (high - k) / (high - middle) for k in range(middle, high))))
    wanted = [math.log(math.fsum(power))]
    for n in range(1, COEFFICIENTS):
        wave = math.fsum(band * math.cos(math.pi * n * (2 * m + 1) / 52) for m, band in enumerate(bands))
        wanted.append(wave * math.sqrt(2 / 26) * (1 + 11 * math.sin(math.pi * n / 22)))
    assert mfcc(voice)[2].tolist() == pytest.approx(wanted, abs=1e-4)


def test_silence_and_nothing() -> None:
    assert mfcc(np.zeros(0, np.float32)).shape == (0, COEFFICIENTS)
    silent = mfcc(np.zeros(1600, np.float32))
    assert np.isfinite(silent).all() and silent[0, 0] == pytest.approx(math.log(np.finfo(np.float64).eps))
