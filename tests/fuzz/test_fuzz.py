"""Some cases of each kind on every run of the tests; README.md says what a whole campaign found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import damage
from .campaign import Campaign, unplayable
from .cases import KINDS, build
from .material import make

SEED = 2026
COUNTS = {
    "target": 14, "odd": 4, "voice": 9, "source": 4, "names": 4, "special": 8, "plan": 9, "jobs": 2, "preset": 4, "verify": 6,
}  # fmt: skip
"""Cases of each kind; those of prepared data need a set that takes too long to make."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def campaign(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with Campaign(whole, SEED, tmp_path_factory.mktemp("fuzz")) as running:
        yield running


@pytest.mark.parametrize("kind", COUNTS)
def test_no_input_does_harm(kind: str, campaign: Campaign) -> None:
    found = [campaign.one(number, kind) for number in range(COUNTS[kind])]
    trouble = {f"{o.case.kind} {o.case.number}: {o.case.about}": (o.trouble, o.err) for o in found if o.trouble}
    assert trouble == {}
    assert campaign.untouched()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "data"])
def test_a_seed_and_a_number_make_one_case(kind: str, whole: Path, tmp_path: Path) -> None:
    made = []
    for room in (tmp_path / "a", tmp_path / "b"):
        case = build(SEED, 3, kind, whole, room)
        arguments = [word.replace(str(room), "") for word in case.arguments]
        files = {
            path.relative_to(room).as_posix(): path.read_bytes().replace(bytes(room), b"")
            for path in room.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        made.append((arguments, files))
    assert made[0] == made[1]


def test_damage_changes_what_it_is_given_and_nothing_else() -> None:
    data = bytes(range(256)) * 8
    changed = sum(spoil(random.Random(number), data) != data for number in range(20) for spoil in damage.BYTES)
    assert changed > 0.9 * 20 * len(damage.BYTES)
    record = {"a": [1, {"b": "c"}], "d": None}
    spoilt = [damage.spoil_words(random.Random(number), record) for number in range(50)]
    assert record == {"a": [1, {"b": "c"}], "d": None}
    assert sum(one != record for one in spoilt) > 40


def test_a_clip_that_does_not_play_is_noticed(whole: Path, tmp_path: Path) -> None:
    assert unplayable(whole / "clip.mp4") == ""
    cut = tmp_path / "cut.mp4"
    data = (whole / "clip.mp4").read_bytes()
    start = data.find(b"mdat") + 8
    cut.write_bytes(data[: start + 20] + bytes(2000) + data[start + 2020 :])
    assert unplayable(cut)
