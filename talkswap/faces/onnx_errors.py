"""What onnxruntime raises for a file that is no network; its classes share no base of their own."""

from __future__ import annotations


def onnx_errors() -> tuple[type[BaseException], ...]:
    """The classes; imports onnxruntime."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, state.Fail, state.NoModel)
