"""What the commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

import typer

from talkswap import records
from talkswap.errors import TalkswapError
from talkswap.files import write_atomically
from talkswap.types import ProgressEvent

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

OPENCV_HINT = "run `pip install --force-reinstall --no-deps opencv-python-headless`, the OpenCV that needs no libGL"


def colourful(stream: TextIO) -> bool:
    """Whether colours may be written: a terminal, and the user did not set NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def printable(text: str) -> str:
    """``text`` on one line: a file name may hold line breaks or terminal commands."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _labelled(label: str, colour: str, text: str) -> None:
    if colourful(sys.stderr):
        label = typer.style(label, fg=colour, bold=True)
    typer.echo(f"{label} {printable(text)}", err=True, color=colourful(sys.stderr))


def print_error(error: TalkswapError) -> None:
    """``error: MESSAGE``, an empty line, ``hint: HINT``, on stderr."""
    _labelled("error:", "red", error.message)
    if error.hint:
        typer.echo(err=True)
        _labelled("hint:", "cyan", error.hint)


def print_warning(text: str) -> None:
    """``warning: TEXT`` on stderr."""
    _labelled("warning:", "yellow", text)


def note(text: str) -> None:
    """One line for the user, on stderr."""
    typer.echo(printable(text), err=True)


def to_json(value: Any) -> str:
    """``value`` as indented JSON."""
    return records.to_json(value).removesuffix("\n")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON in one move.

    Raises:
        OutputUnwritableError: the folder is missing or read-only.
    """
    write_atomically(path, records.to_json(value))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces, fit for eyes and for ``awk``."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


# --- Progress of long work on stderr: a bar on a terminal, a plain line every few seconds elsewhere.


PLAIN_SECONDS = 5.0  # between two plain lines


class Display:
    """A block during which progress is shown; by itself it shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return


class BarDisplay(Display):
    """A Rich bar on stderr, gone when the block ends; nothing of Rich is imported before one is made.

    Args:
        columns: of the bar, from left to right.
    """

    def __init__(self, *columns: ProgressColumn) -> None:
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True, no_color=not colourful(sys.stderr), highlight=False)
        self.bar = RichProgress(*columns, console=console, transient=True)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def show(self, line: str) -> None:
        """Print a line above the bar."""
        from rich.markup import escape

        self.bar.console.print(escape(line))


class QuietProgress(Display):
    """Takes events and shows nothing."""

    def __call__(self, event: ProgressEvent) -> None:
        return


class PlainProgress(Display):
    """One line now and then, for logs and pipes.

    Args:
        unit: what is counted.
        seconds: least time between two lines of a stage.
    """

    def __init__(self, unit: str = "frames", seconds: float = PLAIN_SECONDS) -> None:
        self.unit, self.seconds = unit, seconds
        self.stage = ""
        self.began = self.shown = 0.0
        self.first = 0

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if event.message:
            note(event.message)
        if event.stage != self.stage:
            self.stage, self.began, self.shown, self.first = event.stage, now, now, event.done
        # The last line always comes, however short the time since the one before.
        finished = event.total > 0 and event.done >= event.total
        if not event.done or (now - self.shown < self.seconds and not finished):
            return
        self.shown = now
        note(describe(event, event.done - self.first, now - self.began, self.unit))


def describe(event: ProgressEvent, counted: int, seconds: float, unit: str) -> str:
    """One line: ``frames: 120/400 frames (30%), 14.2 frames/s, 0:20 left``."""
    rate = counted / seconds if seconds > 0 and counted > 0 else 0.0
    line = f"{event.stage}: {event.done}"
    if event.total:
        line += f"/{event.total} {unit} ({100 * event.done // event.total}%)"
    else:
        line += f" {unit}"
    if rate:
        line += f", {rate:.1f} {unit}/s"
        if event.total > event.done:
            left = round((event.total - event.done) / rate)
            line += f", {left // 60}:{left % 60:02d} left"
    return line


class BarProgress(BarDisplay):
    """A bar with count, rate and time left.

    Args:
        unit: what is counted; ``bytes`` is shown in MB.
    """

    def __init__(self, unit: str = "frames") -> None:
        from rich import progress

        columns: list[ProgressColumn] = [progress.TextColumn("{task.description}"), progress.BarColumn()]
        if unit == "bytes":
            columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
        else:
            columns += [progress.MofNCompleteColumn(), progress.TextColumn(unit)]
            columns += [progress.TextColumn("{task.fields[rate]}")]
        super().__init__(*columns, progress.TimeRemainingColumn(), progress.TextColumn("left"))
        self.unit, self.stage = unit, ""

    def __call__(self, event: ProgressEvent) -> None:
        if event.message:
            self.show(event.message)
        total = event.total or None
        # One bar at a time: a new stage takes the place of the one before.
        if not self.bar.task_ids or event.stage != self.stage:
            from rich.markup import escape

            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.stage = event.stage
            self.bar.add_task(escape(event.stage), total=total, rate="")
        current = self.bar.tasks[0]
        rate = f"{current.speed:.1f} {self.unit}/s" if current.speed else ""
        self.bar.update(current.id, completed=event.done, total=total, rate=rate)


def choose_progress(quiet: bool, unit: str = "frames") -> QuietProgress | PlainProgress | BarProgress:
    """Nothing on --quiet, a bar on a terminal, plain lines elsewhere."""
    if quiet:
        return QuietProgress()
    if sys.stderr.isatty():
        return BarProgress(unit)
    return PlainProgress(unit)
