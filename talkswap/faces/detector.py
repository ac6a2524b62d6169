"""Faces in a picture: one small convolutional network, one answer per 8 px cell, no anchors.

A face is its centre cell.  There the network also says how large the face's square is and where eyes, nose and mouth
lie, which is all that the landmark network's square depends on (:func:`talkswap.faces.landmarks.square_affine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.checkpoints.networks import read_network, write_network
from talkswap.errors import WeightsMissingError
from talkswap.faces.geometry import box_overlap
from talkswap.faces.landmarks import Residual, landmark_quad
from talkswap.types import FloatArray, UInt8Image

STRIDE = 8  # px per cell
COARSEST = 32  # px: sides of a picture must be multiples of it
FACE_POINTS = 4  # left and right eye (of the picture), nose tip, middle of the mouth
SIDE_UNIT = 64.0  # px: the side whose logarithm is 0


@dataclass(frozen=True)
class DetectorConfig:
    """Size of the detector."""

    widths: tuple[int, int, int] = (48, 80, 128)  # channels at 1/8, 1/16 and 1/32 of the picture
    blocks: tuple[int, int, int] = (1, 1, 2)  # residual blocks at each

    @classmethod
    def named(cls, name: str) -> DetectorConfig:
        """``compact`` (the published weights) or ``large``.

        Raises:
            WeightsMissingError: no such size.
        """
        sizes = {"compact": cls(), "large": cls(widths=(64, 128, 192), blocks=(2, 3, 3))}
        if name not in sizes:
            raise WeightsMissingError(f"no detector of size {name!r}", f"sizes are {', '.join(sizes)}")
        return sizes[name]


@dataclass(frozen=True)
class Detection:
    """One face as the detector sees it, px of the picture."""

    score: float
    centre: FloatArray  # 2
    side: float  # of the face's square
    points: FloatArray  # 4 2: eyes, nose, mouth

    @property
    def box(self) -> FloatArray:
        """x0 y0 x1 y1 of the square."""
        return np.concatenate([self.centre - self.side / 2, self.centre + self.side / 2])


class DetectorNetwork(nn.Module, HubNetwork):
    """Picture to a map of faces.

    ``forward`` takes B 3 H W in [-1, 1] (H, W multiples of 32) and gives B 12 H/8 W/8: score logit; centre x, y in
    cells from the cell's middle; log(side / 64 px); eyes, nose and mouth as x, y from the centre in sides.
    """

    hub_name = "faces/detector"
    hub_config = DetectorConfig

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DetectorConfig()
        fine, middle, coarse = self.config.widths
        counts = self.config.blocks
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(STRIDE),
            nn.Conv2d(3 * STRIDE * STRIDE, fine, 1, bias=False),
            nn.BatchNorm2d(fine),
            nn.ReLU(),
            *[Residual(fine) for _ in range(counts[0])],
        )
        self.middle = nn.Sequential(
            *self._convolve(fine, middle, stride=2), *[Residual(middle) for _ in range(counts[1])]
        )
        self.coarse = nn.Sequential(
            *self._convolve(middle, coarse, stride=2), *[Residual(coarse) for _ in range(counts[2])]
        )
        self.coarse_to_middle = nn.Conv2d(coarse, middle, 1)
        self.join_middle = nn.Sequential(*self._convolve(middle, middle))
        self.middle_to_fine = nn.Conv2d(middle, fine, 1)
        self.join_fine = nn.Sequential(*self._convolve(fine, fine))
        self.head = nn.Conv2d(fine, 4 + 2 * FACE_POINTS, 1)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.bias[0] = -4.0  # faces are rare

    @staticmethod
    def _convolve(before: int, after: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    def forward(self, picture: Tensor) -> Tensor:
        """B 3 H W to B 12 H/8 W/8."""
        fine = self.fine(picture)  # B C1 H/8 W/8
        middle = self.middle(fine)  # B C2 H/16 W/16
        coarse = self.coarse(middle)  # B C3 H/32 W/32
        # Back up, so that each cell knows its surroundings: large faces are recognised at the coarse levels.
        middle = middle + F.interpolate(self.coarse_to_middle(coarse), scale_factor=2.0, mode="nearest")
        middle = self.join_middle(middle)
        fine = fine + F.interpolate(self.middle_to_fine(middle), scale_factor=2.0, mode="nearest")
        fine = self.join_fine(fine)
        with torch.autocast(picture.device.type, enabled=False):  # places need float32
            return self.head(fine.to(self.head.weight.dtype))


def face_square(points: FloatArray) -> tuple[FloatArray, float]:
    """Centre (2) and side of the landmark network's square, unturned, from a face's four points (4 x 2)."""
    centre, x = landmark_quad(points[0], points[1], points[3])
    return centre, 2 * float(np.hypot(*x))


def decode(answer: FloatArray, threshold: float, largest_overlap: float = 0.35) -> list[Detection]:
    """Faces of one map (12 h w), px of the network's picture, best first.

    A cell counts where its score is at least ``threshold`` and the highest of its 3x3 surroundings.  Of faces whose
    squares share more than ``largest_overlap`` the best stays.
    """
    score = 1 / (1 + np.exp(-np.clip(answer[0], -30, 30)))
    highest = cv2.dilate(score, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero((score >= threshold) & (score >= highest))
    order = np.argsort(-score[rows, columns])
    kept: list[Detection] = []
    for row, column in zip(rows[order], columns[order], strict=True):
        values = answer[:, row, column]  # 12
        middle = np.array([column, row]) * STRIDE + (STRIDE - 1) / 2
        centre = (middle + values[1:3] * STRIDE).astype(np.float32)
        side = float(np.exp(np.clip(values[3], -4, 4)) * SIDE_UNIT)
        points = centre + values[4:].reshape(FACE_POINTS, 2) * side
        face = Detection(float(score[row, column]), centre, side, points.astype(np.float32))
        if all(box_overlap(face.box, other.box) <= largest_overlap for other in kept):
            kept.append(face)
    return kept


class FaceDetector:
    """A trained detector behind pictures of any size.

    A picture is shrunk to ``side`` px on its long side.  Where that shows no face, ``second_side`` looks for small ones.
    """

    def __init__(
        self, network: DetectorNetwork, threshold: float = 0.5, side: int = 320, second_side: int = 768
    ) -> None:
        self.network = network.eval()
        self.threshold, self.side, self.second_side = threshold, side, second_side

    def __call__(self, rgb: UInt8Image) -> list[Detection]:
        """Faces in px of ``rgb`` (H W 3), best first; empty when there is none."""
        faces = self.at(rgb, self.side)
        if not faces and max(rgb.shape[:2]) > self.side:
            faces = self.at(rgb, min(self.second_side, max(rgb.shape[:2])))
        return faces

    @torch.inference_mode()
    def at(self, rgb: UInt8Image, side: int) -> list[Detection]:
        """Faces with the picture's long side at ``side`` px; places are px of ``rgb``."""
        height, width = rgb.shape[:2]
        scale = side / max(height, width)
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        # The network halves its picture five times: grey fills up to the next multiple of 32.
        canvas = np.full((*(-(-n // COARSEST) * COARSEST for n in shape), 3), 127, np.uint8)
        canvas[: shape[0], : shape[1]] = cv2.resize(rgb, shape[::-1], interpolation=method)
        parameter = next(self.network.parameters())
        tensor = torch.from_numpy(canvas).to(parameter.device).permute(2, 0, 1)[None].to(parameter.dtype) / 127.5 - 1
        answer = self.network(tensor.contiguous(memory_format=torch.channels_last))[0].float().cpu().numpy()
        ratio = np.array([width / shape[1], height / shape[0]], np.float32)
        return [
            Detection(
                face.score,
                ((face.centre + 0.5) * ratio - 0.5).astype(np.float32),
                face.side * float(ratio.mean()),
                ((face.points + 0.5) * ratio - 0.5).astype(np.float32),
            )
            for face in decode(answer, self.threshold)
        ]


def save_detector(network: DetectorNetwork, folder: Path) -> None:
    """Write ``detector.safetensors`` (fp16) and ``detector.json`` into ``folder``."""
    write_network(network, folder, "detector")


def load_detector(folder: Path, device: str = "cpu") -> DetectorNetwork:
    """The detector of a weights folder, in float32, frozen, in evaluation mode.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: the files do not fit the network.
    """
    return read_network(DetectorNetwork, DetectorConfig, folder, "faces/detector", "faces").to(device)
