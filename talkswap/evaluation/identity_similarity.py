"""ID similarity to the source, and D_ID to the truth: two questions about who a result shows.

**ID similarity** (ReSyncer, table 2) is the cosine between the person of the result and the person of the source.  The
paper does not say how frames are joined; here each person is the mean of all frames' embeddings, so that one bad frame
weighs little.  The mean of single frames' cosines is Consistency.

**D_ID** (StyleSync, table 1) is the mean cosine, frame by frame, between result and truth.  It is called a distance
there and still better when higher.  It belongs to lip-sync alone: where a face was swapped the truth is another person.
"""

from __future__ import annotations

import numpy as np

from talkswap.evaluation.arrays import average
from talkswap.evaluation.consistency import cosines
from talkswap.evaluation.metric import Metric
from talkswap.evaluation.recognition import EVERY
from talkswap.types import FloatArray

ID_SIMILARITY = Metric(
    key="id_similarity",
    label="ID sim.",
    better="higher",
    about=f"Cosine of the clip's mean identity, every {EVERY}th frame, to the source's",
    network="identity",
    paper="ReSyncer table 2",
)
D_ID = Metric(
    key="d_id",
    label="D_ID",
    better="higher",
    about=f"Mean cosine of every {EVERY}th frame's identity to the true frame's; for methods without a swap",
    network="identity",
    needs_truth=True,
    paper="StyleSync table 1",
)


def person_of(embeddings: FloatArray) -> FloatArray:
    """One unit vector (D) of many (N D; those with nan are left out); nan where none is known."""
    known = embeddings[np.isfinite(embeddings).all(1)].astype(np.float64)
    if len(known) == 0:
        return np.full(embeddings.shape[1], np.nan, np.float32)
    mean = known.mean(0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def identity_similarity(embeddings: FloatArray, source: FloatArray) -> float:
    """Cosine of a result's person and the source's.

    Args:
        embeddings: N D, unit length, nan where a frame has no face.
        source: D of a photo, unit length.

    Returns:
        In [-1, 1]; nan where no frame has a face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    return float(cosines(person_of(embeddings)[None], source)[0])


def identity_kept(result: FloatArray, truth: FloatArray) -> float:
    """D_ID: mean cosine of partner frames.

    Args:
        result, truth: N D, unit length, of the same frames; nan where one has no face.

    Returns:
        In [-1, 1]; nan where no frame has a face in both.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    return average(cosines(result, truth))
