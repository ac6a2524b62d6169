"""The square around a face that SyncNet's protocol cuts: larger than the face, with room under the chin.

With h half the longer side of a face's box, the protocol's square is 2.8 h wide and reaches from h above the box's middle
to 1.8 h below it.  Middle and h are medians over 13 frames, missing frames are interpolated between their neighbours, and
everything beyond the picture is grey.  The protocol's box comes from its own face detector; ours is the box of the mesh's
points, which reach from the hairline to the chin as those boxes do.

Squares are cut from whole pictures: an FFHQ-aligned crop ends above the square's lower edge and would leave a grey stripe.
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
    """The place of the square in each frame.

    Args:
        landmarks: N 478 3 in px of the pictures, nan where no face is.

    Returns:
        N 3: the middle of the face's box, x and y, and h, in px.

    Raises:
        TrainingDataError: no frame has a face, or these are no landmarks.
    """
    check_landmarks(landmarks)
    faces = has_face(landmarks)
    if not faces.any():
        raise TrainingDataError("no frame shows a face", "check the clip")
    # The protocol's detector gives boxes; the mesh's own extent takes their place.
    points = landmarks[faces, :, :2].astype(np.float64)
    low, high = points.min(1), points.max(1)
    boxes = np.column_stack([(low + high) / 2, (high - low).max(1) / 2])  # x y h
    rows = np.arange(len(landmarks))
    # Lost frames are interpolated before the median, so that it never sees a gap.
    places = np.stack([np.interp(rows, rows[faces], column) for column in boxes.T], axis=1)
    # Repeated ends let the median reach the first and the last frame.
    padded = np.pad(places, ((MEDIAN // 2, MEDIAN // 2), (0, 0)), mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN, axis=0), axis=2))


def cut_square(rgb: UInt8Image, place: NDArray[np.float64], side: int) -> UInt8Image:
    """The face square of a picture.

    Args:
        rgb: H W 3.
        place: x, y and h of :func:`square_places`.
        side: px of the square.
    """
    x, y, half = (float(value) for value in place)
    width = 2 * half * (1 + MARGIN)
    left, top = x - width / 2, y - half
    # A square larger than ``side`` is cut at the picture's own px first and then averaged, so that it doesn't alias.
    size = side if width <= side else max(1, round(width))
    scale = size / width
    matrix = np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])
    square = cv2.warpAffine(
        rgb, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3
    )
    if width > side:
        square = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(square, np.uint8)


def cut_squares(
    pictures: Iterable[UInt8Image], places: NDArray[np.float64], rows: Sequence[int] | NDArray[np.intp], side: int
) -> Iterator[UInt8Image]:
    """Face squares of chosen pictures, each as often as it is chosen.

    Args:
        pictures: N, in order; read one by one, pictures that aren't chosen are skipped.
        places: N 3.
        rows: numbers of the chosen pictures, in ascending order.
        side: px.

    Raises:
        TrainingDataError: the pictures end before the last chosen one.
    """
    choice = list(rows)
    done = 0
    for row, rgb in enumerate(pictures):
        if done == len(choice):
            return
        if choice[done] != row:
            continue
        square = cut_square(rgb, places[row], side)
        while done < len(choice) and choice[done] == row:
            yield square
            done += 1
    if done < len(choice):
        raise TrainingDataError(f"pictures end before frame {choice[done]}", "give one picture for each time")
