"""The dry run: parameters, FLOPs and memory without data, for every stage and preset."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from talkswap.errors import UsageError
from talkswap.systems.registry import find_stage, stages
from talkswap.train.stage import LoopConfig, Part, Work, _measured
from talkswap.train.stages import configure


def test_flops_and_memory_of_a_layer_are_the_ones_on_paper() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        net = nn.Linear(100, 50)
        work = Work([Part("layer", lambda: net(torch.empty(2, 100)).sigmoid())])
        found = _measured(LoopConfig(batch=8, accumulate=2, precision="float32"), {"layer": net}, work, mode)
    assert found["trained"] == 5050
    assert found["flops"]["forward_per_sample"] == {"layer": 2 * 100 * 50}
    assert found["flops"]["step"] == 3 * 8 * 2 * 100 * 50
    memory = found["memory"]
    assert (memory["weights"], memory["gradients"], memory["adam"], memory["average"]) == (20200, 20200, 40400, 20200)
    assert memory["activations_per_sample"] == 4 * (100 + 50), "the input and the sigmoid, each once"
    assert memory["activations"] == 4 * memory["activations_per_sample"], "a micro-batch of 8 / 2"
    assert memory["total"] == 20200 * 5 + memory["activations"]


@pytest.mark.parametrize("stage", [s for s in stages() if s != "lip-sync"])
def test_every_stage_is_estimated_without_data(stage: str) -> None:
    for preset in ("compact", "paper"):
        try:
            told = configure(find_stage(stage), {"data": "/nowhere"}, preset)
        except UsageError:  # a stage that has no paper preset says so
            assert preset == "paper"
            continue
        json.dumps(told)
        assert told["trained"] > 0 and told["flops"]["step"] > 0 and told["memory"]["total"] > 0
        assert told["memory"]["weights"] >= 4 * sum(told["parameters"].values())


def test_the_papers_sizes_cost_what_they_should() -> None:
    """The f16 VQGAN at 320 px: half a TFLOP forward a picture, and more than a laptop holds for a batch of twelve."""
    told: dict[str, Any] = configure(find_stage("vqgan"), {}, "paper")
    assert 4e11 < told["flops"]["forward_per_sample"]["vqgan"] < 8e11
    assert told["memory"]["total"] > 8e9
    lip: dict[str, Any] = configure(find_stage("lip-sync"), {"network.backbone": "dit"}, "paper")
    assert lip["parameters"]["lip-sync"] > 1e7 and lip["flops"]["forward_per_sample"]["transform"] > 1e9


def test_half_precision_keeps_half_and_micro_batches_keep_a_part() -> None:
    def activations(**settings: Any) -> int:
        told = configure(find_stage("identity"), {f"loop.{k}": v for k, v in settings.items()})
        return int(told["memory"]["activations"])

    whole = activations(precision="float32")
    assert activations(precision="bf16") == pytest.approx(whole / 2, rel=1e-6)
    assert activations(precision="float32", accumulate=4) == pytest.approx(whole / 4, rel=1e-6)
