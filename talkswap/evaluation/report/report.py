"""An evaluation as three files: ``report.json`` for programs, ``report.md`` for a checkout, ``report.html`` for eyes.

The page is one file that loads nothing and runs no script; a content security policy in its head makes a browser refuse
everything that isn't in it.  All text is escaped, file names above all, and control characters are shown as such.

:func:`publish` copies a report for others: every figure, plot and hash, but nobody's face and no path of this machine.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkswap.errors import DependencyError, OutputExistsError, UsageError
from talkswap.evaluation import results
from talkswap.evaluation.report import tables
from talkswap.evaluation.report.plots import Dots, Plot, dot_plot
from talkswap.evaluation.results import Evaluation, MethodResult, PairResult, SettingResult
from talkswap.files import write_atomically, write_error
from talkswap.records import from_plain, to_plain

if TYPE_CHECKING:
    import jinja2

WHOLE_PATH = re.compile(
    r"(?<![\w.~-])(?:[A-Za-z]:[\\/]|[/~][^\s'\"/\\:;,]*[\\/])(?:[^\s'\"/\\:;,]+[\\/])*([^\s'\"/\\:;,]*)"
)
"""A path from the root on; its last name stays."""
QUOTED_PATH = re.compile(r"'(?:[A-Za-z]:[\\/]|[/~])[^']*?([^'/\\]*)[\\/]?'")
"""The same between quotes, as a shell wants it where folders have spaces in their names."""

MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~"})
LARGEST_PAGE = 6_000_000
"""Bytes of the page; pictures that would make it larger stay beside it."""
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
    results.write_evaluation(written.data, evaluation)
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
    public = without_people_and_places(results.read_evaluation(report))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from error
    return write_report(out, public)


def printable(value: Any) -> Any:
    """Text on one line, without control characters; everything else as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # markup is finished text
        return value
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)


def templates(
    package: str = "talkswap.evaluation.report", finalize: Callable[[Any], Any] = printable
) -> jinja2.Environment:
    """The templates in a package's ``assets``.

    Args:
        package: whose.
        finalize: applied to every value before it is escaped for HTML.

    Raises:
        DependencyError: Jinja2 isn't installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise DependencyError(
            "the pages of reports and studies need the package jinja2", 'run `pip install "talkswap[eval]"`'
        ) from error
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "assets"), autoescape=True, finalize=finalize,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Strip:
    """One row of pictures."""

    kind: str  # "face", "mouth"
    label: str
    alt: str  # for those who don't see it, before label and pair
    path: str
    source: str | None  # data URI; None: the file is missing


def build_page(evaluation: Evaluation, folder: Path, most: int = LARGEST_PAGE) -> str:
    """The page as text.

    Args:
        evaluation: the content of the report.
        folder: the report's folder, which holds the pictures; a missing one is named in the page.
        most: bytes of the page; pictures that don't fit stay in the folder, and the page says so.

    Raises:
        DependencyError: Jinja2 isn't installed.
    """
    environment = templates()
    template = environment.get_template("report.html.jinja")
    values = content(evaluation)
    # The page is built without pictures first, since whatever is left of its size is theirs.
    room = most - len(template.render(values).encode())
    budget = 0
    for section, setting in zip(values["settings"], evaluation.settings, strict=True):
        # Each setting gets an even share of the room, and whatever the one before left over.
        budget += room // len(evaluation.settings)
        for number in pairs_with_pictures(setting):
            article = pair_article(environment, setting, number, folder) if budget > 0 else ""
            size = len(article.encode()) + 1
            if not article or size > budget:
                break
            budget -= size
            section["articles"].append(article)
            section["left_out"] -= 1
    return template.render(values)


def build_markdown(evaluation: Evaluation) -> str:
    """The report without plots and pictures, for a checkout.

    Raises:
        DependencyError: Jinja2 isn't installed.
    """
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        # As markup, so that the text isn't escaped for HTML as well.
        return Markup(markdown(value)) if isinstance(value, str) and not isinstance(value, Markup) else value

    return templates(finalize=finalize).get_template("report.md.jinja").render(content(evaluation))


def markdown(text: str) -> str:
    """``text`` on one line, with Markdown's own characters escaped."""
    return str(printable(text)).translate(MARKDOWN)


def content(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that the templates show, but for the pictures."""
    settings = [
        {
            "key": setting.setting,
            "title": tables.SETTINGS[setting.setting],
            "tables": tables.result_tables(evaluation, setting),
            "published": tables.published_table(evaluation, setting.setting),
            "plots": plots(evaluation, setting, number),
            "pair_tables": tables.pair_tables(evaluation, setting),
            "articles": [],
            "left_out": len(pairs_with_pictures(setting)),
        }
        for number, setting in enumerate(evaluation.settings)
    ]
    return {
        "evaluation": evaluation,
        "settings": settings,
        "duration": tables.duration,
        "failures": tables.failures(evaluation),
        "timings": tables.timing_table(evaluation),
        "method_weights": tables.method_weights(evaluation),
        "refused": {clip.name: clip.reason for clip in evaluation.provenance.refused},
    }


def plots(evaluation: Evaluation, setting: SettingResult, number: int) -> list[Plot]:
    """A drawing of every metric that has a value for each pair; figures of the whole set have none."""
    drawings: list[Plot] = []
    for comparable in (True, False):
        published = evaluation.published_for(setting.setting) if comparable else ()
        for column in evaluation.columns_for(comparable, setting):
            key, label = column.metric.key, column.metric.label
            # A paper's figure is drawn beside ours only where both are comparable.
            papers = {row.key: row.values[key] for row in published if key in row.values}
            lines = [
                Dots(
                    method.label,
                    tuple((tables.pair_name(pair), pair.values[key]) for pair in method.pairs if key in pair.values),
                    method.figures[key].value if key in method.figures else None,
                    papers.get(method.key),
                )
                for method in setting.methods
                if not method.not_run
            ]
            if any(line.values for line in lines):
                title = f"{tables.SETTINGS[setting.setting]}: {label}{'' if comparable else ', compact stand-in'}"
                identity = f"plot-{number}-{len(drawings)}"
                drawings.append(dot_plot(identity, title, f"{label}{tables.side_and_unit(column)}", lines))
    return drawings


def pairs_with_pictures(setting: SettingResult) -> list[int]:
    """Numbers of the pairs that have pictures."""
    return sorted({pair.number for method in setting.methods for pair in method.pairs if pair.pictures is not None})


def pair_article(environment: jinja2.Environment, setting: SettingResult, number: int, folder: Path) -> str:
    """The pictures of one pair, as markup."""
    from markupsafe import Markup

    outcomes = [(method, pair) for method in setting.methods for pair in method.pairs if pair.number == number]
    faces, mouths = strips(outcomes, folder)
    pair = outcomes[0][1]
    template = environment.get_template("pair.html.jinja")
    return Markup(template.render(name=tables.pair_name(pair), pair=pair, faces=faces, mouths=mouths))


def strips(outcomes: list[tuple[MethodResult, PairResult]], folder: Path) -> tuple[list[Strip], list[Strip]]:
    """Rows of faces and rows of mouths of one pair: photo, target, then every method that finished."""
    # Photo and target belong to the pair, so any method's result names them.
    shared = next(pair.pictures for _, pair in outcomes if pair.pictures is not None)
    faces = [("Source photo", "Face", shared.photo), ("Target", "Face over time", shared.target_frames)]
    mouths = [("Target", "Mouth over time", shared.target_mouths)]
    for method, pair in outcomes:
        # The ground truth shows the same as the target.
        if pair.pictures is not None and not (method.key == tables.GROUND_TRUTH and shared.target_frames):
            faces.append((method.label, "Face over time", pair.pictures.frames))
            mouths.append((method.label, "Mouth over time", pair.pictures.mouths))

    def build(kind: str, rows: list[tuple[str, str, str]]) -> list[Strip]:
        return [Strip(kind, label, alt, path, embed(folder, path)) for label, alt, path in rows if path]

    return build("face", faces), build("mouth", mouths)


def file_inside(folder: Path, name: str) -> Path | None:
    """A file of the report's folder; None if it is missing, or the report names a place outside."""
    path = (folder / name).resolve()
    return path if name and path.is_relative_to(folder.resolve()) and path.is_file() else None


def embed(folder: Path, name: str) -> str | None:
    """A JPEG of the report's folder as a data URI; None if it is missing or lies outside."""
    path = file_inside(folder, name)
    return None if path is None else f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
