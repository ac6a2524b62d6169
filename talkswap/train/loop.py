"""The only training loop: every stage is a :class:`~talkswap.train.stage.Stage` that this file drives.

A micro-batch's randomness (its samples, augmentation, dropout) depends on seed, step, micro-batch and rank alone, and
what follows the optimiser on seed and step, so a run that was stopped and resumed computes the same losses as one that
was not, and two processes compute what one does with the same batch.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talkswap.errors import TrainingError
from talkswap.files import write_atomically
from talkswap.train import checkpoint
from talkswap.train.batches import made_ahead, worker_count
from talkswap.train.figures import Means, Pace, RunLog, StepProgress, draw_curve
from talkswap.train.interruption import Interruption
from talkswap.train.optimiser import flat_state, rate_at, restore_state
from talkswap.train.processes import Processes
from talkswap.train.stage import Batch, LoopConfig, Stage, draw_number, plain, seed_all, share_config, step_seed

__all__ = ["Batch", "LoopConfig", "Stage", "Trainer", "plain", "rate_at", "step_seed"]

AFTER_STEP = 1 << 40  # numbers from here on seed what follows a step; none of them is a batch's
ASK_EVERY = 4  # steps between two rounds in which processes ask each other whether to stop
SAVING_SPEED = 2e8  # bytes per second, assumed before the first save was timed


class Trainer:
    """Drives one stage to its last step, or to a stop that another Trainer takes up.

    Args:
        stage: built with a ``loop.batch`` that is one process's share of a micro-batch (:func:`share_config`).
        config: the whole run's settings.
        run: folder of checkpoints, logs and results.
        processes: who trains together; None = as ``config`` and the environment say.
        began: ``time.monotonic()`` of the start that ``max_minutes`` counts from; None = now.

    Raises:
        DeviceError: the device or precision asked for cannot be had.
        TrainingError: the batch cannot be shared out among the processes.
    """

    def __init__(
        self,
        stage: Stage,
        config: LoopConfig,
        run: Path,
        processes: Processes | None = None,
        began: float | None = None,
    ) -> None:
        self.stage, self.config, self.run = stage, config, run
        self.began = time.monotonic() if began is None else began
        self.processes = processes or Processes(config.device, config.precision, config.accumulate)
        self.device = self.processes.device
        if config.accumulate * self.processes.count > 1:
            share = share_config(_OnlyLoop(config), self.processes.count).loop.batch
            own = getattr(getattr(stage.config, "loop", None), "batch", share)
            if own != share:
                raise ValueError(f"the stage makes {own} samples where its share is {share}: build it by share_config")
        if config.threads and self.device.type == "cpu":
            torch.set_num_threads(config.threads)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
        self.layout = torch.channels_last
        stage.network.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        stage.frozen.to(self.device, memory_format=self.layout).requires_grad_(False).eval()
        stage.gathered = self.processes.gathered
        self.trained = [p for p in stage.network.parameters() if p.requires_grad]
        decayed = [p for p in self.trained if p.ndim > 1]
        others = [p for p in self.trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
        self._stepping = self.processes.optimiser(self.optimiser)
        self.adversary: torch.optim.AdamW | None = None
        if stage.discriminator is not None:
            stage.discriminator.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
            self.adversary = torch.optim.AdamW(
                stage.discriminator.parameters(), lr=config.discriminator_rate, betas=(0.5, 0.9)
            )
            self._adversary_stepping = self.processes.optimiser(self.adversary)
        moved = {id(p) for p in (*self.trained, *(stage.discriminator.parameters() if stage.discriminator else ()))}
        networks = [network for network in (stage.network, stage.discriminator) if network is not None]
        everything = [t for network in networks for t in (*network.parameters(), *network.buffers())]
        self._unmoved = [t for t in everything if id(t) not in moved]
        self.average = {k: v.detach().clone() for k, v in stage.network.state_dict().items()}
        self.step = 0
        self.seconds = 0.0  # trained, over all parts of the run
        self.means = Means()
        self._whole = True  # False while a step or a save is half done
        self._saved_at = -1  # step
        state = [*stage.network.state_dict().values(), *self.trained, *self.trained]  # weights, average, Adam
        self._saving = 1.0 + 2 * sum(t.numel() * t.element_size() for t in state) / SAVING_SPEED  # s
        self._showing = 0.0  # s, of the last sample sheet and scores

    # --- checkpoints

    def save(self) -> None:
        """Write the run's state beside the last one; only the main process does, for all have the same.

        Raises:
            TrainingError: it cannot be written, or the losses since the last row are not finite.
        """
        self._refuse_what_is_not_finite()
        self._saved_at = self.step
        if not self.processes.main:
            return
        stage, began = self.stage, time.monotonic()
        groups: dict[str, dict[str, Tensor]] = {
            "network": stage.network.state_dict(),
            "average": self.average,
            "optimiser": flat_state(self.optimiser),
        }
        if stage.discriminator is not None and self.adversary is not None:
            groups |= {"discriminator": stage.discriminator.state_dict(), "adversary": flat_state(self.adversary)}
        scaler = self.processes.accelerator.scaler
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "figures": self.means.stored(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        checkpoint.save(self.run, state, groups)
        self._saving = time.monotonic() - began

    def resume(self, echo: Callable[[str], None] = lambda line: None) -> bool:
        """Take up the run where it stopped, on whatever device this is; False when there is nothing to take up.

        Raises:
            TrainingError: no state is whole, it is another network's, or the processes see different folders.
        """
        found = checkpoint.read_newest(self.run, echo)
        step = found.state["step"] if found is not None else -1
        if not self.processes.agree(int(step)):
            raise TrainingError(
                f"the processes do not see the same run in {self.run}", "put --run on a folder that all hosts share"
            )
        if found is None:
            return False
        stage, state, groups = self.stage, found.state, found.groups
        try:
            stage.network.load_state_dict(groups["network"])
            for key, value in self.average.items():
                value.copy_(groups["average"][key])
            restore_state(self.optimiser, groups["optimiser"])
            if stage.discriminator is not None and self.adversary is not None:
                stage.discriminator.load_state_dict(groups["discriminator"])
                restore_state(self.adversary, groups["adversary"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"the state in {found.folder} is not of these networks", "choose another --run, or the old settings"
            ) from error
        scaler = self.processes.accelerator.scaler
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.means.restore(state["figures"])
        self.processes.wait()  # all have read it
        if self.processes.main:
            checkpoint.settle(self.run, found.folder)
        self._saved_at = self.step
        return True

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network for the length of a block."""
        network = self.stage.network
        own = {k: v.detach().clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.average)
        network.eval()
        try:
            with torch.no_grad(), self.processes.autocast():
                yield
        finally:
            network.load_state_dict(own)
            network.train()

    # --- the loop

    def train(
        self, echo: Callable[[str], None] = print, watch: Callable[[StepProgress], None] | None = None
    ) -> dict[str, float]:
        """Train to the last step or the time limit; saves, scores and exports at the end.

        Args:
            echo: is given lines for the user.
            watch: is told after every step where the run is; without it ``echo`` is given the rows of the curve.

        Returns:
            The stage's scores, empty when the time limit came first, and in all processes but the main one.

        Raises:
            TrainingError: the loss is not finite, or the state cannot be saved.
            KeyboardInterrupt: after Ctrl-C, the run saved.
            SystemExit: with 143 after SIGTERM, the run saved.
        """
        if not self.processes.main:
            echo, watch = _say_nothing, None
        with Interruption() as interruption, ExitStack() as stack:
            try:
                return self._train(interruption, stack, echo, watch)
            except (KeyboardInterrupt, SystemExit):
                if interruption.asked is not None and self._whole:
                    self._save_if_new()
                    echo(f"interrupted and saved at step {self.step} of {self.config.steps}; run again to go on")
                raise

    def _train(
        self,
        interruption: Interruption,
        stack: ExitStack,
        echo: Callable[[str], None],
        watch: Callable[[StepProgress], None] | None,
    ) -> dict[str, float]:
        stage, config, alone = self.stage, self.config, self.processes.count == 1
        workers = worker_count(config.workers, self.device, self.processes.on_host)
        pin = self.device.type == "cuda"
        batches = stack.enter_context(made_ahead(stage, self._numbers(), workers, config.prefetch, pin))
        log: RunLog | None = None
        if self.processes.main:
            self._describe()
            log = RunLog(self.run, self.step, echo)
            stack.callback(log.close)
        self.processes.same([*stage.network.state_dict().values(), *self.average.values()])
        before, pace = self.seconds, Pace()
        saved = pace.started
        stage.network.train()
        while self.step < config.steps:
            with pace.waiting():
                if alone:
                    with interruption.welcome():
                        micro = [next(batches) for _ in range(config.accumulate)]
                else:  # all stop after the same step, or the others would wait for this one's gradients
                    micro = [next(batches) for _ in range(config.accumulate)]
            self._whole = False
            self.take_step(micro)
            self.step += 1
            self._whole = True
            row: dict[str, float] | None = None
            if self.step % config.log_every == 0 or self.step == config.steps:
                self._refuse_what_is_not_finite()
                row = self.means.means()  # waits for the device
            self.seconds = before + pace.count()
            if row is not None:
                row |= {**pace.row(config.batch), "minutes": self.seconds / 60}
                if log is not None:
                    log.row(self.step, row)
            told = pace.progress(stage.name, self.step, config.steps, config.batch, row)
            if watch is not None:
                watch(told)
            elif row is not None:
                echo(told.line())
            if self.step % config.sample_every == 0 and self.step < config.steps and log is not None:
                with interruption.welcome(), pace.aside():
                    self._show(log)
            if time.monotonic() - saved > 60 * config.save_minutes:
                self._save_if_new()
                saved = time.monotonic()
            if self.step == config.steps or not (alone or self.step % ASK_EVERY == 0):
                continue
            if self.processes.anybody(interruption.asked is not None):
                self._save_if_new()
                interruption.asked = interruption.asked or signal.SIGTERM
                raise interruption.ending()
            if self.processes.anybody(self._time_is_up(pace.longest)):
                self._save_if_new()
                limit = f"{config.max_minutes:g} minutes"
                echo(f"stopped at step {self.step} of {config.steps} before {limit} were over; resume to go on")
                return {}
        self._save_if_new()
        if pace.steps:
            echo(f"waited for data {100 * pace.share_waited():.1f}% of the time")
        if log is None:
            return {}
        with interruption.welcome():
            return self._finish(log)

    def take_step(self, batches: Sequence[Batch]) -> None:
        """One step of the optimisers from its micro-batches; the figures go to :attr:`means`.

        Raises:
            TrainingError: the loss is not finite (on a GPU that is noticed with the next row).
        """
        stage, config = self.stage, self.config
        factor = rate_at(config, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * factor
        self.optimiser.zero_grad(set_to_none=True)
        if self.adversary is not None:
            self.adversary.zero_grad(set_to_none=True)
        figures: list[dict[str, float | Tensor]] = []
        for micro, batch in enumerate(batches):
            number = draw_number(self.step, micro, self.processes.rank, config.accumulate, self.processes.count)
            seed_all(config.seed, number)
            figures.append(self._backward({k: self._place(v) for k, v in batch.items()}))
        norm = self._descend(self.trained, self._stepping)
        if self.adversary is not None and "discriminator" in figures[0]:
            assert stage.discriminator is not None
            self._descend(list(stage.discriminator.parameters()), self._adversary_stepping)
        seed_all(config.seed, AFTER_STEP + self.step)
        stage.after_step(self.step)
        if self.processes.count > 1:
            # what no gradient moves (codes, running statistics) differs by rounding at least: rank 0's counts
            self.processes.same(self._unmoved)
        self._follow()
        names = list(figures[0])
        values = [torch.stack([_scalar(f[name], self.device) for f in figures]).mean() for name in names]
        self.means.add([*names, "norm"], self.processes.mean(torch.stack([*values, _scalar(norm, self.device)])))

    def _backward(self, batch: Batch) -> dict[str, float | Tensor]:
        """Both losses of one micro-batch, their gradients added to what is there; returns the figures."""
        stage, processes = self.stage, self.processes
        if stage.discriminator is not None:
            stage.discriminator.requires_grad_(False)  # the network's loss must not move it
        with processes.autocast():
            loss, logs = stage.loss(batch, self.step)
        if self.device.type == "cpu" and not torch.isfinite(loss):
            raise self._not_finite()
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

    def _descend(self, parameters: list[nn.Parameter], stepping: Any) -> Tensor:
        """Average, clip and apply gradients; returns their norm before clipping."""
        self.processes.mean_gradients(parameters)
        self.processes.accelerator.unscale_gradients(stepping)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        stepping.step()
        return norm.detach()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights; early on it follows faster, so that it forgets where they began."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.stage.network.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    def _numbers(self) -> list[int]:
        """The numbers of the batches that this process still draws."""
        count, rank, parts = self.processes.count, self.processes.rank, self.config.accumulate
        return [
            draw_number(s, m, rank, parts, count) for s in range(self.step, self.config.steps) for m in range(parts)
        ]

    def _place(self, value: Tensor) -> Tensor:
        value = value.to(self.device, non_blocking=True)
        return value.contiguous(memory_format=self.layout) if value.ndim == 4 else value

    # --- what a run leaves

    def _describe(self) -> None:
        """Write the run's whole configuration."""
        self.run.mkdir(parents=True, exist_ok=True)
        config = self.stage.config
        if hasattr(config, "loop"):
            config = dataclasses.replace(config, loop=self.config)
        told = json.dumps(plain({"stage": self.stage.name, "config": config, "loop": self.config}), indent=1)
        write_atomically(self.run / "config.json", told)

    def _show(self, log: RunLog) -> None:
        began = time.monotonic()
        with self.averaged():
            scores = self.stage.score()
            self.stage.sample(self.run / "sample.png")
        log.scores(self.step, scores)
        draw_curve(self.run / "curve.jsonl", self.run / "curve.png")
        self._showing = time.monotonic() - began

    def _finish(self, log: RunLog) -> dict[str, float]:
        with self.averaged():
            scores = self.stage.score()
            self.stage.sample(self.run / "sample.png")
            self.stage.export(self.run / "export")
        log.scores(self.step, scores)
        (self.run / "scores.json").write_text(json.dumps(scores, indent=1))
        draw_curve(self.run / "curve.jsonl", self.run / "curve.png")
        return scores

    def _save_if_new(self) -> None:
        if self._saved_at != self.step:
            self._whole = False
            self.save()
            self._whole = True

    def _time_is_up(self, longest: float) -> bool:
        """Whether another step, its sample sheet and a save might pass the limit, given the longest step in seconds."""
        if not self.config.max_minutes:
            return False
        showing = self._showing if (self.step + 1) % self.config.sample_every == 0 else 0.0
        margin = 1.5 * self._saving + 2 * longest * (1 if self.processes.count == 1 else ASK_EVERY) + showing
        return time.monotonic() - self.began + margin > 60 * self.config.max_minutes

    def _refuse_what_is_not_finite(self) -> None:
        if not self.means.finite():
            raise self._not_finite()

    def _not_finite(self) -> TrainingError:
        return TrainingError(
            f"the loss of {self.stage.name} is not finite at step {self.step}",
            "lower the learning rate, or use --set loop.precision=float32",
        )


@dataclasses.dataclass(frozen=True)
class _OnlyLoop:
    loop: LoopConfig


def _say_nothing(line: str) -> None:
    return


def _scalar(value: float | Tensor, device: torch.device) -> Tensor:
    return value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value), device=device)
