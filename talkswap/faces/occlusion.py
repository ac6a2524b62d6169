"""What is in front of a face: a hand, a microphone, a cup, hair.  A render leaves it as it is.

A small U-Net looks at the aligned crop and says, on a grid of half its side, how likely each spot of the face is
covered.  A render multiplies its mask by the share that is free.  Only clear answers count, since a hole in a bare
face looks worse than a lost hair.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from talkswap.checkpoints.hub import HubNetwork
from talkswap.checkpoints.networks import read_network, write_network
from talkswap.faces.analyse import fold_normalisation
from talkswap.faces.geometry import smooth_step
from talkswap.faces.landmarks import Residual
from talkswap.types import FloatArray, UInt8Image

NAME = "faces/occlusion"  # of its files, in a preset's folder


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
        first = nn.Sequential(nn.PixelUnshuffle(4), *self._convolve(48, widths[0]), Residual(widths[0]))
        lower = [
            nn.Sequential(*self._convolve(before, after, stride=2), Residual(after))
            for before, after in zip(widths, widths[1:], strict=False)
        ]
        self.down = nn.ModuleList([first, *lower])
        self.narrow = nn.ModuleList(
            nn.Conv2d(after, before, 1) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(nn.Sequential(*self._convolve(width, width)) for width in widths[:-1])
        self.head = nn.Sequential(nn.Conv2d(widths[0], 4, 3, padding=1), nn.PixelShuffle(2))
        assert isinstance(self.head[0], nn.Conv2d) and self.head[0].bias is not None
        nn.init.constant_(self.head[0].bias, -2.0)  # most of a face is free

    @staticmethod
    def _convolve(before: int, after: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(after), nn.ReLU()]

    def forward(self, crop: Tensor) -> Tensor:
        """B 3 S S to logits B S/2 S/2."""
        levels: list[Tensor] = []  # B C S/4 S/4, B C S/8 S/8, ...
        x = crop
        for block in self.down:
            x = block(x)
            levels.append(x)
        for narrow, up, beside in zip(reversed(self.narrow), reversed(self.up), levels[-2::-1], strict=True):
            wide = nn.functional.interpolate(narrow(x), scale_factor=2.0, mode="nearest")
            x = up(wide + beside)
        return self.head(x)[:, 0]


def save_occlusion(network: OcclusionNetwork, folder: Path) -> None:
    """Write ``occlusion.safetensors`` (fp16) and ``occlusion.json`` into ``folder``."""
    write_network(network, folder, "occlusion")


def load_occlusion(folder: Path, device: str = "cpu") -> OcclusionNetwork:
    """The occlusion network of a weights folder, in float32, frozen, in evaluation mode.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: the files do not fit the network.
    """
    return read_network(OcclusionNetwork, OcclusionConfig, folder, NAME, "occlusion").to(device)


class OcclusionReader:
    """A trained occlusion network behind pictures.

    Args:
        network: in float32.
        precision: of the computation; bfloat16, where it is fast, changes a likelihood by half a percent at most.
    """

    def __init__(self, network: OcclusionNetwork, precision: torch.dtype = torch.float32) -> None:
        self.size = network.config.size
        self.network = fold_normalisation(network.eval()).to(dtype=precision, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, crop: UInt8Image) -> FloatArray:
        """How likely each spot of an aligned crop (S S 3) is covered: side/2 side/2 in [0, 1]."""
        small = cv2.resize(crop, (self.size, self.size), interpolation=cv2.INTER_AREA)
        parameter = next(self.network.parameters())
        tensor = torch.from_numpy(small).to(parameter.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        logit = self.network(tensor.to(parameter.dtype, memory_format=torch.channels_last))
        return np.asarray(torch.sigmoid(logit[0].float()).cpu().numpy(), np.float32)


@dataclass(frozen=True)
class FollowConfig:
    """How answers become a mask."""

    clear: float = 0.5  # likelihood from which a spot begins to stay the target's ...
    certain: float = 0.8  # ... and from which it stays wholly
    hold: float = 0.04  # seconds in which an answer fades to 37 %: long enough to close flicker, too short to lag


class CoverFollower:
    """One person's answers from frame to frame: what appears counts at once, what goes fades soon."""

    def __init__(self, config: FollowConfig | None = None) -> None:
        self.config = config or FollowConfig()
        self._held: FloatArray | None = None
        self._time = Fraction(0)

    def __call__(self, covered: FloatArray, time: Fraction, fresh: bool = False) -> FloatArray | None:
        """How free each spot is, or None where all are.

        Args:
            covered: likelihoods (G G) of this frame.
            time: seconds, of this frame.
            fresh: whether the face was out of sight or in another shot before.

        Returns:
            G G in [0, 1]: the share of a render's mask that stays.
        """
        # After a gap or a cut, earlier answers belong to another picture.
        if self._held is None or fresh or not 0 <= time - self._time < 1:
            self._held = covered
        else:
            fading = math.exp(-float(time - self._time) / self.config.hold)
            self._held = np.maximum(covered, self._held * np.float32(fading))
        self._time = time
        if float(self._held.max()) <= self.config.clear:
            return None
        return np.asarray(1 - smooth_step(self._held, self.config.clear, self.config.certain), np.float32)
