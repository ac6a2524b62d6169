"""Log-mel features with WavSyncSwap's numbers: 16 kHz, FFT 800, hop 200, 80 bins.

Frame k is centred exactly at ``k * hop / hz`` seconds, so there are ``N // hop + 1`` frames, and beyond
the ends lies silence.  Nothing depends on the rest of the clip (no peak, no mean), so that the features
of a long voice are those of its parts.

Level: a sine of amplitude 1 has power 0 dB in its own FFT bin before pre-emphasis.  A fixed range of
decibels goes to [-1, 1]; :data:`SILENCE` (-1) is the value of digital silence in every band.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from talkswap.types import FloatArray

SILENCE = -1.0
BLOCK_FRAMES = 512  # 6 s a block: 3 MB of windows however long the voice


@dataclass(frozen=True)
class MelConfig:
    """What a mel feature is; the defaults are the paper's where it speaks."""

    hz: int = 16000
    fft: int = 800  # samples: 50 ms
    hop: int = 200  # samples: 12.5 ms
    bins: int = 80
    low: float = 55.0  # Hz
    high: float = 7600.0  # Hz
    pre_emphasis: float = 0.97  # 0 switches it off
    floor_db: float = -100.0  # goes to -1; 16-bit rounding noise lies near
    top_db: float = -20.0  # goes to +1; loud speech after pre-emphasis

    @property
    def rate(self) -> Fraction:
        """Feature frames per second."""
        return Fraction(self.hz, self.hop)


def log_mel(samples: FloatArray, config: MelConfig | None = None) -> FloatArray:
    """Log-mel spectrum of a voice.

    Args:
        samples: N, float in [-1, 1] at ``config.hz``.

    Returns:
        float32 (N // hop + 1, bins) in [-1, 1]; (0, bins) for no samples.
    """
    config = config or MelConfig()
    samples = np.asarray(samples, np.float32).reshape(-1)
    if samples.size == 0:
        return np.zeros((0, config.bins), np.float32)
    count = samples.size // config.hop + 1
    features = np.empty((count, config.bins), np.float32)
    for first in range(0, count, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, count)
        power = power_spectra(samples, first, last, config) @ mel_filters(config).T  # T bins
        # A floor instead of minus infinity for digital silence.
        decibels = 10 * np.log10(np.maximum(power, 1e-20))
        features[first:last] = 2 * (decibels - config.floor_db) / (config.top_db - config.floor_db) - 1
    return np.clip(features, SILENCE, 1, out=features)


def power_spectra(samples: FloatArray, first: int, last: int, config: MelConfig) -> np.ndarray:
    """Power spectra of frames first to last: float64 (last - first, fft // 2 + 1)."""
    half = config.fft // 2
    begin = first * config.hop - half - 1  # one sample more for the pre-emphasis
    end = (last - 1) * config.hop + half
    piece = np.zeros(end - begin, np.float64)
    # Beyond both ends lies silence, which the zeros already are.
    inside = slice(max(begin, 0), min(end, samples.size))
    if inside.start < inside.stop:
        piece[inside.start - begin : inside.stop - begin] = samples[inside]
    emphasised = piece[1:] - config.pre_emphasis * piece[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(emphasised, config.fft)[:: config.hop]  # T fft
    window = hann(config.fft)
    spectrum = np.fft.rfft(windows * (window * (2 / window.sum())), axis=1)  # T F
    return np.square(spectrum.real) + np.square(spectrum.imag)


def hann(length: int) -> np.ndarray:
    """Periodic Hann window; its peak lies on sample ``length // 2``, which is the frame's centre."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear to 1 kHz (3 mel per 200 Hz), then 27 steps per factor 6.4."""
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Inverse of :func:`hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


@lru_cache(maxsize=8)
def mel_filters(config: MelConfig) -> np.ndarray:
    """Triangles on the mel scale, area-normalised times the FFT bin's width: (bins, fft // 2 + 1).

    Each row sums to about 1 (a mean over the band), so that white noise has the same level in every band.
    """
    edges = mel_to_hz(np.linspace(hz_to_mel(np.array(config.low)), hz_to_mel(np.array(config.high)), config.bins + 2))
    frequency = np.fft.rfftfreq(config.fft, 1 / config.hz)  # F
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequency - low) / (centre - low)
    falling = (high - frequency) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))  # bins F
    filters = triangles * (2 / (high - low)) * (config.hz / config.fft)
    filters.setflags(write=False)
    return filters
