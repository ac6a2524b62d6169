"""An evaluation as three files: ``report.json`` for programs, ``report.md`` for a checkout, ``report.html`` for eyes.

:func:`publish` copies a report for others: every figure, plot and hash, but nobody's face and no path of this machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from talkswap.errors import OutputExistsError, UsageError
from talkswap.evaluation.report.page import build_markdown, build_page
from talkswap.evaluation.results import Evaluation, read_evaluation, write_evaluation
from talkswap.files import write_atomically, write_error
from talkswap.records import from_plain, to_plain

WHOLE_PATH = re.compile(
    r"(?<![\w.~-])(?:[A-Za-z]:[\\/]|[/~][^\s'\"/\\:;,]*[\\/])(?:[^\s'\"/\\:;,]+[\\/])*([^\s'\"/\\:;,]*)"
)
"""A path from the root on; its last name stays."""
QUOTED_PATH = re.compile(r"'(?:[A-Za-z]:[\\/]|[/~])[^']*?([^'/\\]*)[\\/]?'")
"""The same between quotes, as a shell wants it where folders have spaces in their names."""

NOTE = "Pictures, clips and paths were left out for publishing"


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    data: Path
    text: Path
    page: Path


def write_report(folder: Path, evaluation: Evaluation) -> ReportFiles:
    """Write all three, each in one move; the pictures must lie in the folder already.

    Args:
        folder: an existing folder; earlier reports in it are replaced.
        evaluation: their content.

    Raises:
        OutputUnwritableError: the folder is missing or read-only, or the disk full.
    """
    written = ReportFiles(folder / "report.json", folder / "report.md", folder / "report.html")
    write_evaluation(written.data, evaluation)
    write_atomically(written.text, build_markdown(evaluation))
    write_atomically(written.page, build_page(evaluation, folder))
    return written


def without_people_and_places(evaluation: Evaluation) -> Evaluation:
    """The same report without pictures and clips, and with only the last name of every absolute path."""
    settings = tuple(
        replace(
            setting,
            methods=tuple(
                replace(m, pairs=tuple(replace(pair, pictures=None, video="") for pair in m.pairs))
                for m in setting.methods
            ),
        )
        for setting in evaluation.settings
    )
    # The people in the clips didn't agree to be published, and paths name users.
    facts = evaluation.provenance
    # The text between two spaces may be a path; these two are paths as a whole, with all their spaces.
    options = {name: Path(value).name if name == "portraits" else value for name, value in facts.options.items()}
    facts = replace(facts, data=Path(facts.data).name or "folder", options=options, notes=(*facts.notes, NOTE))
    plain = last_names(to_plain(replace(evaluation, settings=settings, provenance=facts)))
    return from_plain(Evaluation, plain)


def last_names(value: Any) -> Any:
    """JSON's own types with every absolute path cut down to its last name."""
    if isinstance(value, dict):
        return {last_names(key): last_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [last_names(item) for item in value]
    if isinstance(value, str):
        value = QUOTED_PATH.sub(lambda match: f"'{match[1] or 'folder'}'", value)
        return WHOLE_PATH.sub(lambda match: match[1] or "folder", value)
    return value


def publish(report: Path, out: Path, overwrite: bool = False) -> ReportFiles:
    """Write a report that may be shown.

    Args:
        report: folder of a report, or its report.json.
        out: folder for the three files; created if it isn't there.
        overwrite: whether an earlier report in it may be replaced.

    Raises:
        TrainingDataError: there is no report, or it cannot be read.
        UsageError: ``out`` is the report's own folder.
        OutputExistsError, OutputUnwritableError: the folder.
    """
    home = report if report.is_dir() else report.parent
    # Publishing into the report itself would delete its pictures' names for good.
    if os.path.abspath(out) == os.path.abspath(home):
        raise UsageError(f"{out} is the report's own folder", "choose another --out")
    if (out / "report.json").exists() and not overwrite:
        raise OutputExistsError(f"{out} holds a report already", "choose another --out, or allow it with --overwrite")
    public = without_people_and_places(read_evaluation(report))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from error
    return write_report(out, public)
