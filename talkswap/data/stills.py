"""Aligned stills for training: memory-mapped crops with landmarks, drawn by seed, with augmentation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.faces.geometry import transform_points
from talkswap.types import FloatArray, UInt8Image

EYES = (
    (33, 160, 158, 133, 153, 144),
    (362, 385, 387, 263, 373, 380),
)


@dataclass(frozen=True)
class Stills:
    """One prepared folder, opened as memory maps."""

    crops: NDArray[np.uint8]  # N 320 320 3
    landmarks: FloatArray  # N 478 3 px
    meta: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.meta)


def open_stills(folder: Path) -> Stills:
    """Open ``portraits-*`` or ``frames-*`` as made by :mod:`talkswap.data.prepare`."""
    if not (folder / "meta.json").is_file():
        raise TrainingDataError(f"no prepared stills in {folder}", "run `talkswap data prepare` first")
    meta = json.loads((folder / "meta.json").read_text())
    stills = Stills(
        np.load(folder / "crops.npy", mmap_mode="r"), np.load(folder / "landmarks.npy", mmap_mode="r"), meta
    )
    if not (len(stills.crops) == len(stills.landmarks) == len(meta) > 0):
        raise TrainingDataError(f"the arrays in {folder} differ in length", "prepare the folder anew")
    return stills


@dataclass(frozen=True)
class StillAugmentation:
    """Ranges of the random changes; zero switches one off."""

    flip: float = 0.5  # probability
    geometry: float = 0.5  # probability of the three below
    shift: float = 0.03  # of the side
    scale: float = 0.05
    roll: float = 4.0  # degrees
    light: float = 0.12  # gain and offset
    colour: float = 0.08  # per-channel gain


def draw_still(
    stills: Stills, random: np.random.Generator, augmentation: StillAugmentation
) -> tuple[UInt8Image, FloatArray]:
    """One augmented crop with its landmarks (478 x 3, px).

    After a flip the landmarks keep their numbers, so left and right parts are exchanged; use them
    only for regions that are symmetric.
    """
    index = int(random.integers(len(stills)))
    crop, points = np.asarray(stills.crops[index]), np.asarray(stills.landmarks[index])
    size = crop.shape[0]
    flip = random.random() < augmentation.flip
    moved = random.random() < augmentation.geometry
    shift = random.uniform(-1, 1, 2) * augmentation.shift * size
    scale = np.exp(random.uniform(-1, 1) * augmentation.scale)
    roll = random.uniform(-1, 1) * augmentation.roll
    gain = 1 + random.uniform(-1, 1) * augmentation.light + random.uniform(-1, 1, 3) * augmentation.colour
    offset = random.uniform(-1, 1) * augmentation.light * 128
    if moved:
        matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), roll, scale)
        matrix[:, 2] += shift
        crop = cv2.warpAffine(crop, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        points = transform_points(matrix.astype(np.float32), points)
    if flip:
        crop = crop[:, ::-1]
        points = points * np.array([-1, 1, 1], np.float32) + np.array([size - 1, 0, 0], np.float32)
    if augmentation.light or augmentation.colour:
        table = np.arange(256)[:, None] * gain[None] + offset
        crop = cv2.LUT(np.ascontiguousarray(crop), table.clip(0, 255).astype(np.uint8)[None])
    return np.ascontiguousarray(crop), points.astype(np.float32)


def importance(points: FloatArray, size: int, outside: float, face: float, parts: float) -> FloatArray:
    """Weight of each px (size/4 x size/4): little outside the face, more on it, most on eyes and mouth."""
    small = size // 4
    weight = np.full((small, small), outside, np.float32)
    plane = points[:, :2] / 4
    hull = cv2.convexHull(plane[:468].astype(np.int32))
    cv2.fillConvexPoly(weight, hull, face)
    regions = [plane[list(eye)] for eye in EYES] + [plane[[61, 291, 0, 17, 37, 267, 84, 314]]]
    for region in regions:
        centre = region.mean(0)
        grown = centre + (region - centre) * np.array([1.3, 1.8])
        cv2.fillConvexPoly(weight, cv2.convexHull(grown.astype(np.int32)), parts)
    return np.asarray(cv2.GaussianBlur(weight, (5, 5), 0), np.float32)
