"""Proxies: our mesh, and an inswapper network in a tiny ONNX file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from talkswap.errors import UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.faces import mesh
from talkswap.faces.geometry import ffhq_affine, transform_points
from talkswap.systems.cascade.networks import InswapperProxy
from talkswap.systems.swaptalk.training.pair_draw import MeshProxy, compatible, load_proxy
from talkswap.types import AlignedFace, FloatArray


def face(seed: int, yaw: float = 0.0, size: int = 160) -> AlignedFace:
    points = mesh.mean_face().points
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    landmarks = (points @ turn.T * size / 4 + size / 2).astype(np.float32)
    affine = ffhq_affine(landmarks, size)
    noise = np.random.default_rng(seed).integers(60, 200, (10, 10, 3), np.uint8)
    crop = np.asarray(cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
    return AlignedFace(crop, affine, transform_points(affine, landmarks), 0)


def save(path: Path, nodes: list[onnx.NodeProto], shapes: dict[str, list[int]], stored: dict[str, FloatArray]) -> Path:
    """Write a graph whose last named shape is its output's."""
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "tiny", ports[:-1], ports[-1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def write_networks(folder: Path) -> tuple[Path, Path]:
    """An inswapper that answers target + mean-weighted source, and an embedder of mean colours."""
    matrix = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((512, 1)).astype(np.float32) * 0.2
    swapper = save(
        folder / "inswapper.onnx",
        [
            helper.make_node("MatMul", ["source", "weights"], ["amount"]),
            helper.make_node("Add", ["target", "amount"], ["output"]),
        ],
        {"target": [1, 3, 128, 128], "source": [1, 512], "output": [1, 3, 128, 128]},
        {"weights": weights, "emap": matrix},
    )
    spread = np.random.default_rng(2).standard_normal((3, 512)).astype(np.float32)
    embedder = save(
        folder / "arcface.onnx",
        [
            helper.make_node("ReduceMean", ["face"], ["colour"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["colour", "spread"], ["vector"]),
        ],
        {"face": [1, 3, 112, 112], "vector": [1, 512]},
        {"spread": spread},
    )
    return swapper, embedder


@pytest.fixture
def networks(tmp_path: Path) -> tuple[Path, Path]:
    return write_networks(tmp_path)


def test_inswapper_embeds_the_source_as_its_graph_wants(networks: tuple[Path, Path]) -> None:
    swapper = InswapperProxy(*networks)
    first, second = swapper.embed(face(1)), swapper.embed(face(2))
    assert first.shape == (1, 512) and np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(first, second)


def test_inswapper_changes_the_face_by_what_the_graph_says_and_nothing_else(networks: tuple[Path, Path]) -> None:
    swapper = InswapperProxy(*networks)
    source, target = face(1), face(2)
    weights = np.random.default_rng(1).standard_normal((512, 1)).astype(np.float32) * 0.2
    amount = float((swapper.embed(source) @ weights)[0, 0]) * 255
    made = swapper.swap(source, target)
    x, y = np.round(target.landmarks[4, :2]).astype(int)  # the nose's tip
    expected = np.clip(target.crop[y, x].astype(float) + amount, 0, 255)
    assert np.abs(made[y, x] - expected).max() < 6  # the square was resampled twice
    assert abs(amount) > 10
    assert np.array_equal(made[:10], target.crop[:10]) and made.shape == target.crop.shape


def test_inswapper_files_are_checked(networks: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError):
        InswapperProxy(tmp_path / "none.onnx", networks[1])
    with pytest.raises(WeightsCorruptError):
        InswapperProxy(networks[1], networks[1])  # other inputs


def test_mesh_proxy_changes_only_the_face() -> None:
    source, target = face(1), face(2, yaw=10)
    made = MeshProxy().swap(source, target)
    changed = (made != target.crop).any(2)
    hull = np.zeros(changed.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(target.landmarks[:468, :2].astype(np.int32)), 1)
    assert changed[hull > 0].mean() > 0.6
    assert not changed[cv2.dilate(hull, np.ones((9, 9), np.uint8)) == 0].any()


def test_proxies_by_name(networks: tuple[Path, Path]) -> None:
    assert load_proxy("mesh").name == "mesh"
    assert load_proxy("inswapper", *networks).name == "inswapper"
    for name in ("inswapper", "other"):
        with pytest.raises(UsageError):
            load_proxy(name)


def test_pairs_that_show_hidden_skin_are_refused() -> None:
    assert compatible(10, -20)
    assert not compatible(60, 60) and not compatible(0, 70) and not compatible(-30, 30)
