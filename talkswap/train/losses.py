"""Losses on the features of frozen networks: perceptual (second term of eq. 3) and identity (eq. 5 and 9).

Two perceptual networks have the same interface: torchvision's VGG-19, which the papers use, and a smaller
VGG-19 with reflect padding, which compact trained with and whose file names its layers ``convLI`` (level L, number I).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.networks import load_network
from talkswap.checkpoints.preset_folder import verify
from talkswap.checkpoints.presets import preset_state
from talkswap.errors import InputMissingError, WeightsCorruptError

VGG19_NAME = "vgg19"  # the catalogue's entry, which stages may name in place of a file
VGG19_FILE = "perceptual/vgg19.safetensors"  # in the paper preset's folder
LEVELS = (("11", "12"), ("21", "22"), ("31", "32", "33", "34"), ("41", "42", "43", "44"), ("51",))
TAPPED = ("11", "21", "31", "41", "51")


@dataclass(frozen=True)
class Vgg19Config:
    """Sizes of VGG-19's convolutions, and which features are looked at."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)  # channels of the five levels
    counts: tuple[int, ...] = (2, 2, 4, 4, 4)  # convolutions of each
    taps: tuple[int, ...] = (1, 6, 11, 20, 29)  # numbers of layers: here the first ReLU of each level


class Vgg19(nn.Module):
    """Features of torchvision's VGG-19, by its own layer numbers (``features.N.weight``).

    Layers behind the last tap are left out.  Pictures are normalised inside, as torchvision's training normalised them.

    Raises:
        ValueError: a tap is no layer of the network.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Vgg19Config | None = None) -> None:
        super().__init__()
        self.config = config or Vgg19Config()
        layers: list[nn.Module] = []
        before = 3
        for width, count in zip(self.config.widths, self.config.counts, strict=True):
            for _ in range(count):
                # Not in place: a tap may be the convolution that a ReLU would write over.
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        taps = self.config.taps
        if not taps or list(taps) != sorted(set(taps)) or not 0 <= taps[0] <= taps[-1] < len(layers):
            raise ValueError(f"taps are rising numbers of layers from 0 to {len(layers) - 1}, not {taps}")
        self.features = nn.Sequential(*layers[: taps[-1] + 1])
        # ImageNet's, for pictures from 0 to 1.
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("deviation", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Feature maps at the taps, of pictures (B 3 H W in [-1, 1])."""
        x = (rgb * 0.5 + 0.5 - self.mean) / self.deviation
        maps = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.config.taps:
                maps.append(x)
        return maps


class PerceptualNetwork(nn.Module):
    """Features of the smaller VGG-19 after the first ReLU of each level.

    Args:
        weights: ``conv0`` (1 x 1 colour transform) and ``conv11`` to ``conv51``, each with weight and bias.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()

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
        maps = []
        for number, level in enumerate(LEVELS):
            if number:
                x = F.max_pool2d(x, 2)
            for name in level:
                x = F.relu(self.layers[name](F.pad(x, (1, 1, 1, 1), mode="reflect")))
                if name in TAPPED:
                    maps.append(x)
        return maps


def load_perceptual(source: Path, config: Vgg19Config | None = None) -> Vgg19 | PerceptualNetwork:
    """A perceptual network, frozen, in evaluation mode.

    Args:
        source: a safetensors file of one of the two layouts, or ``vgg19``: torchvision's, as `talkswap download vgg19` keeps
            it.
        config: of a VGG-19.

    Raises:
        InputMissingError: there is no such file.
        WeightsMissingError: VGG-19 wasn't downloaded.
        WeightsCorruptError: the file differs from its manifest, or holds another network.
    """
    from safetensors import SafetensorError, safe_open

    path = source
    if source == Path(VGG19_NAME) and not source.is_file():
        path = verify(preset_state("paper"), VGG19_FILE)
    if not path.is_file():
        hint = f"point perceptual_network at its safetensors file, or at {VGG19_NAME} after `talkswap download {VGG19_NAME}`"
        raise InputMissingError(f"no perceptual network at {path}", hint)
    hint = "give torchvision's VGG-19 or a file with conv0 to conv51"
    network = Vgg19(config)
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            # The classifier, five sixths of torchvision's file, stays on disk.
            names &= network.state_dict().keys() if "features.0.weight" in names else names
            weights = {name: file.get_tensor(name).float() for name in names}
    except SafetensorError as error:
        raise WeightsCorruptError(f"{path} is no safetensors file: {error}", hint) from error
    if "features.0.weight" in weights:
        return load_network(network, weights, "VGG-19")
    try:
        return PerceptualNetwork(weights).eval().requires_grad_(False)
    except (KeyError, RuntimeError) as error:
        raise WeightsCorruptError(f"{path} holds no perceptual network", hint) from error


def perceptual_loss(network: nn.Module, result: Tensor, truth: Tensor, as_in_paper: bool = False) -> Tensor:
    """L1 distance of features.

    Args:
        network: frozen, with a list of feature maps as output: see :func:`load_perceptual`.
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
