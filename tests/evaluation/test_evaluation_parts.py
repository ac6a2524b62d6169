"""What the evaluation is made of: pairs, the journal, which frame is held against which, the ablations' runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from talkswap.checkpoints import find_preset
from talkswap.errors import InputMissingError, TrainingDataError, UsageError
from talkswap.evaluation.judges.observe import matching_rows
from talkswap.evaluation.protocol.ablation import TABLES, parse_runs, rows
from talkswap.evaluation.protocol.pairs import draw, open_evaluation_set
from talkswap.evaluation.protocol.published import ABLATIONS
from talkswap.evaluation.protocol.results import Entry, Figure, Journal, PairResult
from talkswap.evaluation.protocol.summary import figures_of, set_figures


def prepared(folder: Path, speakers: dict[str, str], split: str = "val") -> Path:
    """What a manifest says of a data set; no clip is opened to draw pairs."""
    clips = [
        {
            "name": name, "split": split, "speaker": speaker, "frames": 50, "portrait": 3,
            "files": {f"videos/{name}.mp4": "0" * 64, f"voices/{name}.wav": "1" * 64},
        }
        for name, speaker in speakers.items()
    ]  # fmt: skip
    refused = [{"source": "/x/dan.mp4", "clip": None, "reason": "no sound", "detail": "none"}]
    manifest = {"settings": {"clip": {"rate": 25}}, "clips": clips, "refused": refused}
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


MANY = {f"clip{number:02d}": f"speaker{number // 2}" for number in range(12)}


def test_pairs_are_of_two_people_and_the_seeds_alone(tmp_path: Path) -> None:
    chosen = open_evaluation_set(prepared(tmp_path / "data", MANY))
    first, possible = draw(chosen, 112, 0)
    assert possible == 12 * 11 - 12 and len(first) == 112
    assert all(pair.source.speaker != pair.target.speaker for pair in first)
    assert len({(pair.source.name, pair.target.name) for pair in first}) == 112
    again = open_evaluation_set(prepared(tmp_path / "again", dict(reversed(MANY.items()))))
    names = [(pair.source.name, pair.target.name) for pair in first]
    assert [(p.source.name, p.target.name) for p in draw(again, 112, 0)[0]] == names
    assert [(p.source.name, p.target.name) for p in draw(chosen, 7, 0)[0]] == names[:7]
    assert [(p.source.name, p.target.name) for p in draw(chosen, 112, 1)[0]] != names


def test_fewer_clips_give_fewer_pairs(tmp_path: Path) -> None:
    chosen = open_evaluation_set(prepared(tmp_path / "data", {"a": "ann", "b": "ann", "c": "bo"}))
    pairs, possible = draw(chosen, 112, 0)
    assert len(pairs) == possible == 4
    assert [clip.reason for clip in chosen.refused] == ["no sound: none"]
    assert "is missing" in chosen.clips[0].trouble()


def test_what_hdtf_lists_and_nobody_has_is_told(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", MANY)
    missing = [{"subset": "RD", "name": "Radio1", "address": "somewhere"}]
    (data / "protocol.json").write_text(json.dumps({"missing": missing}))
    named = [(clip.name, clip.reason) for clip in open_evaluation_set(data).refused]
    assert named == [("dan.mp4", "no sound: none"), ("RD_Radio1", "not among the videos: somewhere")]


def test_a_split_holds_what_it_says(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", MANY, split="train")
    with pytest.raises(TrainingDataError, match="no clip in its split val"):
        open_evaluation_set(data)
    assert len(open_evaluation_set(data, "all").clips) == 12


@pytest.mark.parametrize("text", ["{", "[]", '{"clips": []}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(TrainingDataError, match="damaged or of another version"):
        open_evaluation_set(tmp_path)


def test_portraits_take_the_faces_place(tmp_path: Path) -> None:
    chosen = open_evaluation_set(prepared(tmp_path / "data", MANY))
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(TrainingDataError, match="no picture"):
        draw(chosen, 5, 0, photos)
    for name in ("x.png", "y.jpg", "notes.txt"):
        cv2.imwrite(str(photos / name), np.zeros((4, 4, 3), np.uint8)) if name[0] != "n" else (photos / name).touch()
    pairs, _ = draw(chosen, 5, 0, photos)
    assert sorted(pair.source_name for pair in pairs[:2]) == ["x.png", "y.jpg"]
    assert [p.source_name for p in draw(chosen, 5, 0, photos)[0]] == [pair.source_name for pair in pairs]
    assert [p.source.name for p in draw(chosen, 5, 0)[0]] == [pair.source.name for pair in pairs]
    with pytest.raises(InputMissingError):
        draw(chosen, 5, 0, tmp_path / "nowhere")


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


@pytest.mark.parametrize(
    ("times", "truth", "rows_wanted"),
    [
        ([0.0, 0.04, 0.08], [0.0, 0.04, 0.08], [0, 1, 2]),
        ([0.0, 0.04], [0.0, 0.04, 0.08], [0, 1]),
        ([0.0, 0.02, 0.04, 0.06], [0.0, 0.04], [0, 0, 1, 1]),
        ([0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0, 1, 2]),  # what lies beyond the truth's end has none
        ([0.0, 0.5], [0.0], [0, 0]),
    ],
)
def test_frames_go_with_the_nearest(times: list[float], truth: list[float], rows_wanted: list[int]) -> None:
    assert matching_rows(np.array(times), np.array(truth)).tolist() == rows_wanted


def test_figures_are_means_with_their_spread() -> None:
    pairs = [PairResult(n, "a", "b", "a", values) for n, values in enumerate([{"x": 1.0, "y": 5.0}, {"x": 3.0}, {}])]
    assert figures_of(pairs) == {"x": Figure(2.0, 2, 2**0.5), "y": Figure(5.0, 1)}


def test_the_sets_figure_is_of_all_pairs_together(tmp_path: Path) -> None:
    """Two clips whose features differ in opposite ways: together they are like the truth, alone neither is."""
    random = np.random.default_rng(0)
    truth = random.standard_normal((2, 40, 3))
    made = truth + np.array([[[2.0]], [[-2.0]]]) * np.array([1, 0, 0])
    for number in range(2):
        np.save(tmp_path / f"pair{number}.npy", made[number])
        np.save(tmp_path / f"pair{number}-truth.npy", truth[number])
    alone = set_figures([tmp_path / "pair0"])["fid"]
    both = set_figures([tmp_path / "pair0", tmp_path / "pair1", tmp_path / "gone"])["fid"]
    assert alone.value == pytest.approx(4, abs=1e-6) and alone.count == 1
    assert both.count == 2 and both.value < 3  # the means agree, the spreads do not
    assert set_figures([tmp_path / "gone"]) == {}


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
