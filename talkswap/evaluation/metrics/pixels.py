"""Two comparisons of a result's pixels with the truth's: structural similarity and peak signal-to-noise ratio.

SSIM (Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13):

    SSIM = (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2))

Means m, variances s^2 and covariance s_xy are taken under a Gaussian window of 11 px and sigma 1.5; C1 = (0.01 L)^2,
C2 = (0.03 L)^2, L = 255.  All channels have equal weight.  The outermost 5 px, where the window would leave the picture,
are left out.  OpenCV's separable filters compute it several times faster than torchmetrics and scikit-image, which the
test compares it with.

PSNR = 10 log10(255^2 / mean squared error), of all channels together.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Crops, Metric, check_crops, check_pair, sampled
from talkswap.types import FloatArray, UInt8Image

EVERY = 5  # SSIM's stride in frames: neighbours hardly differ
WINDOW = 11  # px
SIGMA = 1.5
MARGIN = WINDOW // 2
LUMINANCE = (0.01 * 255) ** 2
CONTRAST = (0.03 * 255) ** 2
CEILING = 100.0  # dB; one channel of one px that differs by one level in a 320 px crop gives 103 dB

SSIM = Metric(
    key="ssim",
    label="SSIM",
    better="higher",
    about=f"Structural similarity of the aligned crop to the truth, Gaussian window of 11 px, RGB, every {EVERY}th frame",
    needs_truth=True,
    paper="arXiv 2405.05636, tables I, III and V",
)
PSNR = Metric(
    key="psnr",
    label="PSNR",
    better="higher",
    unit="dB",
    about="Error of the aligned crop's pixels against the truth, mean over frames, 100 dB where they are equal",
    needs_truth=True,
    paper="ReSyncer and StyleSync table 1",
)


def frame_ssim(result: UInt8Image, truth: UInt8Image) -> float:
    """SSIM of one picture (H W 3 uint8, both sides at least 11 px) to another."""

    def local_mean(picture: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(picture, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REFLECT), np.float32)

    # A variance is the difference of two large numbers; centring the levels at zero keeps them small enough for float32.
    x, y = result.astype(np.float32) - 128, truth.astype(np.float32) - 128
    mean_x, mean_y = local_mean(x), local_mean(y)
    both, square_x, square_y = mean_x * mean_y, mean_x * mean_x, mean_y * mean_y
    covariance = local_mean(x * y) - both
    variances = local_mean(x * x) + local_mean(y * y) - square_x - square_y
    # The stabilising constants are made for levels from 0 to 255, so the means get their offset back here.
    true_x, true_y = mean_x + 128, mean_y + 128
    # Numerator first, then divide in place: the arrays are as large as the crop.
    likeness = (2 * true_x * true_y + LUMINANCE) * (2 * covariance + CONTRAST)
    likeness /= (true_x * true_x + true_y * true_y + LUMINANCE) * (variances + CONTRAST)
    return float(likeness[MARGIN:-MARGIN, MARGIN:-MARGIN].mean(dtype=np.float64))


def ssim(result: Crops, truth: Crops, every: int = EVERY) -> FloatArray:
    """SSIM of a clip's frames.

    Args:
        result: N S S 3 uint8, S at least 11.
        truth: N S S 3 uint8.
        every: stride in frames.

    Returns:
        N, 1 where the frames are equal; nan on frames that were skipped.

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
    for index, (crop, reference) in enumerate(zip(result, truth, strict=True)):
        # OpenCV sums in double precision and without a temporary array of differences.
        squared = cv2.norm(crop, reference, cv2.NORM_L2SQR) / crop.size
        values[index] = CEILING if squared == 0 else min(10 * np.log10(255.0**2 / squared), CEILING)
    return values
