"""ONNX files: a graph runs, and a file that is missing, damaged or another network is named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from talkswap.engine.onnx import OnnxNetwork, last_initialiser
from talkswap.errors import DependencyError, WeightsCorruptError, WeightsMissingError
from talkswap.types import FloatArray

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(path: Path, *stored: TensorProto, rows: int | str = 2) -> Path:
    """A graph that multiplies ``x`` (rows 3) by a stored 3 x 4 matrix."""
    tensors = [numpy_helper.from_array(MATRIX, "m"), *stored]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, n]) for name, n in (("x", 3), ("y", 4))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "m"], ["y"])], "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_graph_answers_by_name_or_as_the_only_input(tmp_path: Path) -> None:
    x = np.ones((2, 3), np.float32)
    path = write(tmp_path / "g.onnx")
    for inputs in ({"x": (2, 3)}, {"": (2, 3)}, {"": (None, 3)}):
        network = OnnxNetwork(path, inputs)
        assert np.array_equal(network(x), x @ MATRIX)
        assert network.names == ("x",) and list(network.shapes[0]) == [2, 3]
    network = OnnxNetwork(write(tmp_path / "any.onnx", rows="rows"), {"x": (7, 3)})
    assert network(np.ones((7, 3))).shape == (7, 4)


@pytest.mark.parametrize("inputs", [{"z": (2, 3)}, {"x": (2, 4)}, {"x": (2, 3, 1)}, {"x": (2, 3), "y": (1,)}])
def test_another_network_is_refused_with_the_hint(inputs: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    with pytest.raises(WeightsCorruptError, match="it takes") as refused:
        OnnxNetwork(write(tmp_path / "g.onnx"), inputs, hint="take the right one")
    assert refused.value.hint == "take the right one"


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="none.onnx"):
        OnnxNetwork(tmp_path / "none.onnx", {"": (1,)})
    (tmp_path / "bad.onnx").write_bytes(b"\x00 nothing of the kind")
    with pytest.raises(WeightsCorruptError, match="bad.onnx"):
        OnnxNetwork(tmp_path / "bad.onnx", {"": (1,)})


def test_the_last_stored_matrix_is_read(tmp_path: Path) -> None:
    last: FloatArray = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    path = write(tmp_path / "g.onnx", numpy_helper.from_array(last, "emap"))
    assert np.array_equal(last_initialiser(path), last)


def test_a_last_tensor_of_another_kind_or_place_is_refused(tmp_path: Path) -> None:
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="g.onnx")
    for tensor in (numpy_helper.from_array(np.arange(3), "whole"), outside):
        with pytest.raises(WeightsCorruptError):
            last_initialiser(write(tmp_path / "g.onnx", tensor))
    whole = write(tmp_path / "g.onnx").read_bytes()
    for content in (b"", b"\x00\x01 not a model", whole[:-20]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(WeightsCorruptError, match="bad.onnx"):
            last_initialiser(tmp_path / "bad.onnx")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "g.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match="onnxruntime"):
        OnnxNetwork(path, {"": (2, 3)})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DependencyError, match="the package onnx"):
        last_initialiser(path)
