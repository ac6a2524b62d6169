"""Put a result crop back into the picture, and touch nothing but the mask.

All work happens inside the mask's bounding box in the picture, which is 20 times cheaper than over the whole
frame; px where the mask is zero keep their bits.  What a network cannot know comes from the target crop: the light on
the border, as a smooth colour field that closes the seam.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.faces.geometry import invert_affine, transform_points
from talkswap.faces.warp import Patch
from talkswap.types import FloatArray, UInt8Image


@dataclass(frozen=True)
class PasteConfig:
    """How a result is fitted to its surroundings."""

    colour: float = 1.0  # share of the border's colour difference that is taken away; 0 = off
    colour_limit: float = 40.0  # levels of 255; a larger difference is hair or a hand, not light
    hue_limit: float = 6.0  # levels by which a channel may differ from the others
    colour_reach: float = 0.06  # sigma of the colour field, as a share of the crop's side


def box_of_mask(affine: FloatArray, mask: FloatArray, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Bounding box (x0, y0, x1, y1; end exclusive) in the picture of a crop's mask, or None where they do not meet.

    Args:
        affine: 2 3, picture px -> crop px.
        mask: S S.
        shape: height, width (, ...) of the picture.
    """
    rows, columns = np.flatnonzero(mask.max(1)), np.flatnonzero(mask.max(0))
    if len(rows) == 0:
        return None
    # One px more on each side: bilinear sampling carries the mask's edge into the next px.
    left, right, top, bottom = columns[0] - 1, columns[-1] + 1, rows[0] - 1, rows[-1] + 1
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
    corners = transform_points(invert_affine(affine), corners)
    x0, y0 = np.floor(corners.min(0)).astype(int)
    x1, y1 = np.ceil(corners.max(0)).astype(int) + 1
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, shape[1]), min(y1, shape[0])
    return (int(x0), int(y0), int(x1), int(y1)) if x0 < x1 and y0 < y1 else None


def colour_field(
    crop: UInt8Image | FloatArray,
    target_crop: UInt8Image | FloatArray,
    mask: FloatArray,
    config: PasteConfig | None = None,
    free: FloatArray | None = None,
    size: int | None = None,
) -> FloatArray:
    """The smooth colour difference that brings ``crop`` to the target's light along the mask's border.

    Differences count where the mask fades (weight 4 m (1 - m)), and spread from there to both sides by normalised
    convolution, wide kernels filling what narrow ones do not reach.  Where ``free`` (G G) says that something is in
    front, the difference belongs to that thing and counts for nothing.

    The pictures may be coarse already; ``size`` then is the side of the crop.

    Returns:
        S S 3 float32, to be added to ``crop``.
    """
    config = config or PasteConfig()
    size = size or crop.shape[0]
    cells = min(40, crop.shape[0])
    small = (cells, cells)  # light varies slowly: a coarse grid shows it all
    ours = cv2.resize(crop, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    theirs = cv2.resize(target_crop, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    fading = np.asarray(cv2.resize(mask, small, interpolation=cv2.INTER_AREA), np.float32)
    # Eyes and mouth may be left out of a mask: their borders say nothing about the light on the skin.
    hole = max(3, cells // 5)
    fading = np.asarray(cv2.morphologyEx(fading, cv2.MORPH_CLOSE, np.ones((hole, hole), np.uint8)), np.float32)
    # A large difference is hair or a hand on one side only: it counts less the larger it is.
    difference = theirs - ours
    distance = np.abs(difference).max(2)
    weight = 4 * fading * (1 - fading) / (1 + (distance / config.colour_limit) ** 4)
    if free is not None:
        weight = weight * np.asarray(cv2.resize(free, small, interpolation=cv2.INTER_AREA), np.float32)
    # Three kernels, each trusted far less than the narrower one: a wide one decides only where those see nothing.
    sigma = max(config.colour_reach * cells, 1.0)
    total = np.zeros((cells, cells, 3), np.float32)
    norm = np.full((cells, cells), 1e-6, np.float32)
    for widening, trust in ((1, 1.0), (3, 0.03), (9, 0.001)):
        spread = sigma * widening
        total += trust * np.asarray(cv2.GaussianBlur(difference * weight[:, :, None], (0, 0), spread), np.float32)
        norm += trust * np.asarray(cv2.GaussianBlur(weight, (0, 0), spread), np.float32)
    field = np.clip(total / norm[:, :, None], -config.colour_limit, config.colour_limit) * config.colour
    # Light may differ from place to place, colour hardly: a red collar must not tint the chin.
    light = field.mean(2, keepdims=True)
    field = light + np.clip(field - light, -config.hue_limit, config.hue_limit)
    return np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def fit_crop(
    crop: UInt8Image,
    mask: FloatArray,
    target_crop: UInt8Image | None = None,
    config: PasteConfig | None = None,
    free: FloatArray | None = None,
) -> UInt8Image:
    """A result crop in the target's light.

    Args:
        crop: S S 3 uint8, the system's result.
        mask: S S in [0, 1].
        target_crop: S S 3 uint8, the target's own crop; None leaves ``crop`` as it is.
        free: see :func:`paste`.

    Returns:
        S S 3 uint8.
    """
    config = config or PasteConfig()
    if target_crop is None or config.colour == 0:
        return crop
    fitted = crop.astype(np.float32) + colour_field(crop, target_crop, mask, config, free)
    return np.clip(np.round(fitted), 0, 255).astype(np.uint8)


def paste(
    rgb: UInt8Image,
    crop: UInt8Image,
    affine: FloatArray,
    mask: FloatArray,
    *,
    target_crop: UInt8Image | None = None,
    fade: float = 1.0,
    free: FloatArray | None = None,
    config: PasteConfig | None = None,
    in_place: bool = False,
) -> UInt8Image:
    """Blend a result crop into the picture it was cut from.

    Args:
        rgb: H W 3 uint8, the picture.
        crop: S S 3 uint8, the result for the aligned crop.
        affine: 2 3, picture px -> crop px, as of :class:`talkswap.types.AlignedFace`.
        mask: S S float32 in [0, 1]; zero leaves the picture, one takes the crop.
        target_crop: see :func:`fit_crop`.
        fade: scales the whole mask (a head that turns away), in [0, 1].
        free: G G in [0, 1] over the crop: scales the mask spot by spot (a hand in front); None = all free.
        in_place: write into ``rgb`` instead of a copy.

    Returns:
        H W 3 uint8; equal to ``rgb`` bit by bit wherever the mask is zero.
    """
    picture = rgb if in_place else rgb.copy()
    box = box_of_mask(affine, mask, rgb.shape) if fade > 0 else None
    if box is None:
        return picture
    crop = fit_crop(crop, mask, target_crop, config, free)
    if free is not None:
        mask = mask * np.asarray(cv2.resize(free, mask.shape, interpolation=cv2.INTER_LINEAR), np.float32)
    x0, y0, x1, y1 = box
    matrix = affine.astype(np.float64)
    matrix[:, 2] += matrix[:, :2] @ np.array([x0, y0], np.float64)  # picture px of the box -> crop px
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))  # crop px per picture px
    if scale > 1.25:
        # The face is smaller than the crop: average first, so that the crop's detail doesn't alias.
        side = max(2, round(crop.shape[0] / scale))
        ratio = side / crop.shape[0]
        crop = np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        mask = np.asarray(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA), np.float32)
        matrix *= ratio
        matrix[:, 2] += 0.5 * ratio - 0.5  # px centres: x_small = (x + 0.5) ratio - 0.5
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_CUBIC if scale < 0.95 else cv2.INTER_LINEAR)
    area = (x1 - x0, y1 - y0)
    warped = cv2.warpAffine(crop, matrix, area, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(
        mask, matrix, area, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    weight = np.asarray(weight * np.float32(fade), np.float32)
    below = np.ascontiguousarray(picture[y0:y1, x0:x1])
    picture[y0:y1, x0:x1] = cv2.blendLinear(below, np.asarray(warped, np.uint8), 1 - weight, weight)
    return picture


def shifted(affine: FloatArray, x: int, y: int, ratio: float = 1.0) -> NDArray[np.float64]:
    """An affine (2 3, picture px -> crop px) for a part of the picture that begins at (x, y), float64.

    ``ratio`` is cells per crop px, where a map has fewer cells than the crop has px; px centres keep their places.
    """
    matrix = affine.astype(np.float64)
    matrix[:, 2] += matrix[:, :2] @ np.array([x, y], np.float64)
    matrix *= ratio
    matrix[:, 2] += 0.5 * ratio - 0.5
    return matrix


def add_change(patch: Patch, change: FloatArray, affine: FloatArray) -> Patch:
    """A part of the picture with what was added to its face's crop.

    Args:
        patch: the part.
        change: S S 3, levels; nothing is added beyond the crop.
        affine: 2 3, picture px -> crop px.
    """
    height, width = patch.rgb.shape[:2]
    matrix, size = shifted(affine, patch.x, patch.y), change.shape[0]
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))  # crop px per picture px
    if scale > 1.25:  # average first, so that the crop's detail doesn't alias
        side = max(2, round(size / scale))
        change = np.asarray(cv2.resize(change, (side, side), interpolation=cv2.INTER_AREA), np.float32)
        matrix = shifted(affine, patch.x, patch.y, side / size)
    warped = cv2.warpAffine(
        change, matrix, (width, height), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return Patch(np.asarray(cv2.add(patch.rgb, warped, dtype=cv2.CV_8U), np.uint8), patch.x, patch.y)


def lay_patch(
    rgb: UInt8Image, patch: Patch, affine: FloatArray, side: int, fade: float = 1.0, free: FloatArray | None = None
) -> None:
    """Put a painted part of the picture into it, in place; px that are equal keep their bits.

    Args:
        rgb: H W 3 uint8, the picture.
        patch: what a part of it becomes.
        affine: 2 3, picture px -> crop px.
        side: px of the crop.
        fade: share of the change, in [0, 1].
        free: G G in [0, 1] over the crop: share of the change spot by spot (a hand in front); None = all free.
    """
    if fade >= 1 and free is None:
        rgb[patch.place] = patch.rgb
        return
    height, width = patch.rgb.shape[:2]
    weight = np.full((height, width), fade, np.float32)
    if free is not None:
        matrix = shifted(affine, patch.x, patch.y, free.shape[0] / side)
        flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
        weight *= cv2.warpAffine(free, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    below = np.ascontiguousarray(rgb[patch.place])
    rgb[patch.place] = cv2.blendLinear(below, patch.rgb, 1 - weight, weight)
