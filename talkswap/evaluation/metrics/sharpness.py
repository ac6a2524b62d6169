"""How sharp a result's face is: in parts of the truth's, and by itself.

*Sharpness* shows what a low-resolution network loses.  The fine detail of a frame is the root mean square of the
Laplacian of its luma inside the face's outline; the figure is the ratio of the result's to the truth's.  1 is as sharp
as the truth, above 1 is sharpened or noisy.  It needs a truth of the same light and framing, and in return tells a small
loss from none.

*CPBD*, the cumulative probability of blur detection (Narvekar and Karam 2011), needs no truth.  In each block of 64 px
with enough edges, the width of each edge gives the probability that a viewer notices its blur; the figure is the share
of edges below the just noticeable one.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Crops, Metric, check_clip, check_crops, has_face, sampled
from talkswap.faces.mesh import FACE_OVAL, ring_mask
from talkswap.types import FloatArray, UInt8Image

EVERY = 5  # CPBD's stride in frames: blur changes slowly

SHARPNESS = Metric(
    "sharpness", "Sharpness", "neither", needs_truth=True,
    about="Fine detail of the face in parts of the truth's (root mean square of the Laplacian); 1 = as sharp",
)  # fmt: skip
CPBD = Metric(
    "cpbd", "CPBD", "higher", paper="arXiv 2405.05636, table I, WavSyncSwap table 1",
    about=f"Share of the aligned crop's edges that look sharp, on every {EVERY}th frame",
)  # fmt: skip

LEAST_DETAIL = 1e-3  # levels: the ratio to a truth without detail means nothing
BLOCK = 64  # px
EDGE_SHARE = 0.002  # of a block's px, above which it has edges to judge
BETA = 3.6
CONTRAST = 50.0  # levels
WIDTH_LOW, WIDTH_HIGH = 5.0, 3.0  # px: just noticeable blur at a contrast up to CONTRAST, and above
JUST_NOTICED = 63  # percent
SOBEL_UNIT = 8.0  # sum of the filter's absolute weights, which the threshold takes as one
SOBEL_FACTOR = 2.0  # of the root mean square of the response
CANNY_SIGMA = 2**0.5
CANNY_QUIET = 0.7  # share of px below the upper threshold
CANNY_LOWER = 0.4  # of the upper threshold
SECTOR = 45.0  # degrees: gradients are sorted into eight directions


def detail(picture: UInt8Image, mask: FloatArray) -> float:
    """Root mean square of the Laplacian (four neighbours) of a picture's luma under a mask.

    Args:
        picture: S S 3 uint8.
        mask: S S in [0, 1].
    """
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    # In floats: the Laplacian is negative on one side of every edge.
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
    check_clip(result, truth, landmarks)
    values = np.full(len(result), np.nan, np.float32)
    for index in np.flatnonzero(has_face(landmarks)):
        mask = ring_mask(landmarks[index], (FACE_OVAL,), truth.shape[1])
        # A flat truth has no detail to lose, and a ratio to nearly zero would rule the average.
        reference = detail(truth[index], mask)
        if reference >= LEAST_DETAIL:
            values[index] = detail(result[index], mask) / reference
    return values


def edge_widths(luma: UInt8Image) -> NDArray[np.int32]:
    """Width of the edge at each px, 0 where there is none.

    Args:
        luma: H W uint8.

    Returns:
        H W, px between the local extrema along the row.
    """
    # Only upright edges are measured, since widths are counted along rows.
    response = cv2.Sobel(luma, cv2.CV_32F, 1, 0) / np.float32(SOBEL_UNIT)
    strength = np.square(response)
    edge = strength > SOBEL_FACTOR * np.sqrt(float(strength.mean(dtype=np.float64)))
    # Thin the edges: keep a px only if nothing beside it, or above and below, is stronger.
    peak = np.zeros_like(edge)
    peak[:, 1:-1] = (strength[:, 1:-1] > strength[:, :-2]) & (strength[:, 1:-1] >= strength[:, 2:])
    peak[1:-1] |= (strength[1:-1] > strength[:-2]) & (strength[1:-1] > strength[2:])
    # The gradient's direction must be along the row, to the left or to the right.
    down, right = np.gradient(luma.astype(np.float32))
    sector = np.rint(np.degrees(np.arctan2(down, right)) / SECTOR)
    edge &= peak & ((sector == 0) | (np.abs(sector) == 4))
    edge[[0, -1]] = False  # the filter invents neighbours there
    # An edge's width is the length of the monotonic run of levels through it.
    step = np.diff(luma.astype(np.int16), axis=1)
    widths = np.where(right > 0, run_lengths(step > 0), run_lengths(step < 0))
    return np.asarray(np.where(edge, widths, 0), np.int32)


def run_lengths(steps: NDArray[np.bool_]) -> NDArray[np.int32]:
    """H W: the length of the unbroken run through each px, from H (W - 1) steps that go one way or not."""

    def before(holds: NDArray[np.bool_]) -> NDArray[np.int32]:  # steps in a row that hold, up to and with each
        place = np.arange(1, holds.shape[1] + 1, dtype=np.int32)
        last_break = np.maximum.accumulate(np.where(holds, np.int32(0), place), axis=1)
        return np.asarray(place - last_break, np.int32)

    left = np.pad(before(steps), ((0, 0), (1, 0)))
    right = np.pad(before(steps[:, ::-1])[:, ::-1], ((0, 0), (0, 1)))
    return left + right


def canny_edges(luma: UInt8Image) -> NDArray[np.bool_]:
    """H W: Canny's edges of a luma picture (H W uint8), thresholds from its own gradients."""
    smooth = cv2.GaussianBlur(luma.astype(np.float32), (0, 0), CANNY_SIGMA)
    # OpenCV's Canny takes gradients as 16-bit integers; eighths of a level keep the precision.
    unit = 8.0
    along = np.rint(cv2.Sobel(smooth, cv2.CV_32F, 1, 0) * unit).astype(np.int16)
    across = np.rint(cv2.Sobel(smooth, cv2.CV_32F, 0, 1) * unit).astype(np.int16)
    size = np.hypot(along.astype(np.float32), across.astype(np.float32))
    # MATLAB's rule, which the published figures follow: thresholds come from the picture's own gradients.
    upper = float(np.partition(size, int(CANNY_QUIET * size.size), axis=None)[int(CANNY_QUIET * size.size)])
    if upper <= 0:
        upper = float(size.max()) / 2  # most of the picture is even, so the rest is an edge
    if upper <= 0:
        return np.zeros(luma.shape, bool)
    return np.asarray(cv2.Canny(along, across, CANNY_LOWER * upper, upper, L2gradient=True) > 0)


def frame_cpbd(picture: UInt8Image) -> float:
    """CPBD of one picture (H W 3 uint8, RGB); nan where no block has an edge, as in an even picture."""
    luma = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    widths, edges = edge_widths(luma), canny_edges(luma)
    sharp = total = 0
    for top in range(0, luma.shape[0] - BLOCK + 1, BLOCK):
        for left in range(0, luma.shape[1] - BLOCK + 1, BLOCK):
            block = slice(top, top + BLOCK), slice(left, left + BLOCK)
            if int(edges[block].sum()) <= EDGE_SHARE * BLOCK * BLOCK:
                continue
            width = widths[block]
            width = width[width > 0]
            contrast = int(luma[block].max()) - int(luma[block].min())
            # The eye notices blur sooner at strong contrast.
            noticed = WIDTH_LOW if contrast <= CONTRAST else WIDTH_HIGH
            # The psychometric function; an edge of just the noticeable width gives 63 percent.
            probability = 1 - np.exp(-((width / noticed) ** BETA))
            sharp += int((np.rint(100 * probability) <= JUST_NOTICED).sum())
            total += len(width)
    return sharp / total if total else float("nan")


def cpbd(crops: Crops, every: int = EVERY) -> FloatArray:
    """CPBD of a clip's frames.

    Args:
        crops: N S S 3 uint8, S at least 64.
        every: stride in frames.

    Returns:
        N, nan on frames that were skipped and where there is no edge.

    Raises:
        TrainingDataError: these are no crops, or they are smaller than a block.
    """
    check_crops(crops)
    if crops.shape[1] < BLOCK:
        raise TrainingDataError(
            f"crops of {crops.shape[1]} px are smaller than a block of CPBD", f"give crops of at least {BLOCK} px"
        )
    values = np.full(len(crops), np.nan, np.float32)
    for index in sampled(len(crops), every):
        values[index] = frame_cpbd(crops[index])
    return values
