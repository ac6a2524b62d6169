"""What is in front of a face: a hand, a microphone, a cup, hair.  A render leaves it as it is.

A small U-Net looks at the aligned crop and gives, on a grid of half its side, how likely each spot of the face is
covered.  A render multiplies its mask by what is free; only clear answers count, since a hole in a face that nobody
covers is worse than a missed hair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.checkpoints.networks import read_network, write_network
from talkswap.faces.landmarks import Residual

NAME = "occlusion"  # of its files


@dataclass(frozen=True)
class OcclusionConfig:
    """Size of the occlusion network."""

    size: int = 128  # px, side of the aligned crop that it is given
    widths: tuple[int, ...] = (16, 32, 64, 104)  # channels at 1/4, 1/8, 1/16 and 1/32 of that side


class OcclusionNetwork(nn.Module, HubNetwork):
    """Aligned crop (B 3 S S, RGB in [-1, 1]) to logits of being covered (B S/2 S/2), each of a square of 2 x 2 px."""

    hub_name = NAME
    hub_config = OcclusionConfig

    def __init__(self, config: OcclusionConfig | None = None) -> None:
        super().__init__()
        self.config = config or OcclusionConfig()
        widths = self.config.widths
        first = nn.Sequential(nn.PixelUnshuffle(4), *self._joined(48, widths[0]), Residual(widths[0]))
        lower = [
            nn.Sequential(*self._joined(before, after, stride=2), Residual(after))
            for before, after in zip(widths, widths[1:], strict=False)
        ]
        self.down = nn.ModuleList([first, *lower])
        self.narrow = nn.ModuleList(
            nn.Conv2d(after, before, 1) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(nn.Sequential(*self._joined(width, width)) for width in widths[:-1])
        self.head = nn.Sequential(nn.Conv2d(widths[0], 4, 3, padding=1), nn.PixelShuffle(2))
        assert isinstance(self.head[0], nn.Conv2d) and self.head[0].bias is not None
        nn.init.constant_(self.head[0].bias, -2.0)  # most of a face is free

    @staticmethod
    def _joined(before: int, after: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(after), nn.ReLU()]

    def forward(self, crop: Tensor) -> Tensor:
        """See the class."""
        kept: list[Tensor] = []
        x = crop
        for block in self.down:
            x = block(x)
            kept.append(x)
        for narrow, up, beside in zip(reversed(self.narrow), reversed(self.up), kept[-2::-1], strict=True):
            wide = nn.functional.interpolate(narrow(x), scale_factor=2.0, mode="nearest")
            x = up(wide + beside)
        return self.head(x)[:, 0]  # type: ignore[no-any-return]


def save_occlusion(network: OcclusionNetwork, folder: Path) -> None:
    """Write ``occlusion.safetensors`` (fp16) and ``occlusion.json`` into ``folder``."""
    write_network(network, folder, NAME)


def load_occlusion(folder: Path, device: str = "cpu") -> OcclusionNetwork:
    """The occlusion network of a weights folder, in float32, frozen, in evaluation mode.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: the files do not fit the network.
    """
    return read_network(OcclusionNetwork, OcclusionConfig, folder, NAME, NAME).to(device)
