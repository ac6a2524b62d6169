"""Perceptual loss on the features of a frozen classification network (second term of eq. 3).

The network is a VGG-19 of fewer channels with reflect padding, whose file names its layers ``convLI``
(level L, number I); where torchvision's own VGG-19 is wanted, its features fit the same loss.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from talkswap.errors import InputMissingError

LEVELS = (("11", "12"), ("21", "22"), ("31", "32", "33", "34"), ("41", "42", "43", "44"), ("51",))
TAPPED = ("11", "21", "31", "41", "51")


class PerceptualNetwork(nn.Module):
    """Features after the first ReLU of each level.

    Args:
        path: safetensors with ``conv0`` (1 x 1 colour transform) and ``conv11`` to ``conv51``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise InputMissingError(f"no perceptual network at {path}", "point perceptual at its safetensors file")
        weights = load_file(path)

        def convolution(name: str) -> nn.Conv2d:
            weight = weights[f"conv{name}.weight"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2])
            layer.load_state_dict({"weight": weight, "bias": weights[f"conv{name}.bias"]})
            return layer

        self.colour = convolution("0")
        self.layers = nn.ModuleDict({name: convolution(name) for level in LEVELS for name in level})

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Five feature maps of pictures (B 3 H W in [-1, 1])."""
        x = self.colour(rgb * 0.5 + 0.5)
        taps = []
        for number, level in enumerate(LEVELS):
            if number:
                x = F.max_pool2d(x, 2)
            for name in level:
                x = F.relu(self.layers[name](F.pad(x, (1, 1, 1, 1), mode="reflect")))
                if name in TAPPED:
                    taps.append(x)
        return taps


def perceptual_loss(network: PerceptualNetwork, result: Tensor, truth: Tensor) -> Tensor:
    """Mean over levels of the L1 distance of features, each level scaled to the truth's mean magnitude."""
    with torch.no_grad():
        wanted = network(truth)
    got = network(result)
    distances = [(a - b).abs().mean() / (b.abs().mean() + 1e-6) for a, b in zip(got, wanted, strict=True)]
    return torch.stack(distances).mean()
