"""The only training loop: every stage is a :class:`~talkswap.train.stage.Stage` that this file drives.

A micro-batch's randomness (its samples, augmentation, dropout) depends on seed, step, micro-batch and rank alone, and
what follows the optimiser on seed and step, so a run that was stopped and resumed computes the same losses as one that
was not, and two processes compute what one does with the same batch.
"""

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import torch

from talkswap.errors import TrainingError
from talkswap.files import write_atomically
from talkswap.records import to_plain
from talkswap.train import figures, optimiser, state
from talkswap.train.batches import made_ahead, worker_count
from talkswap.train.processes import Interruption, Processes
from talkswap.train.stage import Batch, LoopConfig, Stage, draw_number, share_config

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
        self.optimiser = optimiser.Optimiser(stage, config, self.processes)
        self.means = figures.Means()
        self.seconds = 0.0  # trained, over all parts of the run
        self._whole = True  # False while a step or a save is half done
        self._saved_at = -1  # step
        self._saving = 1.0 + self.optimiser.size / SAVING_SPEED  # s
        self._showing = 0.0  # s, of the last sample sheet and scores

    @property
    def step(self) -> int:
        """Steps done."""
        return self.optimiser.step

    def take_step(self, batches: Sequence[Batch]) -> None:
        """One step of the optimisers from its micro-batches; the figures go to :attr:`means`."""
        self.means.add(*self.optimiser.take_step(batches))

    def averaged(self) -> AbstractContextManager[None]:
        """Put the averaged weights into the network for the length of a block."""
        return self.optimiser.averaged()

    def save(self) -> None:
        """Write the run's state beside the last one; only the main process does, for all have the same.

        Raises:
            TrainingError: it cannot be written, or the losses since the last row are not finite.
        """
        self._refuse_divergence()
        self._saved_at = self.step
        if not self.processes.main:
            return
        began = time.monotonic()
        scaler = self.processes.accelerator.scaler
        values = {
            "step": self.step,
            "seconds": self.seconds,
            "figures": self.means.stored(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        state.save(self.run, values, self.optimiser.state())
        self._saving = time.monotonic() - began

    def resume(self, echo: Callable[[str], None] = lambda line: None) -> bool:
        """Take up the run where it stopped, on whatever device this is; False when there is nothing to take up.

        Raises:
            TrainingError: no state is whole, it is another network's, or the processes see different folders.
        """
        stored = state.read_newest(self.run, echo)
        step = int(stored.values["step"]) if stored is not None else -1
        if not self.processes.agree(step):
            raise TrainingError(
                f"the processes do not see the same run in {self.run}", "put --run on a folder that all hosts share"
            )
        if stored is None:
            return False
        try:
            self.optimiser.restore(stored.groups, step)
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"the state in {stored.folder} is not of these networks", "choose another --run, or the old settings"
            ) from error
        scaler = self.processes.accelerator.scaler
        if scaler is not None and stored.values["scaler"]:
            scaler.load_state_dict(stored.values["scaler"])
        self.seconds = float(stored.values["seconds"])
        self.means.restore(stored.values["figures"])
        self.processes.wait()  # all have read it
        if self.processes.main:
            state.settle(self.run, stored.folder)
        self._saved_at = self.step
        return True

    def train(
        self, echo: Callable[[str], None] = print, watch: Callable[[figures.StepProgress], None] | None = None
    ) -> dict[str, float]:
        """Train to the last step or the time limit; saves, scores and exports at the end.

        Args:
            echo: is given lines for the user.
            watch: is called after every step with where the run is; without it ``echo`` gets the rows of the curve.

        Returns:
            The stage's scores, empty when the time limit came first, and in all processes but the main one.

        Raises:
            TrainingError: the loss is not finite, or the state cannot be saved.
            KeyboardInterrupt: after Ctrl-C, the run saved.
            SystemExit: with 143 after SIGTERM, the run saved.
        """
        if not self.processes.main:
            echo, watch = (lambda line: None), None
        with Interruption() as interruption, ExitStack() as stack:
            try:
                return self._train(interruption, stack, echo, watch)
            except (KeyboardInterrupt, SystemExit):
                if interruption.signal is not None and self._whole:
                    self._save_if_new()
                    echo(f"interrupted and saved at step {self.step} of {self.config.steps}; run again to go on")
                raise

    def _train(
        self,
        interruption: Interruption,
        stack: ExitStack,
        echo: Callable[[str], None],
        watch: Callable[[figures.StepProgress], None] | None,
    ) -> dict[str, float]:
        stage, config, alone = self.stage, self.config, self.processes.count == 1
        workers = worker_count(config.workers, self.device, self.processes.on_host)
        pin = self.device.type == "cuda"
        batches = stack.enter_context(made_ahead(stage, self._numbers(), workers, config.prefetch, pin))
        log: figures.RunLog | None = None
        if self.processes.main:
            self._describe()
            log = figures.RunLog(self.run, self.step, echo)
            stack.callback(log.close)
        self.processes.same(
            [*stage.network.state_dict().values(), *self.optimiser.average.module.state_dict().values()]
        )
        before, pace = self.seconds, figures.Pace()
        saved = pace.started
        stage.network.train()
        while self.step < config.steps:
            with pace.waiting():
                if alone:
                    with interruption.welcome():
                        micro = [next(batches) for _ in range(config.accumulate)]
                else:  # all stop after the same step, or the others would wait for this one's gradients
                    micro = [next(batches) for _ in range(config.accumulate)]
            with self._unbroken():
                self.take_step(micro)

            # What the step says: a row of the curve now and then, and where the run is.
            row: dict[str, float] | None = None
            if self.step % config.log_every == 0 or self.step == config.steps:
                self._refuse_divergence()
                row = self.means.means()  # waits for the device
            self.seconds = before + pace.count()
            if row is not None:
                row |= {**pace.row(config.batch), "minutes": self.seconds / 60}
                if log is not None:
                    log.row(self.step, row)
            progress = pace.progress(stage.name, self.step, config.steps, config.batch, row)
            if watch is not None:
                watch(progress)
            elif row is not None:
                echo(progress.line())

            if self.step % config.sample_every == 0 and self.step < config.steps and log is not None:
                with interruption.welcome(), pace.aside():
                    self._show(log)
            if time.monotonic() - saved > 60 * config.save_minutes:
                self._save_if_new()
                saved = time.monotonic()

            # Processes have to stop together, and asking each other costs time, so they ask every few steps.
            if self.step == config.steps or not (alone or self.step % ASK_EVERY == 0):
                continue
            if self.processes.anybody(interruption.signal is not None):
                self._save_if_new()
                interruption.signal = interruption.signal or signal.SIGTERM
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
            scores = self._show(log, export=True)
            (self.run / "scores.json").write_text(json.dumps(scores, indent=1))
            return scores

    def _numbers(self) -> list[int]:
        """The numbers of the batches that this process still draws."""
        count, rank, parts = self.processes.count, self.processes.rank, self.config.accumulate
        return [
            draw_number(s, m, rank, parts, count) for s in range(self.step, self.config.steps) for m in range(parts)
        ]

    def _describe(self) -> None:
        """Write the run's whole configuration."""
        self.run.mkdir(parents=True, exist_ok=True)
        config = self.stage.config
        if hasattr(config, "loop"):
            config = dataclasses.replace(config, loop=self.config)
        described = to_plain({"stage": self.stage.name, "config": config, "loop": self.config})
        write_atomically(self.run / "config.json", json.dumps(described, indent=1))

    def _show(self, log: figures.RunLog, export: bool = False) -> dict[str, float]:
        """Scores, sample sheet and curve, and at the end of a run the weights, all of the averaged network."""
        began = time.monotonic()
        with self.averaged():
            scores = self.stage.score()
            self.stage.sample(self.run / "sample.png")
            if export:
                self.stage.export(self.run / "export")
        log.scores(self.step, scores)
        figures.draw_curve(self.run / "curve.jsonl", self.run / "curve.png")
        self._showing = time.monotonic() - began
        return scores

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        """A block after whose end alone the state is whole; an error in it leaves a state that must not be saved."""
        self._whole = False
        yield
        self._whole = True

    def _save_if_new(self) -> None:
        if self._saved_at != self.step:
            with self._unbroken():
                self.save()

    def _time_is_up(self, longest: float) -> bool:
        """Whether another step, its sample sheet and a save might pass the limit, given the longest step in seconds."""
        if not self.config.max_minutes:
            return False
        showing = self._showing if (self.step + 1) % self.config.sample_every == 0 else 0.0
        margin = 1.5 * self._saving + 2 * longest * (1 if self.processes.count == 1 else ASK_EVERY) + showing
        return time.monotonic() - self.began + margin > 60 * self.config.max_minutes

    def _refuse_divergence(self) -> None:
        if not self.means.finite():
            raise optimiser.divergence(self.stage.name, self.step)


@dataclasses.dataclass(frozen=True)
class _OnlyLoop:
    loop: LoopConfig
