"""``talkswap eval study`` as a user types it: a page from a report, means from answers, and named mistakes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from talkswap.cli import main
from talkswap.evaluation.metrics.metric import Metric
from talkswap.evaluation.results import (
    Column,
    Evaluation,
    MethodResult,
    PairResult,
    Provenance,
    SettingResult,
    write_evaluation,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, talking_clip: Path) -> Path:
    """Two methods on one pair, and a second pair on which one failed."""
    folder = tmp_path_factory.mktemp("report")
    methods = []
    for name in ("ground-truth", "swaptalk"):
        shutil.copyfile(talking_clip, folder / f"{name}.mp4")
        second = PairResult(
            1, "ann", "cleo", "cleo", error="no face" if name == "swaptalk" else "", video=f"{name}.mp4"
        )
        methods.append(
            MethodResult(name, name.title(), pairs=(PairResult(0, "ann", "bob", "bob", video=f"{name}.mp4"), second))
        )
    facts = Provenance("", "", "", 0, 2, 2, (), (), (), "", {}, {}, {}, {})
    settings = (SettingResult("self", tuple(methods)),)
    write_evaluation(
        folder / "report.json",
        Evaluation("hdtf", "t", "I", (Column(Metric("a", "A", "lower")),), settings, (), facts, 1.0),
    )
    return folder


def answers(key: Path, path: Path, rows: list[tuple[str, str, str, int]]) -> Path:
    """Rows of rater, method, question, rating."""
    plain = json.loads(key.read_text())
    names = {clip["method"]: name for name, clip in plain["clips"].items()}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study", "rater", "clip", "question", "rating"])
        writer.writerows(
            [plain["study"], rater, names[method], question, rating] for rater, method, question, rating in rows
        )
    return path


def test_from_a_report_to_scores(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "raters"
    assert main(["eval", "study", str(report), "--out", str(out), "--seed", "2"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}/index.html: 2 clips, 1 pair of 2 methods\n"
    assert "left out: self, pair 2: Swaptalk failed: no face" in said.err
    assert f"keep {tmp_path}/raters-key.json to yourself" in said.err
    key = tmp_path / "raters-key.json"
    assert not (out / "key.json").exists() and len(list((out / "clips").iterdir())) == 2

    one = answers(key, tmp_path / "1.csv", [("ann", "swaptalk", "quality", 4), ("ann", "ground-truth", "quality", 5)])
    two = answers(key, tmp_path / "2.csv", [("bob", "swaptalk", "quality", 3), ("bob", "swaptalk", "quality", 9)])
    given = ["eval", "study", "--score", str(one), str(two), "--key", str(key)]
    assert main(given) == 0
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[1] == ["self", "Ground-Truth", "quality", "5.00", "-", "1", "1", "1"]
    assert lines[2] == ["self", "Swaptalk", "quality", "3.50", "1.00", "to", "5.00", "2", "2", "1"]
    assert f"{two}, line 3: the rating '9'" in said.err and "rows that do not count: 1; ratings that do: 3" in said.err
    assert "clustered by rater and by clip" in said.err

    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ratings"], found["raters"], found["confidence"]) == (3, 2, 0.95)
    assert found["bad_rows"] == [{"file": str(two), "line": 3, "reason": found["bad_rows"][0]["reason"]}]
    assert [(s["method"], s["interval"]["mean"]) for s in found["scores"]] == [("ground-truth", 5.0), ("swaptalk", 3.5)]
    assert set(found["questions"]) == {"lip_sync", "identity", "quality", "realness"}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["REPORT"], 2, "no folder to write the study to"),
        (["REPORT", "REPORT", "--out", "OUT"], 2, "a study shows one report"),
        (["REPORT", "--score"], 2, "--score needs the study's key"),
        (["a.csv", "--score", "--key", "k.json", "--out", "OUT"], 2, "--score reads answers"),
        (["a.csv", "--score", "--key", "missing.json"], 17, "no key at missing.json"),
        (["missing", "--out", "OUT"], 17, "no report at missing"),
        (["REPORT", "--out", "REPORT"], 9, "already exists"),
        (["REPORT", "--out", "OUT", "--key", "OUT/key.json"], 2, "would lie in the raters' folder"),
    ],
)
def test_mistakes_are_named(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    places = {"REPORT": str(report), "OUT": str(tmp_path / "out"), "OUT/key.json": str(tmp_path / "out" / "key.json")}
    assert main(["eval", "study", *[places.get(option, option) for option in options]]) == code
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and said.out == ""
    assert list(tmp_path.iterdir()) == []
