"""What a run would cost, from the shapes alone: parameters, FLOPs and memory, on tensors without content.

How it is counted.  FLOPs: torch's counter over one forward pass of everything that a sample runs through, teachers
named in ``not_counted`` left out; a whole step is three times the forward (the backward pass multiplies twice for every
multiplication).  Memory: weights, gradients, Adam's two moments and the average in 4 bytes each, and what autograd keeps
of a forward pass for the backward one, counted tensor by tensor, half of it where mixed precision keeps 2 bytes.  The
allocator's own share, temporary buffers and prefetched batches come on top: about a fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from talkswap.train.stage import LoopConfig

SAMPLES = 2  # batch normalisation wants more than one
BYTES = 4
HOW = (
    "FLOPs of a forward pass by torch's counter, a step as 3 times that; memory as 4 bytes each for weight, gradient, "
    "two Adam moments and average, and what autograd keeps, in 2 bytes under bf16 and fp16; add about a fifth"
)

Networks = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Part:
    """Something that samples run through."""

    name: str
    run: Callable[[], object]  # a forward pass of SAMPLES samples
    times: float = 1.0  # passes per sample and step


@dataclass(frozen=True)
class Work:
    """What one sample of a stage runs through."""

    parts: list[Part]
    still: tuple[nn.Module, ...] = ()  # parts of the networks that are not trained
    not_counted: tuple[str, ...] = ()  # teachers whose shape only their file knows


def estimate(
    build: Callable[[Any], Networks], work: Callable[[Any, Networks], Work] | None, config: Any
) -> dict[str, Any]:
    """Parameters, FLOPs and memory of a stage, as JSON values.

    Args:
        build: the stage module's ``networks``.
        work: the stage module's ``work``; None counts parameters alone.
        config: the stage's config.

    Returns:
        ``parameters`` by network, ``trained``, ``flops`` and ``memory`` (bytes, of one process), ``estimated`` (how).
    """
    # fake tensors have a shape and a device but no content: nothing is computed, and the paper's sizes fit a laptop
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            networks = build(config)
    except DynamicOutputShapeException:
        networks = build(config)  # its construction looks at values; such a network is small and is built for good
    counted: dict[str, Any] = {"parameters": {name: _size(net.parameters()) for name, net in networks.items()}}
    if work is None:
        return counted
    with mode:
        return {**counted, **_measured(config.loop, networks, work(config, networks), mode)}


def _measured(loop: LoopConfig, networks: Networks, work: Work, mode: FakeTensorMode) -> dict[str, Any]:
    still = {id(p) for part in work.still for p in part.parameters()}
    every = [p for net in networks.values() for p in net.parameters()]
    trained = _size(p for p in every if p.requires_grad and id(p) not in still)
    held = _size(every) + _size(b for net in networks.values() for b in net.buffers())
    fakes = [t if isinstance(t, FakeTensor) else mode.from_tensor(t) for t in every]
    own = {t.untyped_storage()._cdata for t in fakes}
    flops: dict[str, int] = {}
    kept = 0.0  # bytes per sample
    for part in work.parts:
        counter, saved = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION), _Saved(own)
        with counter, torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            answer = part.run()  # kept until here: what autograd saved goes with it
        flops[part.name] = round(counter.get_total_flops() / SAMPLES * part.times)
        kept += saved.bytes / SAMPLES * min(1.0, part.times)
        del answer
    if loop.precision != "float32":
        kept /= 2
    forward = sum(flops.values())
    first = next(iter(networks.values()))  # the one that is averaged; a discriminator is not
    memory = {
        "weights": BYTES * held,
        "gradients": BYTES * trained,
        "adam": 2 * BYTES * trained,
        "average": BYTES * (_size(first.parameters()) + _size(first.buffers())),
        "activations_per_sample": round(kept),
        "activations": round(kept * loop.batch / loop.accumulate),
    }
    return {
        "trained": trained,
        "flops": {
            "forward_per_sample": flops,
            "step_per_sample": 3 * forward,
            "step": 3 * forward * loop.batch,
            "not_counted": list(work.not_counted),
        },
        "memory": {**memory, "total": sum(memory.values()) - memory["activations_per_sample"]},
        "estimated": HOW,
    }


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of attention by the shapes of its inputs."""
    return int(sdpa_flop_count(query, key, value))


# torch's counter knows attention as GPUs compute it, not the CPU's own operation for it
CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


class _Saved:
    """Counts what autograd saves, each storage once and weights not at all."""

    def __init__(self, own: set[int]) -> None:
        self.seen = set(own)
        self.bytes = 0
        self.alive: list[Tensor] = []  # else another storage could be taken for one that went

    def __call__(self, tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self.seen:
            self.seen.add(key)
            self.alive.append(tensor)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def _size(tensors: Any) -> int:
    return sum(int(t.numel()) for t in tensors)
