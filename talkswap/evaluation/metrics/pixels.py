"""Three comparisons of a result's pixels with the truth's: SSIM, PSNR and flicker.

Structural similarity, SSIM (Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13):

    SSIM = (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2))

Means m, variances s^2 and covariance s_xy are taken under a Gaussian window of 11 px and sigma 1.5; C1 = (0.01 L)^2,
C2 = (0.03 L)^2, L = 255.  All channels have equal weight.  The outermost 5 px, where the window would leave the picture,
are left out.  OpenCV's separable filters compute it several times faster than torchmetrics and scikit-image, which the
test compares it with.

PSNR = 10 log10(255^2 / mean squared error), of all channels together.

Flicker is how much more a result's face changes from frame to frame than the truth's, where nothing moves.  Both are
compared in the truth's aligned crops, which removes the motion of the head, on the face above and beside the mouth: lips
and chin are meant to move differently.  In each step only the quieter half of that skin counts, judged by the truth's
own change in cells of 8 px.  (A cell's mean shows motion and hardly any noise, so this choice doesn't favour the px where
the truth happens to be quiet.)  There

    flicker = sum_t sum_px |result_t - result_t-1| / sum_t sum_px |truth_t - truth_t-1|

1 is as calm as the truth, below is smoother (often just blurred), above flickers.  It needs consecutive frames.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Crops, Metric, check_clip, check_crops, check_pair, has_face, sampled
from talkswap.faces.mesh import FACE_OVAL, OUTER_LIPS, ring_mask
from talkswap.faces.track import CutFinder, TrackConfig
from talkswap.types import FloatArray, UInt8Image

EVERY = 5  # SSIM's stride in frames: neighbours hardly differ
WINDOW = 11  # px
SIGMA = 1.5
MARGIN = WINDOW // 2
LUMINANCE = (0.01 * 255) ** 2
CONTRAST = (0.03 * 255) ** 2
CEILING = 100.0  # dB; one channel of one px that differs by one level in a 320 px crop gives 103 dB

CELL = 8  # px, side of the squares in which the truth's own motion is judged
MOUTH = 1.9  # times the lips' size: what speech moves around them
COVERED = 0.99  # share of a cell that must be skin
LEAST_CELLS = 8
FLOOR = 0.05  # levels: a truth that changes less is a still

SSIM = Metric(
    "ssim", "SSIM", "higher", needs_truth=True, paper="arXiv 2405.05636, tables I, III and V",
    about=f"Structural similarity of the aligned crop to the truth, Gaussian window of 11 px, RGB, every {EVERY}th frame",
)  # fmt: skip
PSNR = Metric(
    "psnr", "PSNR", "higher", unit="dB", needs_truth=True, paper="ReSyncer and StyleSync table 1",
    about="Error of the aligned crop's pixels against the truth, mean over frames, 100 dB where they are equal",
)  # fmt: skip
FLICKER = Metric(
    "flicker", "Flicker", "neither", needs_truth=True,
    about="Frame-to-frame change of still skin in parts of the truth's; 1 = as calm",
)  # fmt: skip


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


def still_skin(landmarks: FloatArray, size: int) -> NDArray[np.bool_]:
    """Cells of a crop that show the face, but neither the mouth's surroundings nor what lies below the lips' top.

    Args:
        landmarks: 478 3, px of the crop.
        size: side of the crop, px.

    Returns:
        G G with G = size // CELL.
    """
    face = ring_mask(landmarks, (FACE_OVAL,), size)
    lips = np.asarray(landmarks[list(OUTER_LIPS), :2], np.float32)
    middle = lips.mean(0)
    # The mouth's surroundings move with speech: cut a hull around the enlarged lips out of the face.
    # Everything below the lips' top goes too, since the chin follows the jaw.
    hull = cv2.convexHull(np.round((lips - middle) * MOUTH + middle).astype(np.int32))
    cv2.fillConvexPoly(face, hull, 0.0)
    face[max(int(lips[:, 1].min()) - 2, 0) :] = 0
    return cell_means(face) > COVERED


def cell_means(picture: NDArray[np.integer | np.floating]) -> NDArray[np.float32]:
    """Mean over cells: H W to H // CELL W // CELL; a rest at the right and bottom is cut off."""
    rows, columns = (side // CELL for side in picture.shape)
    cut = picture[: rows * CELL, : columns * CELL]
    return np.asarray(cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)


def change_between(before: UInt8Image, after: UInt8Image) -> NDArray[np.float32]:
    """H W 3: change in levels from one picture to the next."""
    return np.asarray(cv2.subtract(after, before, dtype=cv2.CV_32F), np.float32)


def is_cut(before: UInt8Image, after: UInt8Image) -> bool:
    """Whether another shot begins with the second picture."""
    finder = CutFinder(TrackConfig())
    finder(before)
    return finder(after)


def changes(result: Crops, truth: Crops, landmarks: FloatArray, every: int = 1) -> FloatArray:
    """Change of still skin from each frame to the next.

    Args:
        result: N S S 3 uint8, frames that follow each other.
        truth: N S S 3 uint8, the same frames.
        landmarks: N 478 3 of the truth, px of the crops, nan where no face is.
        every: stride in steps.

    Returns:
        (N - 1) 2: mean change in levels of the result and of the truth; nan at steps that were skipped, where one
        of the two frames has no face, across a shot cut, and where hardly any skin is visible.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    check_clip(result, truth, landmarks)
    measured = np.full((max(len(result) - 1, 0), 2), np.nan, np.float32)
    faces = has_face(landmarks)
    grey = np.full((1, 3), 1 / 3, np.float32)  # weights of the channels
    size = truth.shape[1]
    # Neighbouring steps share a frame, so its skin is computed once.
    last: tuple[int, NDArray[np.bool_]] | None = None
    for step in sampled(len(measured), every):
        if not (faces[step] and faces[step + 1]) or is_cut(truth[step], truth[step + 1]):
            continue
        before = last[1] if last is not None and last[0] == step else still_skin(landmarks[step], size)
        last = step + 1, still_skin(landmarks[step + 1], size)
        skin = before & last[1]
        if int(skin.sum()) < LEAST_CELLS:
            continue
        # Only the box of cells around the skin is compared: the face is a small part of the crop.
        box = tuple(
            slice(int(cells[0]), int(cells[-1]) + 1) for cells in map(np.flatnonzero, (skin.any(1), skin.any(0)))
        )
        skin = skin[box]
        pixels = tuple(slice(side.start * CELL, side.stop * CELL) for side in box)
        own, reference = (change_between(clip[step][pixels], clip[step + 1][pixels]) for clip in (result, truth))
        # The truth's own motion decides which half of the skin is quiet; the result has no say in it.
        motion = np.abs(cell_means(cv2.transform(reference, grey)))
        quiet = skin & (motion <= np.median(motion[skin]))
        measured[step] = [cell_means(cv2.transform(np.abs(change), grey))[quiet].mean() for change in (own, reference)]
    return measured


def flicker(result: Crops, truth: Crops, landmarks: FloatArray, every: int = 1) -> float:
    """Flicker of a clip; arguments and errors are those of :func:`changes`.

    Returns:
        Ratio of the result's change to the truth's; nan if nothing could be measured or the truth is a still.
    """
    measured = changes(result, truth, landmarks, every)
    measured = measured[np.isfinite(measured).all(1)]
    if not len(measured):
        return float("nan")
    own, reference = measured.astype(np.float64).mean(0)
    return float(own / reference) if reference >= FLOOR else float("nan")
