"""Landmark distance: how far the face's points, and the mouth's, lie from where the truth has them.

    LMD = 1/(T P) sum_t sum_p |result_tp - truth_tp|        (Chen et al. 2018), x and y only

SwapTalk aligns faces as FFHQ does and takes the mouth's points; its tables call that LMD, and here it is **LMD-m**: 20
points of the lips, each face's mouth brought to a common middle first, so that the figure tells shape and not place.
**LMD** is over all 68 points as they lie in the crop.  Both are px of the paper's 320 px crop: the crop is cut by the
truth's landmarks, so faces of every size in the picture count alike, and crops of another size are scaled.

The papers state neither scale nor centring, so figures of ours and of theirs tell the order of methods, not a distance
between papers.  WavSyncSwap's table 1 has both columns; the row that SwapTalk's table I takes from it (3.161) is that
paper's LMD, although SwapTalk's own text speaks of the mouth.
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
    paper="SwapTalk tables I, III and V, there called LMD; WavSyncSwap table 1",
)

MOUTH_OF_68 = MESH_OF_68[48:]  # outer lips, then inner


def _distances(result: FloatArray, truth: FloatArray, points: tuple[int, ...], size: int, centred: bool) -> FloatArray:
    check_landmarks(result)
    check_pair(result, truth)
    if size < 1:
        raise TrainingDataError(f"a crop of {size} px holds no landmarks", "give the side of the crops in px")
    chosen = list(points)
    made = result[:, chosen, :2].astype(np.float64)
    wanted = truth[:, chosen, :2].astype(np.float64)
    if centred:
        made, wanted = made - made.mean(1, keepdims=True), wanted - wanted.mean(1, keepdims=True)
    apart: NDArray[np.float64] = np.linalg.norm(made - wanted, axis=2).mean(1)
    return np.asarray(apart * (PAPER_SIZE / size), np.float32)


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
    """LMD-m of each frame, over the lips' 20 points, both mouths brought to a common middle.

    Arguments, answer and errors are those of :func:`landmark_distance`.
    """
    return _distances(result, truth, MOUTH_OF_68, size, centred=True)
