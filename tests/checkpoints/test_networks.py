"""A network's configuration and numbers, as a stranger may have written them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import nn

from talkswap.checkpoints.networks import build_network, config_from, fill
from talkswap.errors import WeightsCorruptError


@dataclass(frozen=True)
class Settings:
    width: int
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "x")
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    name: str | None = None
    wide: bool = False


def test_every_kind_comes_back_from_json() -> None:
    values = {"width": 3, "widths": [4, 5, 6], "pair": [2, "y"], "share": 1, "kind": "b", "name": "n", "wide": True}
    assert config_from(Settings, values) == Settings(3, (4, 5, 6), (2, "y"), 1, "b", "n", True)


@pytest.mark.parametrize(
    "values",
    [
        {}, {"width": "3"}, {"width": True}, {"width": 3.0}, {"width": -1}, {"width": 2**40}, {"width": None},
        {"width": 1, "widths": 4}, {"width": 1, "widths": [1, "2"]}, {"width": 1, "pair": [1]}, {"width": 1, "pair": ["x", 1]},
        {"width": 1, "share": float("nan")}, {"width": 1, "share": 10**400}, {"width": 1, "share": "0.5"},
        {"width": 1, "kind": "c"}, {"width": 1, "name": 5}, {"width": 1, "wide": 1}, {"width": 1, "other": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(WeightsCorruptError, match="Settings"):
        config_from(Settings, values)


@pytest.mark.parametrize("error", [KeyError(4), ZeroDivisionError(), IndexError(), RuntimeError("x"), AssertionError()])
def test_a_network_that_cannot_be_built_is_named(error: Exception) -> None:
    def build(settings: Settings) -> nn.Module:
        raise error

    with pytest.raises(WeightsCorruptError, match="small.json does not describe"):
        build_network(build, Settings, {"width": 1}, "small")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_fill_no_network(value: float) -> None:
    network = nn.Linear(2, 2)
    weights = {"weight": torch.eye(2), "bias": torch.tensor([0.0, value])}
    with pytest.raises(WeightsCorruptError, match="no number, in bias"):
        fill(network, weights, "small")
