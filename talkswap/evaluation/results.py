"""The results of an evaluation: settings, methods, pairs, and everything that a reader needs to repeat it.

``report.json`` is an :class:`Evaluation`, which goes through JSON and back without a loss (:func:`write_evaluation`,
:func:`read_evaluation`).  A long run keeps a :class:`Journal` of results beside it.

Figures of a published network and figures of a compact stand-in never share a table: :meth:`Evaluation.columns_for` gives
the columns of one table at a time.
"""

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from talkswap.errors import OutputUnwritableError, TrainingDataError
from talkswap.evaluation.metrics.metric import Judge, Metric
from talkswap.files import write_atomically, write_error
from talkswap.records import RecordError, from_json, read_record, to_json, to_plain
from talkswap.systems.description import PublishedRow

FORMAT = 1
COMPACT_MARK = "compact, not comparable with published figures"
"""Heads every table whose judges aren't the published networks."""

Kind = Literal["hdtf", "clip", "ablation"]
Setting = Literal["self", "cross"]


@dataclass(frozen=True)
class Column:
    """One metric with the network that judged; figures of two judges are two columns."""

    metric: Metric
    judge: Judge | None = None  # None: the metric needs no network

    @property
    def comparable(self) -> bool:
        """Whether the column may be compared with published figures."""
        return self.judge is None or self.judge.comparable


@dataclass(frozen=True)
class Pictures:
    """Stills of one result (talkswap.evaluation.report.sheets); paths relative to the report's folder, in POSIX spelling."""

    frames: str  # JPEG: the face at some moments of the clip, from left to right
    mouths: str  # JPEG: the mouth at more of them
    photo: str = ""  # JPEG: the source photo; one file for all methods of a pair
    target_frames: str = ""  # JPEG: the target's face at the same moments; likewise
    target_mouths: str = ""


@dataclass(frozen=True)
class PairResult:
    """One method on one pair."""

    number: int  # of the pair, from 0
    source: str  # clip whose person's face is put in
    target: str  # clip that is changed
    voice: str  # clip whose sound drives the lips
    values: dict[str, float] = field(default_factory=dict)  # metric key -> value; never nan
    missing: dict[str, str] = field(default_factory=dict)  # metric key -> why there is no value
    error: str = ""  # why the method failed on this pair; "" = it did not
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)  # seconds: "render", "observe", "score"
    video: str = ""  # the finished clip with its sound, relative to the report's folder; "" = there is none
    pictures: Pictures | None = None


@dataclass(frozen=True)
class Figure:
    """One cell of a table: a metric over all pairs of a method."""

    value: float  # mean over the pairs, or the one value of the whole set (FID)
    count: int  # pairs behind it
    deviation: float | None = None  # standard deviation between pairs; None for a figure of the whole set


@dataclass(frozen=True)
class MethodResult:
    """One row: a method over all pairs of a setting."""

    key: str  # "swap-sync"; in an ablation the run's name
    label: str  # "Swap-Sync"
    about: str = ""  # one sentence without a full stop
    not_run: str = ""  # why nothing was rendered, such as the missing part's name; "" = it ran
    pairs: tuple[PairResult, ...] = ()
    figures: dict[str, Figure] = field(default_factory=dict)  # metric key -> mean
    choices: dict[str, str] = field(default_factory=dict)  # an ablation's own columns: {"backbone": "unet"}
    weights: dict[str, str] = field(default_factory=dict)  # file -> sha256, of this row's networks

    @property
    def failed(self) -> tuple[PairResult, ...]:
        """Pairs on which the method failed."""
        return tuple(pair for pair in self.pairs if pair.error)


@dataclass(frozen=True)
class SettingResult:
    """All rows of one setting."""

    setting: Setting
    methods: tuple[MethodResult, ...]


@dataclass(frozen=True)
class ClipFacts:
    """A clip that took part."""

    name: str
    speaker: str
    frames: int
    seconds: float
    files: dict[str, str]  # path in the data set -> sha256


@dataclass(frozen=True)
class ClipRefused:
    """A clip that wasn't available."""

    name: str
    reason: str


@dataclass(frozen=True)
class Provenance:
    """Everything that decides the figures."""

    created: str  # ISO 8601, UTC
    command: str  # as typed
    data: str
    seed: int
    pairs_wanted: int
    pairs_possible: int
    pairs: tuple[tuple[str, str], ...]  # (source clip, target clip)
    clips: tuple[ClipFacts, ...]
    refused: tuple[ClipRefused, ...]  # clips of the data set that weren't available
    commit: str  # of the checkout, "+" behind it where files differ; "" outside a checkout
    versions: dict[str, str]
    machine: dict[str, str]
    weights: dict[str, str]  # file -> sha256
    options: dict[str, str]
    notes: tuple[str, ...] = ()  # what a reader must know: fewer pairs than planned, a stand-in judge


@dataclass(frozen=True)
class Evaluation:
    """A whole evaluation, as in ``report.json``."""

    kind: Kind
    title: str
    table: str  # number of the paper's table that this repeats, such as "IV"; "" for none
    columns: tuple[Column, ...]
    settings: tuple[SettingResult, ...]
    published: tuple[PublishedRow, ...]
    provenance: Provenance
    seconds: float  # wall time of all its runs together
    format: int = FORMAT

    def columns_for(self, comparable: bool, setting: SettingResult | None = None) -> tuple[Column, ...]:
        """The columns of one table.

        Args:
            comparable: True: published networks and metrics without a network; False: compact stand-ins.
            setting: keep only columns in which this setting has a figure.
        """
        columns = tuple(column for column in self.columns if column.comparable is comparable)
        if setting is None:
            return columns
        return tuple(c for c in columns if any(c.metric.key in method.figures for method in setting.methods))

    def published_for(self, setting: str) -> tuple[PublishedRow, ...]:
        """The paper's rows of one setting."""
        return tuple(row for row in self.published if row.setting in ("", setting))

    @property
    def failures(self) -> int:
        """Pairs on which a method failed, over all settings; methods that were not run do not count."""
        return sum(len(method.failed) for setting in self.settings for method in setting.methods)


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``report.json`` in one move.

    Raises:
        OutputUnwritableError.
        ValueError: a figure is not finite; its reason belongs in ``missing``.
    """
    write_atomically(path, json.dumps(to_plain(evaluation), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_evaluation(path: Path) -> Evaluation:
    """Read a ``report.json``, or that of a report's folder.

    Raises:
        TrainingDataError: there is none, or it is not one of this version.
    """
    if path.is_dir():
        path = path / "report.json"
    hint = "name the folder that `talkswap eval hdtf --out` wrote"
    try:
        evaluation = read_record(Evaluation, path)
    except OSError as error:
        raise TrainingDataError(f"no report at {path}: {error.strerror}", hint) from error
    except RecordError as error:
        raise TrainingDataError(f"{path} is no report of this version: {error}", hint) from error
    if evaluation.format != FORMAT:
        raise TrainingDataError(f"{path} is no report of this version", hint)
    return evaluation


Key = tuple[str, str, int]
"""Setting, method, number of the pair."""


@dataclass(frozen=True)
class Entry:
    """One result."""

    setting: str
    method: str
    result: PairResult

    @property
    def key(self) -> Key:
        return (self.setting, self.method, self.result.number)


class Journal:
    """The results of one evaluation folder.

    Args:
        path: the file of lines; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[Key, Entry]:
        """The newest entry of every key; torn lines and lines of another version are skipped."""
        entries: dict[Key, Entry] = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return entries
        except OSError as error:
            raise OutputUnwritableError(f"cannot read {self.path}: {error.strerror}", "check the folder") from error
        # The last entry of a key wins, since a failed result is tried again.
        for line in lines:
            with contextlib.suppress(RecordError):
                entry = from_json(Entry, line)
                entries[entry.key] = entry
        return entries

    def add(self, entry: Entry) -> None:
        """Append one entry and wait until it is on the disk.

        Raises:
            OutputUnwritableError: the folder is read-only or the disk full.
        """
        line = to_json(entry, indent=None).encode()
        try:
            # Unbuffered append: one write per line, so that two lines never mix.
            with open(self.path, "a+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":
                        line = b"\n" + line  # an earlier run was killed in the middle of its last line
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error
