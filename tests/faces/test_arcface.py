from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from safetensors.torch import save_file

from talkswap.checkpoints.manifest import read_catalogue
from talkswap.checkpoints.preset_folder import PresetFolder
from talkswap.engine.onnx import OnnxNetwork
from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.faces.arcface import PUBLISHED, ArcFace, ArcFaceConfig, load_arcface, preset_arcface

SMALL = ArcFaceConfig(layers=(1, 2, 1, 1), widths=(8, 8, 12, 16), size=32, dimension=24)


class Graph:
    """An IResNet written node by node as insightface's exporter wrote w600k_r50."""

    def __init__(self, folded: bool) -> None:
        self.folded, self.random = folded, np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def tensor(self, values: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(values.astype(np.float32), f"{600 + len(self.tensors)}"))
        return str(self.tensors[-1].name)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"out{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def norm(self, x: str, width: int, epsilon: float = 1e-5) -> str:
        draw = self.random
        values = (draw.uniform(0.5, 1.5, width), draw.normal(0, 0.3, width), draw.normal(0, 0.3, width))
        parts = [self.tensor(v) for v in (*values, draw.uniform(0.5, 1.5, width))]
        return self.node("BatchNormalization", x, *parts, epsilon=epsilon)

    def convolution(self, x: str, before: int, width: int, kernel: int = 3, stride: int = 1) -> str:
        weight = self.tensor(self.random.normal(0, (kernel * kernel * before) ** -0.5, (width, before, kernel, kernel)))
        pads = [kernel // 2] * 4
        shape = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": pads}
        if self.folded:
            return self.node("Conv", x, weight, self.tensor(self.random.normal(0, 0.3, width)), **shape)
        return self.norm(self.node("Conv", x, weight, **shape), width, 2e-5)

    def prelu(self, x: str, width: int) -> str:
        return self.node("PRelu", x, self.tensor(self.random.uniform(0.1, 0.4, (width, 1, 1))))

    def write(self, path: Path, config: ArcFaceConfig, projection_first: bool) -> Path:
        width = config.widths[0]
        x, side = self.prelu(self.convolution("data", 3, width), width), config.size
        for count, wide in zip(config.layers, config.widths, strict=True):
            for index in range(count):
                stride = 1 if index else 2
                beside = x if index or not projection_first else self.convolution(x, width, wide, 1, 2)
                inner = self.prelu(self.convolution(self.norm(x, width), width, wide), wide)
                inner = self.convolution(inner, wide, wide, 3, stride)
                if index == 0 and not projection_first:
                    beside = self.convolution(x, width, wide, 1, 2)
                x, width = self.node("Add", inner, beside), wide
            side //= 2
        flat = self.node("Flatten", self.norm(x, width), axis=1)
        weight = self.tensor(self.random.normal(0, 0.1, (config.dimension, width * side * side)))
        x = self.node("Gemm", flat, weight, self.tensor(self.random.normal(0, 0.1, config.dimension)), transB=1)
        x = self.norm(x, config.dimension)
        face = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, config.size, config.size])
        vector = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", config.dimension])
        graph = helper.make_graph(self.nodes, "iresnet", [face], [vector], self.tensors)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(path))
        return path


def faces(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SMALL.size, SMALL.size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("projection_first", [False, True])
def test_it_equals_the_published_graph(tmp_path: Path, folded: bool, projection_first: bool) -> None:
    path = Graph(folded).write(tmp_path / "small.onnx", SMALL, projection_first)
    network, crops = load_arcface(path, SMALL), faces()
    expected = OnnxNetwork(path, {"": (None, 3, SMALL.size, SMALL.size)})(crops.numpy())
    assert np.abs(expected).mean() > 0.1
    assert np.abs(network.raw(crops).numpy() - expected).max() < 1e-4
    assert np.allclose(np.linalg.norm(network(crops).numpy(), axis=1), 1, atol=1e-5)


def test_its_loss_reaches_the_pixels(tmp_path: Path) -> None:
    network = load_arcface(Graph(True).write(tmp_path / "small.onnx", SMALL, False), SMALL)
    crops = faces(2).requires_grad_(True)
    (1 - (network(crops) * network(faces(2).flip(0))).sum(1)).sum().backward()
    assert crops.grad is not None and float(crops.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_state_dicts_of_arcface_torch_load_by_their_names(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = ArcFace(SMALL).eval()
    state = network.state_dict()
    names = {"conv1.weight", "bn1.running_var", "prelu.weight", "layer2.1.bn1.bias", "layer1.0.downsample.1.weight"}
    assert {*names, "layer4.0.conv2.weight", "bn2.weight", "fc.bias", "features.running_mean"} <= state.keys()
    assert not any(name.startswith("layer2.1.downsample") for name in state)
    save_file(state, tmp_path / "r.safetensors")
    with torch.no_grad():
        assert torch.equal(load_arcface(tmp_path / "r.safetensors", SMALL)(faces()), network(faces()))


def test_the_defaults_fill_the_published_file() -> None:
    with torch.device("meta"):
        network = ArcFace()
    floats = 0
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            floats += module.weight.numel() + module.out_channels  # its norm is folded: a bias is left
        elif isinstance(module, torch.nn.PReLU | torch.nn.Linear):
            floats += sum(p.numel() for p in module.parameters())
        elif name.endswith("features") or name == "bn2" or "layer" in name and name.endswith("bn1"):
            floats += 4 * module.get_buffer("running_mean").numel()
    members = [member for entry in read_catalogue() for member in entry.members]
    (size,) = [member.record.size for member in members if member.record.file == PUBLISHED]
    assert 0 < size - 4 * floats < 50_000, "beside its tensors the file has names and nodes"


def test_another_network_is_named(tmp_path: Path) -> None:
    path = Graph(True).write(tmp_path / "small.onnx", SMALL, False)
    with pytest.raises(WeightsCorruptError, match="not an IResNet"):
        load_arcface(path)
    with pytest.raises(WeightsCorruptError, match="not an IResNet"):
        load_arcface(path, ArcFaceConfig((1, 1, 1, 1), SMALL.widths, SMALL.size, SMALL.dimension))
    with pytest.raises(WeightsMissingError, match="no ArcFace network"):
        load_arcface(tmp_path / "absent.onnx")
    (tmp_path / "pickle.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WeightsCorruptError, match="no safetensors file"):
        load_arcface(tmp_path / "pickle.pth", SMALL)


def test_a_preset_gives_only_what_its_manifest_lists(tmp_path: Path) -> None:
    Graph(True).write(tmp_path / PUBLISHED, SMALL, False)
    with pytest.raises(WeightsCorruptError, match="not listed"):
        preset_arcface(PresetFolder("paper", (tmp_path,), ("here",), ()))
