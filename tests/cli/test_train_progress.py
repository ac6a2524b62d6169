"""What a training run shows: a bar with loss, rate and time left on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from talkswap.cli.train import BarTraining, PlainTraining, choose_training_progress
from talkswap.train.figures import StepProgress, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_loss_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("NO_COLOR", "1"), ("COLUMNS", "140"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    with choose_training_progress() as progress:
        assert isinstance(progress, BarTraining)
        progress.echo("going on at step 2 of 100 [sic]")
        progress.watch(StepProgress("vqgan", 3, 100, None, 12.0, 3725.0))
        progress.watch(StepProgress("vqgan", 4, 100, 0.51234, 12.0, 3724.0))
        progress.bar.refresh()
    shown = terminal.getvalue()
    assert "going on at step 2 of 100 [sic]" in shown
    assert "vqgan" in shown and "4/100" in shown and "loss 0.5123  12 samples/s  1:02:04 left" in shown


def test_a_pipe_gets_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with choose_training_progress() as progress:
        assert isinstance(progress, PlainTraining) and progress.watch is None
        progress.echo(StepProgress("vqgan", 50, 100, 0.5, 1.0, 75, {"step": 50.0, "loss": 0.5}).line())
    said = capsys.readouterr()
    assert said.err == "step=50 loss=0.5 left=1:15\n" and said.out == ""


def test_clocks() -> None:
    assert [clock(s) for s in (0, 59.6, 75, 3600, 86399)] == ["0:00", "1:00", "1:15", "1:00:00", "23:59:59"]
