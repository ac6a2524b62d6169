"""Lips and voice: do they belong together, and does the mouth open and rest when the speaker's did?

LSE-C and LSE-D say how surely, and how closely, a judge finds that mouth and sound belong together (Wav2Lip's protocol).
At 25 pictures a second each run of five pictures is compared with the sound 15 frames earlier to 15 frames later:

    d(o) = mean over t of |picture(t) - sound(t + o)|      LSE-D = min d      LSE-C = median d - min d

so LSE-D takes the best offset, not offset zero.  Beyond the sound's ends its embeddings are zeros that count, as in the
protocol.  ReSyncer's ΔSync (section 4.1) is the distance of a result's LSE-C from the truth's.

SyncNet judges if its published file is on this machine (:mod:`talkswap.evaluation.judges.syncnet`); if not, mouth shapes
stand in, by the same offsets (:mod:`talkswap.evaluation.judges.mouth_sync`), and their figures get a table of their own.

The *opening* of a mouth is the distance of the inner lips in parts of that of the outer eye corners, on a grid of 25
moments a second.  *Mouth r* is its Pearson correlation with the opening in the clip that the voice comes from.  Only the
landmark network judges, so no method can win this figure by pleasing a sync network.  A second figure takes the voice's
clip one second late, which gives the correlation of chance: it should be near 0, and a first figure near it says nothing.

*Silence* is how much further the mouth is open than in the voice's own clip while the voice is silent.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Judge, Metric, check_landmarks
from talkswap.faces.measures import mouth_opening, pearson
from talkswap.types import FloatArray, UInt8Image
from talkswap.voice.activity import ease, voice_activity

LSE_C = Metric(
    "lse_c", "LSE-C", "higher", network="syncnet", paper="arXiv 2405.05636, tables I and VI; WavSyncSwap table 1",
    about="Confidence that mouth and voice belong together: median less least distance over offsets of 15 frames",
)  # fmt: skip
LSE_D = Metric(
    "lse_d", "LSE-D", "lower", network="syncnet", paper="WavSyncSwap table 1",
    about="Least distance of mouth and voice over offsets of 15 frames",
)  # fmt: skip
DELTA_SYNC = Metric(
    "delta_sync", "ΔSync", "lower", network="syncnet", paper="ReSyncer tables 1, 3 and 5",
    about="Distance of LSE-C from that of the clip the voice comes from",
)  # fmt: skip
MOUTH_OPENING = Metric(
    "mouth_opening", "Mouth r", "higher",
    about="Correlation of the mouth's opening with that of the clip the voice comes from, 25 times a second",
)  # fmt: skip
SHIFTED = Metric(
    "mouth_opening_shifted", "Mouth r, 1 s off", "neither",
    about="The same with the voice's clip one second away: what chance gives",
)  # fmt: skip
OPENING_IN_SILENCE = Metric(
    "silence", "Silence", "lower", unit="%",
    about="Mouth opening beyond that of the voice's own clip while the voice is silent, in eye distances",
)  # fmt: skip

RATE = 25  # pictures, or moments of the grid, per second
HZ = 16000  # of voices
REACH = 15  # frames, to either side
CLOSENESS = 1e-6  # added to each difference, as torch's pairwise distance does
SHIFT = 25  # moments: one second
LEAST = 12  # moments that two curves must share for a correlation: half a second
LEAST_SILENT = 5  # silent moments: a fifth of a second


@dataclass(frozen=True)
class SyncScore:
    """A judge's figures of one clip."""

    confidence: float  # LSE-C
    distance: float  # LSE-D
    offset: int  # frames at 25 frames/s by which the sound comes earlier than the picture; negative: later
    frames: int  # positions that were compared


class SyncJudge(Protocol):
    """A network that compares a mouth with a voice."""

    judge: Judge

    def __call__(
        self, pictures: Iterable[UInt8Image], landmarks: FloatArray, times: NDArray[np.float64], voice: FloatArray
    ) -> SyncScore:
        """Score one clip.

        Args:
            pictures: N whole pictures (H W 3) in order, an iterator is enough; the stand-in ignores them.
            landmarks: N 478 3 in px of the pictures, nan where no face is.
            times: N seconds, rising, on the voice's clock.
            voice: samples at 16 kHz in [-1, 1].

        Raises:
            TrainingDataError: the clip is too short, or shows no face.
        """
        ...


def grid_rows(times: NDArray[np.float64], seconds: float) -> NDArray[np.intp]:
    """The frame nearest in time to each moment k / 25 s, up to the end of the pictures or of the sound.

    Args:
        times: N seconds, rising, from the first frame's.
        seconds: length of the sound.
    """
    times = np.asarray(times, np.float64)
    if len(times) == 0:
        return np.zeros(0, np.intp)
    # Pictures may come at any rate, or at none: the last one lasts as long as the usual one.
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 1 / RATE
    end = min(float(times[-1]) + usual, seconds)  # the last picture is shown for as long as the others
    moments = np.arange(max(0, int(np.floor(end * RATE + 1e-6)))) / RATE
    # The middle between two frames decides which of them is nearest.
    return np.searchsorted((times[1:] + times[:-1]) / 2, moments).astype(np.intp)


def offset_distances(mouths: FloatArray, sounds: FloatArray, reach: int = REACH) -> NDArray[np.float64]:
    """Mean distance of mouths and sounds at each offset.

    Args:
        mouths, sounds: T E, of the same moments.
        reach: frames to either side.

    Returns:
        2 reach + 1: the first with the sound ``reach`` frames earlier, the last with it as much later.

    Raises:
        TrainingDataError: nothing to compare.
    """
    if mouths.shape != sounds.shape or len(mouths) == 0:
        raise TrainingDataError(
            f"mouths of shape {mouths.shape} cannot be compared with sounds of shape {sounds.shape}", "give T E of both"
        )
    # Beyond its ends the sound is zeros, so that every offset compares the same number of pictures.
    padded = np.pad(sounds.astype(np.float64), ((reach, reach), (0, 0)))
    near = mouths.astype(np.float64) + CLOSENESS
    return np.array([np.linalg.norm(near - padded[o : o + len(mouths)], axis=1).mean() for o in range(2 * reach + 1)])


def score_of(distances: NDArray[np.float64], frames: int) -> SyncScore:
    """LSE-C, LSE-D and the offset of :func:`offset_distances`."""
    # Offsets count from the sound being earliest, so the middle of the list is offset zero.
    least = int(np.argmin(distances))
    nearest = float(distances[least])
    return SyncScore(float(np.median(distances)) - nearest, nearest, len(distances) // 2 - least, frames)


def delta_sync(result: SyncScore, truth: SyncScore) -> float:
    """ΔSync: distance of two confidences of one judge."""
    return abs(result.confidence - truth.confidence)


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
