"""Frechet distance between two sets of pictures, in the features of a network (Heusel et al. 2017).

    d^2 = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

with mean m and covariance C of the features of all crops of a setting, results on one side and true frames on the
other; one figure for the whole set, never a mean over clips.  Published figures are of Inception-v3's last features
(:mod:`talkswap.evaluation.judges.inception`).  Where that file is not at hand, features of our own networks stand in
(:mod:`talkswap.evaluation.metrics.frechet`); the two are never held against each other.

Means and covariances are gathered clip by clip in double precision by Chan's rule, which never subtracts large sums.
The trace of the root is found without a root of the product, which is not symmetric: with C_i = A_i^T A_i,

    tr((C_1 C_2)^(1/2)) = sum of the singular values of A_1 A_2^T

which is exact also where there are fewer pictures than features and both covariances are singular.  Few pictures make
the distance too large; figures of sets of different size are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from talkswap.checkpoints.tensors import tensor_files
from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import PAPER_SIZE, Crops, Judge, Metric, check_crops, sampled
from talkswap.faces.detector import DetectorNetwork, load_detector
from talkswap.files import file_sha256
from talkswap.types import FloatArray

EVERY = 5  # frames between two that are looked at: neighbours are nearly one picture
FID = Metric(
    key="fid",
    label="FID",
    better="lower",
    about=f"Frechet distance between all results' and all true aligned crops, every {EVERY}th frame",
    network="inception",
    paper="SwapTalk tables I to VI",
)

NEGLIGIBLE = 1e-12  # of the largest variance: rounding, not spread


class FeatureNetwork(Protocol):
    """What turns crops into features."""

    judge: Judge
    dimension: int

    def __call__(self, crops: Crops) -> FloatArray:
        """N S S 3 uint8 to N ``dimension``."""
        ...


@dataclass
class FeatureStatistics:
    """Number, mean and scatter of features seen so far.

    Args:
        mean: D.
        scatter: D D, the sum of outer products of what differs from the mean.
        count: features seen.
    """

    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]
    count: int = 0

    @classmethod
    def empty(cls, dimension: int) -> FeatureStatistics:
        """Nothing seen yet."""
        return cls(np.zeros(dimension), np.zeros((dimension, dimension)))

    def add(self, features: FloatArray) -> None:
        """See more features (N D); N may be 0.

        Raises:
            TrainingDataError: of another width, or not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise TrainingDataError(
                f"features of shape {features.shape} do not fit {len(self.mean)} dimensions",
                "gather the features of one network only",
            )
        if not np.isfinite(features).all():
            raise TrainingDataError("the network's features are not finite", "check its weights")
        if len(features):
            seen = np.asarray(features, np.float64)
            mean = seen.mean(0)
            apart = seen - mean
            self.merge(FeatureStatistics(mean, apart.T @ apart, len(seen)))

    def merge(self, other: FeatureStatistics) -> None:
        """See what another has seen.

        Raises:
            TrainingDataError: of another width.
        """
        if other.mean.shape != self.mean.shape:
            raise TrainingDataError(
                f"statistics of {len(other.mean)} dimensions do not fit {len(self.mean)}",
                "gather the features of one network only",
            )
        total = self.count + other.count
        if not other.count:
            return
        apart = other.mean - self.mean
        self.scatter += other.scatter + np.outer(apart, apart) * (self.count * other.count / total)
        self.mean += apart * (other.count / total)
        self.count = total

    def covariance(self) -> NDArray[np.float64]:
        """D D, with N - 1 below.

        Raises:
            TrainingDataError: fewer than two features were seen.
        """
        if self.count < 2:
            raise TrainingDataError("a distance between sets needs two pictures in each", "give more frames with faces")
        return self.scatter / (self.count - 1)


def _factor(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A with covariance = A^T A, as many rows as there are directions with spread: R D."""
    spread, directions = np.linalg.eigh(covariance)
    kept = spread > NEGLIGIBLE * max(float(spread[-1]), 0.0)
    return np.asarray(np.sqrt(spread[kept])[:, None] * directions[:, kept].T)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """The squared Frechet distance between two normal distributions, as FID is reported; 0 for equal ones.

    Raises:
        TrainingDataError: either has seen fewer than two features, or they are of different width.
    """
    if first.mean.shape != second.mean.shape:
        raise TrainingDataError(
            f"features of {len(first.mean)} and of {len(second.mean)} dimensions have no distance",
            "look at both sets with one network",
        )
    covariances = first.covariance(), second.covariance()
    apart = first.mean - second.mean
    shared = np.linalg.svd(_factor(covariances[0]) @ _factor(covariances[1]).T, compute_uv=False).sum()
    distance = apart @ apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared
    return max(float(distance), 0.0)


def gather(network: FeatureNetwork, crops: Crops, into: FeatureStatistics, every: int = EVERY) -> None:
    """Add the features of a clip's crops to statistics.

    Args:
        network: what looks at them.
        crops: N S S 3 uint8.
        into: ``FeatureStatistics.empty(network.dimension)`` at first.
        every: which frames are looked at.

    Raises:
        TrainingDataError: these are no crops, or the features do not fit.
    """
    into.add(network(crops[sampled(len(crops), every)]))


# --- Features of our own that stand in for Inception's: what the compact face detector sees in a crop.


SIDE = int(PAPER_SIZE)  # px at which the detector looks at a crop: coarser and finer detail are not the same to it
BATCH = 8  # pictures at once; more gain nothing on a CPU
KIND = "inception"  # what they stand in for


class DetectorFeatures:
    """Features for :mod:`talkswap.evaluation.metrics.frechet` by the compact face detector.

    Args:
        network: with its weights.
        judge: what to call it.
    """

    def __init__(self, network: DetectorNetwork, judge: Judge) -> None:
        self.network, self.judge = network.eval(), judge
        self.dimension = 2 * network.config.widths[2]

    @torch.inference_mode()
    def __call__(self, crops: Crops) -> FloatArray:
        """N S S 3 uint8 to N ``dimension``."""
        check_crops(crops)
        made = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(crops), BATCH):
            pictures = [_at_side(crop) for crop in crops[start : start + BATCH]]
            batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
            maps = self.network.coarse(self.network.middle(self.network.fine(batch)))  # B C H/32 W/32
            spread, mean = torch.std_mean(maps, (2, 3))
            made.append(torch.cat([mean, spread], 1).numpy())
        return np.concatenate(made)


def _at_side(crop: Crops) -> Crops:
    if crop.shape[0] == SIDE:
        return crop
    smaller = crop.shape[0] > SIDE
    return np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC))


def load_compact_features(folder: Path) -> DetectorFeatures:
    """The stand-in from a compact weights folder.

    Raises:
        WeightsMissingError: it lacks the detector.
        WeightsCorruptError: its files do not fit the network.
    """
    network = load_detector(folder)
    sha256 = file_sha256(folder / tensor_files(folder, "detector")[0])
    note = "Frechet distance in the features of talkswap's own face detector, not of Inception"
    return DetectorFeatures(network, Judge(KIND, "compact face detector", False, sha256, note))
