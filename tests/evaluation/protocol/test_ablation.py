"""The runs and rows of the ablations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from talkswap.checkpoints.presets import find_preset
from talkswap.errors import UsageError
from talkswap.evaluation.protocol.ablation import TABLES, parse_runs, rows
from talkswap.evaluation.protocol.published import ABLATIONS


def test_runs_are_named() -> None:
    assert parse_runs(["unet=a/b", "dit=c=d"]) == {"unet": Path("a/b"), "dit": Path("c=d")}
    for texts, said in ((["unet"], "not NAME=FOLDER"), (["a=b", "a=c"], "two runs"), (["../a=b"], "plain|more than")):
        with pytest.raises(UsageError, match=said):
            parse_runs(texts)


def test_rows_say_what_a_run_chose() -> None:
    folder = find_preset("compact").folders[0]
    assert set(TABLES) == set(ABLATIONS)
    found: dict[str, Any] = {number: rows(table, "own", folder) for number, table in TABLES.items()}
    choices = {number: [dict(method.choices) for method in methods] for number, methods in found.items()}
    assert choices["II"] == choices["III"] == [{"compression": "16x"}]
    assert choices["IV"] == [{"backbone": "transformer"}] and choices["V"] == [{"backbone": "compact"}]
    assert choices["VI"] == [{"order": "sync-swap"}, {"order": "swap-sync"}]
    assert [method.swaps for methods in found.values() for method in methods] == [True, False, True, False, True, True]
    assert set(ABLATIONS["II"][0].values) == set(TABLES["II"].metrics)
    assert all(set(row.values) == set(TABLES[number].metrics) for number, group in ABLATIONS.items() for row in group)
