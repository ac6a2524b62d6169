"""Silence: does the mouth rest while nobody speaks?

Where the voice is silent, and has been and stays so for a while, the result's mouth should be no further open than the
mouth of the voice's own clip is at that moment:

    silence = mean over silent moments of max(0, opening of the result - opening of the truth)

in percent of the distance of the outer eye corners.  A smile that shows teeth counts for the truth as for the result; a
mouth that is closed where the truth's was not is no error.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from talkswap.evaluation.metric import Metric
from talkswap.evaluation.mouth_opening import RATE, opening_curve
from talkswap.types import FloatArray
from talkswap.voice.activity import ease, voice_activity

METRIC = Metric(
    key="silence",
    label="Silence",
    better="lower",
    unit="%",
    about="Mouth opening beyond that of the voice's own clip while the voice is silent, in eye distances",
)

HZ = 16000
LEAST = 5  # silent moments: a fifth of a second


def silent_moments(voice: FloatArray, moments: int) -> NDArray[np.bool_]:
    """Which of so many moments, 25 a second, lie in silence: not spoken, nor while a mouth opens or closes for it.

    Args:
        voice: samples at 16 kHz.
    """
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
        nan where less than a fifth of a second is silent, or a clip shows no face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    end = min((float(t[-1]) for t in (times, voice_times) if len(t)), default=0.0)
    count = min(int(end * RATE + 1e-6) + 1, len(voice) * RATE // HZ)
    quiet = np.flatnonzero(silent_moments(voice, count))
    if len(quiet) < LEAST:
        return float("nan")
    result = opening_curve(landmarks, times, quiet / RATE)
    truth = opening_curve(voice_landmarks, voice_times, quiet / RATE)
    return 100 * float(np.maximum(result.astype(np.float64) - truth, 0).mean())
