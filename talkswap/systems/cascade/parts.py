"""The parts of the cascades: which published ONNX networks they are, where they lie, and opening one.

``talkswap download NAME`` fetches a part; a part that is not on this machine is named, and the cascades that need it are
not run.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.checkpoints import verify
from talkswap.checkpoints.finding import preset_state
from talkswap.errors import DependencyError, InputMissingError, UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.faces.analyse import onnx_errors
from talkswap.systems.cascade import CASCADES
from talkswap.types import FloatArray


@dataclass(frozen=True)
class Part:
    """One published network."""

    name: str  # what `talkswap download` calls it
    file: str  # inside the paper preset's folder


PARTS = {
    "inswapper": Part("inswapper_128", "insightface/models/inswapper_128.onnx"),
    "arcface": Part("buffalo_l", "insightface/models/buffalo_l/w600k_r50.onnx"),
    "wav2lip": Part("wav2lip_96", "cascade/wav2lip_96.onnx"),
    "gfpgan": Part("gfpgan_1.4", "cascade/gfpgan_1.4.onnx"),
}

STEPS = {"swap": ("inswapper", "arcface"), "sync": ("wav2lip",), "restore": ("gfpgan",)}
"""What each step of a cascade needs."""


def steps_of(name: str) -> tuple[str, ...]:
    """The steps of a cascade.

    Raises:
        UsageError: there is no such cascade.
    """
    if name not in CASCADES:
        raise UsageError(f"there is no system called {name!r}", f"choose one of: {', '.join(CASCADES)}")
    return CASCADES[name]


def missing_parts(name: str) -> tuple[str, ...]:
    """Names for `talkswap download` of the parts that a cascade needs and this machine has not.

    Raises:
        UsageError: there is no such cascade.
    """
    folder = preset_state("paper")
    lacking = []
    for kind in dict.fromkeys(part for step in steps_of(name) for part in STEPS[step]):
        try:
            folder.locate(PARTS[kind].file)
        except WeightsMissingError:
            lacking.append(PARTS[kind].name)
    return tuple(lacking)


def part_path(kind: str) -> Path:
    """Where a part lies, its size and sha256 held against the manifest.

    Raises:
        WeightsMissingError: it is not on this machine.
        WeightsCorruptError: it is damaged, or on no manifest's list.
    """
    part = PARTS[kind]
    try:
        return verify(preset_state("paper"), part.file)
    except WeightsMissingError as error:
        raise WeightsMissingError(
            f"the part {part.name} of this cascade is not on this machine", f"run `talkswap download {part.name}`"
        ) from error


class OnnxNetwork:
    """An ONNX graph on the CPU whose inputs are what its user expects.

    Args:
        path: the ``.onnx`` file.
        inputs: name -> shape, None where any length will do; one without a name (``""``) stands for the only input.
        threads: CPU threads.

    Raises:
        InputMissingError: no file there.
        DependencyError: onnxruntime is not installed.
        WeightsCorruptError: the file is no network, or one with other inputs.
    """

    def __init__(self, path: Path, inputs: Mapping[str, Sequence[int | None]], threads: int = 1) -> None:
        if not path.is_file():
            raise InputMissingError(f"no network at {path}", "`talkswap download --list` shows what can be fetched")
        try:
            import onnxruntime
        except ImportError as error:
            raise DependencyError(
                "this needs the package onnxruntime", 'run `pip install "talkswap[paper]"`, or pip install onnxruntime'
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        wrong = WeightsCorruptError(f"{path.name} is not the network that belongs here", "fetch the file again")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except onnx_errors() as error:
            raise wrong from error
        entries = {entry.name: entry.shape for entry in self._session.get_inputs()}
        if set(inputs) == {""} and len(entries) == 1:
            inputs = {next(iter(entries)): inputs[""]}
        if set(entries) != set(inputs) or not all(_fits(entries[name], inputs[name]) for name in inputs):
            raise wrong
        self.names = tuple(inputs)

    def __call__(self, *tensors: np.ndarray) -> np.ndarray:
        """The graph's first output for float32 tensors, in the order of ``inputs``."""
        given = {name: np.ascontiguousarray(t, np.float32) for name, t in zip(self.names, tensors, strict=True)}
        return np.asarray(self._session.run(None, given)[0])


def _fits(stated: Sequence[Any], wanted: Sequence[int | None]) -> bool:
    """Whether a graph's input takes tensors of this shape; what it leaves open (a name, None) takes any length."""
    return len(stated) == len(wanted) and all(
        not isinstance(have, int) or want is None or have == want for have, want in zip(stated, wanted, strict=True)
    )


# --- Read one stored matrix from an ``.onnx`` file without the package onnx.


FLOAT32 = 1  # TensorProto.DataType.FLOAT
Span = tuple[int, int]


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The number at ``at`` and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Field number and value (a number, or the span of a length-delimited field) of one message."""
    at, end = span
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        value: int | Span
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 5):
            value, at = 0, at + (8 if wire == 1 else 4)
        elif wire == 2:
            length, at = _varint(data, at)
            value, at = (at, at + length), at + length
        else:
            raise IndexError(f"wire type {wire}")
        if at > end:
            raise IndexError("a field reaches past its message")
        yield key >> 3, value


def last_initialiser(path: Path) -> FloatArray:
    """The last float32 tensor among a graph's initialisers.

    Raises:
        WeightsCorruptError: the file is no ONNX model, or its last initialiser is no float32 tensor.
    """
    wrong = WeightsCorruptError(f"{path.name} does not end in a stored float32 tensor", "fetch the file again")
    if path.stat().st_size == 0:
        raise wrong
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            graphs = [value for field, value in _fields(data, (0, len(data))) if field == 7]
            spans = [v for field, v in _fields(data, _span(graphs[-1])) if field == 5]
            return _tensor(data, _span(spans[-1]))
        except (IndexError, ValueError) as error:
            raise wrong from error


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _tensor(data: mmap.mmap, span: Span) -> FloatArray:
    shape: list[int] = []
    kind, stored = 0, b""
    for field, value in _fields(data, span):
        if field == 1 and isinstance(value, int):
            shape.append(value)
        elif field == 1:  # packed
            at, end = _span(value)
            while at < end:
                number, at = _varint(data, at)
                shape.append(number)
        elif field == 2 and isinstance(value, int):
            kind = value
        elif field in (4, 9):
            first, last = _span(value)
            stored = data[first:last]
    if kind != FLOAT32:
        raise ValueError("not float32")
    return np.frombuffer(stored, "<f4").reshape(shape).astype(np.float32)
