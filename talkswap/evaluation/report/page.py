"""``report.html`` and ``report.md``: the templates of a report, and what they show.

The page is one file that loads nothing and runs no script; a content security policy in its head makes a browser refuse
everything that isn't in it.  All text is escaped, file names above all, and control characters are shown as such.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkswap.errors import DependencyError
from talkswap.evaluation.report.plots import Dots, Plot, dot_plot
from talkswap.evaluation.report.tables import (
    GROUND_TRUTH,
    SETTINGS,
    duration,
    failures,
    method_weights,
    pair_name,
    pair_tables,
    published_table,
    result_tables,
    side_and_unit,
    timing_table,
)
from talkswap.evaluation.results import Evaluation, MethodResult, PairResult, SettingResult

if TYPE_CHECKING:
    import jinja2

MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~"})

LARGEST_PAGE = 6_000_000
"""Bytes of the page; pictures that would make it larger stay beside it."""


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
            "title": SETTINGS[setting.setting],
            "tables": result_tables(evaluation, setting),
            "published": published_table(evaluation, setting.setting),
            "plots": plots(evaluation, setting, number),
            "pair_tables": pair_tables(evaluation, setting),
            "articles": [],
            "left_out": len(pairs_with_pictures(setting)),
        }
        for number, setting in enumerate(evaluation.settings)
    ]
    return {
        "evaluation": evaluation,
        "settings": settings,
        "duration": duration,
        "failures": failures(evaluation),
        "timings": timing_table(evaluation),
        "method_weights": method_weights(evaluation),
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
                    tuple((pair_name(pair), pair.values[key]) for pair in method.pairs if key in pair.values),
                    method.figures[key].value if key in method.figures else None,
                    papers.get(method.key),
                )
                for method in setting.methods
                if not method.not_run
            ]
            if any(line.values for line in lines):
                title = f"{SETTINGS[setting.setting]}: {label}{'' if comparable else ', compact stand-in'}"
                identity = f"plot-{number}-{len(drawings)}"
                drawings.append(dot_plot(identity, title, f"{label}{side_and_unit(column)}", lines))
    return drawings


def pairs_with_pictures(setting: SettingResult) -> list[int]:
    """Numbers of the pairs that have pictures."""
    return sorted({pair.number for method in setting.methods for pair in method.pairs if pair.pictures is not None})


def pair_article(environment: jinja2.Environment, setting: SettingResult, number: int, folder: Path) -> str:
    """The pictures of one pair, as markup."""
    from markupsafe import Markup

    results = [(method, pair) for method in setting.methods for pair in method.pairs if pair.number == number]
    faces, mouths = strips(results, folder)
    pair = results[0][1]
    template = environment.get_template("pair.html.jinja")
    return Markup(template.render(name=pair_name(pair), pair=pair, faces=faces, mouths=mouths))


def strips(results: list[tuple[MethodResult, PairResult]], folder: Path) -> tuple[list[Strip], list[Strip]]:
    """Rows of faces and rows of mouths of one pair: photo, target, then every method that finished."""
    # Photo and target belong to the pair, so any method's result names them.
    shared = next(pair.pictures for _, pair in results if pair.pictures is not None)
    faces = [("Source photo", "Face", shared.photo), ("Target", "Face over time", shared.target_frames)]
    mouths = [("Target", "Mouth over time", shared.target_mouths)]
    for method, pair in results:
        # The ground truth shows the same as the target.
        if pair.pictures is not None and not (method.key == GROUND_TRUTH and shared.target_frames):
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
