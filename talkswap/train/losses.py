"""Losses on the features of frozen networks: perceptual (second term of eq. 3) and identity (eq. 5 and 9).

The perceptual network is a VGG-19 of fewer channels with reflect padding, whose file names its layers ``convLI``
(level L, number I); where torchvision's own VGG-19 is wanted, its features fit the same loss.
"""

import math
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


def perceptual_loss(network: PerceptualNetwork, result: Tensor, truth: Tensor, as_in_paper: bool = False) -> Tensor:
    """L1 distance of features.

    Args:
        network: frozen.
        result, truth: B 3 H W; only ``result`` receives gradients.
        as_in_paper: the sum over levels of eq. 3; else the mean over levels, each relative to the truth's magnitude,
            so that a weight means the same with every network.
    """
    # The truth's features are constants: no graph is kept for them.
    with torch.no_grad():
        target = network(truth)
    pairs = list(zip(network(result), target, strict=True))
    if as_in_paper:
        return torch.stack([(a - b).abs().mean() for a, b in pairs]).sum()
    return torch.stack([(a - b).abs().mean() / (b.abs().mean() + 1e-6) for a, b in pairs]).mean()


def identity_distance(embedding: Tensor, target: Tensor, as_in_paper: bool = False) -> Tensor:
    """Mean distance of identities (B D each, unit length).

    Args:
        given, wanted: rows belong together.
        as_in_paper: the L1 of eq. 5 and 9; else 1 - cosine.  The paper's features are ArcFace's before they are brought
            to unit length, whose entries are about one: so are these, times sqrt(D).
    """
    if as_in_paper:
        return (embedding - target).abs().mean() * math.sqrt(embedding.shape[1])
    return 1 - (embedding * target).sum(1).mean()
