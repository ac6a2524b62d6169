"""The work folder of a render: closed segments beside the output, so that nothing finished is ever rendered twice.

    .talkswap-OUTPUT/
      lock              held by the one process at work here
      work.json         what decides the frames: the same command finds its own work again
      segment-00000.mp4 a closed piece of the picture
      segment-00000.json what the report needs of it; written last, so a segment with it is whole
      portraits.*       what the first look learned of the people (talkswap.render.portraits)

Everything is written under another name, brought to the disk and renamed: after a power cut a name stands for a whole file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from talkswap.errors import OutputUnwritableError, UsageError
from talkswap.files import Lock, file_sha256, sync_to_disk, write_atomically, write_error
from talkswap.media.output import check_output
from talkswap.media.timeline import Timeline

MOST_FRAMES = 256  # in a segment, whatever its seconds: where a frame takes seconds, a kill costs minutes
PORTRAITS = ("portraits.safetensors", "portraits.json")  # arrays, and what they are of
LEAST_FRAMES = 4  # x265 gives a shorter file time stamps from memory that it never set
VERSION = 1
_LONGEST_NAME = 180  # bytes of the output's name that a folder's name has room for


@dataclass(frozen=True)
class Span:
    """The frames of one segment."""

    number: int
    first: int  # output frame
    last: int  # the frame after its last one


def cut_spans(timeline: Timeline, seconds: float, batch: int) -> list[Span]:
    """Cut a timeline into segments of whole batches, so that how it is cut does not change what a network sees.

    Args:
        timeline: the output's frames.
        seconds: most output in a segment.
        batch: frames per network call.

    Raises:
        UsageError: ``seconds`` is not positive.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"segments cannot be {seconds} seconds long", "give a positive number of segment_seconds")
    total, first = len(timeline), 0
    spans: list[Span] = []
    while first < total:
        end = timeline.times[first] + Fraction(seconds)
        frames = min(bisect_left(timeline.times, end, first) - first, MOST_FRAMES) // batch * batch
        last = first + max(frames, -(-LEAST_FRAMES // batch) * batch)
        if total - last < LEAST_FRAMES:
            last = total
        spans.append(Span(len(spans), first, last))
        first = last
    return spans


def digest(ingredients: Mapping[str, Any]) -> str:
    """sha256 of everything that decides a render's frames, 64 hex digits."""
    text = json.dumps(ingredients, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def work_folder(output: Path) -> Path:
    """Where the segments of an output wait for each other."""
    name = output.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return output.parent / f".talkswap-{name}"


def unfinished_work(output: Path) -> dict[str, Any]:
    """What ``work.json`` of an interrupted render says; empty where there is none."""
    try:
        work = json.loads((work_folder(output) / "work.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return work if isinstance(work, dict) and work.get("version") == VERSION else {}


def finished_frames(output: Path) -> int:
    """Frames in the finished segments that an interrupted render of this output left."""
    lasts = [0]
    for record in work_folder(output).glob("segment-*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            lasts.append(int(json.loads(record.read_text(encoding="utf-8"))["last"]))
    return max(lasts)


class WorkFolder:
    """The work folder of one output, locked while the block runs.

    At the end of the block all of it goes; where the block failed, finished segments stay, if there is one, and one
    line says so.

    Args:
        output: the finished clip.
        overwrite: whether it may exist.
        log: takes lines for the user.

    Raises:
        As :func:`talkswap.media.output.check_output`.
        OutputUnwritableError: another talkswap is at work on the same output, or nothing can be written there.
    """

    def __init__(self, output: Path, overwrite: bool, log: Callable[[str], None]) -> None:
        self.output, self.overwrite, self.log = output, overwrite, log
        self.path = work_folder(output)
        self.total = 0
        self.finished: list[dict[str, Any]] = []  # the record of each finished segment, in order
        self._spans: list[Span] = []
        self._ending = ""

    def __enter__(self) -> WorkFolder:
        check_output(self.output, self.overwrite)
        try:
            self._lock = Lock(self.path, self.log)
        except BlockingIOError as error:
            raise OutputUnwritableError(
                f"another talkswap is at work on {self.output} ({error.strerror})",
                "wait for it, or name another output",
            ) from error
        except OSError as error:
            raise OutputUnwritableError(
                f"nothing can be written in {self.output.parent} ({error.strerror})", "choose another folder"
            ) from error
        try:
            check_output(self.output, self.overwrite)  # the other one may just have finished
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.forget()
        kept = self._leave()
        if kind is not None and kept and self._spans:
            done = self._spans[min(kept, len(self._spans)) - 1].last
            self.log(
                f"stopped with {count(kept, 'segment')} finished: the same command goes on at frame {done} "
                f"of {self.total}, --fresh starts anew"
            )

    def begin(self, ingredients: Mapping[str, Any], batch: int, fresh: bool = False) -> int:
        """Take up the work that an interrupted render left, if it is this render's, else clear it away.

        Args:
            ingredients: what decides the frames, by name.
            batch: frames per network call, if the work begins now.
            fresh: clear it away in any case.

        Returns:
            Frames per network call: those with which the work was begun.
        """
        work = unfinished_work(self.output)
        left = [path for path in self._here() if re.fullmatch(r"segment-\d+\.json", path.name)]
        same = work.get("digest") == digest(ingredients) and isinstance(work.get("batch"), int)
        if same and not fresh:
            return int(work["batch"])
        if left:
            old = work.get("ingredients", {})
            changed = sorted(key for key in {*old, *ingredients} if old.get(key) != ingredients.get(key))
            why = "--fresh was given" if same else f"{', '.join(changed) or 'what decides the frames'} changed"
            self.log(f"starts anew, since {why}: {count(len(left), 'finished segment')} removed")
        self._clear(PORTRAITS)  # they have a key of their own
        record = {"version": VERSION, "digest": digest(ingredients), "batch": batch, "ingredients": dict(ingredients)}
        self._write("work.json", record)
        return batch

    def take_up(self, spans: list[Span], ending: str) -> int:
        """Find the segments that are finished; whatever else lies here is removed.

        Args:
            spans: all segments of the render.
            ending: of a segment's file.

        Returns:
            The frame with which the work goes on.
        """
        self._spans, self._ending = spans, ending
        self.total = spans[-1].last
        self.finished = []
        for span in spans:
            record = self._read(span)
            if record is None:
                break
            self.finished.append(record)
        kept = [name for span in spans[: len(self.finished)] for name in (self.file(span).name, _record(span))]
        self._clear(("work.json", *PORTRAITS, *kept))
        first = spans[len(self.finished) - 1].last if self.finished else 0
        if first:
            self.log(
                f"goes on at frame {first} of {self.total}, {count(len(self.finished), 'segment')} finished before"
            )
        return first

    def file(self, span: Span) -> Path:
        """Where a finished segment lies."""
        return self.path / f"segment-{span.number:05d}{self._ending}"

    def part(self, span: Span) -> Path:
        """Where it is written."""
        return self.path / f"segment-{span.number:05d}.part{self._ending}"

    def finish(self, span: Span, record: Mapping[str, Any]) -> None:
        """Bring a closed segment to the disk under its own name, with what the report needs of it.

        Raises:
            OutputUnwritableError: the disk is full or fails.
        """
        part = self.part(span)
        try:
            sync_to_disk(part)
            whole = {**record, "last": span.last, "size": part.stat().st_size, "sha256": file_sha256(part)}
            os.replace(part, self.file(span))
        except OSError as error:
            raise write_error(self.file(span), error) from error
        self._write(_record(span), whole)
        self.finished.append(whole)

    def forget(self) -> None:
        """Remove all segments: they are in the output, or of no more use."""
        self.finished = []
        self._clear(())

    def _read(self, span: Span) -> dict[str, Any] | None:
        """The record of a segment, or None where the segment is missing or damaged."""
        file = self.file(span)
        try:
            record = json.loads((self.path / _record(span)).read_text(encoding="utf-8"))
            whole = file.stat().st_size == record["size"] and file_sha256(file) == record["sha256"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self.log(f"the segment {file.name} is damaged and will be rendered again")
            return None
        return dict(record)

    def _here(self) -> list[Path]:
        try:
            return [path for path in self.path.iterdir() if path.name != Lock.NAME]
        except FileNotFoundError:  # somebody has removed the folder
            return []

    def _clear(self, kept: tuple[str, ...]) -> None:
        for path in self._here():
            if path.name not in kept:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink()

    def _leave(self) -> int:
        """Remove what is not finished, and the folder where nothing is; give the lock back.

        Returns:
            Finished segments that are kept.
        """
        records = [path for path in self._here() if re.fullmatch(r"segment-\d+\.json", path.name)]
        if records:
            stems = {path.stem for path in records}
            whole = [path.name for path in self._here() if path.name.partition(".")[0] in stems]
            self._clear(("work.json", *PORTRAITS, *(name for name in whole if ".part" not in name)))
        else:
            self._clear(())
        self._lock.release(remove=not records)
        return len(records)

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        write_atomically(self.path / name, json.dumps(record, indent=1) + "\n", durable=True)


def count(number: int, noun: str) -> str:
    """``3 segments``, ``1 segment``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _record(span: Span) -> str:
    return f"segment-{span.number:05d}.json"
