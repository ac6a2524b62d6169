"""Per-pair plots of a report: one small drawing a metric, one line a method, one dot a pair, as SVG without a library.

Colours and fonts come from the page, so that the drawing follows its light and dark side.  Every drawing has a title and a
description for those who hear the page, and every dot its pair's name where there are few enough to ask for.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from talkswap.evaluation.report.tables import figure

WIDTH = 460
LEFT, RIGHT, TOP, BOTTOM = 150, 16, 30, 44  # px around the field
LINE = 24  # px a method
NAMED_DOTS = 400  # up to this many dots of a drawing carry their pair's name
SPREAD = 5.0  # px by which dots of one line step aside, so that equal values do not hide each other
LONGEST_NAME = 24  # characters beside the field


@dataclass(frozen=True)
class Dots:
    """One method's line."""

    name: str
    values: tuple[tuple[str, float], ...]  # pair's name, value
    mean: float | None = None
    published: float | None = None  # the paper's figure, where it may stand here


def plain(text: str) -> str:
    """``text`` for HTML and SVG: escaped, on one line, without control characters."""
    return html.escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """Round numbers from at most ``low`` to at least ``high``, in steps of 1, 2 or 5 times a power of ten."""
    if not low < high:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(place * step for place in range(first, last + 1))


def dot_plot(identity: str, title: str, axis: str, lines: Sequence[Dots]) -> str:
    """An ``<svg>`` element.

    Args:
        identity: unique in the page; of letters, digits and hyphens.
        title: the metric and the setting.
        axis: what the numbers are, with their unit and the better side.
        lines: from top to bottom; those without a value are left out.

    Raises:
        ValueError: no line has a value.
    """
    lines = [line for line in lines if line.values or line.published is not None]
    numbers = [value for line in lines for _, value in line.values]
    numbers += [line.published for line in lines if line.published is not None]
    if not numbers:
        raise ValueError("a plot without a value")
    marks = ticks(min(numbers), max(numbers))
    low, high = marks[0], marks[-1]
    height = TOP + LINE * len(lines) + BOTTOM
    floor = height - BOTTOM
    named = sum(len(line.values) for line in lines) <= NAMED_DOTS

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg class="plot" role="img" aria-labelledby="{identity}-t {identity}-d" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}">',
        f'<title id="{identity}-t">{plain(title)}</title>',
        f'<desc id="{identity}-d">{plain(_described(axis, lines))}</desc>',
        f'<text class="name" x="{WIDTH / 2:g}" y="16" text-anchor="middle">{plain(title)}</text>',
    ]
    for mark in marks:
        x = across(mark)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{floor}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 14}" text-anchor="middle">{mark:.6g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{height - 8}" text-anchor="middle">{plain(axis)}</text>')
    for place, line in enumerate(lines):
        y = TOP + LINE * (place + 0.5)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{plain(_short(line.name))}</text>')
        parts.append(_dots(line, y, across, named))
        if line.mean is not None:
            parts.append(f'<path class="mean" d="M{across(line.mean):.1f} {y - 9:g}v18"/>')
        if line.published is not None:
            x = across(line.published)
            parts.append(
                f'<path class="paper" d="M{x:.1f} {y - 6:g}l6 6-6 6-6-6z"><title>{figure(line.published)} in the paper'
                "</title></path>"
            )
    parts.append("</svg>")
    return "".join(parts)


def _dots(line: Dots, y: float, across: Callable[[float], float], named: bool) -> str:
    spots = [
        (name, value, across(value), y + SPREAD * ((number % 3) - 1))
        for number, (name, value) in enumerate(line.values)
    ]
    if named:
        return "".join(
            f'<circle class="dot" cx="{x:.1f}" cy="{down:g}" r="3"><title>{plain(name)}: {figure(value)}</title></circle>'
            for name, value, x, down in spots
        )
    # one stroke of no length a dot: a tenth of the bytes
    return f'<path class="dots" d="{"".join(f"M{x:.1f} {down:g}h0" for _, _, x, down in spots)}"/>' if spots else ""


def _described(axis: str, lines: Sequence[Dots]) -> str:
    said = []
    for line in lines:
        parts = []
        if line.values:
            values = [value for _, value in line.values]
            parts.append(
                f"{len(values)} {'pair' if len(values) == 1 else 'pairs'} from {figure(min(values))} to {figure(max(values))}"
            )
        if line.mean is not None:
            parts.append(f"mean {figure(line.mean)}")
        if line.published is not None:
            parts.append(f"{figure(line.published)} in the paper")
        said.append(f"{line.name}: {', '.join(parts)}")
    return f"{axis}. {'; '.join(said)}."


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
