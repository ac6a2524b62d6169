"""What the README promises is there: commands, files, exit codes, options."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from talkswap import errors
from talkswap.cli import INTERRUPTED, main
from talkswap.errors import TalkswapError

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    "talkswap/systems/swaptalk/README.md",
    "docs/pains.md",
    "docs/evaluation/README.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    "weights/README.md",
]


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


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


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


def test_exit_codes_are_those_of_the_errors() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, TalkswapError)]
    assert listed == {kind.exit_code for kind in kinds} | {0, INTERRUPTED}


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out.split("Commands:")[1]
    for command in re.findall(r"^  (\w+) ", shown, re.MULTILINE):
        assert f"| `talkswap {command}" in TEXT


@pytest.mark.parametrize("page", PAGES)
def test_every_option_exists(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = re.findall(r"^talkswap .*|`talkswap [^`]*`|&& (talkswap .*)", text, re.MULTILINE)
    spoken = [line.strip("`") for line in re.findall(r"`talkswap [^`]+`|^talkswap .+", text, re.MULTILINE)] + commands
    for line in spoken:
        words = line.split()
        options = [word.rstrip(",;") for word in words if word.startswith("--")]
        if not options or len(words) < 2 or words[1].startswith("-"):
            continue
        named = (
            words[1:3] if words[1] in ("data", "weights", "eval") else words[1:2]
        )  # these hold commands of their own
        assert main([*named, "--help"]) == 0
        shown = capsys.readouterr().out
        for option in options:
            assert re.search(rf"{option}\b", shown), f"{line}: {option}"


def test_no_page_names_a_package_registry() -> None:
    for page in [*PAGES, "CHANGELOG.md", "constraints.txt", "pyproject.toml"]:
        assert not re.search(r"index-url|trusted-host", (ROOT / page).read_text(encoding="utf-8")), page


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
