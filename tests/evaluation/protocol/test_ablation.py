"""The runs and rows of the ablations."""

from __future__ import annotations

from pathlib import Path

import pytest

from talkswap.checkpoints.presets import find_preset
from talkswap.errors import UsageError
from talkswap.evaluation.protocol.ablation import ablate, ablations, parse_runs, rows
from talkswap.evaluation.protocol.plan import EvaluationPlan


def test_runs_are_named() -> None:
    assert parse_runs(["unet=a/b", "dit=c=d"]) == {"unet": Path("a/b"), "dit": Path("c=d")}
    for texts, said in ((["unet"], "not NAME=FOLDER"), (["a=b", "a=c"], "two runs"), (["../a=b"], "plain|more than")):
        with pytest.raises(UsageError, match=said):
            parse_runs(texts)


def test_rows_say_what_a_run_chose() -> None:
    folder = find_preset("compact").folders[0]
    methods = {number: rows("swaptalk", table, "own", folder) for number, table in ablations("swaptalk").items()}
    choices = {number: [dict(method.choices) for method in listed] for number, listed in methods.items()}
    assert choices["II"] == choices["III"] == [{"compression": "16x"}]
    assert choices["IV"] == [{"backbone": "transformer"}] and choices["V"] == [{"backbone": "compact"}]
    assert choices["VI"] == [{"order": "sync-swap"}, {"order": "swap-sync"}]
    assert [method.key for method in methods["VI"]] == ["own-sync-swap", "own-swap-sync"]
    assert [method.swaps for listed in methods.values() for method in listed] == [True, False, True, False, True, True]


def test_a_system_without_ablations_says_so(tmp_path: Path) -> None:
    plan = EvaluationPlan(tmp_path, tmp_path / "out", system="wav2lip")
    with pytest.raises(UsageError, match="wav2lip has no table 'II' of ablations"):
        ablate("II", {}, plan)
    with pytest.raises(UsageError, match="swaptalk has no table 'I' of ablations") as refusal:
        ablate("I", {}, EvaluationPlan(tmp_path, tmp_path / "out"))
    assert "II, III, IV, V, VI" in refusal.value.hint
