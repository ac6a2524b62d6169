from __future__ import annotations

from pathlib import Path

import pytest

from talkswap.data.hdtf import draw_pairs
from talkswap.data.prepare import read_speakers, speaker_of, split_speakers
from talkswap.errors import InputMissingError, TrainingDataError

NAMES = [f"speaker-{k}" for k in range(40)]


def test_nine_to_one_by_seed_alone() -> None:
    split = split_speakers(NAMES, 0)
    assert sum(s == "val" for s in split.values()) == 4
    assert split == split_speakers(reversed(NAMES), 0)
    assert split != split_speakers(NAMES, 1)


def test_few_speakers() -> None:
    assert sorted(split_speakers(["a", "b"], 0).values()) == ["train", "val"]
    assert split_speakers(["a"], 0) == {"a": "train"}
    held_out = [sum(s == "val" for s in split_speakers(NAMES[:count], 0).values()) for count in (3, 4, 10, 20, 30)]
    assert held_out == [1, 2, 2, 2, 3]


def test_whoever_has_trained_is_never_held_out_later() -> None:
    early = split_speakers(NAMES[:20], 0)
    late = split_speakers(NAMES, 0, already=early)
    assert all(late[name] == early[name] for name in early)
    assert sum(s == "val" for s in late.values()) == 4


def test_speakers_are_read_by_path_name_or_stem(tmp_path: Path) -> None:
    path = tmp_path / "who.csv"
    path.write_text("file,speaker\na.mp4,Ann\nb,Bo\n/x/c.mp4,Cy\n")
    listed = read_speakers(path)
    assert [speaker_of(Path(p), listed) for p in ("/y/a.mp4", "b.mkv", "/x/c.mp4", "/z/c.mp4")] == [
        "Ann",
        "Bo",
        "Cy",
        "",
    ]
    path.write_text("name,who\na,b\n")
    with pytest.raises(TrainingDataError, match="lacks the columns"):
        read_speakers(path)
    path.write_text("file,speaker\na.mp4,Ann\nb.mp4\n")
    with pytest.raises(TrainingDataError, match="line 3"):
        read_speakers(path)
    with pytest.raises(InputMissingError):
        read_speakers(tmp_path / "none.csv")


def test_pairs_are_of_two_people_and_drawn_once() -> None:
    clips = [(f"clip-{k}", f"s{k % 5}") for k in range(20)]
    pairs = draw_pairs(clips, 112, 0)
    who = dict(clips)
    assert len(set(pairs)) == 112 and all(who[a] != who[b] for a, b in pairs)
    assert pairs == draw_pairs(clips[::-1], 112, 0) and pairs != draw_pairs(clips, 112, 1)
    assert len(draw_pairs(clips[:3], 112, 0)) == 6
