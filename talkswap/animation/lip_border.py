"""Where the lips of an open mouth really begin, told by colour.

The landmark network puts their borders a few px into the mouth, on teeth or tongue.  What lies between would move with the
lip, and a mouth that the voice shuts would keep a line of teeth.  So the border moves outward: the lower lip's over what
hasn't the lip's colour, the upper lip's, often too thin to tell its colour, over what is as bright as teeth.
"""

from __future__ import annotations

import cv2
import numpy as np

from talkswap.animation.space import LOWER_INNER, UPPER_INNER, move_inner_lips
from talkswap.animation.teeth import toothness
from talkswap.types import FloatArray, UInt8Image

UPPER_OUTER = (185, 40, 39, 37, 0, 267, 269, 270, 409)  # facing UPPER_INNER
LOWER_OUTER = (146, 91, 181, 84, 17, 314, 405, 321, 375)  # facing LOWER_INNER
SAMPLES = 15  # from the inner border to the outer one
SEARCH = 8  # of them are searched from the inner border on; the lip's colour is taken from the rest
LIP, OTHER = 18.0, 42.0  # RGB distance from the lip's colour: surely lip, surely teeth, tongue or the dark
LIKE_LIP, LIKE_TOOTH = (
    25.0,
    60.0,
)  # brighter and less red than the upper lip by so many levels: surely lip, surely teeth
FARTHEST = 0.4  # of the lip's height that the border moves


def true_border(rgb: UInt8Image, landmarks: FloatArray, share: float = 1.0) -> FloatArray:
    """The landmarks (478 3, px) with the inner borders of both lips where their colour begins.

    Args:
        rgb: H W 3 uint8.
        landmarks: 478 3, px, of a mouth that is open.
        share: how much of the way the borders go.
    """
    way, colours = _across(rgb, landmarks, LOWER_INNER, LOWER_OUTER)
    lip = np.median(colours[2:7, SEARCH:-2], (0, 1))  # leaves out glints and the skin around
    lower = _length((np.linalg.norm(colours - lip, axis=2) - LIP) / (OTHER - LIP)) * way
    way, colours = _across(rgb, landmarks, UPPER_INNER, UPPER_OUTER)
    light = toothness(colours)  # 9 SAMPLES
    # somewhere on each way lies the lip: where it's darkest and reddest
    level = np.median(np.sort(light[2:7, 3:], 1)[:, :4].mean(1))
    upper = _length((light - level - LIKE_LIP) / (LIKE_TOOTH - LIKE_LIP)) * way
    return move_inner_lips(landmarks, share * upper, share * lower)


def _across(
    rgb: UInt8Image, landmarks: FloatArray, inner: tuple[int, ...], outer: tuple[int, ...]
) -> tuple[FloatArray, FloatArray]:
    """The ways from a lip's inner border to its outer one (9 3), and the colours along them (9 SAMPLES 3)."""
    start = landmarks[list(inner)].astype(np.float32)
    way = landmarks[list(outer)].astype(np.float32) - start
    steps = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    places = start[:, None, :2] + steps[:, None] * way[:, None, :2]
    colours = cv2.remap(rgb, places[:, :, 0], places[:, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return way, np.asarray(colours, np.float32)


def _length(other: FloatArray) -> FloatArray:
    """How far other things than lip reach from the border (9 1), in shares of the lip's height.

    Args:
        other: 9 SAMPLES, 0 on the lip, 1 beside it.
    """
    # joined to the border: a glint in the middle of the lip isn't
    joined = np.cumprod(np.clip(other[:, :SEARCH], 0, 1), 1).sum(1) / (SAMPLES - 1)
    smooth = cv2.blur(np.minimum(joined, FARTHEST)[:, None].astype(np.float32), (1, 3), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smooth, np.float32)
