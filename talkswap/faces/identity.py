"""Identity: who a face is, as a unit vector.

A small residual network read from the FFHQ crop itself, so that the same weights serve as a differentiable loss while
the generators train (SwapTalk eq. 3-6, 9-10 with this network in ArcFace's place) and as the measure that a render
reports. It never judges a published score: those use a network that no training has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.checkpoints.networks import read_network, write_network
from talkswap.errors import WeightsMissingError
from talkswap.faces.geometry import LEFT_EYE, RIGHT_EYE
from talkswap.types import FloatArray


@dataclass(frozen=True)
class IdentityConfig:
    """Size of the identity network."""

    size: int = 96  # px, side of the square that it looks at
    widths: tuple[int, ...] = (48, 96, 192)  # channels at 1/4, 1/8 and 1/16 of that side
    blocks: tuple[int, ...] = (1, 2, 2)  # residual blocks at each
    dimension: int = 256
    region: tuple[float, float, float] = (0.5, 0.507, 0.74)  # centre x, y and side of the face inside the FFHQ crop

    @classmethod
    def named(cls, name: str) -> IdentityConfig:
        """``compact`` (the published weights), or ``large``.

        Raises:
            WeightsMissingError: no such size.
        """
        sizes = {"compact": cls(), "large": cls(size=112, widths=(64, 128, 256), blocks=(1, 3, 2))}
        if name not in sizes:
            raise WeightsMissingError(f"no identity network of size {name!r}", f"sizes are {', '.join(sizes)}")
        return sizes[name]


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation beside the identity path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.activation = nn.PReLU(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W to the same shape."""
        inner = self.activation(self.first_norm(self.first(x)))
        return x + self.second_norm(self.second(inner))


class IdentityNetwork(nn.Module, HubNetwork):
    """FFHQ crop to a unit-length identity vector.

    The input is the crop at any side of 64 px or more, RGB in [-1, 1]; the face's square is cut and resized inside with
    bilinear sampling, so gradients reach the pixels.
    """

    hub_name = "identity"
    hub_config = IdentityConfig

    def __init__(self, config: IdentityConfig | None = None) -> None:
        super().__init__()
        self.config = config or IdentityConfig()
        widths, blocks = self.config.widths, self.config.blocks
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.PReLU(widths[0]),
        ]
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if level:
                layers += [
                    nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.PReLU(width),
                ]
            layers += [Residual(width) for _ in range(count)]
        self.body = nn.Sequential(*layers)
        grid = self.config.size // (4 * 2 ** (len(widths) - 1))
        self.gather = nn.Conv2d(widths[-1], widths[-1], grid, groups=widths[-1], bias=False)  # one weight per place
        self.gather_norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], self.config.dimension)

    def cut(self, crop: Tensor) -> Tensor:
        """The square that the network looks at: B 3 S S crop to B 3 size size."""
        x, y, side = self.config.region
        height, width = crop.shape[2:]
        left, top = round((x - side / 2) * width), round((y - side / 2) * height)
        square = crop[:, :, top : top + round(side * height), left : left + round(side * width)]
        size = (self.config.size, self.config.size)
        shrinks = square.shape[2] > self.config.size
        return F.interpolate(square, size, mode="bilinear", align_corners=False, antialias=shrinks)

    def embed_square(self, square: Tensor) -> Tensor:
        """Identity of an already cut square (B 3 size size, [-1, 1]): B D, unit length."""
        features = self.body(square)  # B C G G
        pooled = self.gather_norm(self.gather(features)).flatten(1)  # B C
        return F.normalize(self.head(pooled).float(), dim=1)

    def forward(self, crop: Tensor) -> Tensor:
        """Identity of FFHQ crops (B 3 S S, RGB in [-1, 1]): B D, unit length."""
        return self.embed_square(self.cut(crop))


def identity_loss(network: IdentityNetwork, result: Tensor, person: Tensor) -> Tensor:
    """Mean of 1 - cosine between the identities of two batches of crops (B 3 S S); only ``result`` receives
    gradients."""
    with torch.no_grad():
        wanted = network(person)
    return (1 - (network(result) * wanted).sum(1)).mean()


def save_identity(network: IdentityNetwork, folder: Path) -> None:
    """Write ``identity.safetensors`` (fp16) and ``identity.json`` into ``folder``."""
    write_network(network, folder, "identity")


def load_identity(folder: Path, device: str = "cpu") -> IdentityNetwork:
    """The identity network of a weights folder, in float32, frozen, in evaluation mode.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: the files do not fit the network.
    """
    return read_network(IdentityNetwork, IdentityConfig, folder, "identity", "identity").to(device)


# --- ArcFace's alignment: five points of a face and the similarity that takes them to a recognition network's square.


ARCFACE_SIZE = 112  # px
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""Where eyes, nose tip and mouth corners lie in that square, px; "left" in the picture comes first."""


def five_points(landmarks: FloatArray) -> FloatArray:
    """Eye centres, nose tip and mouth corners (5 x 2, px) of 478 mesh points; "left" in the picture comes first."""
    points = np.asarray(landmarks, np.float32)[:, :2]
    eyes = [points[list(eye)].mean(0) for eye in (LEFT_EYE, RIGHT_EYE)]
    return np.stack([*eyes, points[1], points[61], points[291]]).astype(np.float32)


def similarity(source: FloatArray, target: FloatArray) -> FloatArray:
    """Least-squares similarity (2 x 3, rotation, scale and shift) that takes N x 2 ``source`` points to ``target``.

    With centred points as complex numbers s, t the rotation and scale are <s, t> / <s, s>.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    square = max(float((s**2).sum()), 1e-9)
    a = float((s * t).sum()) / square
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / square
    linear = np.array([[a, -b], [b, a]], np.float64)
    return np.column_stack([linear, target_mean - linear @ source_mean]).astype(np.float32)
