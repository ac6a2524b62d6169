"""LSE-C and LSE-D: how surely, and how closely, a judge finds that mouth and sound belong together (Wav2Lip's protocol).

At 25 pictures a second each run of five pictures is compared with the sound 15 frames earlier to 15 frames later:

    d(o) = mean over t of |picture(t) - sound(t + o)|      LSE-D = min d      LSE-C = median d - min d

so LSE-D takes the best offset, not offset zero.  Beyond the sound's ends its embeddings are zeros that count, as in the
protocol.  ReSyncer's ΔSync (section 4.1) is the distance of a result's LSE-C from the truth's.

SyncNet judges if its published file is on this machine (:mod:`talkswap.evaluation.judges.syncnet`); if not, mouth shapes
stand in, by the same offsets (:mod:`talkswap.evaluation.judges.mouth_sync`), and their figures get a table of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Judge, Metric
from talkswap.types import FloatArray, UInt8Image

LSE_C = Metric(
    key="lse_c",
    label="LSE-C",
    better="higher",
    about="Confidence that mouth and voice belong together: median less least distance over offsets of 15 frames",
    network="syncnet",
    paper="arXiv 2405.05636, tables I and VI; WavSyncSwap table 1",
)
LSE_D = Metric(
    key="lse_d",
    label="LSE-D",
    better="lower",
    about="Least distance of mouth and voice over offsets of 15 frames",
    network="syncnet",
    paper="WavSyncSwap table 1",
)

DELTA_SYNC = Metric(
    key="delta_sync",
    label="ΔSync",
    better="lower",
    about="Distance of LSE-C from that of the clip the voice comes from",
    network="syncnet",
    paper="ReSyncer tables 1, 3 and 5",
)

RATE = 25  # pictures per second
REACH = 15  # frames, to either side
CLOSENESS = 1e-6  # added to each difference, as torch's pairwise distance does


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
