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
        (["--set", "colour=red"], "has no setting colour"),
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
    assert main(["train", "vqgan", "--data", str(tmp_path / "nothing"), "--run", str(tmp_path / "run")]) == 17
    assert "no prepared stills" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--device", "cuda"], 13, "no CUDA device can be had"),
        (["--device", "tpu"], 13, "unknown device tpu"),
        (["--set", "loop.precision=fp16", "--device", "cpu"], 13, "fp16 needs a GPU"),
        (["--set", "loop.accumulate=3"], 18, "a batch of 8 cannot be shared evenly by 1 process x loop.accumulate=3"),
    ],
)
def test_runs_that_cannot_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str], code: int,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["train", "vqgan", "--data", str(tmp_path), "--run", str(tmp_path / "run"), *more]) == code
    assert said in capsys.readouterr().err


def test_a_dry_run_needs_neither_data_nor_run_and_a_run_needs_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "vqgan", "--preset", "paper", "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"config", "parameters", "trained", "flops", "memory", "estimated"} <= told.keys()
    assert told["memory"]["total"] > 1e9
    assert main(["train", "vqgan", "--data", "."]) == 2
    assert "train needs --run FOLDER" in capsys.readouterr().err
