"""The plan of an evaluation: data, pairs, methods, judges, and the table that it fills."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from talkswap.checkpoints.networks import resolve
from talkswap.errors import OutputExistsError, OutputUnwritableError
from talkswap.evaluation.judges.judges import JudgeFiles
from talkswap.evaluation.protocol.methods import Setup
from talkswap.evaluation.protocol.pairs import EvaluationSet
from talkswap.evaluation.results import Kind, Setting
from talkswap.systems.description import PublishedRow
from talkswap.systems.registry import find_system
from talkswap.types import DEFAULT_SYSTEM, ProgressEvent

OnProgress = Callable[[ProgressEvent], None]
SETTINGS: tuple[Setting, ...] = ("self", "cross")


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
    published: tuple[PublishedRow, ...]
    metrics: tuple[str, ...] = ()  # keys of the columns shown; none: all


def published_rows(system: str) -> tuple[PublishedRow, ...]:
    """All rows of the tables of a system's paper.

    Raises:
        UsageError: there is no such system.
    """
    name = find_system(system).published
    return tuple(resolve(name)) if name else ()


def comparison_table(system: str) -> Table:
    """The table in which a system's paper compares methods.

    Raises:
        UsageError: there is no such system.
    """
    # Rows with a setting compare methods; rows without one belong to ablations.
    rows = tuple(row for row in published_rows(system) if row.setting)
    number = ", ".join(dict.fromkeys(row.table for row in rows))
    return Table("hdtf", number, f"Table {number}" if number else find_system(system).title, rows)


def check_folder(plan: EvaluationPlan) -> None:
    """Check that the report's folder is free, or belongs to this evaluation.

    Raises:
        OutputExistsError, OutputUnwritableError.
    """
    if plan.out.exists() and not plan.out.is_dir():
        raise OutputUnwritableError(f"{plan.out} is a file", "name a folder with --out")
    if not plan.out.is_dir():
        return
    # The plan's record marks a folder as ours; anything else in it belongs to somebody.
    begun = (plan.out / "work" / "plan.json").is_file()
    others = [path for path in plan.out.iterdir() if path.name != ".lock"]
    if begun and not plan.resume:
        raise OutputExistsError(
            f"{plan.out} holds an evaluation", "add --resume to go on with it, or name another --out"
        )
    if others and not begun:
        raise OutputExistsError(f"{plan.out} is not empty", "name a new folder with --out")
