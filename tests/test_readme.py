"""What the README promises is there: commands, files, exit codes, options."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from talkswap.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    return re.findall(r"```\w*\n(.*?)```", TEXT, re.DOTALL)


def test_the_two_commands() -> None:
    lines = [line for block in blocks() for line in block.splitlines() if line.startswith("pip install")]
    run, test = lines
    assert run == (
        "pip install -c constraints.txt -e . && talkswap render --source examples/source.png "
        "--target examples/target.mp4 --audio examples/voice.wav --output dubbed.mp4"
    )
    assert test == 'pip install -c constraints.txt -e ".[test]" && pytest'
    assert 'pip install --quiet -c constraints.txt -e ".[test]"' in (ROOT / ".ci" / "run").read_text()
    for file in re.findall(r"examples/\S+", run):
        assert (ROOT / file).is_file()


def test_the_tree_is_the_tree() -> None:
    tree = next(block for block in blocks() if block.startswith("talkswap/\n"))
    named: set[str] = set()
    for line in tree.splitlines():
        name = line.split()[0]
        path = ROOT / "talkswap" / name if line.startswith("  ") else ROOT / name
        assert path.exists(), name
        named.add(name.rstrip("/"))
    folders = {p.name for p in (ROOT / "talkswap").iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert folders <= named


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out.split("Commands:")[1]
    for command in re.findall(r"^  (\w+) ", shown, re.MULTILINE):
        assert f"| `talkswap {command}" in TEXT


def test_constraints_fit_the_ranges() -> None:
    from packaging.requirements import Requirement

    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for text in wanted:
        requirement = Requirement(text)
        if requirement.name == "talkswap":  # an extra of ours that another one takes in
            continue
        assert requirement.specifier.contains(pinned[requirement.name.lower().replace("_", "-")]), text
    assert pinned["torch"] == "2.13.0"
