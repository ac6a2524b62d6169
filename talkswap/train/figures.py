"""The figures of a run: means over steps, ``curve.jsonl`` and TensorBoard."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from talkswap.files import write_atomically

BOARD = "tensorboard"


@dataclass(frozen=True)
class StepProgress:
    """Where a run is; handed to a callback after every step, never printed by the library."""

    stage: str
    step: int  # steps done
    steps: int
    loss: float | None  # mean of the last row written; None before the first
    rate: float  # samples per second over all processes, since the run was taken up
    seconds_left: float
    row: Mapping[str, float] | None = None  # the row written at this step

    def line(self) -> str:
        """The row as one line of text."""
        parts = [f"{k}={v:.4g}" for k, v in (self.row or {}).items()]
        return " ".join([*parts, f"left={clock(self.seconds_left)}"])


def clock(seconds: float) -> str:
    """``75`` as ``1:15``, ``4000`` as ``1:06:40``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Pace:
    """How fast a run goes, and how much of the time it waits for data."""

    def __init__(self) -> None:
        self.started = self._counted = self._rowed = time.monotonic()
        self.steps = 0  # since the run was taken up
        self.longest = 0.0  # s, of a step with its waiting
        self._since = 0  # steps since the last row
        self._waited = self._waited_before = self._apart = 0.0  # s: since the last row, before it, on sample sheets
        self._loss: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which the run waits for a batch."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A block that belongs to no step."""
        began = time.monotonic()
        yield
        # Both clocks skip this block, so that neither rate nor longest step counts it.
        seconds = time.monotonic() - began
        self._rowed, self._counted, self._apart = self._rowed + seconds, self._counted + seconds, self._apart + seconds

    def count(self) -> float:
        """A step is over; returns the seconds since the start."""
        now = time.monotonic()
        self.longest, self._counted = max(self.longest, now - self._counted), now
        self.steps += 1
        self._since += 1
        return now - self.started

    def row(self, batch: int) -> dict[str, float]:
        """Samples per second and share of time waited since the last row, for a batch of so many samples."""
        now = time.monotonic()
        seconds = max(now - self._rowed, 1e-9)
        figures = {"rate": batch * self._since / seconds, "waiting": self._waited / seconds}
        self._waited_before += self._waited
        self._waited, self._since, self._rowed = 0.0, 0, now
        return figures

    def share_waited(self) -> float:
        """The share of the steps' time spent waiting for data."""
        seconds = time.monotonic() - self.started - self._apart
        return (self._waited_before + self._waited) / max(seconds, 1e-9)

    def progress(self, stage: str, step: int, steps: int, batch: int, row: dict[str, float] | None) -> StepProgress:
        """Where the run is after ``step`` of ``steps``; ``row`` is the one written at this step."""
        if row is not None:
            self._loss = row["loss"]
        each = (time.monotonic() - self.started) / max(1, self.steps)
        shown = None if row is None else {"step": float(step), **row}
        return StepProgress(stage, step, steps, self._loss, batch / each, (steps - step) * each, shown)


class Means:
    """Means of the figures since the last row.

    They stay on the device until they are asked for: reading a number from a GPU makes the program wait for it.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[list[str], Tensor]] = []

    def add(self, names: list[str], values: Tensor) -> None:
        """One step's figures (N)."""
        self._steps.append((names, values))

    def means(self) -> dict[str, float]:
        """The mean of each figure over the steps that had it, in double precision; then forget them."""
        sums: dict[str, list[float]] = {}
        # One transfer a step from the device, and only when a row is due.
        for names, values in self.stored():
            for name, value in zip(names, values, strict=True):
                sums.setdefault(name, []).append(value)
        self._steps = []
        return {name: sum(values) / len(values) for name, values in sums.items()}

    def finite(self) -> bool:
        """Whether every loss since the last row is finite."""
        losses = [values[0] for _, values in self._steps]
        return not losses or bool(torch.isfinite(torch.stack(losses)).all())

    def stored(self) -> list[tuple[list[str], list[float]]]:
        """What a checkpoint keeps, so that the first row after an interruption is the row that it would have been."""
        return [(names, values.tolist()) for names, values in self._steps]

    def restore(self, stored: list[tuple[list[str], list[float]]]) -> None:
        """Take up what :meth:`stored` gave."""
        self._steps = [(list(names), torch.tensor(values)) for names, values in stored]


class RunLog:
    """Writes rows to ``curve.jsonl`` and scores to ``scores.jsonl``, and both to TensorBoard where it is installed.

    Args:
        run: the run's folder.
        step: the step at which the run goes on; rows after it, of steps that will be done again, go.
        echo: is told that TensorBoard is missing.
    """

    def __init__(self, run: Path, step: int, echo: Callable[[str], None]) -> None:
        self.run = run
        for name in ("curve.jsonl", "scores.jsonl"):
            _forget_after(run / name, step)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            echo("tensorboard is not installed: the curve is in curve.jsonl and curve.png alone")
        else:
            self._board = SummaryWriter(str(run / BOARD), purge_step=step + 1 if step else None)

    def row(self, step: int, row: Mapping[str, float]) -> None:
        """One row of the curve."""
        self._write("curve.jsonl", step, row)
        self._show("train", step, row)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Figures on held-out data."""
        self._write("scores.jsonl", step, scores)
        self._show("held-out", step, scores)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._board is not None:
            self._board.close()

    def _write(self, name: str, step: int, row: Mapping[str, float]) -> None:
        with open(self.run / name, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")

    def _show(self, kind: str, step: int, row: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            self._board.flush()


def _forget_after(path: Path, step: int) -> None:
    """Drop the rows of later steps, and a line that was cut off while it was written."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    write_atomically(path, "".join(kept))


SKIPPED = {"step", "minutes", "rate", "waiting"}


def draw_curve(source: Path, target: Path, width: int = 900, height: int = 140) -> None:
    """One panel per logged figure, each scaled to its own range; nothing is drawn from fewer than two rows."""
    rows = [json.loads(line) for line in source.read_text().splitlines()] if source.is_file() else []
    keys = [k for k in (rows[-1] if rows else {}) if k not in SKIPPED]
    if len(rows) < 2 or not keys:
        return
    panels = []
    for key in keys:
        panel = np.full((height, width, 3), 255, np.uint8)
        points = np.array([(r["step"], r[key]) for r in rows if key in r], float)
        # The highest two percent are first steps and outliers; they would flatten the rest.
        low, high = np.percentile(points[:, 1], [0, 98])
        span = max(high - low, 1e-9)
        x = 10 + (points[:, 0] - points[0, 0]) / max(np.ptp(points[:, 0]), 1) * (width - 20)
        y = height - 10 - np.clip((points[:, 1] - low) / span, 0, 1) * (height - 40)
        cv2.polylines(panel, [np.stack([x, y], 1).astype(np.int32)], False, (180, 80, 20), 1, cv2.LINE_AA)
        label = f"{key}: last {points[-1, 1]:.4g}, lowest {low:.4g}, step {int(points[-1, 0])}"
        cv2.putText(panel, label, (10, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(panel)
    cv2.imwrite(str(target), np.concatenate(panels))
