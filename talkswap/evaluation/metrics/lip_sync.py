"""LSE-C and LSE-D: how surely, and how nearly, a judge finds that mouth and sound belong together (Wav2Lip's protocol).

At 25 pictures a second each run of five pictures is held against the sound 15 frames earlier to 15 frames later:

    d(o) = mean over t of |seen(t) - heard(t + o)|      LSE-D = min d      LSE-C = median d - min d

so LSE-D asks for the best offset, not for none.  Beyond the sound's ends its embeddings are zeros, as in the protocol;
they count.  The judge is SyncNet where its published file is on this machine.  Where it is not, mouth shapes stand in
(:mod:`talkswap.evaluation.judges.mouth_sync`), by the same offsets; their figures belong in a table of their own.

On one CPU core SyncNet takes about 100 ms for each picture at 25 frames/s, the stand-in half a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from talkswap.checkpoints.finding import preset_state
from talkswap.checkpoints.presets import has, verify_tensors
from talkswap.errors import TrainingDataError, WeightsCorruptError, WeightsMissingError
from talkswap.evaluation.metrics.metric import Judge, Metric
from talkswap.files import file_sha256
from talkswap.types import FloatArray, UInt8Image

LSE_C = Metric(
    key="lse_c",
    label="LSE-C",
    better="higher",
    about="Confidence that mouth and voice belong together: median less least distance over offsets of 15 frames",
    network="syncnet",
    paper="SwapTalk tables I and VI; WavSyncSwap table 1",
)
LSE_D = Metric(
    key="lse_d",
    label="LSE-D",
    better="lower",
    about="Least distance of mouth and voice over offsets of 15 frames",
    network="syncnet",
    paper="WavSyncSwap table 1",
)

RATE = 25  # pictures per second
REACH = 15  # frames, to either side
FILE = "evaluation/syncnet_v2"  # in the paper preset's folder
CLOSENESS = 1e-6  # added to each difference, as torch's pairwise distance does


@dataclass(frozen=True)
class SyncScore:
    """What a judge says of one clip."""

    confidence: float  # LSE-C
    distance: float  # LSE-D
    offset: int  # frames at 25 frames/s by which the sound comes earlier than the picture; negative: later
    frames: int  # positions that were compared


class SyncJudge(Protocol):
    """Whoever holds a mouth against a voice."""

    judge: Judge

    def __call__(
        self, pictures: Iterable[UInt8Image], landmarks: FloatArray, times: NDArray[np.float64], voice: FloatArray
    ) -> SyncScore:
        """Score one clip.

        Args:
            pictures: N whole pictures (H W 3) in order, an iterator is enough; the stand-in does not look at them.
            landmarks: N 478 3 in px of the pictures, nan where no face is.
            times: N seconds, rising, on the voice's clock.
            voice: samples at 16 kHz in [-1, 1].

        Raises:
            TrainingDataError: the clip is too short, or shows no face.
        """
        ...


def grid_rows(times: NDArray[np.float64], seconds: float) -> NDArray[np.intp]:
    """For each moment k / 25 s the frame nearest in time, as far as pictures and sound both reach.

    Args:
        times: N seconds, rising, from the first frame's.
        seconds: length of the sound.
    """
    times = np.asarray(times, np.float64)
    if len(times) == 0:
        return np.zeros(0, np.intp)
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 1 / RATE
    end = min(float(times[-1]) + usual, seconds)  # the last picture is seen for as long as the others
    moments = np.arange(max(0, int(np.floor(end * RATE + 1e-6)))) / RATE
    return np.searchsorted((times[1:] + times[:-1]) / 2, moments).astype(np.intp)


def offset_distances(seen: FloatArray, heard: FloatArray, reach: int = REACH) -> NDArray[np.float64]:
    """Mean distance of mouths and sounds at each offset.

    Args:
        seen, heard: T E, of the same moments.
        reach: frames to either side.

    Returns:
        2 reach + 1: the first with the sound ``reach`` frames earlier, the last with it as much later.

    Raises:
        TrainingDataError: nothing to compare.
    """
    if seen.shape != heard.shape or len(seen) == 0:
        raise TrainingDataError(
            f"mouths of shape {seen.shape} cannot be held against sounds of shape {heard.shape}", "give T E of both"
        )
    padded = np.pad(heard.astype(np.float64), ((reach, reach), (0, 0)))
    mouths = seen.astype(np.float64) + CLOSENESS
    return np.array([np.linalg.norm(mouths - padded[o : o + len(seen)], axis=1).mean() for o in range(2 * reach + 1)])


def score_of(distances: NDArray[np.float64], frames: int) -> SyncScore:
    """LSE-C, LSE-D and the offset of :func:`offset_distances`."""
    least = int(np.argmin(distances))
    nearest = float(distances[least])
    return SyncScore(float(np.median(distances)) - nearest, nearest, len(distances) // 2 - least, frames)


class SyncNetJudge:
    """The published protocol with SyncNet.

    Args:
        file: safetensors with the published names; None takes the one that `talkswap download` brought.
        device: ``cpu`` or ``cuda``.
        published: whether the file holds the published tensors, so that figures are comparable; None: only where it is
            what `talkswap download` brought, byte for byte, since of another conversion no sha256 is known.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """

    def __init__(self, file: Path | None = None, device: str = "cpu", published: bool | None = None) -> None:
        from talkswap.evaluation.judges.syncnet import load_syncnet

        path = file if file is not None else verify_tensors(preset_state("paper"), FILE)[0]
        self.network = load_syncnet(path).to(device)
        digest = file_sha256(path)
        sure = file is None or digest == downloaded_hash() if published is None else published
        name = "syncnet_v2" if sure else f"SyncNet from {path.name}"
        note = "" if sure else "Whether the named file is the published SyncNet is for its user to know"
        self.judge = Judge("syncnet", name, sure, digest, note)

    def __call__(
        self, pictures: Iterable[UInt8Image], landmarks: FloatArray, times: NDArray[np.float64], voice: FloatArray
    ) -> SyncScore:
        from talkswap.evaluation.judges.face_squares import cut_squares, square_places
        from talkswap.evaluation.judges.syncnet import FRAMES, HZ, SIDE, hear_all, mfcc, see_all

        rows = grid_rows(times, len(voice) / HZ)
        count = len(rows) - FRAMES  # the protocol leaves the last run out
        if count < 1:
            raise TrainingDataError(
                f"{len(rows)} frames at 25 frames/s are too few for SyncNet", "it needs more than five with their sound"
            )
        squares = cut_squares(pictures, square_places(landmarks), rows[: count + FRAMES - 1], SIDE)
        seen = see_all(self.network, squares)
        heard = hear_all(self.network, mfcc(voice), count)
        return score_of(offset_distances(seen, heard), count)


def downloaded_hash() -> str:
    """sha256 of the file that `talkswap download` brought; empty where it is not here, or damaged."""
    try:
        return file_sha256(verify_tensors(preset_state("paper"), FILE)[0])
    except (WeightsMissingError, WeightsCorruptError):
        return ""


def load_sync_judge(file: Path | None = None, device: str = "cpu") -> SyncJudge:
    """SyncNet where it can be had, else the compact stand-in, whose :class:`Judge` says so.

    Args:
        file: SyncNet's safetensors file, as named by the user; None looks among the downloaded weights.
        device: where SyncNet runs, ``cpu`` or ``cuda``; the stand-in needs no more than the CPU.

    Raises:
        WeightsMissingError: the named file is not there, or even the stand-in's networks are not.
        WeightsCorruptError: a file is damaged or of another network.
    """
    if file is not None or any(has(folder, f"{FILE}.safetensors") for folder in preset_state("paper").folders):
        return SyncNetJudge(file, device)
    from talkswap.evaluation.judges.mouth_sync import MouthJudge

    return MouthJudge()


# --- Delta-Sync: how far a result's sync confidence lies from the truth's (ReSyncer, section 4.1).


DELTA_SYNC = Metric(
    key="delta_sync",
    label="ΔSync",
    better="lower",
    about="Distance of LSE-C from that of the clip the voice comes from",
    network="syncnet",
    paper="ReSyncer tables 1, 3 and 5",
)


def delta_sync(result: SyncScore, truth: SyncScore) -> float:
    """Distance of two confidences of one judge."""
    return abs(result.confidence - truth.confidence)
