"""From a voice to the windows that a system listens to, one at each video frame's own time.

Where nobody speaks, the features are eased into those of silence, so that room noise, breath and music
leave the mouth at rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from talkswap.types import FloatArray, Voice
from talkswap.voice.activity import ease, voice_activity
from talkswap.voice.mel import SILENCE, MelConfig, log_mel
from talkswap.voice.windows import SpeechTrack


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
        features: the extractor.
        length: features in one window.
        gate: ease into the features of silence wherever there is no speech.
    """
    sequence = features(voice.samples)  # T D
    silence = features.silence()  # D
    if gate and len(sequence):
        times = [features.start + k / features.rate for k in range(len(sequence))]
        openness = ease(voice_activity(voice.samples, times), times)[:, None]  # T 1
        sequence = openness * sequence + (1 - openness) * silence
    return SpeechTrack(sequence.astype(np.float32), features.rate, length, silence, features.start)
