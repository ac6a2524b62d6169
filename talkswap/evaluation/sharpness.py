"""Sharpness of the face in a result, in parts of the truth's: what a low-resolution network loses.

The fine detail of a frame is the root mean square of the Laplacian of its luma inside the face's outline, and the
figure is the ratio of two of them.  1 is as sharp as the truth; above 1 is sharpened, or noisy.  It needs a truth of the
same light and framing, which CPBD does not, and in return tells a little loss from none.
"""

from __future__ import annotations

import cv2
import numpy as np

from talkswap.evaluation.arrays import Crops, check_crops, check_landmarks, check_pair, has_face
from talkswap.evaluation.metric import Metric
from talkswap.faces.mesh import FACE_OVAL, ring_mask
from talkswap.types import FloatArray, UInt8Image

METRIC = Metric(
    key="sharpness",
    label="Sharpness",
    better="neither",
    about="Fine detail of the face in parts of the truth's (root mean square of the Laplacian); 1 = as sharp",
    needs_truth=True,
)

LEAST_DETAIL = 1e-3  # levels: a truth without any detail has no ratio


def detail(picture: UInt8Image, mask: FloatArray) -> float:
    """Root mean square of the Laplacian (four neighbours) of a picture's luma under a mask.

    Args:
        picture: S S 3 uint8.
        mask: S S in [0, 1].
    """
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    fine = cv2.Laplacian(luma, cv2.CV_32F, ksize=1)
    return float(np.sqrt((fine * fine * mask).sum() / max(float(mask.sum()), 1e-6)))


def sharpness(result: Crops, truth: Crops, landmarks: FloatArray) -> FloatArray:
    """Sharpness ratio of each frame.

    Args:
        result: N S S 3 uint8.
        truth: N S S 3 uint8.
        landmarks: N 478 3 of the truth, px of the crops, nan where no face is.

    Returns:
        N, nan where there is no face or no detail in the truth.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    check_crops(result)
    check_pair(result, truth)
    check_landmarks(landmarks)
    values = np.full(len(result), np.nan, np.float32)
    for index in np.flatnonzero(has_face(landmarks)):
        mask = ring_mask(landmarks[index], (FACE_OVAL,), truth.shape[1])
        wanted = detail(truth[index], mask)
        if wanted >= LEAST_DETAIL:
            values[index] = detail(result[index], mask) / wanted
    return values
