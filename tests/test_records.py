"""Records: there and back without a loss, and an error that names the field."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkswap.records import RecordError, from_json, from_plain, read_record, to_json, to_plain, with_settings


@dataclass(frozen=True)
class Loop:
    steps: int = 10
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True)
class Example:
    name: str
    path: Path | None = None
    start: Fraction = Fraction(0)
    people: tuple[tuple[str, Path], ...] = ()
    order: Literal["swap-sync", "sync-swap"] = "swap-sync"
    loop: Loop = Loop()
    scores: dict[str, float] = field(default_factory=dict)
    fresh: bool = False


texts = st.text(max_size=20)
examples = st.builds(
    Example,
    name=texts,
    path=st.none() | st.builds(Path, texts.filter(lambda text: "\0" not in text)),
    start=st.fractions(max_denominator=10**6, min_value=-(10**9), max_value=10**9),
    people=st.lists(st.tuples(texts, st.just(Path("a/b.png")))).map(tuple),
    order=st.sampled_from(["swap-sync", "sync-swap"]),
    loop=st.builds(Loop, st.integers(0, 10**9), st.tuples(st.floats(0, 1), st.floats(0, 1))),
    scores=st.dictionaries(texts, st.floats(allow_nan=False)),
    fresh=st.booleans(),
)


@given(examples)
def test_a_record_comes_back_as_it_was(record: Example) -> None:
    assert from_plain(Example, to_plain(record)) == record
    assert from_json(Example, to_json(record)) == record


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "name"),
        ({"name": 1}, "name"),
        ({"name": "a", "nmae": "b"}, "nmae"),
        ({"name": "a", "loop": {"steps": 1.5}}, "loop.steps"),
        ({"name": "a", "loop": {"steps": True}}, "loop.steps"),
        ({"name": "a", "loop": {"stesp": 1}}, "loop.stesp"),
        ({"name": "a", "loop": {"betas": [0.1]}}, "loop.betas.1"),
        ({"name": "a", "order": "neither"}, "order"),
        ({"name": "a", "fresh": 1}, "fresh"),
        ({"name": "a", "start": "1e999999"}, "start"),
        ({"name": "a", "start": "soon"}, "start"),
        ({"name": "a", "people": [["0", "a.png", "b.png"]]}, "people.0"),
        ({"name": "a", "people": {}}, "people"),
        ([], ""),
        (None, ""),
    ],
)
def test_a_wrong_value_is_named(values: Any, name: str) -> None:
    with pytest.raises(RecordError) as caught:
        from_plain(Example, values)
    assert caught.value.field == name
    assert caught.value.reason


def test_an_unknown_field_is_named_before_a_missing_one() -> None:
    with pytest.raises(RecordError) as caught:
        from_plain(Example, {"naem": "a"})
    assert (caught.value.field, caught.value.reason) == ("naem", "there is no such field")


def test_what_is_no_json_is_said() -> None:
    with pytest.raises(RecordError, match="not JSON"):
        from_json(Example, "{")
    with pytest.raises(RecordError, match="not JSON"):
        from_json(Example, "[" * 100_000)


def test_names_outside_text_survive() -> None:
    record = Example("a", Path("photo-\udcff.png"))
    assert json.loads(to_json(record))["path"] == "photo-\udcff.png"


def test_files_are_read_by_their_ending(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\nloop = { steps = 3 }\n')
    (tmp_path / "a.json").write_text('{"name": "a", "loop": {"steps": 3}}')
    assert read_record(Example, tmp_path / "a.toml") == read_record(Example, tmp_path / "a.json")
    (tmp_path / "b.toml").write_text("name = ")
    with pytest.raises(RecordError, match="not TOML"):
        read_record(Example, tmp_path / "b.toml")


def test_settings_go_into_nested_records() -> None:
    record = with_settings(Example("a", Path("b")), {"loop.steps": 5, "loop.betas": [0, 0.5], "path": "none"})
    assert record == Example("a", None, loop=Loop(5, (0.0, 0.5)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lop.steps": 1}, "settings here are"),
        ({"loop.stesp": 1}, "settings here are betas, steps"),
        ({"name.first": 1}, "no settings of its own"),
        ({"loop.steps": "many"}, "integer"),
        ({"order": "neither"}, "'swap-sync'"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        with_settings(Example("a"), settings)
    assert caught.value.field == next(iter(settings))


def test_importing_records_costs_nothing() -> None:
    code = "import sys, talkswap.records; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
