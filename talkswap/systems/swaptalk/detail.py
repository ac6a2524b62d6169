"""Fine detail that a small code cannot carry, taken from the picture it describes.

A compact VQGAN keeps shapes and colours and loses pores, lashes and single hairs.  Where the result should look as
the guide does (the source's own skin, laid on the target's face) or as the target does (no swap), the two
are joined by frequency, as in multi-band blending (Burt and Adelson, 1983): what is coarser than ``sigma`` from the
networks, what is finer from the picture.  Where speech has moved the face, the networks' shapes stay; only their
overall colour follows what lies around, so that a mouth has the light and hue of the face that it is in.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from talkswap.types import FloatArray, UInt8Image

_CELL = 8  # px: overall colour is measured on a grid that coarse
_LIGHT = np.array([[0.299, 0.587, 0.114]], np.float32)  # Rec. 601 luma


@dataclass(frozen=True)
class DetailConfig:
    """Where the bands meet."""

    sigma: float = 3.0  # px of a 320 px crop: detail finer than this comes from the picture
    strength: float = 1.0  # share of it; 0 switches it off
    tint: float = 1.0  # share of the coarser bands' colour, not brightness, that comes from the picture as well
    wide: float = 20.0  # px of a 320 px crop: light and colour coarser than this come from the picture everywhere
    least: float = 0.25  # of the finest band that a blurred target leaves of a sharp photo's
    still: float = 0.12  # change of a cell's code (root mean square, codes of unit variance) that leaves all detail
    moved: float = 0.40  # and the change from which the networks' answer stays as it is


def _overall(difference: FloatArray, share: FloatArray, sigma: float) -> FloatArray:
    """The part of a difference (S S 3) that is coarser than ``sigma`` cells, taken where ``share`` counts and carried on
    into the rest (normalised convolution, Knutsson and Westin, 1993)."""
    size = difference.shape[0]
    cells = (size // _CELL, size // _CELL)
    weight = np.asarray(cv2.resize(share, cells, interpolation=cv2.INTER_AREA), np.float32)
    small = cv2.resize(difference, cells, interpolation=cv2.INTER_AREA) * weight[:, :, None]
    scale = sigma * size / 320
    total = cv2.GaussianBlur(weight, (0, 0), scale)[:, :, None]
    around = cv2.GaussianBlur(small, (0, 0), scale) / (total + 0.005)  # where nothing near counts, nothing is added
    return np.asarray(cv2.resize(around, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


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


def fitting_strength(picture: UInt8Image, target: UInt8Image, config: DetailConfig) -> float:
    """How much of the guide's finest band suits a target: a sharp face on a blurred film looks pasted, and it flickers.

    Args:
        picture, target: S S 3, the same face's crop with the source's skin and as it was filmed.

    Returns:
        The ratio of their finest bands in the middle of the face, between ``config.least`` and 1.
    """
    size = picture.shape[0]
    middle = (slice(int(0.35 * size), int(0.75 * size)), slice(int(0.3 * size), int(0.7 * size)))
    spreads = []
    for crop in (picture, target):
        grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(crop[middle]), cv2.COLOR_RGB2GRAY), np.float32)
        spreads.append(float((grey - cv2.GaussianBlur(grey, (0, 0), config.sigma * size / 320)).std()))
    return float(np.clip(spreads[1] / max(spreads[0], 1e-3), config.least, 1.0))


def add_detail(
    crop: UInt8Image, picture: UInt8Image, share: FloatArray, config: DetailConfig, fine: float = 1.0
) -> UInt8Image:
    """Join the networks' crop with a picture's fine band.

    Args:
        crop: S S 3, the networks' answer.
        picture: S S 3, what it should look like in detail.
        share: S S in [0, 1].
        fine: further share of the finest band alone (:func:`fitting_strength`).
    """
    sigma = config.sigma * crop.shape[0] / 320
    difference: FloatArray = np.asarray(cv2.subtract(picture, crop, dtype=cv2.CV_32F), np.float32)
    coarse: FloatArray = np.asarray(cv2.GaussianBlur(difference, (0, 0), sigma), np.float32)
    overall = _overall(coarse, share, config.wide / _CELL)
    # In place from here on: fresh arrays of this size cost more than the sums that go into them.
    added = np.subtract(difference, coarse, out=difference)  # the finest band
    added *= np.float32(fine)
    coarse -= overall
    # An adversarial decoder draws shapes well and paints irises and lips a little green or red: what lies between the
    # bands keeps its own light, and not its own colour.
    coarse -= np.asarray(cv2.transform(coarse, _LIGHT), np.float32)[:, :, None]
    coarse *= config.tint
    added += coarse
    added *= share[:, :, None]
    added += overall
    added += crop
    np.clip(np.rint(added, out=added), 0, 255, out=added)
    return np.asarray(added, np.uint8)
