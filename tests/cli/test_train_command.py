"""``talkswap train``: from what a user types to what the loop is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from talkswap.cli import main
from talkswap.cli.train import flatten, read_config, read_setting
from talkswap.errors import InputMissingError, UsageError


def test_nested_settings_become_dotted() -> None:
    assert flatten({"size": 160, "loop": {"steps": 5, "betas": [0.9, 0.99]}}) == {
        "size": 160,
        "loop.steps": 5,
        "loop.betas": [0.9, 0.99],
    }


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("loop.steps=500", ("loop.steps", 500)),
        ("loop.learning_rate=3e-4", ("loop.learning_rate", 3e-4)),
        ("decoder_only=true", ("decoder_only", True)),
        ("loop.betas=[0.5, 0.9]", ("loop.betas", [0.5, 0.9])),
        ("start=/some/where.safetensors", ("start", "/some/where.safetensors")),
        ('name="3"', ("name", "3")),
        ("note=a=b", ("note", "a=b")),
    ],
)
def test_values_are_toml_or_text(text: str, setting: tuple[str, object]) -> None:
    assert read_setting(text) == setting


@pytest.mark.parametrize("text", ["loop.steps", "=5"])
def test_a_setting_needs_a_name_and_a_value(text: str) -> None:
    with pytest.raises(UsageError):
        read_setting(text)


def test_config_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps = = 5")
    with pytest.raises(UsageError, match="not TOML"):
        read_config(tmp_path / "bad.toml")


def test_the_command_line_beats_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.toml").write_text("size = 160\n[loop]\nsteps = 7\nbatch = 3\n")
    arguments = ["train", "vqgan", "--data", str(tmp_path), "--run", str(tmp_path / "run"), "--dry-run"]
    arguments += ["--config", str(tmp_path / "small.toml"), "--steps", "9", "--set", "perceptual=0.5"]
    assert main(arguments) == 0
    resolved = json.loads(capsys.readouterr().out)
    config = resolved["config"]
    assert (config["size"], config["loop"]["steps"], config["loop"]["batch"]) == (160, 9, 3)
    assert config["perceptual"] == 0.5 and config["data"] == str(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "colour=red"], "there is no setting colour"),
        (["--set", "size=big"], "no value for size"),
    ],
)
def test_unknown_settings_are_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(["train", "vqgan", "--data", str(tmp_path), "--run", str(tmp_path / "run"), "--dry-run", *more]) == 2
    assert said in capsys.readouterr().err


def test_unknown_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "telepathy", "--data", str(tmp_path), "--run", str(tmp_path / "run")]) == 2
    assert "choose one of: faces" in capsys.readouterr().err


def test_missing_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", str(tmp_path / "nothing"), str(tmp_path / "out"), "--teachers", str(tmp_path)]) == 3
    assert "is no folder" in capsys.readouterr().err
