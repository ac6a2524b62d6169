"""Fine detail that a small code cannot carry, taken from the picture it describes.

A compact VQGAN keeps shapes and colours and loses pores, lashes and single hairs.  Where the result should look as
the guide does (the source's own skin, laid on the target's face) or as the target does (no swap), the two
are joined by frequency, as in multi-band blending (Burt and Adelson, 1983): what is coarser than ``sigma`` from the
networks, what is finer from the picture.  Where speech has moved the face, the networks' answer stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from talkswap.types import FloatArray, UInt8Image

_LIGHT = np.array([[0.299, 0.587, 0.114]], np.float32)  # Rec. 601 luma


@dataclass(frozen=True)
class DetailConfig:
    """Where the bands meet."""

    sigma: float = 3.0  # px of a 320 px crop: detail finer than this comes from the picture
    strength: float = 1.0  # share of it; 0 switches it off
    tint: float = 1.0  # share of the coarser bands' colour, not brightness, that comes from the picture as well
    still: float = 0.12  # change of a cell's code (root mean square, codes of unit variance) that leaves all detail
    moved: float = 0.40  # and the change from which the networks' answer stays as it is


def detail_share(change: FloatArray, size: int, config: DetailConfig) -> FloatArray:
    """How much fine detail comes from the picture (size size, [0, 1]).

    Args:
        change: G G, how far speech has moved each cell's code from what the picture shows.
        size: px of the crop.
    """
    # a neighbour of a moved cell shows part of the same lip: it counts as moved, too
    widened = cv2.dilate(np.asarray(change, np.float32), np.ones((3, 3), np.uint8))
    share = np.clip((config.moved - widened) / (config.moved - config.still), 0, 1)
    return np.asarray(config.strength * cv2.resize(share, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def add_detail(made: UInt8Image, picture: UInt8Image, share: FloatArray, config: DetailConfig) -> UInt8Image:
    """Join the networks' crop with a picture's fine band.

    Args:
        made: S S 3, the networks' answer.
        picture: S S 3, what it should look like in detail.
        share: S S in [0, 1].
    """
    sigma = config.sigma * made.shape[0] / 320
    # One blur of the difference does for both: made + share * (picture - made - blur(picture - made))
    difference = cv2.subtract(picture, made, dtype=cv2.CV_32F)
    coarse = cv2.GaussianBlur(difference, (0, 0), sigma)
    # An adversarial decoder draws shapes well and paints irises and lips a little green or red: light stays its own
    # and follows the target's, colour need not.
    light = cv2.cvtColor(cv2.transform(coarse, _LIGHT), cv2.COLOR_GRAY2RGB)
    fine = difference - coarse + config.tint * (coarse - light)
    joined = made.astype(np.float32) + share[:, :, None] * fine
    return np.asarray(np.clip(np.rint(joined), 0, 255), np.uint8)
