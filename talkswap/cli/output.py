"""What the commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

import typer

from talkswap.errors import OutputUnwritableError, TalkswapError

OPENCV_HINT = "run `pip install --force-reinstall --no-deps opencv-python-headless`, the OpenCV that wants no libGL"


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


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: dataclasses as dictionaries, paths and fractions as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (Path, Fraction)):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    return value


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: names can have bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_json(value: Any) -> str:
    """``value`` as indented JSON."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)
    return text if is_text(text) else json.dumps(plain(value), indent=2)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON in one move.

    Raises:
        OutputUnwritableError: the folder is missing or read-only.
    """
    if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
        raise OutputUnwritableError(f"cannot write {path}: it is no file", "name a file")
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(to_json(value) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise OutputUnwritableError(
            f"cannot write {path}: {error.strerror}", "choose a folder that can be written"
        ) from error


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces, fit for eyes and for ``awk``."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
