"""The learning rate at a step, and an optimiser's state as tensors with names, as safetensors wants it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from talkswap.train.stage import LoopConfig


def rate_at(config: LoopConfig, step: int) -> float:
    """Learning rate factor: linear warm-up, then a cosine down to ``final_rate``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def flat_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its state's tensors as ``NUMBER.NAME``."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, entry in state.items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def restore_state(optimiser: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Put back what :func:`flat_state` gave, each moment laid out in memory like its weight."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".", 1)
        like = parameters[int(number)]
        if value.shape == like.shape:
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
