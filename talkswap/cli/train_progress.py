"""A training run on stderr: a bar with loss, rate and time left on a terminal, one plain line per row elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from talkswap.cli.output import colourful, note, printable

if TYPE_CHECKING:
    from talkswap.train.figures import StepProgress


class PlainTraining:
    """Lines for logs and pipes; the loop words the rows itself when nobody watches its steps."""

    watch: Callable[[StepProgress], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def echo(self, line: str) -> None:
        """One line for the user."""
        note(line)


class BarTraining:
    """A Rich bar that follows the steps, with the lines for the user above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(stderr=True, no_color=not colourful(sys.stderr), highlight=False)
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
        ]
        self.bar = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def echo(self, line: str) -> None:
        """One line for the user."""
        from rich.markup import escape

        self.bar.console.print(escape(printable(line)))

    def watch(self, told: StepProgress) -> None:
        """Move the bar to a step."""
        from talkswap.train.figures import clock

        if not self.bar.task_ids:
            self.bar.add_task(told.stage, total=told.steps, told="")
        loss = "" if told.loss is None else f"loss {told.loss:.4g}  "
        text = f"{loss}{told.rate:.3g} samples/s  {clock(told.seconds_left)} left"
        self.bar.update(self.bar.task_ids[0], completed=told.step, told=text)


def choose_training_progress() -> PlainTraining | BarTraining:
    """A bar on a terminal, plain lines elsewhere."""
    return BarTraining() if sys.stderr.isatty() else PlainTraining()
