"""An evaluation as three files: ``report.json`` for programs, ``report.md`` for a checkout, ``report.html`` for eyes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from talkswap.errors import OutputUnwritableError
from talkswap.evaluation.page import build_page
from talkswap.evaluation.results import Evaluation, write_evaluation
from talkswap.evaluation.tables import (
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

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~"})


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
        evaluation: what was found.

    Raises:
        OutputUnwritableError: the folder is missing or read-only, or the disk full.
    """
    written = ReportFiles(folder / "report.json", folder / "report.md", folder / "report.html")
    write_evaluation(written.data, evaluation)
    write_text(written.text, build_markdown(evaluation))
    write_text(written.page, build_page(evaluation, folder))
    return written


def write_text(path: Path, text: str) -> None:
    """Write a file in one move.

    Raises:
        OutputUnwritableError.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise OutputUnwritableError(f"cannot write {path}: {error.strerror}", "is the disk full?") from error


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
    shown = any(pair.pictures for setting in evaluation.settings for m in setting.methods for pair in m.pairs)
    yield f"Plots{', and pictures of every method' if shown else ''}: report.html, in this folder."
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
    yield from (f"- could not be had: {markdown(clip.name)}: {markdown(clip.reason)}" for clip in facts.refused)
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
