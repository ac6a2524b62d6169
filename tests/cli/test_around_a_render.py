"""The README's first command, and the commands around a render, with the compact weights and the example media."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest

from talkswap.cli import main
from talkswap.cli.options import option_fields
from talkswap.cli.render import last_line, plan_of
from talkswap.media.index import index_frames
from talkswap.media.probe import probe
from talkswap.types import RenderPlan, RenderReport

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the examples in it, as the README's command expects."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(folder)
    return folder


def test_the_readmes_first_command(here: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"&& talkswap (render .*)", text)
    assert match is not None
    done = subprocess.run([sys.executable, "-m", "talkswap", *shlex.split(match[1])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"dubbed\.mp4: 144 frames, .* compact weights, \w+\n", done.stdout)
    assert "frames/s" in done.stderr and "warning" not in done.stderr
    assert list(index_frames(probe(here / "dubbed.mp4")).times) == list(
        index_frames(probe(EXAMPLES / "target.mp4")).times
    )
    assert sorted(p.name for p in here.iterdir()) == ["dubbed.mp4", "examples"]


def test_faces_lists_the_one_person(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faces", "examples/target.mp4", "--json"]) == 0
    (person,) = json.loads(capsys.readouterr().out)
    assert person["number"] == 0 and person["share"] > 0.9
    picture = cv2.imread(person["thumbnail"])
    assert picture is not None and picture.shape == (128, 128, 3)
    assert main(["faces", "examples/target.mp4", "--thumbnails", "elsewhere"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "0"
    assert (here / "elsewhere" / "face-0.png").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_render_leaves_nothing(here: Path, number: signal.Signals, code: int) -> None:
    arguments = ["render", "--source", "examples/source.png", "--target", "examples/target.mp4"]
    arguments += ["--audio", "examples/voice.wav", "--output", "out.mp4"]
    said = here.parent / "said.txt"
    with open(said, "w") as stream:
        child = subprocess.Popen([sys.executable, "-m", "talkswap", *arguments], stderr=stream)
    deadline = time.monotonic() + 120
    while child.poll() is None and not list(here.glob(".talkswap-*/segment-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(number)
    assert child.wait(120) == code, said.read_text()
    assert "Traceback" not in said.read_text()
    assert [p.name for p in here.iterdir()] == ["examples"]


def test_bench_sets_a_render_beside_the_bare_pass(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--seconds", "0.4", "--output", "figures.json"]) == 0
    figures = json.loads((here / "figures.json").read_text())
    assert json.loads(capfd.readouterr().out) == figures
    assert figures["frames"] == 10 and figures["preset"] == "compact"
    assert figures["real_time_factor"] > 0 and figures["ratio_to_bare"] > 1 and figures["peak_memory_mb"] > 100
    assert sum(figures["stage_seconds"].values()) > 0


def test_doctor_is_content(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "preset auto" in capsys.readouterr().out


def test_options_left_out_are_the_plans_defaults() -> None:
    given: dict[str, Any] = {field.name: None for field in option_fields(RenderPlan)}
    given |= {"source": [Path("a")], "target": Path("b"), "audio": Path("c"), "output": Path("d")}
    assert plan_of(given, {}) == RenderPlan(Path("a"), Path("b"), Path("c"), Path("d"))


def test_the_last_line_says_it_all() -> None:
    report = RenderReport(Path("x/dubbed.mp4"), 144, 144, 6.4, 5.76, 1.11, "compact", "cpu", [], 0, 0.4, {}, 900.0)
    line = last_line(report)
    assert line == "x/dubbed.mp4: 144 frames, 5.76 s of video in 6.4 s, real-time factor 1.11, compact weights, cpu"
