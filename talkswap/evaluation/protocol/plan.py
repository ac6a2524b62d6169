"""The plan of an evaluation: data, pairs, methods, judges, and the table that it fills.

A pair is (source clip, target clip) of two speakers, drawn with a fixed seed.  Section IV of the SwapTalk paper draws 112
pairs from the held-out part of HDTF, this file from that of any folder made by ``talkswap data prepare``.  Pairs are drawn
from the data set's manifest, whether or not all of its files are still there, so that the same data set and seed give
everybody the same pairs.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from talkswap import errors
from talkswap.checkpoints.networks import resolve
from talkswap.data import hdtf, stills
from talkswap.evaluation.judges.judges import JudgeFiles
from talkswap.evaluation.protocol.methods import Setup
from talkswap.evaluation.results import ClipRefused, Kind, Setting
from talkswap.files import file_sha256, write_atomically
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.systems import description, registry
from talkswap.types import DEFAULT_SYSTEM, ProgressEvent

OnProgress = Callable[[ProgressEvent], None]
SETTINGS: tuple[Setting, ...] = ("self", "cross")
SPLITS = ("val", "train", "all")
PORTRAITS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class EvaluationPlan:
    """What to evaluate, and how."""

    data: Path
    out: Path
    system: str = DEFAULT_SYSTEM  # whose rows and published tables are taken
    setting: Literal["self", "cross", "both"] = "both"
    pairs: int = 112  # the paper's number
    seed: int = 0
    methods: tuple[str, ...] = ()  # names of rows; none: the system's own
    limit: int = 0  # only the first so many pairs; 0 = all
    resume: bool = False
    split: str = "val"
    portraits: Path | None = None  # pictures that give the faces instead of the source clips
    seconds: Fraction | None = None  # only the beginning of each clip
    size: int = 320  # px of the crops, as in the paper
    setup: Setup = field(default_factory=Setup)
    judges: JudgeFiles = field(default_factory=JudgeFiles)

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(s for s in SETTINGS if self.setting in (s, "both"))

    @property
    def end(self) -> float:
        """Seconds from which frames are left out."""
        return math.inf if self.seconds is None else float(self.seconds)

    def shortage(self, count: int, clips: EvaluationSet) -> str:
        """One line about a data set that gives only ``count`` pairs; "" if that is enough."""
        if count >= self.pairs:
            return ""
        return f"only {count} of {self.pairs} pairs: the {len(clips.clips)} clips of split {self.split} give no more"


@dataclass(frozen=True)
class Table:
    """The table that an evaluation fills."""

    kind: Kind
    number: str  # the paper's
    title: str
    published: tuple[description.PublishedRow, ...]
    metrics: tuple[str, ...] = ()  # keys of the columns shown; none: all


def published_rows(system: str) -> tuple[description.PublishedRow, ...]:
    """All rows of the tables of a system's paper.

    Raises:
        UsageError: there is no such system.
    """
    name = registry.find_system(system).published
    return tuple(resolve(name)) if name else ()


def comparison_table(system: str) -> Table:
    """The table in which a system's paper compares methods.

    Raises:
        UsageError: there is no such system.
    """
    # Rows with a setting compare methods; rows without one belong to ablations.
    rows = tuple(row for row in published_rows(system) if row.setting)
    number = ", ".join(dict.fromkeys(row.table for row in rows))
    return Table("hdtf", number, f"Table {number}" if number else registry.find_system(system).title, rows)


def check_folder(plan: EvaluationPlan) -> None:
    """Check that the report's folder is free, or belongs to this evaluation.

    Raises:
        OutputExistsError, OutputUnwritableError.
    """
    if plan.out.exists() and not plan.out.is_dir():
        raise errors.OutputUnwritableError(f"{plan.out} is a file", "name a folder with --out")
    if not plan.out.is_dir():
        return
    # The plan's record marks a folder as ours; anything else in it belongs to somebody.
    begun = (plan.out / "work" / "plan.json").is_file()
    others = [path for path in plan.out.iterdir() if path.name != ".lock"]
    if begun and not plan.resume:
        raise errors.OutputExistsError(
            f"{plan.out} holds an evaluation", "add --resume to go on with it, or name another --out"
        )
    if others and not begun:
        raise errors.OutputExistsError(f"{plan.out} is not empty", "name a new folder with --out")


@dataclass(frozen=True)
class EvaluationClip:
    """One prepared clip: the region around a face at 25 frames/s, its voice, and its most frontal frame."""

    name: str
    speaker: str
    frames: int
    seconds: float
    video: Path
    voice: Path
    portrait: int  # frame in which the head is turned least: the photo if this clip is the source
    stated: dict[str, str]  # path below the data set -> sha256 in the manifest, of video and voice
    folder: Path

    def unavailable(self) -> str:
        """Why the clip isn't available here; "" = it is."""
        # Whoever compares figures must have the same bytes, not just the same names.
        for file, digest in self.stated.items():
            path = self.folder / file
            try:
                if not path.is_file():
                    return f"{file} is missing"
                if file_sha256(path) != digest:
                    return f"{file} differs from the data set's manifest"
            except OSError as error:
                return f"{file} cannot be read: {error.strerror}"
        return ""


@dataclass(frozen=True)
class EvaluationSet:
    """The clips that pairs are drawn from."""

    folder: Path
    split: str
    clips: tuple[EvaluationClip, ...]  # by name
    refused: tuple[ClipRefused, ...]  # by the preparation, or never available
    digest: str  # sha256 of the manifest


@dataclass(frozen=True)
class Pair:
    """Whose face goes into which clip; in the cross setting the source clip gives the voice as well."""

    number: int
    source: EvaluationClip
    target: EvaluationClip
    photo: Path | None = None  # a portrait instead of the source clip's frame

    @property
    def source_name(self) -> str:
        """The name of the face in reports."""
        return self.source.name if self.photo is None else self.photo.name


def photo_of(clip: EvaluationClip, path: Path) -> Path:
    """The frame of a clip in which the head is turned least, as a PNG file, which is written if it isn't there.

    Raises:
        UnreadableMediaError: that frame does not decode.
        OutputUnwritableError.
    """
    if path.is_file():
        return path
    with ClipReader(probe(clip.video)) as reader:
        for frame in reader.frames():
            if frame.index == clip.portrait:
                _, data = cv2.imencode(".png", np.ascontiguousarray(frame.rgb[:, :, ::-1]))
                write_atomically(path, data.tobytes(), parents=True)
                return path
    raise errors.UnreadableMediaError(
        f"frame {clip.portrait} of {clip.video} does not decode", "prepare the data set again"
    )


def open_evaluation_set(folder: Path, split: str = "val") -> EvaluationSet:
    """Read a prepared data set.

    Args:
        split: ``val``: the speakers held out by the preparation; ``all``: every clip, for a folder that holds nothing
            that anything was trained on.

    Raises:
        InputMissingError: there is no such folder.
        TrainingDataError: it isn't a prepared data set, or has no clip in this split.
    """
    if not folder.is_dir():
        raise errors.InputMissingError(f"{folder} is no folder", "name a folder made by `talkswap data prepare`")
    path = folder / "manifest.json"
    hint = "run `talkswap data prepare` to its end"
    if not path.is_file():
        raise errors.TrainingDataError(f"{folder} is no prepared data set: it has no manifest.json", hint)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        rate = int(manifest["settings"]["clip"]["rate"])
        # Refused pieces have no place here, but the report counts them.
        clips = [clip_of(folder, record, rate) for record in manifest["clips"] if split in ("all", record["split"])]
        refused = tuple(
            ClipRefused(r["clip"] or Path(r["source"]).name, f"{r['reason']}: {r['detail']}")
            for r in manifest["refused"]
        )
        protocol = folder / "protocol.json"
        if protocol.is_file():  # HDTF: its lists name videos that `talkswap data hdtf` didn't find
            videos = json.loads(protocol.read_text(encoding="utf-8")).get("missing", [])
            refused += tuple(
                ClipRefused(f"{v['subset']}_{v['name']}", f"not among the videos: {v['address']}") for v in videos
            )
    except (ValueError, KeyError, TypeError) as error:
        raise errors.TrainingDataError(f"{path} is damaged or of another version: {error}", hint) from error
    if not clips:
        where = "in it" if split == "all" else f"in its split {split}"
        raise errors.TrainingDataError(
            f"{folder} has no clip {where}",
            "prepare videos of more speakers, or take --split all where nothing in the folder was ever trained on",
        )
    return EvaluationSet(folder, split, tuple(sorted(clips, key=lambda c: c.name)), refused, file_sha256(path))


def clip_of(folder: Path, record: dict[str, Any], rate: int) -> EvaluationClip:
    """A clip of the manifest."""
    paths = stills.paths_of(record["name"], record["split"])
    # Only what the figures depend on is held against its hash: video and voice.
    stated = {paths[kind]: record["files"][paths[kind]] for kind in ("video", "voice")}
    frames = int(record["frames"])
    return EvaluationClip(
        record["name"], record["speaker"], frames, frames / rate, folder / paths["video"], folder / paths["voice"],
        int(record["portrait"]), stated, folder,
    )  # fmt: skip


def draw(clips: EvaluationSet, count: int, seed: int, portraits: Path | None = None) -> tuple[list[Pair], int]:
    """The pairs, and how many different ones the clips would give.

    Args:
        count: pairs to draw; fewer are returned if the clips don't give as many.
        portraits: a folder of pictures that give the faces instead of the source clips, dealt with the same seed.

    Raises:
        TrainingDataError: only one speaker, or no picture among the portraits.
    """
    by_name = {clip.name: clip for clip in clips.clips}
    speakers = [(clip.name, clip.speaker) for clip in clips.clips]
    names = hdtf.draw_pairs(speakers, count, seed)
    if not names:
        speaker = clips.clips[0].speaker
        raise errors.TrainingDataError(
            f"the {len(speakers)} clips of {clips.folder} (split {clips.split}) show one speaker only, {speaker}",
            "a face swap needs two; prepare videos of more people, with --speakers where one speaks in several",
        )
    # All ordered pairs of clips, less those of one speaker.
    counts = Counter(speaker for _, speaker in speakers)
    possible = len(speakers) ** 2 - sum(own**2 for own in counts.values())
    photos = deal_portraits(portraits, len(names), seed) if portraits is not None else [None] * len(names)
    pairs = [
        Pair(number, by_name[source], by_name[target], photo)
        for number, ((source, target), photo) in enumerate(zip(names, photos, strict=True))
    ]
    return pairs, possible


def deal_portraits(folder: Path, count: int, seed: int) -> Sequence[Path]:
    """Portraits in an order that the seed decides, each about as often as any other."""
    if not folder.is_dir():
        raise errors.InputMissingError(f"{folder} is no folder", "name a folder of pictures with --portraits")
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PORTRAITS)
    if not photos:
        raise errors.TrainingDataError(f"{folder} holds no picture", f"give {', '.join(PORTRAITS)} files")
    # Dealt in rounds, so that no portrait comes a second time before all have come once.
    order = np.random.default_rng(seed).permutation(len(photos))
    return [photos[int(order[number % len(photos)])] for number in range(count)]
