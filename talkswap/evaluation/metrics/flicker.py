"""Flicker: by how much more a result's face changes from frame to frame than the truth's, where nothing moves.

Both are looked at in the truth's aligned crops, so that the head's travel is gone, on the face above and beside the
mouth: lips and chin are meant to move otherwise.  Of that skin only the quieter half counts in each step, judged by the
truth's own change in cells of 8 px (a cell's mean sees motion and hardly sees noise, so that choosing by it does not
choose the truth's luckiest px).  There

    flicker = sum_t sum_px |result_t - result_t-1| / sum_t sum_px |truth_t - truth_t-1|

1 is as calm as the truth, below is smoother (often merely blurred), above flickers.  It is given frames that follow each
other, none left out.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.evaluation.metrics.metric import (
    Crops,
    Metric,
    check_crops,
    check_landmarks,
    check_pair,
    has_face,
    sampled,
)
from talkswap.faces.mesh import FACE_OVAL, OUTER_LIPS, ring_mask
from talkswap.faces.track import CutFinder, TrackConfig
from talkswap.types import FloatArray, UInt8Image

FLICKER = Metric(
    key="flicker",
    label="Flicker",
    better="neither",
    about="Frame-to-frame change of still skin in parts of the truth's; 1 = as calm",
    needs_truth=True,
)

CELL = 8  # px, side of the squares in which the truth's own motion is judged
MOUTH = 1.9  # times the lips' size: what speech moves around them
COVERED = 0.99  # share of a cell that has to be skin
LEAST_CELLS = 8
FLOOR = 0.05  # levels: a truth that changes less is a standing picture


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
    hull = cv2.convexHull(np.round((lips - middle) * MOUTH + middle).astype(np.int32))
    cv2.fillConvexPoly(face, hull, 0.0)
    face[max(int(lips[:, 1].min()) - 2, 0) :] = 0
    return _cells(face) > COVERED


def _cells(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over cells: H W to H // CELL W // CELL; what is left over at right and bottom does not count."""
    rows, columns = (side // CELL for side in picture.shape)
    cut = picture[: rows * CELL, : columns * CELL]
    return np.asarray(cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)


def _box(skin: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of cells around the skin: the rest of the crop need not be looked at."""
    rows, columns = np.flatnonzero(skin.any(1)), np.flatnonzero(skin.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _steps(before: UInt8Image, after: UInt8Image, box: tuple[slice, slice]) -> NDArray[np.float32]:
    """Change in levels of the px in a box of cells: H W 3."""
    rows, columns = (slice(side.start * CELL, side.stop * CELL) for side in box)
    return np.asarray(cv2.subtract(after[rows, columns], before[rows, columns], dtype=cv2.CV_32F), np.float32)


def _grey(step: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.transform(step, np.full((1, 3), 1 / 3, np.float32)), np.float32)


def _is_cut(before: UInt8Image, after: UInt8Image) -> bool:
    is_cut = CutFinder(TrackConfig())
    is_cut(before)
    return is_cut(after)


def changes(result: Crops, truth: Crops, landmarks: FloatArray, every: int = 1) -> FloatArray:
    """Change of still skin from each frame to the next.

    Args:
        result: N S S 3 uint8, frames that follow each other.
        truth: N S S 3 uint8, the same frames.
        landmarks: N 478 3 of the truth, px of the crops, nan where no face is.
        every: which steps are looked at.

    Returns:
        (N - 1) 2: mean change in levels of the result and of the truth; nan at steps that were not looked at, where
        one of the two frames has no face, across a shot cut, and where hardly any skin is seen.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    check_crops(result)
    check_pair(result, truth)
    check_landmarks(landmarks)
    measured = np.full((max(len(result) - 1, 0), 2), np.nan, np.float32)
    known = has_face(landmarks)
    size = truth.shape[1]
    last: tuple[int, NDArray[np.bool_]] | None = None  # the skin of a frame that two steps share
    for step in sampled(len(measured), every):
        if not (known[step] and known[step + 1]) or _is_cut(truth[step], truth[step + 1]):
            continue
        before = last[1] if last is not None and last[0] == step else still_skin(landmarks[step], size)
        last = step + 1, still_skin(landmarks[step + 1], size)
        skin = before & last[1]
        if int(skin.sum()) < LEAST_CELLS:
            continue
        box = _box(skin)
        skin = skin[box]
        wanted = _steps(truth[step], truth[step + 1], box)
        made = _steps(result[step], result[step + 1], box)
        moved = np.abs(_cells(_grey(wanted)))
        quiet = skin & (moved <= np.median(moved[skin]))
        measured[step] = [_cells(_grey(np.abs(change)))[quiet].mean() for change in (made, wanted)]
    return measured


def flicker(result: Crops, truth: Crops, landmarks: FloatArray, every: int = 1) -> float:
    """Flicker of a clip; arguments and errors are those of :func:`changes`.

    Returns:
        Ratio of the result's change to the truth's; nan where nothing could be measured or the truth stands still.
    """
    measured = changes(result, truth, landmarks, every)
    measured = measured[np.isfinite(measured).all(1)]
    if not len(measured):
        return float("nan")
    made, wanted = measured.astype(np.float64).mean(0)
    return float(made / wanted) if wanted >= FLOOR else float("nan")
