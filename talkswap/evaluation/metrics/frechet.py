"""Frechet distance between two sets of pictures, in the features of a network (Heusel et al. 2017).

    d^2 = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

with mean m and covariance C of the features of all crops of a setting, results on one side and true frames on the
other: one figure for the whole set, never a mean over clips.  Published figures are of Inception-v3's last features; if
that file isn't on this machine, features of our own detector stand in (both: :mod:`talkswap.evaluation.judges.inception`)
and are never compared with published ones.

Means and covariances are gathered clip by clip in double precision by Chan's rule, which never subtracts large sums.
The product of two covariances isn't symmetric, so the trace of its root is computed without that root: with
C_i = A_i^T A_i,

    tr((C_1 C_2)^(1/2)) = sum of the singular values of A_1 A_2^T

which is exact even if there are fewer pictures than features and both covariances are singular.  Few pictures make the
distance too large, so figures of sets of different size are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Crops, Judge, Metric
from talkswap.types import FloatArray

EVERY = 5  # stride in frames: neighbours are nearly the same picture
FID = Metric(
    "fid", "FID", "lower", network="inception", paper="arXiv 2405.05636, tables I to VI",
    about=f"Frechet distance between all results' and all true aligned crops, every {EVERY}th frame",
)  # fmt: skip

NEGLIGIBLE = 1e-12  # of the largest variance: rounding, not spread


class FeatureNetwork(Protocol):
    """A network that turns crops into features."""

    judge: Judge
    dimension: int

    def __call__(self, crops: Crops) -> FloatArray:
        """N S S 3 uint8 to N ``dimension``."""
        ...


@dataclass
class FeatureStatistics:
    """Number, mean and scatter of features, gathered part by part.

    Args:
        mean: D.
        scatter: D D, the sum of outer products of the differences from the mean.
        count: features so far.
    """

    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]
    count: int = 0

    @classmethod
    def empty(cls, dimension: int) -> FeatureStatistics:
        """Statistics of no features yet."""
        return cls(np.zeros(dimension), np.zeros((dimension, dimension)))

    def add(self, features: FloatArray) -> None:
        """Add features (N D); N may be 0.

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
            rows = np.asarray(features, np.float64)
            mean = rows.mean(0)
            centred = rows - mean
            self.merge(FeatureStatistics(mean, centred.T @ centred, len(rows)))

    def merge(self, other: FeatureStatistics) -> None:
        """Add another's features.

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
        # Chan's rule: the scatter about the common mean is that of both parts plus the shift between their means.
        shift = other.mean - self.mean
        self.scatter += other.scatter + np.outer(shift, shift) * (self.count * other.count / total)
        self.mean += shift * (other.count / total)
        self.count = total

    def covariance(self) -> NDArray[np.float64]:
        """D D, with denominator N - 1.

        Raises:
            TrainingDataError: there are fewer than two features.
        """
        if self.count < 2:
            raise TrainingDataError("a distance between sets needs two pictures in each", "give more frames with faces")
        return self.scatter / (self.count - 1)


def root_of(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A with covariance = A^T A, as many rows as there are directions with spread: R D."""
    spread, directions = np.linalg.eigh(covariance)
    # Directions without spread are rounding errors, and their eigenvalues may even be negative.
    large = spread > NEGLIGIBLE * max(float(spread[-1]), 0.0)
    return np.asarray(np.sqrt(spread[large])[:, None] * directions[:, large].T)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """The squared Frechet distance between two normal distributions, as FID is reported; 0 for equal ones.

    Raises:
        TrainingDataError: either has fewer than two features, or their widths differ.
    """
    if first.mean.shape != second.mean.shape:
        raise TrainingDataError(
            f"features of {len(first.mean)} and of {len(second.mean)} dimensions have no distance",
            "use one network for both sets",
        )
    covariances = first.covariance(), second.covariance()
    shift = first.mean - second.mean
    # The singular values of A_1 A_2^T are the roots of the eigenvalues of C_1 C_2.
    shared = np.linalg.svd(root_of(covariances[0]) @ root_of(covariances[1]).T, compute_uv=False).sum()
    distance = shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared
    # Equal sets may come out a rounding error below zero.
    return max(float(distance), 0.0)
