"""Mouths of talking people for training in pixels: stills with shape, pose and sound, and a reader of decoded mouths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talkswap.data.stills import Stills, open_stills
from talkswap.data.talking import open_spoken
from talkswap.errors import TrainingDataError
from talkswap.faces.geometry import OUTER_EYE_CORNERS
from talkswap.faces.landmarks import LandmarkNetwork, affine_from_landmarks
from talkswap.faces.measures import INNER_BOTTOM, INNER_TOP, MOUTH_PAIRS, MOUTH_SPREAD
from talkswap.faces.mesh import OUTER_LIPS
from talkswap.systems.swaptalk.training.vqgan import to_tensor
from talkswap.types import FloatArray, UInt8Image


def mouth_measures(points: Tensor) -> Tensor:
    """The measures of :func:`talkswap.faces.measures.mouth_shape` without its medians, differentiable.

    Args:
        points: B 478 3, px.

    Returns:
        B 7 in units of MOUTH_SPREAD.
    """
    between = points[:, OUTER_EYE_CORNERS[0]] - points[:, OUTER_EYE_CORNERS[1]]
    eyes, flat = between.norm(dim=1).clamp(min=1e-3), between[:, :2].norm(dim=1).clamp(min=1e-3)
    lips = points[:, list(INNER_TOP), :2].mean(1) - points[:, list(INNER_BOTTOM), :2].mean(1)
    lengths = [(lips.square().sum(1) + 1e-4).sqrt() / flat]
    lengths += [(points[:, a] - points[:, b]).norm(dim=1) / eyes for a, b in MOUTH_PAIRS]
    return torch.stack(lengths, 1) / torch.from_numpy(MOUTH_SPREAD).to(points)


@dataclass(frozen=True)
class Talking:
    """Stills of talking clips with what was said around them."""

    stills: Stills
    rows: list[np.ndarray]  # still numbers of each clip
    shape: FloatArray  # N 7
    pose: FloatArray  # N P
    heard: FloatArray  # N L D

    def faces(self, rows: Iterable[int]) -> list[FloatArray]:
        """Landmarks (478 3, px) of stills."""
        return [np.asarray(self.stills.landmarks[i], np.float32) for i in rows]


def open_talking_stills(data: Path, split: str, videos: Path | None, lags: dict[str, float], window: int) -> Talking:
    """Stills of ``frames-SPLIT`` with shapes, poses and mel windows from ``clips-SPLIT``."""
    stills = open_stills(data / f"frames-{split}")
    clips = {clip.name: clip for clip in open_spoken(data, split, videos)}
    count = len(stills)
    shape = np.zeros((count, len(MOUTH_SPREAD)), np.float32)
    pose: list[FloatArray] = []
    heard = np.zeros((count, window, 80), np.float32)
    groups: dict[str, list[int]] = {}
    for number, entry in enumerate(stills.meta):
        name = Path(str(entry["name"])).stem
        if name not in clips:
            raise TrainingDataError(f"the still {number} belongs to no clip", "prepare the folder anew")
        clip, frame = clips[name], int(entry["frame"])
        groups.setdefault(name, []).append(number)
        shape[number] = clip.shape[frame]
        pose.append(clip.pose[frame])
        lag = lags.get(name, 0.0) if split == "train" else 0.0
        heard[number] = clip.mel_windows(clip.times[frame : frame + 1] - lag, window)[0]
    rows = [np.array(group) for group in groups.values() if len(group) >= 8]
    return Talking(stills, rows, shape.clip(-4, 6), np.stack(pose), heard)


def landmark_squares(faces: Iterable[FloatArray], side: int, size: int) -> Tensor:
    """Where a landmark network of side ``size`` looks in each crop (B 2 3: the affine of grid_sample).

    Args:
        faces: 478 3 landmarks of each crop, px.
        side: of the crops, px.
    """
    # square px = (u + 1) size / 2 - 0.5; normalised crop = (px + 0.5) 2 / side - 1
    to_px = np.array([[size / 2, 0, size / 2 - 0.5], [0, size / 2, size / 2 - 0.5], [0, 0, 1]])
    to_unit = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    found = []
    for points in faces:
        affine = affine_from_landmarks(points, size)  # crop px to square px
        inverse = np.linalg.inv(np.vstack([affine.astype(np.float64), [0, 0, 1]]))
        found.append((to_unit @ inverse @ to_px)[:2])
    return torch.from_numpy(np.stack(found).astype(np.float32))


def read_points(network: LandmarkNetwork, crops: Tensor, squares: Tensor) -> Tensor:
    """Landmarks (B 478 3, px of the network's square) of crops (B 3 S S in [-1, 1]); gradients reach the pixels."""
    size = network.config.size
    with torch.autocast(crops.device.type, enabled=False):
        half = F.avg_pool2d(crops.float(), 2)  # the square is about half as fine: without it samples would alias
        grid = F.affine_grid(squares.float(), [len(crops), 3, size, size], align_corners=False)
        square = F.grid_sample(half, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return network(square)[0]


def reading_gain(network: LandmarkNetwork, talking: Talking, each: int = 6) -> Tensor:
    """How far a landmark network's measures move when the labels' move by one (7): it answers timidly.

    Slopes within clips of ``each`` stills, so that differences between people do not count.
    """
    picked = [rows[:: max(1, len(rows) // each)][:each] for rows in talking.rows]
    rows = np.concatenate(picked)
    group = np.repeat(np.arange(len(picked)), [len(p) for p in picked])
    read = []
    with torch.no_grad():
        for part in np.array_split(rows, max(1, len(rows) // 32)):
            crops = to_tensor([np.asarray(talking.stills.crops[i]) for i in part])
            squares = landmark_squares(talking.faces(part), crops.shape[2], network.config.size)
            read.append(mouth_measures(read_points(network, crops, squares)))

    def centred(values: FloatArray) -> FloatArray:
        means = np.stack([values[group == g].mean(0) for g in range(len(picked))])
        return np.asarray(values - means[group], np.float32)

    answered, true = centred(torch.cat(read).numpy()), centred(talking.shape[rows])
    gain = (answered * true).sum(0) / np.maximum((true * true).sum(0), 1e-6)
    return torch.from_numpy(gain.clip(0.3, 1.2).astype(np.float32))


def mouth_crop(crop: UInt8Image, points: FloatArray) -> UInt8Image:
    """The rectangle around the lips (478 3 landmarks, px)."""
    lips = np.asarray(points)[list(OUTER_LIPS), :2]
    low, high = np.floor(lips.min(0) - 6).astype(int), np.ceil(lips.max(0) + 7).astype(int)
    return np.asarray(crop)[max(0, low[1]) : high[1], max(0, low[0]) : high[0]]


def sharpness(rgb: UInt8Image) -> float:
    """Variance of the Laplacian of the grey picture (H W 3 uint8)."""
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var()) + 1e-6
