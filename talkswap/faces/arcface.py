"""ArcFace's IResNet as insightface publishes it: the papers' identity, differentiable, with gradients down to the pixels.

Weights come from ``w600k_r50.onnx`` of buffalo_l, or from a state dict of arcface_torch, whose names the modules have.  The
published graph has the batch normalisation behind each convolution folded into it; the tensors are taken in the order of
its nodes, because folded ones have numbers for names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.networks import load_network, read_tensors
from talkswap.checkpoints.preset_folder import PresetFolder, verify
from talkswap.engine.onnx import read_graph
from talkswap.errors import WeightsCorruptError, WeightsMissingError

PUBLISHED = "insightface/models/buffalo_l/w600k_r50.onnx"  # in the paper preset's folder
HINT = "run: talkswap download buffalo_l"


@dataclass(frozen=True)
class ArcFaceConfig:
    """Sizes of an IResNet; the defaults are w600k_r50's."""

    layers: tuple[int, ...] = (3, 4, 14, 3)  # residual blocks of each level, the first at half the side before
    widths: tuple[int, ...] = (64, 128, 256, 512)
    size: int = 112  # px
    dimension: int = 512


class Block(nn.Module):
    """Norm, convolution, norm, PReLU, convolution with the stride, norm; beside it the input, or its projection."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Sequential | None = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return inner + (x if self.downsample is None else self.downsample(x))


class ArcFace(nn.Module):
    """Aligned faces (B 3 112 112, RGB in [-1, 1]) to identity vectors.

    :meth:`raw` gives the network's own numbers, about one each, which equations 5 and 9 compare; calling it scales them to
    unit length, as :class:`talkswap.faces.identity.IdentityNetwork` does.
    """

    def __init__(self, config: ArcFaceConfig | None = None) -> None:
        super().__init__()
        self.config = config or ArcFaceConfig()
        widths = self.config.widths
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        before, side = widths[0], self.config.size
        for level, (count, width) in enumerate(zip(self.config.layers, widths, strict=True), 1):
            blocks = [Block(before if index == 0 else width, width, 2 if index == 0 else 1) for index in range(count)]
            self.add_module(f"layer{level}", nn.Sequential(*blocks))
            before, side = width, (side + 1) // 2
        self.bn2 = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before * side * side, self.config.dimension)
        self.features = nn.BatchNorm1d(
            self.config.dimension
        )  # arcface_torch's name for the norm of the vector's numbers

    def levels(self) -> list[nn.Sequential]:
        """The sequences of blocks, from the finest to the coarsest."""
        levels: list[nn.Sequential] = []
        for level in range(1, len(self.config.layers) + 1):
            module = self.get_submodule(f"layer{level}")
            assert isinstance(module, nn.Sequential)
            levels.append(module)
        return levels

    def raw(self, face: Tensor) -> Tensor:
        """Vectors before they are brought to unit length: B D."""
        x = self.prelu(self.bn1(self.conv1(face)))
        for level in self.levels():
            x = level(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))

    def forward(self, face: Tensor) -> Tensor:
        """Unit vectors: B D."""
        return F.normalize(self.raw(face).float(), dim=1)


# --- Weights.


class _Nodes:
    """Tensors of an onnx graph's nodes, in their order.

    Projections stand apart: exporters put them before or behind the convolutions that they accompany.
    """

    def __init__(self, graph: Any) -> None:
        from onnx import helper, numpy_helper

        self.stored = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        for node in graph.node:
            if node.op_type == "Constant":
                # As for stored tensors: never one that lies in another file.
                values = [
                    numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value" and not a.t.data_location
                ]
                self.stored |= dict(zip(node.output, values, strict=False))
        self.attributes = {
            node.output[0]: {a.name: helper.get_attribute_value(a) for a in node.attribute} for node in graph.node
        }
        # A norm right behind a convolution belongs to it; exporters fold it into the convolution or leave it.
        kinds = ("Conv", "BatchNormalization", "PRelu", "Gemm")
        nodes = [node for node in graph.node if node.op_type in kinds]
        maker = {node.output[0]: node for node in nodes}
        self.norms: dict[str, Any] = {}
        for node in nodes:
            if node.op_type == "BatchNormalization" and getattr(maker.get(node.input[0]), "op_type", "") == "Conv":
                self.norms[node.input[0]] = node
        own = {node.output[0] for node in self.norms.values()}
        rest = [node for node in nodes if node.output[0] not in own]
        projects = {n.output[0] for n in rest if n.op_type == "Conv" and self.tensor(n.input[1]).shape[2:] == (1, 1)}
        self.main: Iterator[Any] = iter([node for node in rest if node.output[0] not in projects])
        self.projections: Iterator[Any] = iter([node for node in rest if node.output[0] in projects])

    def tensor(self, name: str) -> Tensor:
        # Exporters share equal tensors by Identity, and shape slopes by Unsqueeze or Reshape.
        while name not in self.stored:
            name = self.makers[name].input[0]
        return torch.from_numpy(np.array(self.stored[name], np.float32))

    def take(self, kind: str, projection: bool = False) -> Any:
        node = next(self.projections if projection else self.main)
        if node.op_type != kind:
            raise ValueError(f"{node.op_type} stands where {kind} should")
        return node

    def norm(self, node: Any, target: str) -> dict[str, Tensor]:
        names = ("weight", "bias", "running_mean", "running_var")
        state = {f"{target}.{name}": self.tensor(key) for name, key in zip(names, node.input[1:], strict=True)}
        # Our modules have one epsilon: another one goes into the variance.
        state[f"{target}.running_var"] += self.attributes[node.output[0]].get("epsilon", 1e-5) - 1e-5
        return state

    def convolution(self, target: str, norm: str, projection: bool = False) -> dict[str, Tensor]:
        node = self.take("Conv", projection)
        state = {f"{target}.weight": self.tensor(node.input[1])}
        width = len(state[f"{target}.weight"])
        bias = self.tensor(node.input[2]) if len(node.input) > 2 else torch.zeros(width)
        if node.output[0] in self.norms:
            state |= self.norm(self.norms[node.output[0]], norm)
            state[f"{norm}.running_mean"] -= bias
            return state
        # Folded: what is left of the norm is a shift.
        ones = torch.ones(width)
        state |= {f"{norm}.weight": ones, f"{norm}.bias": bias}
        return state | {f"{norm}.running_mean": torch.zeros(width), f"{norm}.running_var": ones - 1e-5}


def graph_state(graph: Any, config: ArcFaceConfig) -> dict[str, Tensor]:
    """State dict of :class:`ArcFace` from an onnx graph of the same structure.

    Raises:
        ValueError, LookupError, StopIteration: the graph has another structure.
    """
    nodes = _Nodes(graph)

    def slope(target: str) -> dict[str, Tensor]:
        return {f"{target}.weight": nodes.tensor(nodes.take("PRelu").input[1]).flatten()}

    state = nodes.convolution("conv1", "bn1") | slope("prelu")
    for level, count in enumerate(config.layers, 1):
        for index in range(count):
            block = f"layer{level}.{index}"
            state |= nodes.norm(nodes.take("BatchNormalization"), f"{block}.bn1")
            state |= nodes.convolution(f"{block}.conv1", f"{block}.bn2") | slope(f"{block}.prelu")
            state |= nodes.convolution(f"{block}.conv2", f"{block}.bn3")
            if index == 0:
                state |= nodes.convolution(f"{block}.downsample.0", f"{block}.downsample.1", projection=True)
    state |= nodes.norm(nodes.take("BatchNormalization"), "bn2")
    linear = nodes.take("Gemm")
    weight = nodes.tensor(linear.input[1])
    transposed = nodes.attributes[linear.output[0]].get("transB", 0)
    state |= {"fc.weight": weight if transposed else weight.T, "fc.bias": nodes.tensor(linear.input[2])}
    state |= nodes.norm(nodes.take("BatchNormalization"), "features")
    if len(list(nodes.main)) + len(list(nodes.projections)):
        raise ValueError("it goes on behind the vector")
    return state


def load_arcface(path: Path, config: ArcFaceConfig | None = None) -> ArcFace:
    """A published recognition network, frozen, in evaluation mode, in float32.

    Args:
        path: ``.onnx`` as in buffalo_l, or the safetensors of an IResNet with arcface_torch's names.

    Raises:
        WeightsMissingError: there is no such file.
        WeightsCorruptError: it isn't an IResNet of this size.
        DependencyError: the package onnx is not installed.
    """
    config = config or ArcFaceConfig()
    if not path.is_file():
        raise WeightsMissingError(f"no ArcFace network at {path}", HINT)
    if path.suffix == ".onnx":
        try:
            state = graph_state(read_graph(path), config)
        except (ValueError, LookupError, StopIteration) as error:
            raise WeightsCorruptError(f"{path} is not an IResNet of {config.layers} blocks", HINT) from error
    else:
        state = read_tensors([path], HINT)
    return load_network(ArcFace(config), state, "ArcFace")


def preset_arcface(preset: PresetFolder) -> ArcFace:
    """w600k_r50 of a preset's folder, verified first.

    Raises:
        WeightsMissingError, WeightsCorruptError, DependencyError: as :func:`load_arcface`.
    """
    return load_arcface(verify(preset, PUBLISHED))
