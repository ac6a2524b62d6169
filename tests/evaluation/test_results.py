"""Results go through JSON and back without a loss, and refuse what is not theirs; the journal outlives a torn line."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import Judge, Metric
from talkswap.evaluation.results import (
    ClipFacts,
    ClipRefused,
    Column,
    Entry,
    Evaluation,
    Figure,
    Journal,
    MethodResult,
    PairResult,
    Pictures,
    Provenance,
    SettingResult,
    read_evaluation,
    write_evaluation,
)
from talkswap.records import from_plain, to_plain
from talkswap.systems.swaptalk.tables import TABLE_ONE

SSIM = Metric("ssim", "SSIM", "higher", needs_truth=True)


LSE = Metric("lse_c", "LSE-C", "higher", network="syncnet")


def evaluation() -> Evaluation:
    """One with something in every field."""
    pair = PairResult(
        0, "ann", "bö", "ann", {"ssim": 0.1 + 0.2}, {"lse_c": "too short"}, "", ("a warning",), {"render": 1e-7},
        "clips/a.mp4", Pictures("pictures/f.jpg", "pictures/m.jpg", "pictures/p.jpg"),
    )  # fmt: skip
    bad = PairResult(1, "bö", "ann", "bö", error="no face")
    figures = {"ssim": Figure(0.3, 1), "lse_c": Figure(2.0, 2, 0.5)}
    ran = MethodResult("swaptalk", "SwapTalk", "about", "", (pair, bad), figures, {"order": "x"}, {"a": "f" * 64})
    provenance = Provenance(
        "2026-01-01T00:00:00+00:00", "talkswap eval", "data", 3, 112, 2, (("ann", "bö"), ("bö", "ann")),
        (ClipFacts("ann", "ann", 50, 2.0, {"videos/ann.mp4": "0" * 64}),), (ClipRefused("cy", "gone"),), "abc+",
        {"torch": "2"}, {"cores": "2"}, {"vqgan": "1"}, {"crop": "320 px"}, ("a note",),
    )  # fmt: skip
    return Evaluation(
        "hdtf", "title", "I",
        (Column(SSIM), Column(LSE, Judge("syncnet", "compact", False, "9", "a note")), Column(LSE, Judge("syncnet", "v2", True))),
        (SettingResult("self", (ran, MethodResult("wav2lip", "Wav2Lip", not_run="part wav2lip is missing"))),),
        TABLE_ONE[:2], provenance, 12.5,
    )  # fmt: skip


def test_json_and_back_is_the_same(tmp_path: Path) -> None:
    wanted = evaluation()
    write_evaluation(tmp_path / "report.json", wanted)
    assert read_evaluation(tmp_path) == wanted == read_evaluation(tmp_path / "report.json")
    assert not list(tmp_path.glob("*.part"))


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_evaluation(tmp_path / "report.json", replace(evaluation(), seconds=float("nan")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plain: plain.pop("title"),
        lambda plain: plain.update(format=99),
        lambda plain: plain.update(seconds="long"),
        lambda plain: plain.update(kind="other"),
        lambda plain: plain.update(more=1),
        lambda plain: plain["settings"][0]["methods"][0]["pairs"][0].update(number=True),
        lambda plain: plain["provenance"].update(pairs=[["only one"]]),
    ],
)
def test_anything_else_is_no_report(tmp_path: Path, spoil: object) -> None:
    plain = to_plain(evaluation())
    spoil(plain)  # type: ignore[operator]
    (tmp_path / "report.json").write_text(json.dumps(plain))
    with pytest.raises(TrainingDataError, match="no report"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "no json"])
def test_a_damaged_file_is_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(TrainingDataError, match="no report"):
        read_evaluation(tmp_path)
    with pytest.raises(TrainingDataError, match="no report"):
        read_evaluation(tmp_path / "nowhere")


def test_compact_and_published_columns_never_meet() -> None:
    found = evaluation()
    assert [c.metric.key for c in found.columns_for(True)] == ["ssim", "lse_c"]
    assert [c.judge.name for c in found.columns_for(False) if c.judge is not None] == ["compact"]
    nothing = replace(found.settings[0], methods=found.settings[0].methods[1:])
    assert found.columns_for(True, nothing) == ()
    assert found.failures == 1 and found.settings[0].methods[0].failed[0].error == "no face"


def test_every_field_has_been_filled() -> None:
    """Or else the round trip says nothing about it."""
    found = evaluation()
    for part in (found, found.provenance, found.settings[0].methods[0], found.settings[0].methods[0].pairs[0]):
        empty = [f.name for f in fields(part) if not getattr(part, f.name) and getattr(part, f.name) != 0]
        assert set(empty) <= {"not_run", "error"}, part
    assert from_plain(Evaluation, to_plain(found)) == found


def test_a_journal_outlives_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results.jsonl")
    assert journal.read() == {}
    first, second = (Entry("self", "swaptalk", PairResult(n, "a", "b", "a", {"ssim": 0.1 * n})) for n in (0, 1))
    journal.add(first)
    with open(journal.path, "ab") as file:
        file.write(b'{"setting": "self", "meth')  # the power went
    assert journal.read() == {first.key: first}
    journal.add(second)
    journal.add(Entry("self", "swaptalk", PairResult(0, "a", "b", "a", error="later")))
    with open(journal.path, "ab") as file:
        file.write(b'{"setting": 3}\n\xff\n')
    found = journal.read()
    assert found[second.key] == second and found[first.key].result.error == "later" and len(found) == 2
