"""A report for others: the same figures, no face, no path."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from talkswap.cli import main
from talkswap.errors import OutputExistsError, TrainingDataError, UsageError
from talkswap.evaluation.report.report import NOTE, publish, without_people_and_places
from talkswap.evaluation.results import Evaluation, read_evaluation, write_evaluation

Sample = tuple[Path, Evaluation]


def test_figures_stay_and_people_and_places_go(evaluation_folder: Sample, tmp_path: Path) -> None:
    folder, evaluation = evaluation_folder
    facts = replace(
        evaluation.provenance,
        command="talkswap eval hdtf --data /home/ann/films/val --identity-network ~/nets/judge.onnx --out 'C:\\Users\\ann\\out'",
        data="/home/ann/films/val",
        options={"weights": "/home/ann/weights/", "ratio": "1/2", "seconds": "5"},
    )
    write_evaluation(tmp_path / "report.json", replace(evaluation, provenance=facts))
    written = publish(tmp_path, tmp_path / "docs")
    found = read_evaluation(written.data)
    assert found.provenance.data == "val" and found.provenance.options == {
        "weights": "folder",
        "ratio": "1/2",
        "seconds": "5",
    }
    assert found.provenance.command == "talkswap eval hdtf --data val --identity-network judge.onnx --out 'out'"
    assert found.provenance.notes[-1] == NOTE
    for before, after in zip(evaluation.settings, found.settings, strict=True):
        for row, copy in zip(before.methods, after.methods, strict=True):
            assert copy.figures == row.figures and copy.weights == row.weights
            assert [pair.values for pair in copy.pairs] == [pair.values for pair in row.pairs]
            assert all(pair.pictures is None and not pair.video for pair in copy.pairs)
    page = written.page.read_text()
    assert "data:image/jpeg" in evaluation_page(folder, evaluation) and "data:image/jpeg" not in page
    assert "<svg" in page
    everything = page + written.text.read_text() + json.dumps(json.loads(written.data.read_text()))
    assert "ann/" not in everything and "Users" not in everything
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == ["report.html", "report.json", "report.md"]


def test_folders_with_spaces_go_too(evaluation_folder: Sample) -> None:
    evaluation = evaluation_folder[1]
    facts = replace(
        evaluation.provenance,
        command="talkswap eval hdtf --data '/home/ann lee/my films/val' --out /srv/out --portraits '/home/ann lee/faces/'",
        data="/home/ann lee/my films/val",
        options={"portraits": "/home/ann lee/faces", "seconds": "5"},
    )
    found = without_people_and_places(replace(evaluation, provenance=facts)).provenance
    assert found.command == "talkswap eval hdtf --data 'val' --out out --portraits 'faces'"
    assert found.data == "val" and found.options == {"portraits": "faces", "seconds": "5"}


def evaluation_page(folder: Path, evaluation: Evaluation) -> str:
    from talkswap.evaluation.report.report import build_page

    return build_page(evaluation, folder)


def test_relative_names_and_addresses_stay(evaluation_folder: Sample) -> None:
    evaluation = evaluation_folder[1]
    words = "a/b c, https://example.org/x/y, 3/4, and/or"
    kept = without_people_and_places(replace(evaluation, title=words))
    assert kept.title.startswith("a/b c, ") and kept.title.endswith(", 3/4, and/or")


def test_refusals(evaluation_folder: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingDataError):
        publish(tmp_path, tmp_path / "docs")
    folder = tmp_path / "report"
    folder.mkdir()
    write_evaluation(folder / "report.json", evaluation_folder[1])
    with pytest.raises(UsageError):
        publish(folder, folder)
    assert main(["eval", "publish", str(folder), "--out", str(tmp_path / "docs")]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    with pytest.raises(OutputExistsError):
        publish(folder, tmp_path / "docs")
    assert main(["eval", "publish", str(folder), "--out", str(tmp_path / "docs"), "--overwrite"]) == 0
