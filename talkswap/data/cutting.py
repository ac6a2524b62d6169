"""Cut videos of any frame rate into pieces at exactly 25 frames per second.

Nothing is written here: a :class:`Piece` names the source's pictures that its frames show, the nearest in time to
every 25th of a second, and :func:`read_piece` decodes them.  Sound needs no resampling in time, since the pictures'
times stay what they are to within half a frame of the source.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from talkswap.errors import InputMissingError, TrainingDataError, UnreadableMediaError
from talkswap.media.index import FrameIndex, index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import Timeline
from talkswap.types import ClipInfo, UInt8Image

VIDEO_ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")
# x, y, width, height in px.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Range:
    """A stretch of a source, and the part of its picture that counts."""

    start: Fraction = Fraction(0)  # seconds
    end: Fraction | None = None  # seconds; None = the source's end
    box: Box | None = None  # px of a picture of ``lines`` lines
    lines: int = 0  # height that the box was measured at; 0 = the source's own


@dataclass(frozen=True)
class Source:
    """One video to be prepared."""

    path: Path
    speaker: str = ""  # "" = a speaker of no other source
    ranges: tuple[Range, ...] = (Range(),)
    name: str = ""  # what its clips are called; "" = the file's own name


@dataclass(frozen=True)
class Piece:
    """A stretch of at most ten seconds."""

    path: Path
    start: Fraction  # seconds from the source's first picture
    pictures: tuple[int, ...]  # the source's picture that each frame shows, ascending
    box: Box | None = None  # px of the source's upright picture

    @property
    def frames(self) -> int:
        return len(self.pictures)


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, and every video below the folders, each once, in order of their paths.

    Raises:
        InputMissingError: a path does not exist.
        TrainingDataError: there is no video among them.
    """
    videos: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_ENDINGS and p.is_file())
        elif path.is_file():
            inside = [path]
        else:
            raise InputMissingError(f"{path} does not exist", "check the path")
        for video in inside:
            videos.setdefault(video.resolve(), video)
    if not videos:
        where = ", ".join(str(path) for path in paths)
        raise TrainingDataError(f"no video in {where}", f"videos end in {', '.join(VIDEO_ENDINGS)}")
    return sorted(videos.values())


def slug(name: str) -> str:
    """A name of letters, digits and ``_`` that may stand in a file's name."""
    return re.sub(r"\W+", "_", name).strip("_")[:48] or "clip"


def open_source(path: Path) -> tuple[ClipInfo, FrameIndex]:
    """Properties and picture times of a source; the last few are remembered, since its pieces come one by one.

    Raises:
        UnreadableMediaError, NoVideoError: it is no video, or damaged.
    """
    # Size and time are part of the key: a file that was replaced is opened anew.
    stat = path.stat() if path.is_file() else None
    return _open_version(path, None if stat is None else (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=4)
def _open_version(path: Path, version: tuple[int, int] | None) -> tuple[ClipInfo, FrameIndex]:
    info = probe(path)
    return info, index_frames(info)


def cut(source: Source, seconds: Fraction, shortest: Fraction, rate: int) -> list[Piece]:
    """The pieces of all ranges of a source; a last one under ``shortest`` seconds is dropped.

    Raises:
        UnreadableMediaError: a box lies outside the picture.
    """
    info, index = open_source(source.path)
    times = np.array([float(time) for time in index.times])  # T seconds
    # A frame shows the picture nearest in time; between two of them the border is their middle.
    middles = (times[1:] + times[:-1]) / 2
    longest, least = int(seconds * rate), int(shortest * rate)
    pieces = []
    for stretch in source.ranges:
        end = index.duration if stretch.end is None else min(stretch.end, index.duration)
        count = max(0, int((end - stretch.start) * rate))
        for first in range(0, count, longest):
            frames = min(longest, count - first)
            if frames < least:
                continue
            start = stretch.start + Fraction(first, rate)
            instants = float(start) + np.arange(frames) / rate  # seconds
            nearest = np.searchsorted(middles, instants, side="left")
            pieces.append(Piece(source.path, start, tuple(nearest.tolist()), _scaled(stretch, info, source.path)))
    return pieces


def _scaled(stretch: Range, info: ClipInfo, path: Path) -> Box | None:
    """The range's box in px of this file's square-pixelled, upright picture."""
    if stretch.box is None:
        return None
    factor = info.height / stretch.lines if stretch.lines else 1.0
    x, y, width, height = (round(value * factor) for value in stretch.box)
    whole = _square_width(info)
    # Lists round, so a box may reach over the edge by a few pixels.
    right, bottom = min(x + width, whole), min(y + height, info.height)
    if x < 0 or y < 0 or right - x < 16 or bottom - y < 16:
        raise UnreadableMediaError(
            f"the listed crop lies outside the picture of {path}", "is it the video that the list means?"
        )
    return x, y, right - x, bottom - y


def _square_width(info: ClipInfo) -> int:
    return round(info.width * info.sample_aspect_ratio)


def read_piece(piece: Piece) -> Iterator[UInt8Image]:
    """The frames (H W 3, upright, square pixels, inside the box) of a piece, one after another.

    Raises:
        UnreadableMediaError: more than one in twenty of its pictures is damaged.
    """
    info, index = open_source(piece.path)
    first, last = piece.pictures[0], piece.pictures[-1]
    span = Timeline(tuple(range(first, last + 1)), index.times[first : last + 1], index.duration)
    pictures = iter(piece.pictures)
    number = next(pictures, None)
    width = _square_width(info)
    with ClipReader(info, index) as reader:
        for frame in reader.frames_for(span):
            if number is None:
                break
            if frame.source_index != number:
                continue
            rgb = frame.rgb
            if width != info.width:
                rgb = np.asarray(cv2.resize(rgb, (width, info.height), interpolation=cv2.INTER_AREA), np.uint8)
            if piece.box is not None:
                x, y, w, h = piece.box
                rgb = np.ascontiguousarray(rgb[y : y + h, x : x + w])
            # A source below 25 pictures a second shows one for several frames.
            while number == frame.source_index:
                yield rgb
                number = next(pictures, None)
        damaged = reader.damaged
    if damaged > 0.05 * len(span):
        raise UnreadableMediaError(f"{damaged} pictures of {piece.path} are damaged", "does it play elsewhere?")
