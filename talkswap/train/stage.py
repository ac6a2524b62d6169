"""The contract between the loop and a stage: what a stage gives, the settings that every stage shares, what a run costs.

:func:`estimate` counts parameters, FLOPs and memory from the shapes alone, on tensors without content.  FLOPs: torch's
counter over one forward pass of everything that a sample runs through, teachers named in ``not_counted`` left out; a
whole step is three times the forward (the backward pass multiplies twice for every multiplication).  Memory: weights,
gradients, Adam's two moments and the average in 4 bytes each, and what autograd keeps of a forward pass for the backward
one, counted tensor by tensor, half of it where mixed precision keeps 2 bytes.  The allocator's own share, temporary
buffers and prefetched batches come on top: about a fifth.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from talkswap.checkpoints.networks import unpack
from talkswap.errors import TrainingError
from talkswap.types import UInt8Image

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast and where; the same for every stage."""

    steps: int = 1000
    batch: int = 8  # samples of one step, over all processes and micro-batches
    accumulate: int = 1  # micro-batches whose gradients make one step: less memory, the same step
    learning_rate: float = 3e-4
    final_rate: float = 0.02  # of learning_rate, at the last step (cosine)
    warmup: int = 100  # steps
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0  # gradient norm
    ema: float = 0.999
    discriminator_rate: float = 2e-4
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | mps
    precision: str = "bf16"  # bf16 | float32 | fp16 (GPU only)
    threads: int = 0  # torch threads on a CPU; 0 = leave
    workers: int = -1  # what makes batches: processes, 0 = the training process itself, -1 = one, or up to 8 for a GPU
    prefetch: int = 3  # batches that each of them is ahead
    log_every: int = 25
    sample_every: int = 500
    save_minutes: float = 5.0
    max_minutes: float = 0.0  # save and stop before that long has passed; 0 = no limit


class Stage:
    """One training objective.  A stage owns its networks, data and losses, and never its loop.

    Attributes:
        network: all that is trained, exported and averaged (EMA).
        discriminator: trained against ``network`` when not None.
        frozen: teachers and earlier stages; moved to the device, never trained or saved.
        gathered: the rows of all processes for the rows of this one, in the order of ranks, for what
            :meth:`after_step` learns from a batch without a gradient; the loop sets it, a lone process gets its own back.
    """

    name = "stage"

    def __init__(self, config: Any) -> None:
        self.config = config
        self.network: nn.Module = nn.Identity()
        self.discriminator: nn.Module | None = None
        self.frozen: Any = nn.ModuleDict()
        self.gathered: Callable[[Tensor], Tensor] = as_is

    def batch(self, step: int) -> Batch:
        """``config.loop.batch`` samples, a function of the seed and this number only.

        The number counts batches over all processes and micro-batches (:func:`draw_number`); with one of each it is
        the step.  Runs in a background process or thread: what it changes in the stage is lost.
        """
        raise TrainingError(f"stage {self.name} has no data")

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Scalar loss of ``network``, a mean over samples, and what to log.

        Which weights get a gradient may depend on the step, never on the data: processes average them one by one.
        """
        raise TrainingError(f"stage {self.name} has no loss")

    def discriminator_loss(self, batch: Batch, step: int) -> Tensor | None:
        """Scalar loss of ``discriminator`` for the batch that :meth:`loss` was given last, or None when it does not
        train yet.
        """
        return None

    def after_step(self, step: int) -> None:
        """Anything that must follow the optimiser (for example reviving codes); must end alike in all processes."""

    def score(self) -> dict[str, float]:
        """Figures on held-out data, with the averaged weights in place."""
        return {}

    def sample(self, path: Path) -> None:
        """Write a picture that shows what the network does, with the averaged weights in place."""

    def export(self, folder: Path) -> None:
        """Write the finished weights and their config into ``folder``."""
        raise TrainingError(f"stage {self.name} cannot export")


def as_is(value: Any) -> Any:
    """The value itself: what :attr:`Stage.gathered` is in a lone process."""
    return value


def step_seed(seed: int, step: int) -> int:
    """One well-mixed 62-bit seed for a step."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % (1 << 62)


def draw_number(step: int, micro: int, rank: int, accumulate: int, processes: int) -> int:
    """Which of all batches ever drawn is micro-batch ``micro`` of ``rank`` at ``step``.

    Two processes draw what one process with ``accumulate=2`` draws, in the same order.
    """
    return (step * accumulate + micro) * processes + rank


def share_config(config: Any, processes: int) -> Any:
    """A stage's config whose ``loop.batch`` is what one process takes for one micro-batch.

    Raises:
        TrainingError: the batch cannot be shared out evenly.
    """
    loop: LoopConfig = config.loop
    # Every micro-batch of every process must have the same size, or a mean of means isn't the mean.
    parts = loop.accumulate * processes
    if loop.accumulate < 1 or loop.batch % parts:
        among = f"{processes} process{'es' if processes > 1 else ''} x loop.accumulate={loop.accumulate}"
        raise TrainingError(
            f"a batch of {loop.batch} cannot be shared evenly by {among}", f"take a multiple of {max(1, parts)}"
        )
    return dataclasses.replace(config, loop=dataclasses.replace(loop, batch=loop.batch // parts))


def seed_all(seed: int, number: int) -> None:
    """Set torch's generators, on every device, for one piece of work."""
    torch.manual_seed(step_seed(seed, number))


def to_tensor(pictures: Sequence[UInt8Image]) -> Tensor:
    """uint8 pictures (H W 3 each) to B 3 H W in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(x: Tensor) -> UInt8Image:
    """B 3 H W in [-1, 1] to uint8 B H W 3."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def load_weights(network: nn.Module, file: Path) -> None:
    """Put the weights of an earlier run or export into a network, as floats; an export may be stored in eight bits."""
    network.load_state_dict({name: value.float() for name, value in unpack(load_file(file)).items()})


def export_network(network: nn.Module, config: Any, folder: Path, name: str, half: bool = True) -> None:
    """Write ``NAME.safetensors``, in half precision or as it is, and ``NAME.json`` with the config."""
    folder.mkdir(parents=True, exist_ok=True)
    state = network.state_dict().items()
    save_file(
        {
            key: value.half().contiguous() if half and value.is_floating_point() else value.contiguous()
            for key, value in state
        },
        folder / f"{name}.safetensors",
    )
    (folder / f"{name}.json").write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n", encoding="utf-8")


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
    # What stays frozen has weights, but neither gradients nor moments.
    still = {id(p) for part in work.still for p in part.parameters()}
    every = [p for net in networks.values() for p in net.parameters()]
    trained = _size(p for p in every if p.requires_grad and id(p) not in still)
    held = _size(every) + _size(b for net in networks.values() for b in net.buffers())
    fakes = [t if isinstance(t, FakeTensor) else mode.from_tensor(t) for t in every]
    # Autograd also saves the weights themselves, which are counted already.
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
