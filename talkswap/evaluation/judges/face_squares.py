"""The square around a face that SyncNet's protocol cuts: larger than the face, with room under the chin.

Of a face's box with half its longer side h, the protocol's square is 2.8 h wide; it reaches from h above the box's
middle to 1.8 h below it.  Middle and h are medians over 13 frames, missing frames lie on the line between their
neighbours, and what lies beyond the picture is grey.  The protocol's box comes from its own face detector; ours is
that of the mesh's points, which reach from the hairline to the chin as its boxes do.

Cut from whole pictures: an FFHQ-aligned crop ends above the square's lower edge and would leave a grey stripe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import check_landmarks, has_face
from talkswap.types import FloatArray, UInt8Image

MARGIN = 0.4  # of h, on the left, on the right, and twice below
MEDIAN = 13  # frames, odd
GREY = 110  # beyond the picture


def square_places(landmarks: FloatArray) -> NDArray[np.float64]:
    """Where the squares lie.

    Args:
        landmarks: N 478 3 in px of the pictures, nan where no face is.

    Returns:
        N 3: the middle of the face's box, x and y, and h, in px.

    Raises:
        TrainingDataError: no frame has a face, or these are no landmarks.
    """
    check_landmarks(landmarks)
    seen = has_face(landmarks)
    if not seen.any():
        raise TrainingDataError("no frame shows a face", "look at the clip")
    plane = landmarks[seen, :, :2].astype(np.float64)
    low, high = plane.min(1), plane.max(1)
    found = np.column_stack([(low + high) / 2, (high - low).max(1) / 2])
    rows = np.arange(len(landmarks))
    places = np.stack([np.interp(rows, rows[seen], column) for column in found.T], axis=1)
    padded = np.pad(places, ((MEDIAN // 2, MEDIAN // 2), (0, 0)), mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN, axis=0), axis=2))


def cut_square(rgb: UInt8Image, place: NDArray[np.float64], side: int) -> UInt8Image:
    """The face square of a picture.

    Args:
        rgb: H W 3.
        place: x, y and h of :func:`square_places`.
        side: px of the answer.
    """
    x, y, half = (float(value) for value in place)
    wide = 2 * half * (1 + MARGIN)
    left, top = x - wide / 2, y - half
    scale = side / wide
    if scale < 1:  # averaged on the way down; the cut itself keeps the picture's px
        size = max(1, round(wide))
        return np.asarray(cv2.resize(_cut(rgb, left, top, wide, size), (side, side), interpolation=cv2.INTER_AREA))
    return _cut(rgb, left, top, wide, side)


def _cut(rgb: UInt8Image, left: float, top: float, wide: float, side: int) -> UInt8Image:
    scale = side / wide
    matrix = np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])
    cut = cv2.warpAffine(
        rgb, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3
    )
    return np.asarray(cut, np.uint8)


def cut_squares(
    pictures: Iterable[UInt8Image], places: NDArray[np.float64], rows: Sequence[int] | NDArray[np.intp], side: int
) -> Iterator[UInt8Image]:
    """Face squares of chosen pictures, each as often as it is chosen.

    Args:
        pictures: N, in order; taken one by one, those that nobody chose are passed over.
        places: N 3.
        rows: chosen pictures, never falling.
        side: px.

    Raises:
        TrainingDataError: the pictures end before the last chosen one.
    """
    wanted = list(rows)
    done = 0
    for row, rgb in enumerate(pictures):
        if done == len(wanted):
            return
        if wanted[done] != row:
            continue
        square = cut_square(rgb, places[row], side)
        while done < len(wanted) and wanted[done] == row:
            yield square
            done += 1
    if done < len(wanted):
        raise TrainingDataError(f"pictures end before frame {wanted[done]}", "give one picture for each time")
