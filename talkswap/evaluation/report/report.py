"""An evaluation as three files: ``report.json`` for programs, ``report.md`` for a checkout, ``report.html`` for eyes.

:func:`publish` copies a report for others: every figure, plot and hash, but nobody's face and no path of this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from talkswap.errors import OutputExistsError, UsageError
from talkswap.evaluation.report.page import build_page
from talkswap.evaluation.report.tables import (
    SETTINGS,
    Cell,
    Row,
    Table,
    duration,
    failures,
    method_weights,
    published_table,
    result_tables,
    timing_table,
)
from talkswap.evaluation.results import Evaluation, read_evaluation, write_evaluation
from talkswap.files import write_atomically, write_error
from talkswap.records import from_plain, to_plain

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~"})


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


def write_text(path: Path, text: str) -> None:
    """Write a file in one move.

    Raises:
        OutputUnwritableError.
    """
    write_atomically(path, text)


def markdown(text: str) -> str:
    """``text`` on one line, with nothing that Markdown would take for its own."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).translate(_MARKDOWN)


def build_markdown(evaluation: Evaluation) -> str:
    """The report without plots and pictures."""
    return "\n".join(_lines(evaluation)) + "\n"


def _lines(evaluation: Evaluation) -> Iterator[str]:
    facts = evaluation.provenance
    yield f"# {markdown(evaluation.title)}"
    yield ""
    yield (
        f"{markdown(facts.created)}, data {markdown(facts.data)}, seed {facts.seed}, {len(facts.pairs)} of "
        f"{facts.pairs_wanted} pairs, took {duration(evaluation.seconds)}."
    )
    pictures = any(pair.pictures for setting in evaluation.settings for m in setting.methods for pair in m.pairs)
    yield f"Plots{', and pictures of every method' if pictures else ''}: report.html, in this folder."
    yield from _list(facts.notes)
    for setting in evaluation.settings:
        yield from ("", f"## {SETTINGS[setting.setting]}")
        for table in result_tables(evaluation, setting):
            yield from _table(table)
        whole = published_table(evaluation, setting.setting)
        if whole is not None:
            yield from _table(whole)
    failed = failures(evaluation)
    yield from ("", f"## Failed pairs: {len(failed)}")
    yield from _list(tuple(f"{method}, {pair}: {reason}" for method, pair, reason in failed))
    timings = timing_table(evaluation)
    if timings is not None:
        yield from ("", "## Timings")
        yield from _table(timings)
    yield from ("", "## Provenance", "")
    commit = facts.commit or "not run from a checkout"
    yield from (f"- command: {markdown(facts.command)}", f"- commit: {markdown(commit)}")
    for name, listed in (
        ("option", facts.options), ("version", facts.versions), ("machine", facts.machine), ("weights", facts.weights),
    ):  # fmt: skip
        yield from (f"- {name} {markdown(key)}: {markdown(value)}" for key, value in listed.items())
    for label, listed in method_weights(evaluation).items():
        yield from (
            f"- weights of {markdown(label)}, {markdown(key)}: {markdown(value)}" for key, value in listed.items()
        )
    yield from (f"- not available: {markdown(clip.name)}: {markdown(clip.reason)}" for clip in facts.refused)
    yield f"- pairs: {', '.join(f'{markdown(source)} → {markdown(target)}' for source, target in facts.pairs)}"


def _list(notes: tuple[str, ...]) -> Iterator[str]:
    if notes:
        yield ""
        yield from (f"- {markdown(note)}" for note in notes)


def _table(table: Table) -> Iterator[str]:
    yield from ("", f"### {markdown(table.title)}", "")
    if table.mark:
        yield from (f"**{markdown(table.mark)}**", "")
    heads = [heading.text + (f" ({heading.judge})" if heading.judge else "") for heading in table.head]
    yield _line([markdown(head) for head in heads])
    yield _line(["---", *["---:"] * (len(heads) - 1)])
    for row in table.rows:
        yield _line(_cells(row, len(heads)))
    yield from _list(table.notes)


def _cells(row: Row, columns: int) -> list[str]:
    if row.kind == "not run":
        return [markdown(row.name), f"not run: {markdown(row.note)}", *[""] * (columns - 2)][: max(2, columns)]
    name = f"*{markdown(row.name)}*" if row.kind == "paper" else markdown(row.name)
    return [name, *[_cell(cell) for cell in row.cells]]


def _cell(cell: Cell) -> str:
    text = f"**{markdown(cell.text)}**" if cell.best else markdown(cell.text)
    return f"{text} ({markdown(cell.detail)})" if cell.detail else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
