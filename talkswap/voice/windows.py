"""A window of speech features around each video frame's own time: the one function for training and rendering.

Any frame rate and any variable rate work alike, because a window is cut at a time and not at a frame
number.  A time that falls between two feature frames takes the line between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from talkswap.types import FloatArray


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
    """The features of one voice, from which windows are cut when they are asked for.

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
        far = len(self.features) + self.length + 1
        first = np.array([min(max(p.numerator // p.denominator, -far), far) for p in positions], np.int64)  # N
        part = np.array([float(p - p.numerator // p.denominator) for p in positions], np.float32)  # N in [0, 1)
        places = first[:, None] + np.arange(self.length + 1)  # N L+1
        inside = (places >= 0) & (places < len(self.features))
        rows = np.broadcast_to(self.pad_value, (*places.shape, len(self.pad_value))).copy()  # N L+1 D
        rows[inside] = self.features[places[inside]]
        part = part[:, None, None]
        return rows[:, :-1] * (1 - part) + rows[:, 1:] * part
