"""Networks in ONNX form: opened with checked inputs and run by onnxruntime on the CPU.

Published networks come as ``.onnx`` files from many places.  A file that is damaged, or is another network than the
one that a caller expects, must be named before a render begins, not surface as a wrong picture.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.errors import DependencyError, WeightsCorruptError, WeightsMissingError
from talkswap.types import FloatArray

# Sides of a tensor; None where any length will do.
Shape = Sequence[int | None]


def onnx_errors() -> tuple[type[BaseException], ...]:
    """What onnxruntime raises for a file that holds no network; the classes share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, state.Fail, state.NoModel)


class OnnxNetwork:
    """An ONNX graph on the CPU whose inputs are what its user expects.

    Args:
        inputs: name -> shape; the name ``""`` stands for the only input, whatever the graph calls it.
        hint: what to do about a file that is no such network.

    Raises:
        WeightsMissingError: there is no such file.
        DependencyError: onnxruntime is not installed.
        WeightsCorruptError: the file holds no network, or one with other inputs.
    """

    def __init__(
        self, path: Path, inputs: Mapping[str, Shape], threads: int = 1, hint: str = "fetch the file again"
    ) -> None:
        if not path.is_file():
            raise WeightsMissingError(f"there is no network at {path}", "`talkswap download --list` shows what exists")
        try:
            import onnxruntime
        except ImportError as error:
            raise DependencyError(
                f"running {path.name} needs the package onnxruntime", 'run `pip install "talkswap[paper]"`'
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # a published graph's warnings say nothing that a user can act on
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except onnx_errors() as error:
            raise WeightsCorruptError(f"{path} cannot be read as an onnx network", hint) from error
        graph_shapes = {entry.name: entry.shape for entry in self._session.get_inputs()}
        # Published graphs name their one input as they like.
        if set(inputs) == {""} and len(graph_shapes) == 1:
            inputs = {next(iter(graph_shapes)): inputs[""]}
        if set(graph_shapes) != set(inputs) or not all(_fits(graph_shapes[name], inputs[name]) for name in inputs):
            raise WeightsCorruptError(f"{path} is another network: it takes {graph_shapes}", hint)
        self.names = tuple(inputs)
        self.shapes = tuple(graph_shapes[name] for name in inputs)  # as the graph states them

    def __call__(self, *tensors: np.ndarray) -> np.ndarray:
        """The graph's first output for float32 tensors, in the order of ``inputs``."""
        feed = {name: np.ascontiguousarray(t, np.float32) for name, t in zip(self.names, tensors, strict=True)}
        return np.asarray(self._session.run(None, feed)[0])


def _fits(graph_shape: Sequence[Any], shape: Shape) -> bool:
    """Whether a graph's input takes tensors of this shape; a side that it leaves open (a name, None) takes any."""
    return len(graph_shape) == len(shape) and all(
        not isinstance(side, int) or length is None or side == length
        for side, length in zip(graph_shape, shape, strict=True)
    )


def read_graph(path: Path) -> Any:
    """The graph of an ONNX file, for its tensors; none of them lies in another file.

    Raises:
        DependencyError: the package onnx is not installed.
        WeightsCorruptError: the file is no ONNX model, or keeps tensors in other files.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise DependencyError(
            f"reading {path.name} needs the package onnx", 'run `pip install "talkswap[paper]"`'
        ) from error
    hint = "fetch the file again"
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise WeightsCorruptError(f"{path} cannot be read as an onnx network", hint) from error
    # A tensor in another file could name any file on this machine: only what the graph itself holds is read.
    if any(tensor.data_location for tensor in graph.initializer):
        raise WeightsCorruptError(f"{path} keeps tensors in other files", hint)
    return graph


def last_initialiser(path: Path) -> FloatArray:
    """The last tensor among a graph's stored ones, where some published networks keep a matrix of their own.

    Raises:
        DependencyError: the package onnx is not installed.
        WeightsCorruptError: the file is no ONNX model, or its last initialiser is no float32 tensor inside the file.
    """
    initialisers = read_graph(path).initializer
    from onnx import TensorProto, numpy_helper

    if not initialisers or initialisers[-1].data_type != TensorProto.FLOAT:
        raise WeightsCorruptError(f"{path} does not end in a stored float32 tensor", "fetch the file again")
    return np.asarray(numpy_helper.to_array(initialisers[-1]), np.float32)
