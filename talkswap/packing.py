"""Weights in eight bits on disk, so that all compact networks fit in a package; in memory they are floats again.

Each output channel of a large tensor has its own step: w ~ q * step with q in -127..127.  The error is at most half a
step, 1/254 of the channel's largest weight.  Small tensors, vectors and codebooks stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STEP = ".step"
LEAST = 4096  # numbers in a tensor that is worth packing
KEPT = (".codes", "position", "mean", "basis")


def pack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Eight-bit form of a network's tensors; what is not packed becomes half precision."""
    import torch

    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            packed[name] = tensor.contiguous()
        elif tensor.ndim < 2 or tensor.numel() < LEAST or name.endswith(KEPT):
            packed[name] = tensor.half().contiguous()
        else:
            rows = tensor.float().flatten(1)
            step = (rows.abs().amax(1) / 127).clamp(min=1e-12)
            packed[name] = (rows / step[:, None]).round().to(torch.int8).view(tensor.shape).contiguous()
            packed[name + STEP] = step
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors of :func:`pack`'s result; tensors that were never packed pass through."""
    weights: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith(STEP) and name.removesuffix(STEP) in packed:
            continue
        step = packed.get(name + STEP)
        weights[name] = tensor if step is None else (tensor.flatten(1).float() * step[:, None]).view(tensor.shape)
    return weights
