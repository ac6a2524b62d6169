"""Structural similarity of a result to the truth (Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13).

    SSIM = (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2))

Means m, variances s^2 and covariance s_xy are taken under a Gaussian window of 11 px and sigma 1.5; C1 = (0.01 L)^2,
C2 = (0.03 L)^2, L = 255.  Each channel counts alike; the outermost 5 px, where the window would leave the picture, do
not count.  OpenCV's separable filters do the work; torchmetrics and scikit-image, which check this file in its test,
need several times as long for the same number.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Crops, Metric, check_crops, check_pair, sampled
from talkswap.types import FloatArray, UInt8Image

EVERY = 5  # frames between two that are looked at: neighbours hardly differ
SSIM = Metric(
    key="ssim",
    label="SSIM",
    better="higher",
    about=f"Structural similarity of the aligned crop to the truth, Gaussian window of 11 px, RGB, every {EVERY}th frame",
    needs_truth=True,
    paper="SwapTalk tables I, III and V",
)

WINDOW = 11  # px
SIGMA = 1.5
MARGIN = WINDOW // 2
LUMINANCE = (0.01 * 255) ** 2
CONTRAST = (0.03 * 255) ** 2


def _local_mean(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(picture, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REFLECT), np.float32)


def frame_ssim(result: UInt8Image, truth: UInt8Image) -> float:
    """SSIM of one picture (H W 3 uint8, both sides at least 11 px) to another."""
    # Centred at zero: variances are differences of large numbers, and float32 keeps more of them that way.
    x, y = result.astype(np.float32) - 128, truth.astype(np.float32) - 128
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    both, square_x, square_y = mean_x * mean_y, mean_x * mean_x, mean_y * mean_y
    covariance = _local_mean(x * y) - both
    variances = _local_mean(x * x) + _local_mean(y * y) - square_x - square_y
    true_x, true_y = mean_x + 128, mean_y + 128  # the luminance term is of the levels themselves
    likeness = (2 * true_x * true_y + LUMINANCE) * (2 * covariance + CONTRAST)
    likeness /= (true_x * true_x + true_y * true_y + LUMINANCE) * (variances + CONTRAST)
    return float(likeness[MARGIN:-MARGIN, MARGIN:-MARGIN].mean(dtype=np.float64))


def ssim(result: Crops, truth: Crops, every: int = EVERY) -> FloatArray:
    """SSIM of frames of a clip.

    Args:
        result: N S S 3 uint8, S at least 11.
        truth: N S S 3 uint8.
        every: which frames are looked at.

    Returns:
        N, 1 where the frames are equal; nan on frames that were not looked at.

    Raises:
        TrainingDataError: the two differ in shape, or are no crops, or smaller than the window.
    """
    check_crops(result)
    check_pair(result, truth)
    if result.shape[1] < WINDOW:
        raise TrainingDataError(
            f"crops of {result.shape[1]} px are smaller than the window of SSIM", f"give crops of at least {WINDOW} px"
        )
    values = np.full(len(result), np.nan, np.float32)
    for index in sampled(len(result), every):
        values[index] = frame_ssim(result[index], truth[index])
    return values


# --- Peak signal-to-noise ratio: how far a result's pixels lie from the truth's, on a logarithmic scale.


PSNR = Metric(
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
