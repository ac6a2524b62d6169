"""docs/guide/extend.md, followed to the letter: its system is trained, packed and rendered by the page's own commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guide" / "extend.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files as a package of its own with an entry point, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("extend")
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        name = re.match(r"# talkswap/systems/tint/(\w+\.py)\n", block)
        assert name is not None
        file = folder / "tint" / name[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.replace("talkswap.systems.tint", "tint"))
    information = folder / "tint-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tint\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[talkswap.systems]\ntint = tint:SYSTEM\n")
    return folder


def run(line: str, package: Path) -> str:
    """One of the page's lines, with the example files in the place of the page's names; what it printed."""
    files = {
        "face.png": ROOT / "examples" / "source.png",
        "clip.mp4": ROOT / "examples" / "target.mp4",
        "voice.wav": ROOT / "examples" / "voice.wav",
        "weights/compact": ROOT / "weights" / "compact",
    }
    words = [str(files.get(word, word)) for word in shlex.split(line)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_the_page_works_as_printed(package: Path) -> None:
    plain = re.sub(r"```python\n.*?```", "", PAGE, flags=re.DOTALL)
    block = next(b for b in re.findall(r"```\n(.*?)```", plain, re.DOTALL) if "talkswap train" in b)
    train, pack, render, _ = block.strip().splitlines()
    (package / "data").mkdir()
    run(train, package)
    assert json.loads((package / "runs" / "colour" / "scores.json").read_text())["error"] < 0.1
    run(pack, package)
    assert (package / "my-tint" / "tint" / "colour.safetensors").is_file()
    run(f"{render} --output tinted.mkv --encoder ffv1 --end 0.2 --no-provenance", package)
    with ClipReader(probe(package / "tinted.mkv")) as tinted, ClipReader(probe(ROOT / "examples/target.mp4")) as target:
        pairs = list(zip(tinted.frames(), target.frames(), strict=False))
    assert len(pairs) == 5
    change = np.mean([np.abs(a.rgb.astype(float) - b.rgb) for a, b in pairs], axis=0)
    assert change[150:350, 400:560].mean() > 3, "the face is flatter than it was"
    assert change[:, :200].mean() < 0.5, "the wall beside it is as it was"
    assert "--amount" in run("talkswap render --system tint --help", package)
