"""Per-pair plots of a report: one small drawing per metric, one line per method, one dot per pair.

This file computes what lies where; ``assets/plot.svg.jinja`` draws it.  Colours and fonts come from the page, so that a
drawing follows its light and dark scheme.  Every drawing has a title and a description for screen readers, and every dot
its pair's name, unless there are too many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from talkswap.evaluation.report.tables import figure

WIDTH = 460
LEFT, RIGHT, TOP, BOTTOM = 150, 16, 30, 44  # px around the field
LINE = 24  # px per method
NAMED_DOTS = 400  # up to this many dots of a drawing carry their pair's name
SPREAD = 5.0  # px by which dots of one line step aside, so that equal values don't hide each other
LONGEST_NAME = 24  # characters beside the field


@dataclass(frozen=True)
class Dots:
    """One method's figures."""

    name: str
    values: tuple[tuple[str, float], ...]  # pair's name, value
    mean: float | None = None
    published: float | None = None  # the paper's figure, if it is comparable


@dataclass(frozen=True)
class Tick:
    """A mark of the axis."""

    x: float  # px
    value: float


@dataclass(frozen=True)
class Spot:
    """A dot in its place."""

    x: float  # px
    y: float
    name: str  # of the pair
    value: str


@dataclass(frozen=True)
class Line:
    """One method's line in its place."""

    y: int  # px
    name: str
    spots: tuple[Spot, ...]
    mean: float | None  # px
    published: float | None  # px
    published_value: str


@dataclass(frozen=True)
class Plot:
    """A whole drawing, in px."""

    identity: str
    title: str
    axis: str
    description: str
    ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    named: bool  # whether dots carry names
    width: int = WIDTH
    left: int = LEFT
    top: int = TOP
    middle: int = (LEFT + WIDTH - RIGHT) // 2

    @property
    def floor(self) -> int:
        """Lower end of the field."""
        return TOP + LINE * len(self.lines)

    @property
    def height(self) -> int:
        """With the axis."""
        return self.floor + BOTTOM


def round_numbers(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """About ``count`` numbers from at most ``low`` to at least ``high``, in steps of 1, 2 or 5 times a power of ten."""
    # Equal values get an axis too.
    if not low < high:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    # The tolerance keeps a step of exactly 1, 2 or 5 from being rounded up.
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(place * step for place in range(first, last + 1))


def dot_plot(identity: str, title: str, axis: str, methods: Sequence[Dots]) -> Plot:
    """Place everything of a drawing.

    Args:
        identity: unique in the page; of letters, digits and hyphens.
        title: the metric and the setting.
        axis: the meaning of the numbers, with their unit and the better side.
        methods: from top to bottom; those without a value are left out.

    Raises:
        ValueError: no method has a value.
    """
    methods = [method for method in methods if method.values or method.published is not None]
    numbers = [value for method in methods for _, value in method.values]
    numbers += [method.published for method in methods if method.published is not None]
    if not numbers:
        raise ValueError("a plot without a value")
    marks = round_numbers(min(numbers), max(numbers))
    low, high = marks[0], marks[-1]

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    lines = []
    for place, method in enumerate(methods):
        y = TOP + LINE * place + LINE // 2
        # Dots of one line step aside in turn, so that equal values don't hide each other.
        spots = [
            Spot(across(value), y + SPREAD * (number % 3 - 1), name, figure(value))
            for number, (name, value) in enumerate(method.values)
        ]
        short = method.name if len(method.name) <= LONGEST_NAME else method.name[: LONGEST_NAME - 1] + "…"
        mean = None if method.mean is None else across(method.mean)
        paper = None if method.published is None else across(method.published)
        value = "" if method.published is None else figure(method.published)
        lines.append(Line(y, short, tuple(spots), mean, paper, value))
    # Titles of thousands of dots would make the page several times as large.
    named = sum(len(line.spots) for line in lines) <= NAMED_DOTS
    description = f"{axis}. {'; '.join(describe(method) for method in methods)}."
    return Plot(identity, title, axis, description, tuple(Tick(across(n), n) for n in marks), tuple(lines), named)


def describe(method: Dots) -> str:
    """A method's line in words, for screen readers."""
    parts = []
    if method.values:
        values = [value for _, value in method.values]
        pairs = f"{len(values)} {'pair' if len(values) == 1 else 'pairs'}"
        parts.append(f"{pairs} from {figure(min(values))} to {figure(max(values))}")
    if method.mean is not None:
        parts.append(f"mean {figure(method.mean)}")
    if method.published is not None:
        parts.append(f"{figure(method.published)} in the paper")
    return f"{method.name}: {', '.join(parts)}"
