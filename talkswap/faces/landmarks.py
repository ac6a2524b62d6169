"""Dense landmarks: 478 points of the face mesh from a square around the face.

The network answers in the face's own terms: coefficients of a measured shape basis, then a turn, a scale and a shift
of that shape inside the square.  So it can only draw faces, a badly centred square costs little, and an untrained
network already answers with the mean face.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.checkpoints.networks import read_network, write_network
from talkswap.errors import WeightsMissingError
from talkswap.faces.geometry import eyes_and_mouth, invert_affine, quad_affine, transform_points
from talkswap.types import FloatArray, UInt8Image

POINTS = 478


@dataclass(frozen=True)
class LandmarkConfig:
    """Size of the landmark network."""

    size: int = 128  # px, side of the square that it looks at
    widths: tuple[int, ...] = (32, 48, 96, 160)  # channels at 1/4, 1/8, 1/16 and 1/32 of that side
    blocks: tuple[int, ...] = (1, 1, 2, 1)  # residual blocks at each
    hidden: int = 256
    coefficients: int = 128  # of the shape basis

    @classmethod
    def named(cls, name: str) -> LandmarkConfig:
        """``compact`` (the published weights) or ``large``.

        Raises:
            WeightsMissingError: no such size.
        """
        sizes = {"compact": cls(), "large": cls(size=192, widths=(48, 96, 160, 256), blocks=(1, 2, 3, 2), hidden=384)}
        if name not in sizes:
            raise WeightsMissingError(f"no landmark network of size {name!r}", f"sizes are {', '.join(sizes)}")
        return sizes[name]


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation beside the identity path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """B C H W to the same shape."""
        inner = self.activation(self.first_norm(self.first(x)))
        return self.activation(x + self.second_norm(self.second(inner)))


class LandmarkNetwork(nn.Module, HubNetwork):
    """Square picture of a face to 478 landmarks and the presence of a face.

    With coefficients c, similarity (a, b, x, y), mean shape m and basis M, all in sides of the square with the origin
    at its centre:  shape = m + M c;  point = [[a, -b], [b, a]] shape_xy + (x, y);  depth = |(a, b)| shape_z.
    """

    hub_name = "faces/landmarks"
    hub_config = LandmarkConfig

    mean: Tensor  # 1434
    basis: Tensor  # 1434 K

    def __init__(self, config: LandmarkConfig | None = None) -> None:
        super().__init__()
        self.config = config or LandmarkConfig()
        widths, blocks = self.config.widths, self.config.blocks
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if level:
                layers += [
                    nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
            layers += [Residual(width) for _ in range(count)]
        self.body = nn.Sequential(*layers)
        grid = self.config.size // (4 * 2 ** (len(widths) - 1))
        self.gather = nn.Linear(widths[-1] * grid * grid, self.config.hidden)
        self.activation = nn.ReLU()
        self.head = nn.Linear(self.config.hidden, self.config.coefficients + 5)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.zeros(POINTS * 3))
        self.register_buffer("basis", torch.zeros(POINTS * 3, self.config.coefficients))

    def set_basis(self, mean: FloatArray, basis: FloatArray) -> None:
        """Fix the shape space: mean 478 x 3 and basis 478 x 3 x K, in sides of the square, origin at its centre."""
        self.mean.copy_(torch.from_numpy(np.ascontiguousarray(mean.reshape(-1), np.float32)))
        flat = np.ascontiguousarray(basis.reshape(POINTS * 3, -1), np.float32)
        self.basis.copy_(torch.from_numpy(flat))

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """B 3 S S in [-1, 1] to (landmarks B 478 3 in px of the square, presence logit B)."""
        features = self.body(picture).flatten(1)
        hidden = self.activation(self.gather(features))
        with torch.autocast(picture.device.type, enabled=False):  # bf16 would round a point by 1/30 px
            answer = self.head(hidden.to(self.head.weight.dtype))
            return self._points(answer), answer[:, -1]

    def _points(self, answer: Tensor) -> Tensor:
        """B (K + 5) answers of the head to B 478 3 points in px of the square."""
        count = self.config.coefficients
        shape = (self.mean + answer[:, :count] @ self.basis.T).view(-1, POINTS, 3)
        a, b, x, y = (answer[:, count + k, None] for k in range(4))
        a = a + 1  # an answer of zeros leaves the mean shape as it is
        flat_x = a * shape[..., 0] - b * shape[..., 1] + x
        flat_y = b * shape[..., 0] + a * shape[..., 1] + y
        depth = torch.sqrt(a * a + b * b + 1e-8) * shape[..., 2]
        middle = (self.config.size - 1) / 2
        points = torch.stack([flat_x, flat_y, depth], 2) * self.config.size
        return points + points.new_tensor([middle, middle, 0.0])


def landmark_quad(left_eye: FloatArray, right_eye: FloatArray, mouth: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centre and half-side vector (px) of the square that the landmark network looks at.

    The square follows the FFHQ rule from eye and mouth centres (2-vectors, px), a little smaller and moved toward the
    chin so that the whole mesh stays inside with the mouth wide open.
    """
    eyes = (left_eye + right_eye) / 2
    across, down = right_eye - left_eye, mouth - eyes
    direction = across - np.array([-down[1], down[0]], np.float32)
    direction = direction / max(float(np.hypot(*direction)), 1e-6)
    half = 0.92 * max(2.0 * float(np.hypot(*across)), 1.8 * float(np.hypot(*down)), 1.0)
    centre = eyes + 0.38 * down
    return centre.astype(np.float32), (direction * half).astype(np.float32)


def square_affine(left_eye: FloatArray, right_eye: FloatArray, mouth: FloatArray, size: int) -> FloatArray:
    """Affine (2 x 3) from picture px to :func:`landmark_quad` at ``size`` px."""
    return quad_affine(*landmark_quad(left_eye, right_eye, mouth), size)


def affine_from_landmarks(landmarks: FloatArray, size: int) -> FloatArray:
    """:func:`square_affine` of 478 mesh points (px)."""
    return square_affine(*eyes_and_mouth(landmarks), size)


def cut_square(rgb: UInt8Image, affine: FloatArray, size: int) -> UInt8Image:
    """Cut the square that ``affine`` describes; only its surroundings are read, whatever the picture's size.

    A face larger than the square is averaged down first; bilinear sampling alone aliases and makes points tremble.
    """
    inverse = invert_affine(affine)
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float32) @ inverse[:, :2].T + inverse[:, 2]
    height, width = rgb.shape[:2]
    x0, y0 = (int(max(0, v)) for v in np.floor(corners.min(0)) - 4)
    x1, y1 = (int(min(limit, v)) for limit, v in zip((width, height), np.ceil(corners.max(0)) + 5, strict=True))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return np.zeros((size, size, 3), np.uint8)
    part: np.ndarray = rgb[y0:y1, x0:x1]
    moved = affine.astype(np.float64).copy()
    moved[:, 2] += moved[:, :2] @ np.array([x0, y0], np.float64)
    scale = float(np.hypot(moved[0, 0], moved[1, 0]))
    if scale < 1:
        small = (max(2, round((x1 - x0) * scale)), max(2, round((y1 - y0) * scale)))
        ratio = np.array([(x1 - x0) / small[0], (y1 - y0) / small[1]])
        part = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
        moved[:, 2] += moved[:, :2] @ (0.5 * ratio - 0.5)  # px centres: x_full = (x_small + 0.5) ratio - 0.5
        moved[:, :2] *= ratio
    square = cv2.warpAffine(part, moved, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(square, np.uint8)


class LandmarkReader:
    """A trained landmark network behind picture coordinates."""

    def __init__(self, network: LandmarkNetwork) -> None:
        self.network = network.eval()
        self.size = network.config.size

    @torch.inference_mode()
    def __call__(self, rgb: UInt8Image, affine: FloatArray) -> tuple[FloatArray, float]:
        """Landmarks (478 x 3, px of ``rgb``) and presence in [0, 1] of the face in the square of ``affine``."""
        square = cut_square(rgb, affine, self.size)
        parameter = next(self.network.parameters())
        tensor = torch.from_numpy(square).to(parameter.device).permute(2, 0, 1)[None]  # 1 3 S S
        points, logit = self.network(tensor.to(parameter.dtype) / 127.5 - 1)
        landmarks = points[0].float().cpu().numpy()
        return transform_points(invert_affine(affine), landmarks), float(torch.sigmoid(logit[0].float()))


def save_landmarks(network: LandmarkNetwork, folder: Path) -> None:
    """Write ``landmarks.safetensors`` (fp16) and ``landmarks.json`` into ``folder``."""
    write_network(network, folder, "landmarks")


def load_landmarks(folder: Path, device: str = "cpu") -> LandmarkNetwork:
    """The landmark network of a weights folder, in float32, frozen, in evaluation mode.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: the files do not fit the network.
    """
    return read_network(LandmarkNetwork, LandmarkConfig, folder, "faces/landmarks", "faces").to(device)
