"""Take the glasses off a photo's face: painted as skin they would slide over somebody else's nose.

A frame is darker than the skin, thin, and crosses the bridge of the nose, where a bare face shows nothing dark.  That
crossing tells whether there are glasses at all: over 160 portraits it's 0.24 at most on bare faces, and 0.27 at least on
those with visible frames.  What hangs together with it is the frame; it gives way to the skin beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from talkswap.faces.geometry import outer_eye_distance
from talkswap.faces.guide import LEFT_BROW, RIGHT_BROW, filled, on_grid
from talkswap.faces.mesh import LEFT_EYE_RING, RIGHT_EYE_RING
from talkswap.types import FloatArray, UInt8Image

CHEEKS = (50, 280, 117, 346)
INNER_CORNERS = (133, 362)
NOSE_TIP_AND_WINGS = (48, 278, 64, 294, 98, 327, 2, 5, 115, 344, 49, 279)
UNDER_EYES = (230, 450, 229, 449)


@dataclass(frozen=True)
class GlassesConfig:
    """What counts as a frame."""

    grid: int = 320  # px of the square in which a frame is looked for
    widest: int = 17  # px of that square: thicker dark things are no frame
    bridge: float = 0.26  # darkness, in shares of the skin's brightness, from which what crosses the nose is a frame
    frame: float = 0.11  # darkness of its other parts
    tint: float = 0.45  # brightness under the eyes, in shares of the cheeks', below which lenses hide them


def darkness(rgb: UInt8Image, landmarks: FloatArray, config: GlassesConfig) -> FloatArray:
    """How much darker than its surroundings each thin thing is (grid grid), in shares of the skin's brightness.

    It's the black top-hat: a closing takes thin dark things away, and the difference shows them.
    """
    grey = cv2.cvtColor(cv2.resize(rgb, (config.grid, config.grid), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    x, y = np.clip(landmarks[list(CHEEKS), :2].round().astype(int), 0, config.grid - 1).T
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (config.widest, config.widest))
    thin = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, kernel)
    return np.asarray(thin / np.float32(np.median(grey[y, x]) + 1), np.float32)


def frame_mask(rgb: UInt8Image, landmarks: FloatArray, config: GlassesConfig | None = None) -> FloatArray | None:
    """Where a photo shows a frame of glasses.

    Args:
        rgb: S S 3 uint8, the aligned photo.
        landmarks: 478 3, px of it.

    Returns:
        grid grid in {0, 1}; None where the face wears none.
    """
    config = config or GlassesConfig()
    grid = config.grid
    points = on_grid(landmarks, grid / rgb.shape[0])
    dark, eyes = darkness(rgb, points, config), float(outer_eye_distance(points[:, :2]))
    left, right = points[list(INNER_CORNERS), :2]
    middle, width = (left + right) / 2, float(right[0] - left[0])
    rows = slice(max(0, round(middle[1] - 0.13 * eyes)), max(0, round(middle[1] + 0.12 * eyes)))
    columns = slice(max(0, round(left[0] + 0.25 * width)), max(0, round(right[0] - 0.25 * width)))
    crossing = dark[rows, columns]
    # A frame is dark in nearly every column between the eyes; a wrinkle or a shadow in a few only.
    if crossing.size == 0 or float(np.percentile(crossing.max(0), 25)) < config.bridge:
        return None
    # Around the eyes, out to the temples, but neither the eyes themselves nor the brows.
    y, x = np.mgrid[0:grid, 0:grid]
    near = (np.abs(y - middle[1] - 0.08 * eyes) < 0.4 * eyes) & (np.abs(x - middle[0]) < 0.85 * eyes)
    lids = cv2.dilate(filled(points, (LEFT_EYE_RING, RIGHT_EYE_RING), grid, 1), np.ones((11, 11)))
    brows = cv2.dilate(filled(points, (LEFT_BROW, RIGHT_BROW), grid, 1), np.ones((3, 3)))
    thing = ((dark > config.frame) & near & (lids < 0.5)).astype(np.uint8)
    thing = cv2.morphologyEx(thing, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    labels = cv2.connectedComponents(thing)[1]
    crossing_labels = np.unique(labels[rows, columns][crossing > config.bridge])
    # The nose's shadow and nostrils may hang together with the frame.
    nose = cv2.dilate(filled(points, (NOSE_TIP_AND_WINGS,), grid, 1), np.ones((9, 9))) > 0.5
    frame = (np.isin(labels, crossing_labels[crossing_labels > 0]) & (brows < 0.5) & ~nose).astype(np.uint8)
    # Specks that the cuts left over would only smear.
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(frame)
    specks = [label for label in range(1, count) if statistics[label, cv2.CC_STAT_AREA] < 60]
    frame[np.isin(labels, specks)] = 0
    return np.asarray(cv2.dilate(frame, np.ones((5, 5), np.uint8)), np.float32)


def without_glasses(
    rgb: UInt8Image, landmarks: FloatArray, config: GlassesConfig | None = None
) -> tuple[UInt8Image, bool]:
    """A photo's square crop with the frame of its glasses filled from the skin beside it.

    Args:
        rgb: S S 3 uint8, the aligned photo.
        landmarks: 478 3, px of it.

    Returns:
        (S S 3 uint8, the same array where there are none or where dark lenses hide the eyes; whether there are glasses).
    """
    frame = frame_mask(rgb, landmarks, config)
    if frame is None:
        return rgb, False
    size, grid = rgb.shape[0], frame.shape[0]
    small = np.asarray(cv2.resize(rgb, (grid, grid), interpolation=cv2.INTER_AREA), np.uint8)
    skin = cv2.inpaint(small, frame.astype(np.uint8), 5, cv2.INPAINT_TELEA)
    # Behind dark lenses there's nothing to show: a hole in them would be worse.
    x, y = np.clip(on_grid(landmarks, grid / size)[:, :2].round().astype(int), 0, grid - 1).T
    grey = cv2.cvtColor(cv2.GaussianBlur(skin, (5, 5), 0), cv2.COLOR_RGB2GRAY)[y, x]
    if np.median(grey[list(UNDER_EYES)]) < (config or GlassesConfig()).tint * np.median(grey[list(CHEEKS)]):
        return rgb, True
    large = cv2.resize(skin, (size, size), interpolation=cv2.INTER_CUBIC)
    weight = np.asarray(cv2.resize(cv2.GaussianBlur(frame, (5, 5), 0), (size, size)), np.float32)
    mixed = np.asarray(cv2.blendLinear(np.asarray(large, np.uint8), rgb, weight, 1 - weight), np.uint8)
    return np.where(weight[:, :, None] > 0, mixed, rgb), True
