"""Progress: the same events as plain lines, as a bar, or as nothing."""

from __future__ import annotations

import io
import sys

import pytest

from talkswap.cli.output import BarProgress, PlainProgress, QuietProgress, choose_progress, describe
from talkswap.types import ProgressEvent


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_lines_come_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress(seconds=1000) as progress:
        for done in range(101):
            progress(ProgressEvent("render", done, 100))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("render: 100/100 frames (100%)")


def test_every_event_where_no_time_must_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress(seconds=0) as progress:
        for done in range(1, 4):
            progress(ProgressEvent("render", done, 3))
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_messages_are_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress() as progress:
        progress(ProgressEvent("prepare", 0, 0, "device cpu: no CUDA device\x1b[2J"))
    assert capsys.readouterr().err == "device cpu: no CUDA device\\x1b[2J\n"


def test_rate_and_time_left() -> None:
    line = describe(ProgressEvent("render", 120, 400), 120, 10.0, "frames")
    assert line == "render: 120/400 frames (30%), 12.0 frames/s, 0:23 left"
    assert describe(ProgressEvent("scan", 7, 0), 0, 0.0, "frames") == "scan: 7 frames"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = choose_progress(quiet=True)
    assert isinstance(progress, QuietProgress)
    with progress:
        progress(ProgressEvent("render", 1, 1, "message"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("unit", ["frames", "bytes"])
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress = choose_progress(quiet=False, unit=unit)
    assert isinstance(progress, BarProgress)
    with progress:
        progress(ProgressEvent("prepare", 0, 0, "preset [compact]"))
        for done in range(0, 200_001, 50_000):
            progress(ProgressEvent("render", done, 200_000))
        progress(ProgressEvent("joining", 1, 2))
    shown = terminal.getvalue()
    assert "preset [compact]" in shown and "render" in shown and "joining" in shown


def test_plain_lines_in_a_pipe() -> None:
    assert isinstance(choose_progress(quiet=False), PlainProgress)
