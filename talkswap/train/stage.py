"""The contract between the loop and a stage: what a stage gives, and the settings that every stage shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talkswap.errors import TrainingError

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


def as_is(rows: Tensor) -> Tensor:
    """What :attr:`Stage.gathered` is in a lone process."""
    return rows


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
    parts = loop.accumulate * processes
    if loop.accumulate < 1 or loop.batch % parts:
        among = f"{processes} process{'es' if processes > 1 else ''} x loop.accumulate={loop.accumulate}"
        raise TrainingError(
            f"a batch of {loop.batch} cannot be shared evenly by {among}", f"take a multiple of {max(1, parts)}"
        )
    return dataclasses.replace(config, loop=dataclasses.replace(loop, batch=loop.batch // parts))


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def seed_all(seed: int, number: int) -> None:
    """Set torch's generators, on every device, for one piece of work."""
    torch.manual_seed(step_seed(seed, number))
