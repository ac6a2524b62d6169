"""Does the mouth open when the speaker's mouth opened, and rest while nobody speaks?

The opening is the distance of the inner lips in parts of that of the outer eye corners, on a grid of 25 moments a second.
*Mouth r* is its Pearson correlation with the opening in the clip that the voice comes from.  Only the landmark network
judges, so no method can win this figure by pleasing a sync network.  A second figure takes the voice's clip one second
late, which gives the correlation of chance: it should be near 0, and a first figure near it says nothing.

*Silence* is how much further the mouth is open than in the voice's own clip while the voice is silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Metric, check_landmarks
from talkswap.faces.measures import mouth_opening, pearson
from talkswap.types import FloatArray
from talkswap.voice.activity import ease, voice_activity

RATE = 25  # moments per second
SHIFT = 25  # moments: one second
HZ = 16000
LEAST = 12  # moments that two curves must share for a correlation: half a second
LEAST_SILENT = 5  # silent moments: a fifth of a second

MOUTH_OPENING = Metric(
    key="mouth_opening",
    label="Mouth r",
    better="higher",
    about="Correlation of the mouth's opening with that of the clip the voice comes from, 25 times a second",
)
SHIFTED = Metric(
    key="mouth_opening_shifted",
    label="Mouth r, 1 s off",
    better="neither",
    about="The same with the voice's clip one second away: what chance gives",
)
OPENING_IN_SILENCE = Metric(
    key="silence",
    label="Silence",
    better="lower",
    unit="%",
    about="Mouth opening beyond that of the voice's own clip while the voice is silent, in eye distances",
)


@dataclass(frozen=True)
class OpeningScore:
    """How a mouth follows another."""

    correlation: float  # nan where a clip is shorter than half a second or shows no face
    shifted: float  # nan where they share less than half a second beyond the shift


def opening_curve(landmarks: FloatArray, times: NDArray[np.float64], moments: NDArray[np.float64]) -> FloatArray:
    """Mouth opening at given moments, on the line between neighbouring frames.

    Args:
        landmarks: N 478 3, nan where no face is: the opening is then that between the nearest frames with one.
        times: N seconds, rising.
        moments: M seconds.

    Returns:
        M, in parts of the distance of the outer eye corners; all nan where no frame has a face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    check_landmarks(landmarks)
    if len(times) != len(landmarks):
        raise TrainingDataError(f"{len(landmarks)} landmarks at {len(times)} times", "give one time each")
    openings = mouth_opening(landmarks)
    faces = np.isfinite(openings)
    if not faces.any():
        return np.full(len(moments), np.nan, np.float32)
    # Both clips are resampled onto one grid, since their frame rates may differ.
    return np.interp(moments, np.asarray(times, np.float64)[faces], openings[faces]).astype(np.float32)


def opening_correlation(
    landmarks: FloatArray, times: NDArray[np.float64], voice_landmarks: FloatArray, voice_times: NDArray[np.float64]
) -> OpeningScore:
    """Compare a result's mouth with that of the clip whose voice it was given.

    Args:
        landmarks, times: N 478 3 and N seconds of the result.
        voice_landmarks, voice_times: of the voice's own clip; time 0 of both is the voice's beginning.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    moments = np.arange(shared_moments(times, voice_times)) / RATE
    result = opening_curve(landmarks, times, moments)
    voice = opening_curve(voice_landmarks, voice_times, moments)

    def correlation(first: FloatArray, second: FloatArray) -> float:
        if len(first) < LEAST or not (np.isfinite(first).all() and np.isfinite(second).all()):
            return float("nan")
        return pearson(first.astype(np.float64), second.astype(np.float64))

    # The shifted pair has the same curves, only a second apart: whatever correlates there does so by chance.
    return OpeningScore(correlation(result, voice), correlation(result[SHIFT:], voice[:-SHIFT]))


def shared_moments(times: NDArray[np.float64], voice_times: NDArray[np.float64]) -> int:
    """How many moments of the grid two clips share, from time 0 to the end of the shorter one."""
    end = min((float(t[-1]) for t in (times, voice_times) if len(t)), default=0.0)
    return int(end * RATE + 1e-6) + 1


def silent_moments(voice: FloatArray, moments: int) -> NDArray[np.bool_]:
    """Which of the first ``moments``, 25 a second, are silent: without speech, and without a mouth opening or closing for it.

    Args:
        voice: samples at 16 kHz.
    """
    # The gate that closes the mouth in a render also decides here what silence is, with its time to ease.
    times = [Fraction(k, RATE) for k in range(moments)]
    return np.asarray(ease(voice_activity(voice, times), times) == 0)


def silence(
    landmarks: FloatArray,
    times: NDArray[np.float64],
    voice_landmarks: FloatArray,
    voice_times: NDArray[np.float64],
    voice: FloatArray,
) -> float:
    """Excess opening in silence, in percent of the eye distance.

    Args:
        landmarks, times: N 478 3 and N seconds of the result.
        voice_landmarks, voice_times: of the clip that the voice comes from.
        voice: its samples at 16 kHz; time 0 of all three is the same.

    Returns:
        nan if less than a fifth of a second is silent, or a clip shows no face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    count = min(shared_moments(times, voice_times), len(voice) * RATE // HZ)
    quiet = np.flatnonzero(silent_moments(voice, count))
    if len(quiet) < LEAST_SILENT:
        return float("nan")
    result = opening_curve(landmarks, times, quiet / RATE)
    truth = opening_curve(voice_landmarks, voice_times, quiet / RATE)
    # Only excess counts: a mouth that rests more than the speaker's is no error.
    return 100 * float(np.maximum(result.astype(np.float64) - truth, 0).mean())
