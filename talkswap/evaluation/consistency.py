"""Consistency: how alike a result's frames stay to the source (SwapTalk, eq. 17), and how much that sways.

    Consistency = 1/T sum_t cos(E(frame_t), E(source))

in percent, as the paper's tables have it.  The standard deviation of the cosines over a clip tells a steady likeness
from one that comes and goes.  The paper wants E to be a network that took no part in training; who it was is said by
the :class:`~talkswap.evaluation.metric.Judge`.
"""

from __future__ import annotations

import numpy as np

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metric import Metric
from talkswap.evaluation.recognition import EVERY
from talkswap.types import FloatArray

CONSISTENCY = Metric(
    key="consistency",
    label="Consistency",
    better="higher",
    unit="%",
    about=f"Mean cosine of every {EVERY}th frame's identity to the source's",
    network="identity",
    paper="SwapTalk tables I and VI, eq. 17",
)
DEVIATION = Metric(
    key="consistency_deviation",
    label="Consistency ±",
    better="lower",
    unit="%",
    about="Standard deviation of those cosines within a clip",
    network="identity",
)


def cosines(embeddings: FloatArray, other: FloatArray) -> FloatArray:
    """Cosine of each embedding (N D, unit length, nan where unknown) to one (D) or to its partner (N D): N."""
    if embeddings.ndim != 2 or other.shape not in (embeddings.shape, embeddings.shape[1:]):
        raise TrainingDataError(
            f"embeddings of shape {embeddings.shape} cannot be held against {other.shape}", "give those of one network"
        )
    return np.asarray((embeddings.astype(np.float64) * other).sum(1), np.float32)


def consistency(embeddings: FloatArray, source: FloatArray) -> tuple[float, float]:
    """Mean and standard deviation of the frames' cosines to the source, in percent.

    Args:
        embeddings: N D, unit length, nan where a frame has no face.
        source: D, unit length.

    Returns:
        Both nan where no frame has a face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    known = cosines(embeddings, source).astype(np.float64)
    known = known[np.isfinite(known)]
    if known.size == 0:
        return float("nan"), float("nan")
    return 100 * float(known.mean()), 100 * float(known.std())
