"""Where the lower lip of an open mouth really begins, told by colour.

The landmark network puts the lower lip's border a few px into the mouth, on lower teeth or tongue.  What lies between would
move with the lip, and a mouth that the voice shuts would keep a line of teeth.  So the border moves outward, over what hasn't
the lip's colour.  Upper lips are often too thin to tell their colour, and the network finds them well.
"""

from __future__ import annotations

import cv2
import numpy as np

from talkswap.animation.space import LOWER_INNER, move_inner_lips
from talkswap.types import FloatArray, UInt8Image

LOWER_OUTER = (146, 91, 181, 84, 17, 314, 405, 321, 375)  # facing LOWER_INNER
SAMPLES = 15  # from the inner border to the outer one
SEARCH = 8  # of them are searched from the inner border on; the lip's colour is taken from the rest
LIP, OTHER = 18.0, 42.0  # RGB distance from the lip's colour: surely lip, surely teeth, tongue or the dark
FARTHEST = 0.4  # of the lip's height that the border moves


def true_border(rgb: UInt8Image, landmarks: FloatArray, share: float = 1.0) -> FloatArray:
    """The landmarks (478 3, px) with the lower lip's inner border where its colour begins.

    Args:
        rgb: H W 3 uint8.
        landmarks: 478 3, px, of a mouth that is open.
        share: how much of the way the border goes.
    """
    inner = landmarks[list(LOWER_INNER)].astype(np.float32)
    way = landmarks[list(LOWER_OUTER)].astype(np.float32) - inner  # 9 3
    steps = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    places = inner[:, None, :2] + steps[:, None] * way[:, None, :2]  # 9 SAMPLES 2
    colours = cv2.remap(
        rgb, places[:, :, 0], places[:, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)  # 9 SAMPLES 3
    lip = np.median(colours[2:7, SEARCH:-2], (0, 1))  # leaves out glints and the skin around
    distance = np.linalg.norm(colours[:, :SEARCH] - lip, axis=2)
    other = np.clip((distance - LIP) / (OTHER - LIP), 0, 1)
    # joined to the border: a glint in the middle of the lip isn't
    length = np.minimum(np.cumprod(other, 1).sum(1) / (SAMPLES - 1), FARTHEST)  # shares of the lip's height
    smooth = cv2.blur(length[:, None].astype(np.float32), (1, 3), borderType=cv2.BORDER_REPLICATE)
    return move_inner_lips(landmarks, np.zeros_like(way), share * smooth * way)
