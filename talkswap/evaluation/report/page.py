"""``report.html``: the whole report in one file that asks nobody for anything and runs no script.

A content security policy in the page's head holds it to that: pictures are data in the page, styles stand in the page, and a
browser refuses everything else.  All text passes :func:`talkswap.evaluation.report.plots.plain`, names of files above all.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from talkswap.evaluation.report.plots import Dots, dot_plot, plain
from talkswap.evaluation.report.tables import (
    GROUND_TRUTH,
    SETTINGS,
    Cell,
    Heading,
    Row,
    Table,
    duration,
    failures,
    figure,
    method_weights,
    pair_name,
    published_table,
    result_tables,
    timing_table,
)
from talkswap.evaluation.results import (
    COMPACT_MARK,
    Column,
    Evaluation,
    MethodResult,
    PairResult,
    SettingResult,
)

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MOST = 6_000_000
"""Bytes of the page; pictures that would make it larger stay beside it."""


@dataclass
class _Budget:
    """How many bytes of pictures may still go into the page, as text."""

    left: int


def build_page(evaluation: Evaluation, folder: Path, most: int = MOST) -> str:
    """The page as text.

    Args:
        evaluation: what was found.
        folder: the report's folder, in which the pictures lie; one that is missing is named in the page.
        most: bytes of the page at most; pictures that do not fit stay in the folder, and the page says so.
    """
    bare = len("".join(_page(evaluation, folder, 0)).encode())
    return "".join(_page(evaluation, folder, most - bare))


def embed(folder: Path, name: str) -> str | None:
    """A JPEG of the report's folder as a data URI; None where it is missing or lies outside."""
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder.resolve()):
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _page(evaluation: Evaluation, folder: Path, room: int) -> Iterator[str]:
    style = files("talkswap.evaluation.report").joinpath("assets/report.css").read_text(encoding="utf-8")
    facts = evaluation.provenance
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="generator" content="talkswap">\n'
        f'<link rel="icon" href="data:,">\n<title>{plain(evaluation.title)}</title>\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n<header><h1>{plain(evaluation.title)}</h1>\n"
        f'<p class="faint">{plain(facts.created)} · data: {plain(facts.data)} · seed {facts.seed} · {len(facts.pairs)} '
        f"of {facts.pairs_wanted} pairs · took {duration(evaluation.seconds)}</p>\n"
    )
    yield "".join(f'<p class="note">{plain(_sentence(note))}</p>\n' for note in facts.notes)
    links = [(f"setting-{s.setting}", SETTINGS[s.setting]) for s in evaluation.settings]
    links += [("failed", "Failed pairs"), ("timings", "Timings"), ("provenance", "Provenance")]
    yield (
        '<nav aria-label="Sections">'
        + "".join(f'<a href="#{place}">{name}</a>' for place, name in links)
        + "</nav></header>\n<main>\n"
    )
    budget = _Budget(0)
    for number, setting in enumerate(evaluation.settings):
        budget.left += room // len(evaluation.settings)  # an even share, and what the one before left over
        yield from _setting(evaluation, setting, number, folder, budget)
    yield from _failures(evaluation)
    yield '<section id="timings"><h2>Timings</h2>\n'
    timings = timing_table(evaluation)
    yield _table(timings) if timings is not None else "<p>Nothing was timed.</p>\n"
    yield "</section>\n"
    yield from _provenance(evaluation)
    yield "</main>\n</body>\n</html>\n"


def _setting(
    evaluation: Evaluation, setting: SettingResult, number: int, folder: Path, budget: _Budget
) -> Iterator[str]:
    yield f'<section id="setting-{setting.setting}"><h2>{SETTINGS[setting.setting]}</h2>\n'
    tables = result_tables(evaluation, setting)
    yield "".join(_table(table) for table in tables) or "<p>No method has a figure.</p>\n"
    whole = published_table(evaluation, setting.setting)
    if whole is not None:
        yield f"<details><summary>{plain(whole.title)}: all figures</summary>\n{_table(whole)}</details>\n"
    yield from _plots(evaluation, setting, number)
    yield from _values(evaluation, setting)
    yield from _pictures(setting, folder, budget)
    yield "</section>\n"


def _table(table: Table) -> str:
    mark = f' <span class="mark">{plain(table.mark)}</span>' if table.mark else ""
    head = "".join(_heading(heading) for heading in table.head)
    body = "\n".join(_row(row, len(table.head)) for row in table.rows)
    notes = "".join(f"<li>{plain(_sentence(note))}</li>" for note in table.notes)
    kind = ' class="compact"' if table.mark == COMPACT_MARK else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{plain(table.title)}"><table{kind}>'
        f"<caption>{plain(table.title)}{mark}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
        f"</table></div>\n" + (f'<ul class="faint">{notes}</ul>\n' if notes else "")
    )


def _heading(heading: Heading) -> str:
    judge = f"<small>{plain(heading.judge)}</small>" if heading.judge else ""
    about = f' title="{plain(heading.about)}"' if heading.about else ""
    return f'<th scope="col"{about}>{plain(heading.text)}{judge}</th>'


def _row(row: Row, columns: int) -> str:
    if row.kind == "not run":
        return (
            f'<tr class="not-run"><th scope="row">{plain(row.name)}</th>'
            f'<td class="words" colspan="{max(1, columns - 1)}">not run: {plain(row.note)}</td></tr>'
        )
    note = f"<small>{plain(row.note)}</small>" if row.note else ""
    kind = "" if row.kind == "ours" else f' class="{row.kind}"'
    return f'<tr{kind}><th scope="row">{plain(row.name)}{note}</th>{"".join(_cell(cell) for cell in row.cells)}</tr>'


def _cell(cell: Cell) -> str:
    detail = f"<small>{plain(cell.detail)}</small>" if cell.detail else ""
    if cell.best:
        return f'<td><b class="best">{plain(cell.text)}<span class="unheard"> (best)</span></b>{detail}</td>'
    return f"<td>{plain(cell.text)}{detail}</td>"


def _plots(evaluation: Evaluation, setting: SettingResult, number: int) -> Iterator[str]:
    drawn: list[str] = []
    for comparable in (True, False):
        published = evaluation.published_for(setting.setting) if comparable else ()
        for column in evaluation.columns_for(comparable, setting):
            key = column.metric.key
            papers = {row.key: row.values[key] for row in published if key in row.values}
            lines = [_dots(method, key, papers) for method in setting.methods if not method.not_run]
            if not any(line.values for line in lines):  # a figure of the whole set has no pairs
                continue
            judge = "" if comparable else ", compact stand-in"
            drawn.append(
                dot_plot(
                    f"plot-{number}-{len(drawn)}",
                    f"{SETTINGS[setting.setting]}: {column.metric.label}{judge}",
                    f"{column.metric.label}{_unit(column)}",
                    lines,
                )
            )
    if drawn:
        yield (
            "<h3>Pair by pair</h3>\n<p class='faint'>A dot is a pair, the upright bar the mean, the diamond the paper's "
            f'figure.</p>\n<div class="plots">\n{"".join(drawn)}\n</div>\n'
        )


def _unit(column: Column) -> str:
    side = {"higher": "higher is better", "lower": "lower is better", "neither": ""}[column.metric.better]
    return "".join(f", {part}" for part in (column.metric.unit, side) if part)


def _dots(method: MethodResult, key: str, papers: dict[str, float]) -> Dots:
    found = method.figures.get(key)
    return Dots(
        method.label,
        tuple((pair_name(pair), pair.values[key]) for pair in method.pairs if key in pair.values),
        None if found is None else found.value,
        papers.get(method.key),
    )


def _values(evaluation: Evaluation, setting: SettingResult) -> Iterator[str]:
    """Every pair's own figures, for those who look for one."""
    tables = []
    for comparable in (True, False):
        columns = evaluation.columns_for(comparable, setting)
        shown = [
            column
            for column in columns
            if any(column.metric.key in pair.values for method in setting.methods for pair in method.pairs)
        ]
        for method in setting.methods:
            rows = [
                Row(
                    pair_name(pair),
                    "ours",
                    tuple(
                        Cell(figure(pair.values[column.metric.key]) if column.metric.key in pair.values else "–")
                        for column in shown
                    ),
                )
                for pair in method.pairs
                if not pair.error
            ]
            if rows and shown:
                head = (Heading("Pair"), *[Heading(f"{column.metric.label}{_unit(column)}") for column in shown])
                mark = "" if comparable else COMPACT_MARK
                tables.append(_table(Table(f"{method.label}, pair by pair", head, tuple(rows), mark)))
    if tables:
        yield f"<details><summary>Figures of every pair</summary>\n{''.join(tables)}</details>\n"


def _pictures(setting: SettingResult, folder: Path, budget: _Budget) -> Iterator[str]:
    numbers = sorted({pair.number for method in setting.methods for pair in method.pairs if pair.pictures is not None})
    if not numbers:
        return
    yield "<h3>Faces and mouths over time</h3>\n"
    left_out = 0
    for number in numbers:
        shown = [(m, pair) for m in setting.methods for pair in m.pairs if pair.number == number]
        article = "" if left_out or budget.left <= 0 else _pair(shown, folder)
        size = len(article.encode())
        if not article or size > budget.left:
            left_out += 1
            continue
        budget.left -= size
        yield article
    if left_out:
        yield (
            f'<p class="note">The pictures of {left_out} further {"pair" if left_out == 1 else "pairs"} would make this '
            "page too large; they lie beside it.</p>\n"
        )


def _pair(shown: list[tuple[MethodResult, PairResult]], folder: Path) -> str:
    faces, mouths = _strips(shown, folder)
    pair, name = shown[0][1], plain(pair_name(shown[0][1]))
    voice = f", voice of {plain(pair.voice)}" if pair.voice and pair.voice != pair.target else ""
    return (
        f'<article class="pair"><h3>P{name[1:]}{voice}</h3>\n'
        f'<div class="wide" tabindex="0" role="region" aria-label="Faces of {name}"><dl class="strips">{faces}</dl></div>\n'
        f'<div class="wide" tabindex="0" role="region" aria-label="Mouths of {name}"><dl class="strips">{mouths}</dl></div>'
        "</article>\n"
    )


def _strips(shown: list[tuple[MethodResult, PairResult]], folder: Path) -> tuple[str, str]:
    """Rows of faces and rows of mouths of one pair: photo, target, then every method that finished."""
    pictures = next(pair.pictures for _, pair in shown if pair.pictures is not None)
    name = pair_name(shown[0][1])
    faces: list[str] = []
    mouths: list[str] = []

    def add(rows: list[str], kind: str, label: str, path: str, what: str) -> None:
        found = embed(folder, path)
        if found is None:
            picture = f"<small>{plain(path)} is missing</small>"
        else:
            picture = f'<img class="{kind}" decoding="async" alt="{plain(f"{what}, {label}, {name}")}" src="{found}">'
        rows.append(f"<dt>{plain(label)}</dt><dd>{picture}</dd>\n")

    if pictures.photo:
        add(faces, "face", "Source photo", pictures.photo, "Face")
    if pictures.target_frames:
        add(faces, "face", "Target", pictures.target_frames, "Face over time")
    if pictures.target_mouths:
        add(mouths, "mouth", "Target", pictures.target_mouths, "Mouth over time")
    for method, pair in shown:
        if pair.pictures is None or (method.key == GROUND_TRUTH and pictures.target_frames):
            continue
        add(faces, "face", method.label, pair.pictures.frames, "Face over time")
        add(mouths, "mouth", method.label, pair.pictures.mouths, "Mouth over time")
    return "".join(faces), "".join(mouths)


def _failures(evaluation: Evaluation) -> Iterator[str]:
    yield '<section id="failed"><h2>Failed pairs</h2>\n'
    failed = failures(evaluation)
    if not failed:
        yield "<p>None.</p></section>\n"
        return
    rows = "\n".join(
        "<tr>" + "".join(f'<td class="words">{plain(part)}</td>' for part in line) + "</tr>" for line in failed
    )
    yield (
        f'<div class="wide" tabindex="0" role="region" aria-label="Failed pairs"><table><caption>{len(failed)} failed; they '
        'count in no figure</caption>\n<thead><tr><th scope="col">Method</th><th scope="col" class="words">Pair</th>'
        f'<th scope="col" class="words">Why</th></tr></thead>\n<tbody>\n{rows}\n</tbody></table></div></section>\n'
    )


def _provenance(evaluation: Evaluation) -> Iterator[str]:
    facts = evaluation.provenance
    yield '<section id="provenance"><h2>Provenance</h2>\n'
    plainly = {
        "Command": facts.command,
        "Data": facts.data,
        "Seed": str(facts.seed),
        "Pairs": f"{len(facts.pairs)}; {facts.pairs_wanted} wanted, {facts.pairs_possible} possible",
        "Commit": facts.commit or "not run from a checkout",
    }
    yield _facts("What was run", plainly)
    for caption, listed in (("Options", facts.options), ("Versions", facts.versions), ("Machine", facts.machine)):
        yield _facts(caption, listed)
    refused = {clip.name: clip.reason for clip in facts.refused}
    yield _facts(f"Clips that could not be had: {len(refused)}", refused)
    clips = "\n".join(
        f'<tr><th scope="row">{plain(clip.name)}</th><td>{plain(clip.speaker)}</td><td>{clip.frames}</td>'
        f'<td>{clip.seconds:.2f}</td><td class="words">{plain_hashes(clip.files)}</td></tr>'
        for clip in facts.clips
    )
    pairs = "".join(f"<li>{plain(source)} → {plain(target)}</li>" for source, target in facts.pairs)
    weights = _facts("Weights, sha256", facts.weights)
    for label, listed in method_weights(evaluation).items():
        weights += _facts(f"Only in {label}, sha256", listed)
    if weights:
        yield f"<details><summary>Weights</summary>{weights}</details>\n"
    yield (
        f"<details><summary>Clips: {len(facts.clips)}</summary>"
        '<div class="wide" tabindex="0" role="region" aria-label="Clips"><table><thead><tr>'
        '<th scope="col">Clip</th><th scope="col">Speaker</th><th scope="col">Frames</th><th scope="col">Seconds</th>'
        f'<th scope="col">Files, sha256</th></tr></thead>\n<tbody>\n{clips}\n</tbody></table></div></details>\n'
        f"<details><summary>Pairs, source → target: {len(facts.pairs)}</summary><ol>{pairs}</ol></details></section>\n"
    )


def plain_hashes(listed: dict[str, str]) -> str:
    """Files with their hashes, one line each."""
    return "<br>".join(f"{plain(name)} <code>{plain(value)}</code>" for name, value in listed.items())


def _facts(caption: str, listed: dict[str, str]) -> str:
    if not listed:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{plain(name)}</th><td class="words">{plain(value)}</td></tr>'
        for name, value in listed.items()
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{plain(caption)}"><table><caption>{plain(caption)}'
        f"</caption><tbody>{rows}</tbody></table></div>\n"
    )


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
