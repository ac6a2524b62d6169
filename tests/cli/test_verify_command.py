"""``talkswap verify`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from talkswap.cli import main
from talkswap.provenance.tags import SOURCE_TYPE, add_xmp

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def unmarked(talking_clip: Path, tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(talking_clip.read_bytes())
    return path


def test_a_marked_clip_is_told_layer_by_layer(unmarked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_xmp(unmarked)
    assert main(["verify", str(unmarked), "--frames", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "container tag: none"
    assert lines[1] == "digital source type: compositeWithTrainedAlgorithmicMedia"
    assert lines[2] == "C2PA manifest: none"
    assert lines[3] == "invisible mark: not searched"


def test_an_unmarked_clip_has_its_own_code(unmarked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(unmarked), "--json"]) == 22
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["marked"] is False and told["digital_source_type"] is None and told["c2pa"] is None
    assert told["watermark"]["found"] is False and told["watermark"]["faces"][0]["frames"] == 12
    assert "carries no mark of synthetic media" in said.err and "proves nothing" in said.err


def test_json_says_how_sure(unmarked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_xmp(unmarked)
    assert main(["verify", str(unmarked), "--json", "--frames", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["marked"] is True and told["digital_source_type"] == SOURCE_TYPE
    assert told["watermark"]["false_positive"] is None


@pytest.mark.parametrize(("name", "code"), [("nowhere.mp4", 3), ("text.mp4", 4), ("voice.wav", 5)])
def test_bad_files_have_the_codes_of_bad_files(
    name: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no clip")
    (tmp_path / "voice.wav").write_bytes((EXAMPLES / "voice.wav").read_bytes())
    assert main(["verify", str(tmp_path / name)]) == code
    assert name in capsys.readouterr().err


def test_a_trust_file_that_is_none_is_named(unmarked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(unmarked), "--trust", "nowhere.pem"]) == 3
    assert "nowhere.pem" in capsys.readouterr().err
