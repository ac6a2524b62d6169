"""Means and intervals of ratings against closed forms; bad rows named and counted."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.study.scores import Rating, _within, mean_interval, read_answers, score, student_quantile
from talkswap.evaluation.study.study import StudyClip, StudyKey, read_key

KEY = StudyKey(
    "s1",
    0,
    "t",
    {"lip_sync": "Lips?", "quality": "Picture?"},
    {
        name: StudyClip(setting, method, method.upper(), pair, "a", "b", "v.mp4")
        for name, setting, method, pair in (
            ("c1", "self", "x", 0), ("c2", "self", "x", 1), ("c3", "self", "y", 0), ("c4", "cross", "x", 0),
        )
    },
)  # fmt: skip
HEAD = ["study", "rater", "clip", "question", "rating"]


def write(path: Path, rows: list[list[object]], head: list[str] = HEAD) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    [  # a printed table of Student's t
        (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776), (0.975, 9, 2.262),
        (0.975, 10, 2.228), (0.975, 29, 2.045), (0.975, 30, 2.042), (0.975, 120, 1.980), (0.95, 5, 2.015), (0.995, 7, 3.499),
    ],
)  # fmt: skip
def test_students_t_is_that_of_the_tables(probability: float, degrees: int, value: float) -> None:
    assert student_quantile(probability, degrees) == pytest.approx(value, abs=5e-4)


def test_students_t_in_closed_form() -> None:
    for probability in (0.5, 0.6, 0.9, 0.975, 0.999):
        one = math.tan(math.pi * (probability - 0.5))  # Cauchy
        part = 2 * probability - 1
        two = part * math.sqrt(2 / (1 - part**2))
        assert student_quantile(probability, 1) == pytest.approx(one, rel=1e-9, abs=1e-9)
        assert student_quantile(probability, 2) == pytest.approx(two, rel=1e-9, abs=1e-9)


def test_students_distribution_is_the_integral_of_its_density() -> None:
    for degrees in (1, 2, 3, 6, 11):
        t = np.linspace(0, 2.5, 200_001)
        constant = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
        density = constant * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
        share = 2 * float(np.trapezoid(density, t))
        assert _within(math.atan(2.5 / math.sqrt(degrees)), degrees) == pytest.approx(share, abs=1e-9)


def test_the_interval_of_a_balanced_study_follows_from_its_mean_squares() -> None:
    """Raters times clips, one rating each: variance = (MS raters + MS clips - MS total) / N."""
    table = (
        np.random.default_rng(3).normal([[2.6, 3.0, 3.4, 2.8, 3.2]], 0.15, (4, 5)) + np.linspace(-0.3, 0.3, 4)[:, None]
    )
    raters, clips = np.indices(table.shape)
    found = mean_interval(table.ravel().tolist(), raters.ravel().tolist(), clips.ravel().tolist())
    mean = table.mean()
    between_raters = 5 * ((table.mean(1) - mean) ** 2).sum() / 3
    between_clips = 4 * ((table.mean(0) - mean) ** 2).sum() / 4
    total = ((table - mean) ** 2).sum() / 19
    variance = (between_raters + between_clips - total) / 20
    assert variance > max(between_raters, between_clips) / 20  # the guard does not act here
    half = 3.1824463 * math.sqrt(variance)  # t of 3 degrees of freedom: 4 raters, 5 clips
    assert found.mean == pytest.approx(mean)
    assert found.low == pytest.approx(mean - half, abs=1e-6) and found.high == pytest.approx(mean + half, abs=1e-6)
    assert (found.raters, found.clips, found.ratings, found.note) == (4, 5, 20, "")


def test_one_rating_a_rater_is_the_plain_interval_of_a_mean() -> None:
    values = [2.0, 3.0, 3.0, 4.0, 2.5, 3.5]
    found = mean_interval(values, range(6), ["c"] * 6)
    half = 2.5705818 * np.std(values, ddof=1) / math.sqrt(6)
    assert found.low == pytest.approx(3.0 - half) and found.high == pytest.approx(3.0 + half)
    assert "one clip" in found.note


def test_more_ratings_of_the_same_raters_do_not_narrow_what_raters_differ_in() -> None:
    """A rater who answers ten times as often is still one rater."""
    few = mean_interval([2, 3, 4], ["a", "b", "c"], ["x"] * 3)
    many = mean_interval([2] * 10 + [3] * 10 + [4] * 10, ["a"] * 10 + ["b"] * 10 + ["c"] * 10, [*range(10)] * 3)
    assert many.high - many.low >= 0.99 * (few.high - few.low)  # type: ignore[operator]


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    """Six raters and eight clips that differ, drawn 400 times: at least nine intervals of ten hold the mean."""
    random = np.random.default_rng(5)
    raters, clips = (indices.ravel().tolist() for indices in np.indices((6, 8)))
    held = 0
    for _ in range(400):
        table = 3 + random.normal(0, 0.3, (6, 1)) + random.normal(0, 0.3, (1, 8)) + random.normal(0, 0.3, (6, 8))
        found = mean_interval(table.ravel().tolist(), raters, clips)
        held += found.low <= 3 <= found.high  # type: ignore[operator]
    assert held / 400 > 0.9


def test_the_interval_stays_on_the_scale_and_needs_two_of_something() -> None:
    wide = mean_interval([1, 5], ["a", "b"], ["x", "y"])
    assert (wide.low, wide.high) == (1, 5)
    alone = mean_interval([4, 2], ["a", "a"], ["x", "x"])
    assert (alone.mean, alone.low, alone.high) == (3, None, None) and "no interval" in alone.note
    assert "one rater" in mean_interval([4, 2, 3], ["a"] * 3, ["x", "y", "z"]).note
    with pytest.raises(ValueError, match="equally many"):
        mean_interval([], [], [])


def test_bad_rows_are_named_and_the_others_count(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        [
            ["s1", "ann", "c1", "lip_sync", 5],
            ["s2", "ann", "c1", "lip_sync", 5],
            ["s1", "", "c1", "lip_sync", 5],
            ["s1", "ann", "c9", "lip_sync", 5],
            ["s1", "ann", "c1", "beauty", 5],
            ["s1", "ann", "c1", "quality", 6],
            ["s1", "ann", "c1", "quality", "4.5"],
            ["s1", "ann", "c1", "quality", "٣"],
            ["s1", "ann", "c1", "quality", "0000000059"],
            ["s1", "ann", "c1"],
            [],
            ["s1", "ann", "c2", "lip_sync", 1],
        ],
    )
    answers = read_answers([path], KEY)
    assert answers.ratings == (Rating("ann", "c1", "lip_sync", 5), Rating("ann", "c2", "lip_sync", 1))
    assert [row.line for row in answers.bad] == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    reasons = [row.reason for row in answers.bad]
    for part, reason in zip(
        (
            "'s2'",
            "no rater",
            "no clip 'c9'",
            "no question 'beauty'",
            "'6'",
            "'4.5'",
            "'٣'",
            "'0000000059'",
            "no question ''",
        ),
        reasons,
        strict=True,
    ):
        assert part in reason
    assert all(row.file == str(path) for row in answers.bad)


def test_a_file_saved_twice_counts_once_and_a_changed_mind_is_named(tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", [["s1", "ann", "c1", "lip_sync", 2], ["s1", "ann", "c2", "lip_sync", 3]])
    second = write(tmp_path / "2.csv", [["s1", "ann", "c1", "lip_sync", 4], ["s1", "ann", "c2", "lip_sync", 3]])
    answers = read_answers([first, second], KEY)
    assert {(r.clip, r.value) for r in answers.ratings} == {("c1", 4), ("c2", 3)}
    assert [(row.file, row.line) for row in answers.bad] == [(str(first), 2)]


def test_columns_may_come_in_any_order_and_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("﻿rating, clip,question,rater,study,remark\r\n5,c1,lip_sync,ann,s1,x\r\n", encoding="utf-8")
    assert read_answers([path], KEY).ratings == (Rating("ann", "c1", "lip_sync", 5),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column 'study'"),
        (b"study,rater,clip,question\ns1,a,c1,lip_sync\n", "no column 'rating'"),
        (b"\xff\xfe\x00x", "no CSV file"),
        (b"study,rater,clip,question,rating\n", "no answer counts"),
        (b"study,rater,clip,question,rating\ns2,a,c1,lip_sync,3\n", "the first of 1 bad rows"),
        (b"study,rater,clip,question,rating\n" + b'"' + b"x" * 200_000 + b'"\n', "no CSV file"),
    ],
)
def test_files_that_hold_no_answers(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(TrainingDataError, match=message):
        read_answers([path], KEY)


def test_missing_files_and_foreign_keys(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="cannot read"):
        read_answers([tmp_path / "missing.csv"], KEY)
    for content in ("", "[]", "{}", '{"clips": {"a": 1}}', '{"clips": {}, "other": 1}'):
        (tmp_path / "key.json").write_text(content)
        with pytest.raises(TrainingDataError, match="no key of a study"):
            read_key(tmp_path / "key.json")
    with pytest.raises(TrainingDataError, match="no key at"):
        read_key(tmp_path / "missing.json")


def test_scores_are_by_setting_method_and_question(tmp_path: Path) -> None:
    rows: list[list[object]] = []
    for rater, shift in (("ann", 0), ("bob", 1)):
        rows += [["s1", rater, clip, "lip_sync", 2 + shift] for clip in ("c1", "c2")]
        rows += [["s1", rater, "c3", "lip_sync", 4 + shift], ["s1", rater, "c4", "quality", 1 + shift]]
    scores = score(read_answers([write(tmp_path / "a.csv", rows)], KEY), KEY)
    found = {(s.setting, s.method, s.question): (s.interval.mean, s.interval.ratings, s.label) for s in scores}
    assert found == {
        ("self", "x", "lip_sync"): (2.5, 4, "X"),
        ("self", "y", "lip_sync"): (4.5, 2, "Y"),
        ("cross", "x", "quality"): (1.5, 2, "X"),
    }
