"""HDTF's published lists: which stretches of which videos show a talking face, and where (Zhang et al., CVPR 2021).

The authors publish no video, only four kinds of text files for each of three subsets (RD, WDA, WRA), one entry per
line, fields between spaces::

    RD_video_url.txt        NAME ADDRESS                                 Radio11 https://…
    RD_annotion_time.txt    NAME.mp4 START-END START-END …               Radio11.mp4 00:30-01:00 01:30-02:30
    RD_crop_wh.txt          NAME_INDEX.mp4 MIN-X WIDTH MIN-Y HEIGHT       Radio11_0.mp4 412 599 0 599
    RD_resolution.txt       NAME.mp4 LINES                               Radio11.mp4 720

Times are minutes:seconds (hours:minutes:seconds are read too), INDEX counts a video's ranges from 0, and crops are px
of a picture of LINES lines.  The file's spelling "annotion" is the authors'; "annotation" is read as well.
Further files (crop_ratio) are not needed.  What cannot be read is reported by file and line and left out; a range
without a crop is left out too, as the authors left out the noisy ones.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from talkswap.data.cutting import VIDEO_ENDINGS, Box, Range, Source
from talkswap.errors import TrainingDataError
from talkswap.files import write_atomically

SUBSETS = ("RD", "WDA", "WRA")
ONE_SPEAKER_A_VIDEO = "RD"  # its names (Radio1, Radio2 …) count videos; in the others a last digit does
Value = TypeVar("Value")


@dataclass(frozen=True)
class ListedVideo:
    """One video that the lists name."""

    subset: str
    name: str
    address: str
    speaker: str
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Listing:
    """All that the lists say, and what in them could not be read."""

    videos: tuple[ListedVideo, ...]
    problems: tuple[str, ...]


@dataclass
class _Reader:
    """Reads list files, noting what is wrong with them."""

    folder: Path
    problems: list[str] = field(default_factory=list)

    def lines(self, *names: str) -> Iterator[tuple[str, int, list[str]]]:
        """(file, line number, fields) of the first of these files that exists; the rest of a line may be empty."""
        path = next((p for name in names if (p := self.folder / name).is_file()), None)
        if path is None:
            self.problems.append(f"{names[0]}: there is no such list in {self.folder}")
            return
        # The lists come from several editors: with and without a byte order mark, with spaces, commas and bars.
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            fields = re.split(r"[\s,|]+", line.strip())
            if fields != [""]:
                yield path.name, number, fields

    def table(self, read: Callable[[list[str]], Value], *names: str) -> dict[str, Value]:
        """First field (without ending) to what ``read`` makes of the others; ValueErrors become problems."""
        entries: dict[str, Value] = {}
        for file, number, (name, *fields) in self.lines(*names):
            try:
                if stem(name) in entries:
                    raise ValueError(f"{name} is listed a second time")
                entries[stem(name)] = read(fields)
            except ValueError as error:
                self.problems.append(f"{file}, line {number}: {error}")
        return entries


def stem(name: str) -> str:
    """A listed name without the ending of a video."""
    ending = Path(name).suffix
    return name[: -len(ending)] if ending.lower() in VIDEO_ENDINGS else name


def read_time(text: str) -> Fraction:
    """Seconds of ``m:ss`` or ``h:mm:ss``, with or without parts of a second.

    Raises:
        ValueError: it is no time.
    """
    if not re.fullmatch(r"(\d+:)?\d{1,3}:[0-5]?\d(\.\d+)?", text):
        raise ValueError(f"{text!r} is no time such as 01:30")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = 60 * seconds + Fraction(part)
    return seconds


def _times(fields: list[str]) -> list[tuple[Fraction, Fraction] | str]:
    """Ranges of a video; what is wrong with one stays in its place, since crops count the ranges."""
    if not fields:
        raise ValueError("a name without times")
    ranges: list[tuple[Fraction, Fraction] | str] = []
    until = Fraction(0)
    for text in fields:
        parts = re.split(r"[-–]", text)
        try:
            if len(parts) != 2:
                raise ValueError(f"{text!r} is no range such as 00:30-01:00")
            start, end = (read_time(part) for part in parts)
            if end <= start:
                raise ValueError(f"the range {text} ends before it begins")
            if start < until:
                raise ValueError(f"the range {text} begins before the one in front of it has ended")
        except ValueError as error:
            ranges.append(str(error))
            continue
        ranges.append((start, end))
        until = end
    return ranges


def _box(fields: list[str]) -> Box:
    if len(fields) != 4 or not all(re.fullmatch(r"\d+", text) for text in fields):
        raise ValueError(f"{' '.join(fields)!r} is no crop of four whole numbers")
    x, width, y, height = (int(text) for text in fields)
    if not width or not height:
        raise ValueError("the crop is empty")
    return x, y, width, height


def _lines(fields: list[str]) -> int:
    if len(fields) != 1 or not re.fullmatch(r"[1-9]\d*p?", fields[0]):
        raise ValueError(f"{' '.join(fields)!r} is no height such as 720")
    return int(fields[0].removesuffix("p"))


def _address(fields: list[str]) -> str:
    if len(fields) != 1:
        raise ValueError(f"{len(fields)} fields where one address belongs")
    return fields[0]


def read_lists(folder: Path) -> Listing:
    """Read the lists of all subsets that the folder holds.

    Raises:
        TrainingDataError: it holds no list of times, or no video in them can be used.
    """
    reader = _Reader(folder)
    videos: list[ListedVideo] = []
    present = [s for s in SUBSETS if any(folder.glob(f"{s}_annot*_time.txt"))]
    if not present:
        raise TrainingDataError(
            f"no list such as RD_annotion_time.txt in {folder}", "name the folder HDTF_dataset of HDTF's repository"
        )
    for subset in present:
        times = reader.table(_times, f"{subset}_annotion_time.txt", f"{subset}_annotation_time.txt")
        boxes = reader.table(_box, f"{subset}_crop_wh.txt")
        lines = reader.table(_lines, f"{subset}_resolution.txt")
        addresses = reader.table(_address, f"{subset}_video_url.txt")
        # Crops count all of a video's ranges, also those that can't be read.
        for name, stretches in times.items():
            ranges = []
            for number, one in enumerate(stretches):
                box = boxes.get(f"{name}_{number}")
                if isinstance(one, str):
                    reader.problems.append(f"{subset}, {name}: {one}")
                elif box is None:
                    reader.problems.append(f"{subset}, {name}: range {number} has no crop and is left out")
                else:
                    ranges.append(Range(*one, box, lines.get(name, 0)))
            # Names end in a number: of the video in RD, of one person's video in the others.
            if ranges:
                speaker = name if subset == ONE_SPEAKER_A_VIDEO else re.sub(r"\d+$", "", name)
                videos.append(ListedVideo(subset, name, addresses.get(name, ""), speaker, tuple(ranges)))
    if not videos:
        raise TrainingDataError(
            f"no video of the lists in {folder} can be used", f"{len(reader.problems)} lines are wrong"
        )
    return Listing(tuple(_one_speaker_an_address(videos)), tuple(reader.problems))


def _one_speaker_an_address(videos: list[ListedVideo]) -> list[ListedVideo]:
    """Give videos that are the same upload one speaker: some people are listed under two names."""
    uploads: dict[str, str] = {}
    same: dict[str, str] = {}  # speaker -> the one it stands for
    for video in videos:
        # The same upload under two names would put one person on both sides of the split.
        upload = re.search(r"(?:[?&]v=|youtu\.be/)([\w-]{6,})", video.address)
        if upload is not None:
            first = uploads.setdefault(upload.group(1), video.speaker)
            if first != video.speaker:
                same[video.speaker] = same.get(first, first)
    return [ListedVideo(v.subset, v.name, v.address, same.get(v.speaker, v.speaker), v.ranges) for v in videos]


def find_listed(listing: Listing, videos: Path) -> tuple[list[Source], list[ListedVideo]]:
    """The listed videos that a folder holds, and those that it does not.

    A file belongs to an entry if its name without ending is NAME or SUBSET_NAME, whatever the case of its letters.
    """
    files_by_stem: dict[str, Path] = {}
    for path in sorted(videos.rglob("*")):
        if path.suffix.lower() in VIDEO_ENDINGS and path.is_file():
            files_by_stem.setdefault(path.stem.lower(), path)
    sources, missing = [], []
    for video in listing.videos:
        names = (video.name, f"{video.subset}_{video.name}")
        file = next((files_by_stem[name.lower()] for name in names if name.lower() in files_by_stem), None)
        if file is None:
            missing.append(video)
        else:
            sources.append(Source(file, video.speaker, video.ranges, f"{video.subset}_{video.name}"))
    return sources, missing


def write_protocol(
    out: Path, manifest: dict[str, Any], count: int, seed: int, missing: Sequence[ListedVideo] = ()
) -> dict[str, Any]:
    """Write ``protocol.json``: the split, and the (source clip, target clip) pairs of the paper's evaluation.

    Pairs join held-out clips of two speakers; the paper takes 112.

    Args:
        missing: listed videos that could not be had, for an evaluation's report.
    """
    clips = {split: [c["name"] for c in manifest["clips"] if c["split"] == split] for split in ("train", "val")}
    held_out = [(c["name"], c["speaker"]) for c in manifest["clips"] if c["split"] == "val"]
    pairs = draw_pairs(held_out, count, seed)
    protocol = {
        "rate": 25, "seconds": 10, "seed": seed, "speakers": manifest["speakers"], "clips": clips,
        "pairs": [{"source": source, "target": target} for source, target in pairs],
        "missing": [{"subset": v.subset, "name": v.name, "address": v.address} for v in missing],
    }  # fmt: skip
    write_atomically(out / "protocol.json", json.dumps(protocol, indent=1, ensure_ascii=False) + "\n")
    return {"file": out / "protocol.json", "pairs": len(pairs), "wanted": count}


def draw_pairs(clips: Sequence[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    """(source clip, target clip) of different speakers, as the paper's evaluation draws them.

    Args:
        clips: (name, speaker) of the held-out clips.
        count: pairs wanted; fewer are returned where there are not as many.
    """
    clips = sorted(clips)
    # A face swap needs two people, so a clip is never paired with one of its own speaker.
    possible = [(a, b) for a, first in clips for b, second in clips if first != second]
    order = np.random.default_rng(seed).permutation(len(possible))
    return [possible[int(k)] for k in order[:count]]
