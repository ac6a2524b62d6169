"""A report for others: every figure, plot and hash, but nobody's face and no path of this machine.

A report's pictures and clips show people who may have agreed to be measured and not to be published.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from talkswap.errors import OutputExistsError, OutputUnwritableError, UsageError
from talkswap.evaluation.report import ReportFiles, write_report
from talkswap.evaluation.results import Evaluation, from_plain, read_evaluation, to_plain

WHOLE_PATH = re.compile(
    r"(?<![\w.~-])(?:[A-Za-z]:[\\/]|[/~][^\s'\"/\\:;,]*[\\/])(?:[^\s'\"/\\:;,]+[\\/])*([^\s'\"/\\:;,]*)"
)
"""A path from the root on; its last name stays."""

QUOTED_PATH = re.compile(r"'(?:[A-Za-z]:[\\/]|[/~])[^']*?([^'/\\]*)[\\/]?'")
"""The same between quotes, as a shell wants it where folders have spaces in their names."""

NOTE = "Pictures, clips and paths were left out for publishing"


def without_people_and_places(evaluation: Evaluation) -> Evaluation:
    """The same findings without pictures and clips, and with the last name of every whole path."""
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
    facts = evaluation.provenance
    # these two are paths and nothing else, so that spaces in them end none
    options = {name: Path(value).name if name == "portraits" else value for name, value in facts.options.items()}
    facts = replace(facts, data=Path(facts.data).name or "folder", options=options, notes=(*facts.notes, NOTE))
    plain = _walk(to_plain(replace(evaluation, settings=settings, provenance=facts)))
    found: Evaluation = from_plain(Evaluation, plain)
    return found


def _walk(value: Any) -> Any:
    if isinstance(value, dict):
        return {_walk(key): _walk(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(item) for item in value]
    if isinstance(value, str):
        value = QUOTED_PATH.sub(lambda match: f"'{match[1] or 'folder'}'", value)
        return WHOLE_PATH.sub(lambda match: match[1] or "folder", value)
    return value


def publish(report: Path, out: Path, overwrite: bool = False) -> ReportFiles:
    """Write a report that may be shown.

    Args:
        report: folder of a report, or its report.json.
        out: folder for the three files; made if it is not there.
        overwrite: whether an earlier report in it may be replaced.

    Raises:
        TrainingDataError: there is no report, or it cannot be read.
        UsageError: ``out`` is the report's own folder.
        OutputExistsError, OutputUnwritableError: the folder.
    """
    home = report if report.is_dir() else report.parent
    if os.path.abspath(out) == os.path.abspath(home):
        raise UsageError(f"{out} is the report's own folder", "choose another --out")
    if (out / "report.json").exists() and not overwrite:
        raise OutputExistsError(f"{out} holds a report already", "choose another --out, or allow it with --overwrite")
    found = without_people_and_places(read_evaluation(report))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnwritableError(f"{out} cannot be made ({error.strerror})", "choose another folder") from error
    return write_report(out, found)
