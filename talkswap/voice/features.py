"""From a voice to the windows that a system listens to, one at each video frame's own time.

Where nobody speaks, the features are eased into those of silence, so that room noise, breath and music
leave the mouth at rest.  Training and rendering cut their windows by the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from talkswap.types import FloatArray, Voice
from talkswap.voice.activity import ease, voice_activity
from talkswap.voice.mel import SILENCE, MelConfig, log_mel


class FeatureExtractor(Protocol):
    """A feature extractor with its clock."""

    @property
    def rate(self) -> Fraction:
        """Features per second."""
        ...

    @property
    def start(self) -> Fraction:
        """Seconds: the time of feature 0."""
        ...

    def __call__(self, samples: FloatArray) -> FloatArray:
        """Samples (N) to features (T, D)."""
        ...

    def silence(self) -> FloatArray:
        """The feature (D) of digital silence."""
        ...


@dataclass(frozen=True)
class MelFeatures:
    """Log-mel spectra as speech features."""

    config: MelConfig = MelConfig()

    @property
    def rate(self) -> Fraction:
        return self.config.rate

    @property
    def start(self) -> Fraction:
        return Fraction(0)

    def __call__(self, samples: FloatArray) -> FloatArray:
        return log_mel(samples, self.config)

    def silence(self) -> FloatArray:
        return np.full(self.config.bins, SILENCE, np.float32)


def listen(voice: Voice, features: FeatureExtractor, length: int, gate: bool = True) -> SpeechTrack:
    """Everything that a system hears of a voice.

    Args:
        voice: at the features' own sampling rate.
        length: features in one window.
        gate: ease into the features of silence wherever there is no speech.
    """
    sequence = features(voice.samples)  # T D
    silence = features.silence()  # D
    if gate and len(sequence):
        times = [features.start + k / features.rate for k in range(len(sequence))]
        # Eased, since a hard edge between speech and silence would make the lips snap.
        openness = ease(voice_activity(voice.samples, times), times)[:, None]  # T 1
        # In blocks: a long voice's features are most of what a dub without networks holds in memory.
        sequence = np.asarray(sequence, np.float32)
        for first in range(0, len(sequence), 4096):
            block = slice(first, first + 4096)
            sequence[block] = openness[block] * sequence[block] + (1 - openness[block]) * silence
    return SpeechTrack(sequence.astype(np.float32, copy=False), features.rate, length, silence, features.start)


# --- Windows: cut at a time and not at a frame number, so that any frame rate and any variable rate work alike.


def cut_windows(
    features: FloatArray,
    rate: Fraction,
    times: Sequence[Fraction | float],
    length: int,
    pad_value: float | FloatArray = 0.0,
    start: Fraction | int = 0,
) -> FloatArray:
    """Windows centred at the given times.

    Element i of a window lies ``(i - (length - 1) / 2) / rate`` seconds from its time.

    Args:
        features: T D.
        rate: feature frames per second.
        times: N times in seconds, on the voice's own clock; a float counts as the exact number that it is.
        length: L, feature frames in a window.
        pad_value: what lies before the first and after the last feature: one value or D of them (the
            features of silence).
        start: seconds, the time of feature 0.

    Returns:
        float32 (N, L, D).  Times later by exactly one feature step give the same numbers, one step on.
    """
    return SpeechTrack(features, rate, length, pad_value, start).at(times)


class SpeechTrack:
    """The features of one voice, from which windows are cut on demand.

    Args: as :func:`cut_windows`.  Memory: the features themselves and the windows of one call.
    """

    def __init__(
        self,
        features: FloatArray,
        rate: Fraction,
        length: int,
        pad_value: float | FloatArray = 0.0,
        start: Fraction | int = 0,
    ) -> None:
        if features.ndim != 2:
            raise ValueError(f"features must be T x D, got shape {features.shape}")
        if length < 1 or rate <= 0:
            raise ValueError(f"length and rate must be positive, got {length} and {rate}")
        self.features = np.asarray(features, np.float32)
        self.rate = Fraction(rate)
        self.length = length
        self.pad_value = np.broadcast_to(np.asarray(pad_value, np.float32), (features.shape[1],))
        self.start = Fraction(start)

    @property
    def step(self) -> Fraction:
        """Seconds between neighbouring features."""
        return 1 / self.rate

    def at(self, times: Sequence[Fraction | float]) -> FloatArray:
        """Windows centred at these times: float32 (N, L, D)."""
        half = Fraction(self.length - 1, 2)
        # Where each window's first element lies between the features. Exact, so that one feature later is one row on.
        positions = [(Fraction(time) - self.start) * self.rate - half for time in times]
        # Times far outside the voice would overflow an integer; beyond this all rows are padding anyway.
        far = len(self.features) + self.length + 1
        first = np.array([min(max(p.numerator // p.denominator, -far), far) for p in positions], np.int64)  # N
        part = np.array([float(p - p.numerator // p.denominator) for p in positions], np.float32)  # N in [0, 1)
        places = first[:, None] + np.arange(self.length + 1)  # N L+1
        inside = (places >= 0) & (places < len(self.features))
        # One row more than a window has: each element lies between two features.
        rows = np.broadcast_to(self.pad_value, (*places.shape, len(self.pad_value))).copy()  # N L+1 D
        rows[inside] = self.features[places[inside]]
        part = part[:, None, None]
        return rows[:, :-1] * (1 - part) + rows[:, 1:] * part
