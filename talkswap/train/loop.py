"""The only training loop: every stage is a :class:`Stage` that this file drives.

A step's randomness (batch, augmentation, dropout, code revival) depends on seed and step number alone, so
a run that was stopped and resumed computes the same losses as one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from talkswap.errors import TrainingError
from talkswap.train.curve import draw_curve

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast and where; the same for every stage."""

    steps: int = 1000
    batch: int = 8
    learning_rate: float = 3e-4
    final_rate: float = 0.02  # of learning_rate, at the last step (cosine)
    warmup: int = 100  # steps
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0  # gradient norm
    ema: float = 0.999
    discriminator_rate: float = 2e-4
    seed: int = 0
    device: str = "cpu"
    precision: str = "bf16"  # bf16 | float32
    threads: int = 0  # torch threads on a CPU; 0 = leave
    prefetch: int = 3  # batches made ahead by one thread
    log_every: int = 25
    sample_every: int = 500
    save_minutes: float = 5.0
    max_minutes: float = 0.0  # stop and save after that long; 0 = no limit


class Stage:
    """One training objective.  A stage owns its networks, data and losses, and never its loop.

    Attributes:
        network: all that is trained, exported and averaged (EMA).
        discriminator: trained against ``network`` when not None.
        frozen: teachers and earlier stages; moved to the device, never trained or saved.
    """

    name = "stage"

    def __init__(self, config: Any) -> None:
        self.config = config
        self.network: nn.Module = nn.Identity()
        self.discriminator: nn.Module | None = None
        self.frozen: Any = nn.ModuleDict()

    def batch(self, step: int) -> Batch:
        """The batch of one step, a function of seed and step only; runs in a thread."""
        raise TrainingError(f"stage {self.name} has no data")

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Scalar loss of ``network`` and what to log."""
        raise TrainingError(f"stage {self.name} has no loss")

    def discriminator_loss(self, batch: Batch, step: int) -> Tensor | None:
        """Scalar loss of ``discriminator`` for the same batch, or None when it does not train yet."""
        return None

    def after_step(self, step: int) -> None:
        """Anything that must follow the optimiser (for example reviving codes)."""

    def score(self) -> dict[str, float]:
        """Figures on held-out data, with the averaged weights in place."""
        return {}

    def sample(self, path: Path) -> None:
        """Write a picture that shows what the network does, with the averaged weights in place."""

    def export(self, folder: Path) -> None:
        """Write the finished weights and their config into ``folder``."""
        raise TrainingError(f"stage {self.name} cannot export")


def rate_at(config: LoopConfig, step: int) -> float:
    """Learning rate factor: linear warm-up, then a cosine down to ``final_rate``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def step_seed(seed: int, step: int) -> int:
    """One well-mixed 62-bit seed for a step."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % (1 << 62)


def write_atomically(path: Path, write: Any) -> None:
    """Call ``write(temporary path)``, then put the file in its place in one move."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    os.replace(temporary, path)


def _flat_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{key}": value.contiguous()
        for index, entry in state.items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }


def _restore_optimiser(optimiser: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


class Trainer:
    """Drives one stage to its last step, or to a stop that another Trainer takes up."""

    def __init__(self, stage: Stage, config: LoopConfig, run: Path) -> None:
        self.stage, self.config, self.run = stage, config, run
        self.device = torch.device(config.device)
        if config.threads and self.device.type == "cpu":
            torch.set_num_threads(config.threads)
        self.layout = torch.channels_last
        stage.network.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        stage.frozen.to(self.device, memory_format=self.layout).requires_grad_(False).eval()
        trained = [p for p in stage.network.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        plain = [p for p in trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
        self.adversary: torch.optim.AdamW | None = None
        if stage.discriminator is not None:
            stage.discriminator.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
            self.adversary = torch.optim.AdamW(
                stage.discriminator.parameters(), lr=config.discriminator_rate, betas=(0.5, 0.9)
            )
        self.average = {k: v.detach().clone() for k, v in stage.network.state_dict().items()}
        self.step = 0
        self.seconds = 0.0

    # --- checkpoints

    def save(self) -> None:
        """Write the run's state beside the last one, then swap: one good state exists at any moment."""
        folder, old = self.run / "checkpoint", self.run / "checkpoint.old"
        new = self.run / "checkpoint.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in self.stage.network.state_dict().items()}, new / "network.safetensors")
        save_file({k: v.contiguous() for k, v in self.average.items()}, new / "average.safetensors")
        save_file(_flat_optimiser(self.optimiser), new / "optimiser.safetensors")
        if self.stage.discriminator is not None and self.adversary is not None:
            state = {k: v.contiguous() for k, v in self.stage.discriminator.state_dict().items()}
            save_file(state, new / "discriminator.safetensors")
            save_file(_flat_optimiser(self.adversary), new / "adversary.safetensors")
        (new / "state.json").write_text(json.dumps({"step": self.step, "seconds": self.seconds}))
        shutil.rmtree(old, ignore_errors=True)
        if folder.is_dir():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self) -> bool:
        """Take up the run where it stopped; False when there is nothing to take up."""
        folder = self.run / "checkpoint"
        if not (folder / "state.json").is_file():
            folder = self.run / "checkpoint.old"
            if not (folder / "state.json").is_file():
                return False
        state = json.loads((folder / "state.json").read_text())
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        device = str(self.device)
        self.stage.network.load_state_dict(load_file(folder / "network.safetensors", device=device))
        self.average = load_file(folder / "average.safetensors", device=device)
        _restore_optimiser(self.optimiser, load_file(folder / "optimiser.safetensors", device=device))
        if self.stage.discriminator is not None and (folder / "discriminator.safetensors").is_file():
            self.stage.discriminator.load_state_dict(load_file(folder / "discriminator.safetensors", device=device))
            assert self.adversary is not None
            _restore_optimiser(self.adversary, load_file(folder / "adversary.safetensors", device=device))
        return True

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network for the length of a block."""
        own = {k: v.detach().clone() for k, v in self.stage.network.state_dict().items()}
        self.stage.network.load_state_dict(self.average)
        self.stage.network.eval()
        try:
            with torch.no_grad(), self._autocast():
                yield
        finally:
            self.stage.network.load_state_dict(own)
            self.stage.network.train()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _batches(self, stop: threading.Event) -> Iterator[Batch]:
        made: queue.Queue[Batch | BaseException] = queue.Queue(self.config.prefetch)

        def put(item: Batch | BaseException) -> None:
            while not stop.is_set():
                try:
                    made.put(item, timeout=0.2)
                    return
                except queue.Full:
                    continue

        def work() -> None:
            for step in range(self.step, self.config.steps):
                if stop.is_set():
                    return
                try:
                    put(self.stage.batch(step))
                except BaseException as error:  # handed to the training thread, which raises it
                    put(error)
                    return

        threading.Thread(target=work, daemon=True).start()
        while True:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield {k: self._place(v) for k, v in item.items()}

    def _place(self, value: Tensor) -> Tensor:
        value = value.to(self.device, non_blocking=True)
        return value.contiguous(memory_format=self.layout) if value.ndim == 4 else value

    # --- the loop

    def train(self, echo: Any = print) -> dict[str, float]:
        """Train to the last step or the time limit; saves, scores and exports at the end.

        Returns:
            The stage's scores, empty when the time limit came first.
        """
        stage, config = self.stage, self.config
        self.run.mkdir(parents=True, exist_ok=True)
        write_atomically(
            self.run / "config.json",
            lambda p: p.write_text(
                json.dumps(plain({"stage": stage.name, "config": stage.config, "loop": config}), indent=1)
            ),
        )
        started = saved = logged = time.monotonic()
        waited, stop = 0.0, threading.Event()
        before = self.seconds
        sums: dict[str, float] = {}
        count = 0
        batches = self._batches(stop)
        stage.network.train()
        try:
            while self.step < config.steps:
                asked = time.monotonic()
                batch = next(batches)
                waited += time.monotonic() - asked
                logs = self._one_step(batch)
                count += 1
                for key, value in logs.items():
                    sums[key] = sums.get(key, 0.0) + value
                self.step += 1
                now = time.monotonic()
                self.seconds = before + now - started
                if self.step % config.log_every == 0 or self.step == config.steps:
                    row = {"step": self.step, **{k: v / count for k, v in sums.items()}}
                    row["rate"] = config.batch * count / (now - logged)
                    row["waiting"] = waited / (now - logged)
                    row["minutes"] = self.seconds / 60
                    with open(self.run / "curve.jsonl", "a") as file:
                        file.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")
                    echo(" ".join(f"{k}={v:.4g}" for k, v in row.items()))
                    sums, count, waited, logged = {}, 0, 0.0, now
                if self.step % config.sample_every == 0 and self.step < config.steps:
                    self._show()
                    logged = time.monotonic()
                if now - saved > 60 * config.save_minutes:
                    self.save()
                    saved = now
                if config.max_minutes and now - started > 60 * config.max_minutes and self.step < config.steps:
                    self.save()
                    echo(
                        f"stopped at step {self.step} of {config.steps} after {config.max_minutes:g} minutes; resume to go on"
                    )
                    return {}
        finally:
            stop.set()
        self.save()
        with self.averaged():
            scores = stage.score()
            stage.sample(self.run / "sample.png")
            stage.export(self.run / "export")
        (self.run / "scores.json").write_text(json.dumps(scores, indent=1))
        draw_curve(self.run / "curve.jsonl", self.run / "curve.png")
        return scores

    def _show(self) -> None:
        with self.averaged():
            scores = self.stage.score()
            self.stage.sample(self.run / "sample.png")
        with open(self.run / "scores.jsonl", "a") as file:
            file.write(json.dumps({"step": self.step, **{k: round(v, 5) for k, v in scores.items()}}) + "\n")
        draw_curve(self.run / "curve.jsonl", self.run / "curve.png")

    def _one_step(self, batch: Batch) -> dict[str, float]:
        stage, config = self.stage, self.config
        torch.manual_seed(step_seed(config.seed, self.step))
        factor = rate_at(config, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * factor
        with self._autocast():
            loss, logs = stage.loss(batch, self.step)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of {stage.name} is not finite at step {self.step}",
                "lower the learning rate, or use --set precision=float32",
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, config.clip)
        self.optimiser.step()
        if stage.discriminator is not None and self.adversary is not None:
            with self._autocast():
                against = stage.discriminator_loss(batch, self.step)
            if against is not None:
                self.adversary.zero_grad(set_to_none=True)
                against.backward()
                nn.utils.clip_grad_norm_(stage.discriminator.parameters(), config.clip)
                self.adversary.step()
                logs["discriminator"] = against.detach()
        stage.after_step(self.step)
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in stage.network.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)
                else:
                    self.average[key].copy_(value)
        logs = {"loss": loss.detach(), **logs, "norm": norm.detach()}
        return {k: float(v) for k, v in logs.items()}


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
