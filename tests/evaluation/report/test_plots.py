"""Plots as SVG: they parse, their marks lie where the numbers say, and they speak."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from talkswap.evaluation.report.plots import LEFT, NAMED_DOTS, RIGHT, WIDTH, Dots, dot_plot, round_numbers
from talkswap.evaluation.report.report import templates

LINES = [
    Dots("Ground Truth", (("pair 1: a → b", 1.0), ("pair 2: a → c", 3.0)), mean=2.0),
    Dots("<b>&", (("pair 1: <x>", 5.0),), mean=5.0, published=4.0),
    Dots("nothing", ()),
]


def drawn(lines: list[Dots]) -> ElementTree.Element:
    plot = dot_plot("plot-1", "Self-driven: <LMD>", "LMD, px", lines)
    return ElementTree.fromstring(templates().get_template("plot.svg.jinja").render(plot=plot))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_hold_all_values(low: float, width: float) -> None:
    assume(width > 1e-4 * abs(low))  # below, the steps drown in rounding, and no metric looks like that
    high = low + width
    marks = round_numbers(low, high)
    margin = (marks[1] - marks[0]) * 1e-6
    assert marks[0] <= low + margin and marks[-1] >= high - margin
    assert 2 <= len(marks) <= 8
    steps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
    assert max(steps) - min(steps) <= 1e-6 * max(abs(marks[0]), abs(marks[-1]), steps[0])
    assert f"{steps[0]:.3e}"[0] in "1259"  # 9.999 is a 10 that lost its last digit


def test_equal_values_get_an_axis() -> None:
    assert round_numbers(0, 0)[0] < 0 < round_numbers(0, 0)[-1]
    assert round_numbers(7.5, 7.5)[0] < 7.5 < round_numbers(7.5, 7.5)[-1]


def test_dots_lie_where_their_values_are() -> None:
    svg = drawn(LINES)
    axis = [float(mark.attrib["d"][1:].split()[0]) for mark in svg.findall("path[@class='grid']")]
    assert axis[0] == LEFT and axis[-1] == WIDTH - RIGHT
    low, high = 1.0, 5.0  # the ticks of these values
    for dot, value in zip(svg.findall("circle"), (1.0, 3.0, 5.0), strict=True):
        expected = LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        assert float(dot.attrib["cx"]) == pytest.approx(expected, abs=0.06)
    assert len(svg.findall("path[@class='mean']")) == 2
    assert len(svg.findall("path[@class='paper']")) == 1


def test_the_plot_says_what_it_shows() -> None:
    svg = drawn(LINES)
    title, description = svg.find("title"), svg.find("desc")
    assert title is not None and title.text == "Self-driven: <LMD>"
    assert description is not None and description.text == (
        "LMD, px. Ground Truth: 2 pairs from 1.000 to 3.000, mean 2.000; <b>&: 1 pair from 5.000 to 5.000, mean 5.000, "
        "4.000 in the paper."
    )
    assert svg.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    assert [dot.findtext("title") for dot in svg.findall("circle")][2] == "pair 1: <x>: 5.000"
    assert any(text.text == "LMD, px" for text in svg.findall("text"))


def test_many_dots_are_one_path() -> None:
    many = Dots("m", tuple((f"pair {n}", float(n)) for n in range(NAMED_DOTS + 1)))
    svg = drawn([many])
    path = svg.find("path[@class='dots']")
    assert path is not None and path.attrib["d"].count("M") == NAMED_DOTS + 1
    assert not svg.findall("circle")


def test_a_plot_needs_a_value() -> None:
    with pytest.raises(ValueError, match="without a value"):
        dot_plot("p", "t", "a", [Dots("nothing", ())])


def test_control_characters_are_shown_not_sent() -> None:
    page = templates().from_string("{{ text }}").render(text="a\x1b[31m\n\x00<'\">")
    assert page == "a\\x1b[31m\\n\\x00&lt;&#39;&#34;&gt;"
