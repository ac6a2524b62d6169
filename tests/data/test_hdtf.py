"""HDTF's lists as their authors write them, with the mistakes that they hold."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkswap.cli import main
from talkswap.data.cutting import Range
from talkswap.data.hdtf import find_listed, read_lists, read_time
from talkswap.errors import TrainingDataError

LISTS = {
    "RD_annotion_time.txt": "Radio1.mp4 00:20-01:35\nRadio11.mp4 00:30-01:00 01:30-02:30\nRadio9.mp4 00:30\n",
    "RD_crop_wh.txt": "Radio1_0.mp4 466 535 0 535\nRadio11_0.mp4 412 599 0 599\nRadio11_1.mp4 557 478 x 478\n",
    "RD_resolution.txt": "Radio1.mp4 720\nRadio11.mp4 1080\nRadio9.mp4 high\n",
    "RD_video_url.txt": "Radio1 https://www.youtube.com/watch?v=aaaaaaaaaaa\nRadio11 https://youtu.be/bbbbbbbbbbb\n",
    "WDA_annotion_time.txt": "Nancy0.mp4 00:00-00:02 \nNancy1.mp4 00:05-05:00 05:00-10:00 \nWhip.mp4 1:00:05-1:00:30\n",
    "WDA_crop_wh.txt": "Nancy0_0.mp4 100 250 10 250\nNancy1_0.mp4 1 90 0 90\nNancy1_1.mp4 1 90 0 90\nWhip_0.mp4 0 9 0 9\n",
    "WDA_resolution.txt": "Nancy0.mp4 270\nNancy1.mp4 720\n",
    "WDA_video_url.txt": "Nancy0 https://a/watch?v=ccccccccccc\nNancy1 https://a/watch?v=ddddddddddd\n"
    "Whip https://a/watch?x=1&v=ccccccccccc&t=5s\n",
    "WRA_annotion_time.txt": "Mitt.mp4 08:10-08:30 00:33-08:53\n",
    "WRA_crop_wh.txt": "Mitt_0.mp4 614 964 0 964\nMitt_1.mp4 614 964 0 964\n",
    "WRA_resolution.txt": "Mitt.mp4 1080\n",
    "WRA_video_url.txt": "Mitt https://a/watch?v=eeeeeeeeeee more\n",
}


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "HDTF_dataset"
    folder.mkdir()
    for name, text in LISTS.items():
        (folder / name).write_text(text)
    return folder


def test_times() -> None:
    assert [read_time(t) for t in ("00:20", "1:05", "10:00", "1:00:05", "0:01.5")] == [
        20,
        65,
        600,
        3605,
        Fraction(3, 2),
    ]
    for wrong in ("", "20", "0:75", "a:10", "1:2:3:4", "-1:00"):
        with pytest.raises(ValueError):
            read_time(wrong)


def test_ranges_crops_and_speakers_are_read(lists: Path) -> None:
    videos = {video.name: video for video in read_lists(lists).videos}
    assert sorted(videos) == ["Mitt", "Nancy0", "Nancy1", "Radio1", "Radio11", "Whip"]
    assert videos["Radio1"].ranges == (Range(Fraction(20), Fraction(95), (466, 0, 535, 535), 720),)
    assert [(r.start, r.end) for r in videos["Nancy1"].ranges] == [(5, 300), (300, 600)]
    assert (videos["Radio1"].speaker, videos["Radio11"].speaker) == ("Radio1", "Radio11")
    assert videos["Nancy0"].speaker == videos["Nancy1"].speaker == "Nancy"
    assert videos["Whip"].speaker == "Nancy"  # the same upload under another name
    assert videos["Whip"].ranges[0].lines == 0  # no resolution is listed: the file's own


def test_what_cannot_be_read_is_named_by_file_and_line(lists: Path) -> None:
    problems = read_lists(lists).problems
    for said in (
        "RD_crop_wh.txt, line 3: '557 478 x 478' is no crop",
        "RD_resolution.txt, line 3: 'high' is no height",
        "WRA_video_url.txt, line 1: 2 fields",
        "RD, Radio9: '00:30' is no range",
        "RD, Radio11: range 1 has no crop",
        "WRA, Mitt: the range 00:33-08:53 begins before",
    ):
        assert any(problem.startswith(said) for problem in problems), said
    assert len(problems) == 6
    (lists / "RD_crop_wh.txt").unlink()
    assert any("RD_crop_wh.txt: there is no such list" in p for p in read_lists(lists).problems)


def test_a_folder_without_lists_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no list such as"):
        read_lists(tmp_path)


def test_videos_are_matched_by_name_with_or_without_their_subset(lists: Path, tmp_path: Path) -> None:
    (tmp_path / "have" / "deep").mkdir(parents=True)
    for name in ("radio1.MP4", "deep/WDA_Nancy1.webm", "Mitt.txt", "Other.mp4"):
        (tmp_path / "have" / name).write_bytes(b"")
    sources, missing = find_listed(read_lists(lists), tmp_path / "have")
    assert [(s.path.name, s.name, s.speaker) for s in sources] == [
        ("radio1.MP4", "RD_Radio1", "Radio1"),
        ("WDA_Nancy1.webm", "WDA_Nancy1", "Nancy"),
    ]
    assert [v.name for v in missing] == ["Radio11", "Nancy0", "Whip", "Mitt"]


def test_the_command_says_what_is_missing_and_prepares_the_rest(
    lists: Path, tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    have = tmp_path / "have"
    have.mkdir()
    arguments = ["data", "hdtf", str(lists), "--videos", str(have), "--out", str(tmp_path / "set"), "--quiet"]
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary["found"] == 0 and len(summary["missing"]) == summary["listed"] == 6
    assert "SUBSET  MISSING" in said.err and "https://youtu.be/bbbbbbbbbbb" in said.err
    assert "warning: RD_crop_wh.txt, line 3" in said.err
    assert main(arguments) == TrainingDataError.exit_code
    assert "none of the listed videos" in capsys.readouterr().err

    shutil.copy(videos / "ann.mp4", have / "Nancy0.mp4")
    assert main([*arguments, "--smallest", "100", "--workers", "1"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["found"] == 1 and summary["counts"]["clips"] == 1
    (clip,) = json.loads((tmp_path / "set" / "manifest.json").read_text())["clips"]
    assert clip["name"].startswith("WDA_Nancy0-") and clip["frames"] == 50  # the listed two of its four seconds
    assert clip["speaker"] == "Nancy" and clip["split"] == "train"
    with np.load(tmp_path / "set" / "clips-train" / f"{clip['name']}.npz") as stored:
        x, y, width, height = stored["region"][:4]
    assert x + width <= 250 and y + height <= 250  # inside the listed crop
    protocol = json.loads((tmp_path / "set" / "protocol.json").read_text())
    assert protocol["clips"] == {"train": [clip["name"]], "val": []} and protocol["pairs"] == []
    assert len(protocol["missing"]) == 5 and "Nancy0" not in {entry["name"] for entry in protocol["missing"]}
