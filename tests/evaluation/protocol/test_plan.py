"""The pairs of an evaluation: two people, the seed's alone, and what is said of clips that cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.evaluation.protocol.plan import draw, open_evaluation_set


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
    assert "is missing" in chosen.clips[0].unavailable()


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
