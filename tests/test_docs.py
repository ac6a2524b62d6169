"""The pages under docs are true: reference pages match the code, commands and options exist, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from talkswap.cli import main

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [
    str(path.relative_to(ROOT))
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "talkswap").rglob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
        *sorted((ROOT / "weights").rglob("*.md")),
    ]
]
GROUPS = ("data", "weights", "eval")  # commands that hold commands of their own


def commands_of(page: str) -> list[str]:
    """Every talkswap command of a page, from code blocks and inline code."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    inline = [match for match in re.findall(r"`(talkswap [^`]+)`", text)]
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    return inline + re.findall(r"(?:^|&& |-m )(talkswap .+)", blocks, re.MULTILINE)


@pytest.mark.parametrize("name", ["options.md", "exit-codes.md"])
def test_reference_pages_are_those_of_the_code(name: str) -> None:
    script = "import recipes.make_reference as m; import sys; sys.stdout.write(m.PAGES[sys.argv[1]]())"
    done = subprocess.run([sys.executable, "-c", script, name], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (REFERENCE / name).read_text(encoding="utf-8"), "run python recipes/make_reference.py"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_exists(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    helps: dict[str, str] = {}
    for line in commands_of(page):
        words = line.split("#")[0].split()
        if len(words) < 2 or words[1].startswith("-"):
            continue
        if "tint" in words:  # the system of docs/guide/extend.md; test_extend_guide.py runs its lines
            continue
        named = words[1:3] if words[1] in GROUPS and len(words) > 2 else words[1:2]
        for name in named[-1].split("|"):  # `talkswap data codes|pairs` stands for two
            path = [*named[:-1], name.strip(",;.")]
            key = " ".join(path)
            if key not in helps:
                assert main([*path, "--help"]) == 0, line
                helps[key] = capsys.readouterr().out
            for option in (word.rstrip(",;.)") for word in words if word.startswith("--")):
                assert re.search(rf"{re.escape(option.split('=')[0])}\b", helps[key]), f"{line}: {option}"


def test_no_page_names_a_package_registry() -> None:
    for page in [*PAGES, "CHANGELOG.md", "constraints.txt", "pyproject.toml"]:
        assert not re.search(r"index-url|trusted-host", (ROOT / page).read_text(encoding="utf-8")), page
