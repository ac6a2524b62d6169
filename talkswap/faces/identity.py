"""Identity: who a face is, as a unit vector.

A small residual network looks at the FFHQ crop itself.  So the same weights serve as a differentiable loss while
generators train (where papers use ArcFace) and as the likeness that a render reports.  It never judges a published
score: those use a network that no training has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.checkpoints.networks import read_network, write_network
from talkswap.errors import WeightsMissingError


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

    hub_name = "faces/identity"
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


def save_identity(network: IdentityNetwork, folder: Path) -> None:
    """Write ``identity.safetensors`` (fp16) and ``identity.json`` into ``folder``."""
    write_network(network, folder, "identity")


def load_identity(folder: Path, device: str = "cpu") -> IdentityNetwork:
    """The identity network of a weights folder, in float32, frozen, in evaluation mode.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: the files do not fit the network.
    """
    return read_network(IdentityNetwork, IdentityConfig, folder, "faces/identity", "identity").to(device)
