"""ID Retrieve: is the right person the nearest of all sources?

    ID Retrieve = share of a result's frames whose nearest source among all is one of the right person (top 1)

in percent.  The mean over pairs is the table's figure.  The more sources there are, the harder it is: figures over
different numbers of sources cannot be compared, so a report states how many there were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metric import Metric
from talkswap.evaluation.recognition import EVERY
from talkswap.types import FloatArray

METRIC = Metric(
    key="id_retrieve",
    label="ID Retrieve",
    better="higher",
    unit="%",
    about=f"Share of frames, every {EVERY}th, whose nearest source among all sources shows the right person",
    network="identity",
    paper="SwapTalk tables I, II, IV and VI; WavSyncSwap table 2",
)


def id_retrieve(embeddings: FloatArray, sources: FloatArray, speakers: Sequence[str], speaker: str) -> float:
    """Share of frames that find their person, in percent.

    Args:
        embeddings: N D of a result's frames, unit length, nan where one has no face.
        sources: S D, unit length, of all source photos.
        speakers: S names, who each photo shows; a person may be there more than once.
        speaker: whom the result should show.

    Returns:
        nan where no frame has a face.

    Raises:
        TrainingDataError: shapes do not fit, or the right person is not among the sources.
    """
    if sources.ndim != 2 or embeddings.ndim != 2 or sources.shape[1] != embeddings.shape[1]:
        raise TrainingDataError(
            f"embeddings of shape {embeddings.shape} cannot be sought in {sources.shape}", "give those of one network"
        )
    if len(speakers) != len(sources) or speaker not in speakers:
        raise TrainingDataError(f"{speaker} is not among the {len(sources)} sources", "give every source of the set")
    known = embeddings[np.isfinite(embeddings).all(1)]
    if len(known) == 0:
        return float("nan")
    nearest = (known.astype(np.float64) @ sources.astype(np.float64).T).argmax(1)
    return 100 * float(np.mean([speakers[number] == speaker for number in nearest]))
