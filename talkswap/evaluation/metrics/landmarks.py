"""Landmark distance: how far the points of the face, and of the mouth, lie from the truth's.

    LMD = 1/(T P) sum_t sum_p |result_tp - truth_tp|        (Chen et al. 2018), x and y only

SwapTalk aligns faces as FFHQ does and takes the mouth's points; its tables call that LMD.  Here it is **LMD-m**: the 20
points of the lips, with both mouths centred first, so that the figure measures shape and not position.  **LMD** is over
all 68 points as they lie in the crop.  Both are in px of the paper's 320 px crop.  The truth's landmarks place the crop,
so a face's size in the picture doesn't matter, and crops of another size are scaled.

The papers state neither scale nor centring, so compare the order of methods between papers, not the figures.
WavSyncSwap's table 1 has both columns; the row that SwapTalk's table I takes from it (3.161) is that paper's LMD,
although SwapTalk's own text speaks of the mouth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import PAPER_SIZE, Metric, check_landmarks, check_pair
from talkswap.faces.insightface import MESH_OF_68
from talkswap.types import FloatArray

LMD = Metric(
    key="lmd",
    label="LMD",
    better="lower",
    unit="px",
    about="Distance of 68 landmarks from the truth's in the aligned 320 px crop",
    needs_truth=True,
    paper="WavSyncSwap table 1",
)
LMD_MOUTH = Metric(
    key="lmd_m",
    label="LMD-m",
    better="lower",
    unit="px",
    about="Distance of the mouth's 20 landmarks from the truth's in the aligned 320 px crop, mouths centred",
    needs_truth=True,
    paper="arXiv 2405.05636, tables I, III and V, there called LMD; WavSyncSwap table 1",
)

MOUTH_OF_68 = MESH_OF_68[48:]  # outer lips, then inner


def _distances(result: FloatArray, truth: FloatArray, points: tuple[int, ...], size: int, centred: bool) -> FloatArray:
    check_landmarks(result)
    check_pair(result, truth)
    if size < 1:
        raise TrainingDataError(f"a crop of {size} px holds no landmarks", "give the side of the crops in px")
    first, second = (face[:, list(points), :2].astype(np.float64) for face in (result, truth))  # N P 2
    # Centring removes the position of the mouth, which the head's pose decides.
    if centred:
        first, second = (face - face.mean(1, keepdims=True) for face in (first, second))
    distances: NDArray[np.float64] = np.linalg.norm(first - second, axis=2).mean(1)
    return np.asarray(distances * (PAPER_SIZE / size), np.float32)


def landmark_distance(result: FloatArray, truth: FloatArray, size: int) -> FloatArray:
    """LMD of each frame, over 68 points.

    Args:
        result: N 478 3, px of the truth's crop, nan where no face is.
        truth: N 478 3, px of the same crop.
        size: side of that crop, px.

    Returns:
        N, px of a 320 px crop; nan where either has no face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    return _distances(result, truth, MESH_OF_68, size, centred=False)


def mouth_distance(result: FloatArray, truth: FloatArray, size: int) -> FloatArray:
    """LMD-m of each frame, over the lips' 20 points, both mouths centred.

    Arguments, answer and errors are those of :func:`landmark_distance`.
    """
    return _distances(result, truth, MOUTH_OF_68, size, centred=True)
