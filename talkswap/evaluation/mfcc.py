"""Mel-frequency cepstra as SyncNet hears them: the numbers of the Python package its authors used.

    frames of 25 ms every 10 ms, no window -> |FFT 512|^2 / 512 -> 26 triangles on the mel scale -> log -> DCT-II -> lift

Thirteen coefficients; the first is replaced by the logarithm of the frame's energy.  The scale matters: samples are
those of a 16-bit file, -32768 to 32767, and a trained network expects no other.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from talkswap.types import FloatArray

HZ = 16000
WINDOW, STEP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the transform's length
FILTERS, COEFFICIENTS = 26, 13
EMPHASIS = 0.97
LIFT = 22  # of the cepstral lifter
RATE = HZ // STEP  # frames per second


def mfcc(samples: FloatArray) -> FloatArray:
    """Cepstra of a voice.

    Args:
        samples: N at 16 kHz in [-1, 1]; rounded to 16 bits first.

    Returns:
        float32 (T, 13); frame k begins at k / 100 seconds.  The last frame reaches past the end, into zeros; a voice
        shorter than one frame has one.  No samples: (0, 13).
    """
    if samples.size == 0:
        return np.zeros((0, COEFFICIENTS), np.float32)
    whole = np.clip(np.round(np.asarray(samples, np.float64).reshape(-1) * 32768), -32768, 32767)
    emphasised = np.concatenate([whole[:1], whole[1:] - EMPHASIS * whole[:-1]])
    count = 1 + max(0, -(-(len(emphasised) - WINDOW) // STEP))
    padded = np.zeros((count - 1) * STEP + WINDOW)
    padded[: len(emphasised)] = emphasised[: len(padded)]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]  # T 400
    spectrum = np.fft.rfft(frames, FFT, axis=1)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) / FFT  # T 257
    cepstra = np.log(_above_zero(power @ mel_triangles().T)) @ _cosines().T  # T 13
    cepstra[:, 0] = np.log(_above_zero(power.sum(1)))
    return cepstra.astype(np.float32)


def _above_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Silence has no logarithm: exact zeros become the least step of a double."""
    return np.where(values == 0, np.finfo(np.float64).eps, values)


@lru_cache(maxsize=1)
def mel_triangles() -> NDArray[np.float64]:
    """Triangles of height one between corners on whole FFT bins, even in mel = 2595 log10(1 + f / 700): (26, 257)."""
    highest = 2595 * np.log10(1 + HZ / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, FILTERS + 2) / 2595) - 1)  # Hz
    bins = np.floor((FFT + 1) * corners / HZ)
    low, middle, high = bins[:-2, None], bins[1:-1, None], bins[2:, None]
    place = np.arange(FFT // 2 + 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # low filters are so narrow that a side may be empty
        rising = np.where((place >= low) & (place < middle), (place - low) / (middle - low), 0.0)
        falling = np.where((place >= middle) & (place < high), (high - place) / (high - middle), 0.0)
    return rising + falling


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """Orthonormal DCT-II, its rows lifted by 1 + 11 sin(pi n / 22): (13, 26)."""
    n = np.arange(COEFFICIENTS)
    waves = np.cos(np.pi * n[:, None] * (2 * np.arange(FILTERS) + 1) / (2 * FILTERS))
    waves *= np.sqrt(np.where(n == 0, 1, 2) / FILTERS)[:, None]
    return waves * (1 + LIFT / 2 * np.sin(np.pi * n / LIFT))[:, None]
