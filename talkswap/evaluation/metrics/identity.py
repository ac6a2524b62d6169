"""Whom a result shows, by the unit vectors of a face recognition network: four figures of one look.

Consistency (SwapTalk, eq. 17) is the mean cosine of the frames to the source photo,

    Consistency = 1/T sum_t cos(E(frame_t), E(source)),

in percent, as in the paper's tables.  Its standard deviation within a clip tells a steady likeness from one that comes
and goes.  The paper wants E to be a network that took no part in training; the
:class:`~talkswap.evaluation.metrics.metric.Judge` says which network it was.

ID similarity (ReSyncer) is the cosine of the clip's mean vector to the source's, D_ID (StyleSync) the mean cosine of
each frame to the true frame, for methods that leave the face as it is.  ID Retrieve is the share of frames whose nearest
photo, among those of all sources, shows the right person.
"""

from collections.abc import Sequence

import numpy as np

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Metric, average
from talkswap.types import FloatArray

EVERY = 5  # stride in frames: identity changes more slowly than speech

CONSISTENCY = Metric(
    "consistency", "Consistency", "higher", unit="%", network="identity",
    paper="arXiv 2405.05636, tables I and VI, eq. 17",
    about=f"Mean cosine of every {EVERY}th frame's identity to the source's",
)  # fmt: skip
DEVIATION = Metric(
    "consistency_deviation", "Consistency ±", "lower", unit="%", network="identity",
    about="Standard deviation of those cosines within a clip",
)  # fmt: skip
ID_SIMILARITY = Metric(
    "id_similarity", "ID sim.", "higher", network="identity", paper="ReSyncer table 2",
    about=f"Cosine of the clip's mean identity, every {EVERY}th frame, to the source's",
)  # fmt: skip
D_ID = Metric(
    "d_id", "D_ID", "higher", network="identity", needs_truth=True, paper="StyleSync table 1",
    about=f"Mean cosine of every {EVERY}th frame's identity to the true frame's; for methods without a swap",
)  # fmt: skip
ID_RETRIEVE = Metric(
    "id_retrieve", "ID Retrieve", "higher", unit="%", network="identity",
    paper="arXiv 2405.05636, tables I, II, IV and VI; WavSyncSwap table 2",
    about=f"Share of frames, every {EVERY}th, whose nearest source among all sources shows the right person",
)  # fmt: skip


def cosines(embeddings: FloatArray, other: FloatArray) -> FloatArray:
    """Cosine of each embedding (N D, unit length, nan where unknown) to one (D) or to its partner (N D): N."""
    if embeddings.ndim != 2 or other.shape not in (embeddings.shape, embeddings.shape[1:]):
        raise TrainingDataError(
            f"embeddings of shape {embeddings.shape} cannot be compared with {other.shape}", "give those of one network"
        )
    # Vectors have unit length, so the product is the cosine; nan of a missing face stays nan.
    return np.asarray((embeddings.astype(np.float64) * other).sum(1), np.float32)


def consistency(embeddings: FloatArray, source: FloatArray) -> tuple[float, float]:
    """Mean and standard deviation of the frames' cosines to the source, in percent.

    Args:
        embeddings: N D, unit length, nan where a frame has no face.
        source: D, unit length.

    Returns:
        Both nan if no frame has a face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    values = cosines(embeddings, source).astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    return 100 * float(values.mean()), 100 * float(values.std())


def person_of(embeddings: FloatArray) -> FloatArray:
    """The unit vector (D) of the mean of many (N D; those with nan are left out); nan if all are."""
    # The mean averages the noise of single frames away; normalised, it is a unit vector again.
    faces = embeddings[np.isfinite(embeddings).all(1)].astype(np.float64)
    if len(faces) == 0:
        return np.full(embeddings.shape[1], np.nan, np.float32)
    mean = faces.mean(0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def identity_similarity(embeddings: FloatArray, source: FloatArray) -> float:
    """Cosine of a result's person and the source's.

    Args:
        embeddings: N D, unit length, nan where a frame has no face.
        source: D of a photo, unit length.

    Returns:
        In [-1, 1]; nan if no frame has a face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    return float(cosines(person_of(embeddings)[None], source)[0])


def identity_kept(result: FloatArray, truth: FloatArray) -> float:
    """D_ID: mean cosine of partner frames.

    Args:
        result, truth: N D, unit length, of the same frames; nan where one has no face.

    Returns:
        In [-1, 1]; nan if no frame has a face in both.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    return average(cosines(result, truth))


def id_retrieve(embeddings: FloatArray, sources: FloatArray, speakers: Sequence[str], speaker: str) -> float:
    """Share of frames whose nearest source shows the right person, in percent.

    Args:
        embeddings: N D of a result's frames, unit length, nan where one has no face.
        sources: S D, unit length, of all source photos.
        speakers: S names, whom each photo shows; a person may be there more than once.
        speaker: whom the result should show.

    Returns:
        nan if no frame has a face.

    Raises:
        TrainingDataError: shapes do not fit, or the right person is not among the sources.
    """
    if sources.ndim != 2 or embeddings.ndim != 2 or sources.shape[1] != embeddings.shape[1]:
        raise TrainingDataError(
            f"embeddings of shape {embeddings.shape} cannot be sought in {sources.shape}", "give those of one network"
        )
    # A person who isn't among the sources could never be retrieved, and would read as a failure of the method.
    if len(speakers) != len(sources) or speaker not in speakers:
        raise TrainingDataError(f"{speaker} is not among the {len(sources)} sources", "give every source of the set")
    faces = embeddings[np.isfinite(embeddings).all(1)]
    if len(faces) == 0:
        return float("nan")
    nearest = (faces.astype(np.float64) @ sources.astype(np.float64).T).argmax(1)  # unit vectors: largest cosine
    return 100 * float(np.mean([speakers[number] == speaker for number in nearest]))
