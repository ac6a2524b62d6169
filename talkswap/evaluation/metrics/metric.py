"""The base of every metric: how it describes itself, what it accepts, and how frames are sampled and averaged.

A metric's own file holds a :class:`Metric` that describes its column and the function that computes it.  Tables, reports
and tests treat all metrics alike through that description.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.types import FloatArray

Better = Literal["higher", "lower", "neither"]

Crops = NDArray[np.uint8]
"""N S S 3, RGB, FFHQ-aligned; a result and its truth are both cut by the truth's landmarks."""

PAPER_SIZE = 320.0  # px, side of the crop in the papers


@dataclass(frozen=True)
class Metric:
    """One column of a table."""

    key: str  # in report.json: "lse_c"
    label: str  # in tables: "LSE-C"
    better: Better
    unit: str = ""  # "dB", "px", "degrees"; empty for pure numbers
    about: str = ""  # one sentence without a full stop: what it measures, on what
    network: str = ""  # kind of network that judges: "inception", "syncnet", "identity"; empty for none
    needs_truth: bool = False  # only where the true frames are known (self-driven)
    paper: str = ""  # where the figure is published: "arXiv 2405.05636, table I, eq. 17"


@dataclass(frozen=True)
class Judge:
    """The network behind a metric; figures of two judges never share a column."""

    kind: str  # as Metric.network
    name: str  # "syncnet_v2", "compact mouth shapes"
    comparable: bool  # whether its figures may be compared with published ones
    sha256: str = ""  # of its file
    note: str = ""  # what a reader of its column must know, one sentence without a full stop


RTF = Metric(
    "rtf", "RTF", "lower", paper="WavSyncSwap table 3",
    about="Seconds of the whole render for a second of video, on the machine that the report names",
)  # fmt: skip


def real_time_factor(seconds: float, video_seconds: float) -> float:
    """Seconds of work for a second of video (WavSyncSwap, table 3); below 1 is faster than playback.

    Raises:
        TrainingDataError: the video has no length.
    """
    if video_seconds <= 0:
        raise TrainingDataError(f"a video of {video_seconds:g} seconds has no real-time factor", "check the clip")
    return seconds / video_seconds


def check_crops(crops: Crops) -> None:
    """Raises TrainingDataError unless these are square 8-bit RGB crops (N S S 3)."""
    shape = crops.shape
    if crops.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or shape[1] < 1:
        raise TrainingDataError(
            f"crops of shape {shape} and type {crops.dtype} cannot be measured", "give N S S 3 of eight bits"
        )


def check_pair(result: NDArray[np.generic], truth: NDArray[np.generic]) -> None:
    """Raises TrainingDataError unless a result and its truth have the same shape, frame for frame."""
    if result.shape != truth.shape:
        raise TrainingDataError(
            f"a result of shape {result.shape} cannot be compared with a truth of shape {truth.shape}",
            "give both frame for frame, cut by the same squares",
        )


def check_landmarks(landmarks: FloatArray, points: int = 478) -> None:
    """Raises TrainingDataError unless these are N 478 3 landmarks."""
    if landmarks.ndim != 3 or landmarks.shape[1:] != (points, 3):
        raise TrainingDataError(
            f"landmarks of shape {landmarks.shape} cannot be measured", f"give N {points} 3, nan where no face is"
        )


def check_clip(result: Crops, truth: Crops, landmarks: FloatArray) -> None:
    """Raises TrainingDataError unless crops of a result and its truth (N S S 3) and landmarks (N 478 3) fit together."""
    check_crops(result)
    check_pair(result, truth)
    check_landmarks(landmarks)


def has_face(landmarks: FloatArray) -> NDArray[np.bool_]:
    """N: whether all landmarks of a frame (N 478 3) are finite."""
    return np.asarray(np.isfinite(landmarks).all(axis=(1, 2)))


def sampled(count: int, every: int) -> NDArray[np.intp]:
    """Frame numbers that a slow metric measures: each ``every``-th of ``count``, from the middle of the first stretch.

    Raises:
        TrainingDataError: ``every`` is below one.
    """
    if every < 1:
        raise TrainingDataError(f"every {every}th frame cannot be sampled", "give a whole number of at least 1")
    # Starting in the middle of the first stretch keeps the sample centred in the clip.
    return np.arange(min(every // 2, max(count - 1, 0)), count, every)


def average(values: FloatArray) -> float:
    """Mean of the finite values; nan if there are none."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else float("nan")
