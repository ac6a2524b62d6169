"""docs/pains.md names a test for each of 25 complaints; these hold it to its word."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    line
    for line in (ROOT / "docs" / "pains.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+\.", line)
]


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_there_are_twenty_five() -> None:
    assert [int(re.match(r"\| (\d+)\.", row)[1]) for row in ROWS] == list(range(1, 26))  # type: ignore[index]


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_each_answer_is_held_by_tests_that_exist(row: str) -> None:
    _, _, answer, held, _ = row.split("|")
    named = re.findall(r"`(tests/[^`]+)`", held)
    assert answer.strip() and named
    for name in named:
        file, _, function = name.partition("::")
        assert (ROOT / file).is_file(), file
        found = functions(ROOT / file)
        assert function in found if function else any(one.startswith("test_") for one in found), name


def test_no_device_is_written_as_a_literal() -> None:
    """``.cuda()`` or ``device="cuda"`` in a call would leave other devices out; devices come from talkswap.device."""
    found = []
    for path in sorted((ROOT / "talkswap").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                moved = isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"
                literal = any(
                    k.arg == "device" and isinstance(k.value, ast.Constant) and k.value.value in ("cuda", "mps")
                    for k in node.keywords
                )
                if moved or literal:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []
