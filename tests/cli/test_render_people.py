"""``render --map`` and ``--voice`` as a user types them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from talkswap.cli import main
from talkswap.cli.options import option_values
from talkswap.errors import UsageError
from talkswap.types import option


@dataclass(frozen=True)
class Faces:
    map: tuple[tuple[str, Path], ...] = option((), "One person's face.", metavar="ID=PHOTO")


def test_people_and_files_are_taken_apart_at_the_first_sign() -> None:
    assert option_values(Faces, {"map": ["0=a.png", "anna.jpg=b=c.png"]}) == {
        "map": (("0", Path("a.png")), ("anna.jpg", Path("b=c.png")))
    }
    assert option_values(Faces, {"map": None}) == {}
    for wrong in ("face.png", "=face.png", "0="):
        with pytest.raises(UsageError, match="--map takes ID=PHOTO"):
            option_values(Faces, {"map": [wrong]})


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--map", "face.png"], 2, "--map takes ID=PHOTO"),
        (["--map", "0=nowhere.png"], 3, "there is no file nowhere.png"),
        (["--voice", "0=nowhere.wav", "--no-swap"], 3, "nowhere.wav"),
        (["--voice", "0=nowhere.wav"], 2, "of face 0 needs a source photo"),
    ],
)
def test_mistakes_are_named_before_any_work(
    arguments: list[str], code: int, said: str, talking_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "--target", str(talking_clip), "--device", "cpu", *arguments]) == code
    assert said in " ".join(capsys.readouterr().err.split())
