"""Who trains and who is held out: no speaker on both sides, nine to one, the same on every machine.

A later run with more videos keeps everybody where they are, since a speaker that has trained once must never be
measured with.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from talkswap.errors import InputMissingError, TrainingDataError

SPLITS = ("val", "train")


def split_speakers(
    speakers: Iterable[str], seed: int, share: float = 0.1, already: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The split of each speaker.

    The order in which speakers are held out is that of a hash of seed and name, so it depends on nothing else.  Of
    four or more speakers at least two are held out, since a face swap is measured between two people; of two or three
    it is one, and one alone trains.

    Args:
        share: of the speakers that is held out.
        already: splits of an earlier run, kept.
    """
    kept = dict(already or {})
    everybody = sorted(set(speakers) | set(kept))
    least = 2 if len(everybody) >= 4 else len(everybody) // 2
    wanted = max(least, round(share * len(everybody)))
    missing = wanted - sum(split == "val" for split in kept.values())
    fresh = sorted(
        (s for s in everybody if s not in kept), key=lambda s: hashlib.sha256(f"{seed}:{s}".encode()).digest()
    )
    return kept | {name: "val" if number < missing else "train" for number, name in enumerate(fresh)}


def read_speakers(path: Path) -> dict[str, str]:
    """``file,speaker`` rows; files are named by path, by name, or by name without ending.

    Raises:
        InputMissingError: there is no such file.
        TrainingDataError: a column is missing, or a row is empty.
    """
    if not path.is_file():
        raise InputMissingError(f"no speaker list at {path}", "check the path given with --speakers")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"file", "speaker"} <= set(reader.fieldnames or ()):
            raise TrainingDataError(f"{path} lacks the columns file and speaker", "begin it with the line file,speaker")
        found = {}
        for number, row in enumerate(reader, 2):
            if not row["file"] or not row["speaker"]:
                raise TrainingDataError(f"{path}, line {number}: a file or a speaker is missing", "write file,speaker")
            found[row["file"]] = row["speaker"]
    return found


def speaker_of(video: Path, listed: Mapping[str, str]) -> str:
    """Who a list says speaks in a video; "" where it says nothing."""
    return next((listed[key] for key in (str(video), video.name, video.stem) if key in listed), "")


def draw_pairs(clips: Sequence[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    """(source clip, target clip) of different speakers, as the paper's evaluation draws them.

    Args:
        clips: (name, speaker) of the held-out clips.
        count: pairs wanted; fewer are returned where there are not as many.
    """
    clips = sorted(clips)
    possible = [(a, b) for a, first in clips for b, second in clips if first != second]
    order = np.random.default_rng(seed).permutation(len(possible))
    return [possible[int(k)] for k in order[:count]]
