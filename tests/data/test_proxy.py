"""Proxies: our mesh, and an inswapper network in a tiny ONNX file written here byte by byte."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from talkswap.data import proxy
from talkswap.errors import InputMissingError, UsageError, WeightsCorruptError
from talkswap.faces import mesh
from talkswap.faces.geometry import ffhq_affine, transform_points
from talkswap.systems.cascade.parts import last_initialiser
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


# --- a writer for the few protocol-buffer messages that an ONNX model needs


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def tensor(name: str, value: FloatArray, kind: int = 1) -> bytes:
    dims = b"".join(number(1, side) for side in value.shape)
    return dims + number(2, kind) + block(8, name) + block(9, value.astype("<f4").tobytes())


def node(kind: str, inputs: list[str], output: str, axes: list[int] | None = None) -> bytes:
    content = b"".join(block(1, name) for name in inputs) + block(2, output) + block(4, kind)
    if axes is not None:
        ints = block(1, "axes") + b"".join(number(8, axis) for axis in axes) + number(20, 7)
        keep = block(1, "keepdims") + number(3, 0) + number(20, 2)
        content += block(5, ints) + block(5, keep)
    return content


def value_info(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(block(1, number(1, side)) for side in shape)
    return block(1, name) + block(2, block(1, number(1, 1) + block(2, dims)))


def model(nodes: list[bytes], inputs: list[bytes], output: bytes, stored: list[bytes]) -> bytes:
    graph = b"".join(block(1, n) for n in nodes) + block(2, "tiny") + b"".join(block(5, t) for t in stored)
    graph += b"".join(block(11, i) for i in inputs) + block(12, output)
    return number(1, 8) + block(7, graph) + block(8, number(2, 13))


def write_networks(tmp_path: Path) -> tuple[Path, Path]:
    """An inswapper that answers target + mean-weighted source, and an embedder of mean colours."""
    matrix = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((512, 1)).astype(np.float32) * 0.2
    swapper = model(
        [node("MatMul", ["source", "weights"], "amount"), node("Add", ["target", "amount"], "output")],
        [value_info("target", (1, 3, 128, 128)), value_info("source", (1, 512))],
        value_info("output", (1, 3, 128, 128)),
        [tensor("weights", weights), tensor("emap", matrix)],
    )
    spread = np.random.default_rng(2).standard_normal((3, 512)).astype(np.float32)
    embedder = model(
        [node("ReduceMean", ["face"], "colour", [2, 3]), node("MatMul", ["colour", "spread"], "vector")],
        [value_info("face", (1, 3, 112, 112))],
        value_info("vector", (1, 512)),
        [tensor("spread", spread)],
    )
    (tmp_path / "inswapper.onnx").write_bytes(swapper)
    (tmp_path / "arcface.onnx").write_bytes(embedder)
    return tmp_path / "inswapper.onnx", tmp_path / "arcface.onnx"


@pytest.fixture
def networks(tmp_path: Path) -> tuple[Path, Path]:
    return write_networks(tmp_path)


def test_the_last_stored_matrix_is_read(networks: tuple[Path, Path]) -> None:
    wanted = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    assert np.array_equal(last_initialiser(networks[0]), wanted)


def test_inswapper_embeds_the_source_as_its_graph_wants(networks: tuple[Path, Path]) -> None:
    swapper = proxy.InswapperProxy(*networks)
    first, second = swapper.embed(face(1)), swapper.embed(face(2))
    assert first.shape == (1, 512) and np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(first, second)


def test_inswapper_changes_the_face_by_what_the_graph_says_and_nothing_else(networks: tuple[Path, Path]) -> None:
    swapper = proxy.InswapperProxy(*networks)
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
    with pytest.raises(InputMissingError):
        proxy.InswapperProxy(tmp_path / "none.onnx", networks[1])
    with pytest.raises(WeightsCorruptError):
        proxy.InswapperProxy(networks[1], networks[1])  # other inputs
    for content in (b"", b"\x00\x01 not a model", networks[0].read_bytes()[:-200_000]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(WeightsCorruptError):
            last_initialiser(tmp_path / "bad.onnx")


def test_mesh_proxy_changes_only_the_face() -> None:
    source, target = face(1), face(2, yaw=10)
    made = proxy.MeshProxy().swap(source, target)
    changed = (made != target.crop).any(2)
    hull = np.zeros(changed.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(target.landmarks[:468, :2].astype(np.int32)), 1)
    assert changed[hull > 0].mean() > 0.6
    assert not changed[cv2.dilate(hull, np.ones((9, 9), np.uint8)) == 0].any()


def test_proxies_by_name(networks: tuple[Path, Path]) -> None:
    assert proxy.load_proxy("mesh").name == "mesh"
    assert proxy.load_proxy("inswapper", *networks).name == "inswapper"
    for name in ("inswapper", "other"):
        with pytest.raises(UsageError):
            proxy.load_proxy(name)


def test_pairs_that_show_hidden_skin_are_refused() -> None:
    assert proxy.compatible(10, -20)
    assert not proxy.compatible(60, 60) and not proxy.compatible(0, 70) and not proxy.compatible(-30, 30)
