"""Peak signal-to-noise ratio: how far a result's pixels lie from the truth's, on a logarithmic scale.

    PSNR = 10 log10(255^2 / MSE)        MSE over all pixels and the three channels of one frame

A table's figure is the mean over frames.  A frame equal to the truth has no finite value; it counts as ``CEILING``,
so that one untouched frame does not make a whole clip's mean infinite.
"""

from __future__ import annotations

import cv2
import numpy as np

from talkswap.evaluation.arrays import Crops, check_crops, check_pair
from talkswap.evaluation.metric import Metric
from talkswap.types import FloatArray

METRIC = Metric(
    key="psnr",
    label="PSNR",
    better="higher",
    unit="dB",
    about="Error of the aligned crop's pixels against the truth, mean over frames, 100 dB where they are equal",
    needs_truth=True,
    paper="ReSyncer and StyleSync table 1",
)

CEILING = 100.0  # dB; a single level off in one channel of one px of a 320 px crop is 103 dB


def psnr(result: Crops, truth: Crops) -> FloatArray:
    """PSNR of each frame.

    Args:
        result: N S S 3 uint8.
        truth: N S S 3 uint8.

    Returns:
        N, dB, at most ``CEILING``.

    Raises:
        TrainingDataError: the two differ in shape, or are no crops.
    """
    check_crops(result)
    check_pair(result, truth)
    values = np.empty(len(result), np.float32)
    for index, (made, wanted) in enumerate(zip(result, truth, strict=True)):
        squared = cv2.norm(made, wanted, cv2.NORM_L2SQR) / made.size
        values[index] = CEILING if squared == 0 else min(10 * np.log10(255.0**2 / squared), CEILING)
    return values
