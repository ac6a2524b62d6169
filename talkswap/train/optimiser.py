"""What moves a stage's networks: gradients of micro-batches, AdamW, the learning rate's schedule, and the average.

The network has one optimiser, the discriminator another.  The average of the weights (EMA) follows the network and is
what a stage scores, draws and exports.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from talkswap.errors import TrainingError
from talkswap.train.processes import Processes
from talkswap.train.stage import Batch, LoopConfig, Stage, draw_number, seed_all
from talkswap.train.state import Groups

AFTER_STEP = 1 << 40  # numbers from here on seed what follows a step; none of them is a batch's
ADVERSARY_BETAS = (0.5, 0.9)  # of the discriminator's Adam, as in VQGAN


def rate_at(config: LoopConfig, step: int) -> float:
    """Learning rate factor: linear warm-up, then a cosine down to ``final_rate``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def divergence(stage: str, step: int) -> TrainingError:
    """The error of a run whose loss is not finite."""
    return TrainingError(
        f"the loss of {stage} is not finite at step {step}",
        "lower the learning rate, or use --set loop.precision=float32",
    )


class Optimiser:
    """Steps of one stage's networks.

    Args:
        stage: moved to the device of ``processes``.
        config: the whole run's settings.
        processes: who trains together.

    Attributes:
        step: steps done.
        average: the network with its averaged weights.
    """

    def __init__(self, stage: Stage, config: LoopConfig, processes: Processes) -> None:
        self.stage, self.config, self.processes = stage, config, processes
        self.step = 0
        self.layout = torch.channels_last
        stage.network.to(processes.device, memory_format=self.layout)  # type: ignore[call-overload]
        stage.frozen.to(processes.device, memory_format=self.layout).requires_grad_(False).eval()
        stage.gathered = processes.gathered
        self.trained = [p for p in stage.network.parameters() if p.requires_grad]
        # Biases and norms are not drawn towards zero.
        decayed = [p for p in self.trained if p.ndim > 1]
        others = [p for p in self.trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
        self._scaled = processes.optimiser(self.adam)
        self.schedule = LambdaLR(self.adam, lambda step: rate_at(config, step))
        self.average = AveragedModel(stage.network, multi_avg_fn=self._follow, use_buffers=True)
        self.adversary: torch.optim.AdamW | None = None
        if stage.discriminator is not None:
            stage.discriminator.to(processes.device, memory_format=self.layout)  # type: ignore[call-overload]
            self.adversary = torch.optim.AdamW(
                stage.discriminator.parameters(),
                lr=config.discriminator_rate,
                betas=ADVERSARY_BETAS,
                weight_decay=config.weight_decay,
            )
            self._scaled_adversary = processes.optimiser(self.adversary)
        # Codebooks and running statistics follow the data, not a gradient.
        moved = {id(p) for p in (*self.trained, *(stage.discriminator.parameters() if stage.discriminator else ()))}
        networks = [network for network in (stage.network, stage.discriminator) if network is not None]
        everything = [t for network in networks for t in (*network.parameters(), *network.buffers())]
        self._unmoved = [t for t in everything if id(t) not in moved]

    @property
    def size(self) -> int:
        """Bytes of a saved state, about: weights, their average and Adam's two moments."""
        state = [*self.stage.network.state_dict().values()] * 2 + self.trained * 2
        return sum(t.numel() * t.element_size() for t in state)

    def take_step(self, batches: Sequence[Batch]) -> tuple[list[str], Tensor]:
        """One step from its micro-batches.

        Returns:
            Names and values (N) of the figures, means over micro-batches and processes, still on the device.

        Raises:
            TrainingError: the loss is not finite (on a GPU that is noticed later, since looking would wait for it).
        """
        stage, config, processes = self.stage, self.config, self.processes
        self.adam.zero_grad(set_to_none=True)
        if self.adversary is not None:
            self.adversary.zero_grad(set_to_none=True)
        figures: list[dict[str, float | Tensor]] = []
        for micro, batch in enumerate(batches):
            seed_all(config.seed, draw_number(self.step, micro, processes.rank, config.accumulate, processes.count))
            figures.append(self._backward({name: self._place(value) for name, value in batch.items()}))
        norm = self._descend(self.trained, self._scaled)
        self.schedule.step()
        if stage.discriminator is not None and "discriminator" in figures[0]:
            self._descend(list(stage.discriminator.parameters()), self._scaled_adversary)
        seed_all(config.seed, AFTER_STEP + self.step)
        stage.after_step(self.step)
        if processes.count > 1:
            # what no gradient moves (codes, running statistics) differs by rounding at least: rank 0's counts
            processes.same(self._unmoved)
        self.average.update_parameters(stage.network)
        self.step += 1
        # Figures stay on the device: reading them here would wait for the whole step.
        columns = {name: [f[name] for f in figures] for name in figures[0]} | {"norm": [norm]}
        values = [torch.stack([self._scalar(v) for v in column]).mean() for column in columns.values()]
        return list(columns), processes.mean(torch.stack(values))

    def _backward(self, batch: Batch) -> dict[str, float | Tensor]:
        """Both losses of one micro-batch, their gradients added to what is there; returns the figures."""
        stage, processes = self.stage, self.processes
        if stage.discriminator is not None:
            stage.discriminator.requires_grad_(False)  # the network's loss must not move it
        with processes.autocast():
            loss, logs = stage.loss(batch, self.step)
        if processes.device.type == "cpu" and not torch.isfinite(loss):
            raise divergence(stage.name, self.step)
        processes.accelerator.backward(loss)
        figures = {"loss": loss.detach(), **logs}
        if stage.discriminator is not None:
            stage.discriminator.requires_grad_(True)
            with processes.autocast():
                against = stage.discriminator_loss(batch, self.step)
            if against is not None:
                processes.accelerator.backward(against)
                figures["discriminator"] = against.detach()
        return figures

    def _descend(self, parameters: list[nn.Parameter], scaled: Any) -> Tensor:
        """Average, clip and apply gradients; returns their norm before clipping."""
        self.processes.mean_gradients(parameters)
        self.processes.accelerator.unscale_gradients(scaled)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        scaled.step()
        return norm.detach()

    def _follow(self, averages: Any, weights: Any, count: Any) -> None:
        """Move the average towards the weights; early on it follows faster, so that it forgets where they began."""
        if averages[0].is_floating_point():
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            get_ema_multi_avg_fn(decay)(averages, weights, count)
        else:  # counters and flags have no mean
            torch._foreach_copy_(averages, weights)

    def _place(self, value: Tensor) -> Tensor:
        value = value.to(self.processes.device, non_blocking=True)
        return value.contiguous(memory_format=self.layout) if value.ndim == 4 else value

    def _scalar(self, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().float()
        return torch.tensor(float(value), device=self.processes.device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network for the length of a block."""
        network = self.stage.network
        own = {k: v.detach().clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.average.module.state_dict())
        network.eval()
        try:
            with torch.no_grad(), self.processes.autocast():
                yield
        finally:
            network.load_state_dict(own)
            network.train()

    def state(self) -> Groups:
        """All tensors that a run needs to go on, by group."""
        stage = self.stage
        groups: Groups = {
            "network": stage.network.state_dict(),
            "average": self.average.module.state_dict(),
            "optimiser": moments(self.adam),
        }
        if stage.discriminator is not None and self.adversary is not None:
            groups |= {"discriminator": stage.discriminator.state_dict(), "adversary": moments(self.adversary)}
        return groups

    def restore(self, groups: Groups, step: int) -> None:
        """Take up what :meth:`state` gave after ``step`` steps.

        Raises:
            RuntimeError, KeyError, ValueError: it is the state of other networks.
        """
        stage = self.stage
        stage.network.load_state_dict(groups["network"])
        self.average.module.load_state_dict(groups["average"])
        self.average.n_averaged.fill_(step)
        restore_moments(self.adam, groups["optimiser"])
        if stage.discriminator is not None and self.adversary is not None:
            stage.discriminator.load_state_dict(groups["discriminator"])
            restore_moments(self.adversary, groups["adversary"])
        self.step = step
        # The schedule is a function of the step, so nothing of it is stored.
        self.schedule = LambdaLR(self.adam, lambda step: rate_at(self.config, step), last_epoch=step - 1)


def moments(adam: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as tensors named ``NUMBER.NAME``, as safetensors wants it."""
    state = adam.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, entry in state.items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def restore_moments(adam: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Put back what :func:`moments` gave, each moment laid out in memory like its weight."""
    parameters = [p for group in adam.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".", 1)
        like = parameters[int(number)]
        if value.shape == like.shape:
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[name] = value
    adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})
