"""Read one stored matrix from an ``.onnx`` file without the package onnx.

The format is protocol buffers: a message is a run of (key, value), key = field number * 8 + wire type, numbers are
base-128 varints.  Only what leads to a float32 initialiser is followed: ModelProto.graph (7), GraphProto.initializer
(5), TensorProto.dims (1), data_type (2), float_data (4), raw_data (9); everything else is skipped by its length.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from talkswap.errors import WeightsCorruptError
from talkswap.types import FloatArray

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
