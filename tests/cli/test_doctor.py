"""``talkswap doctor``: what it finds, and that it fails when a render would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from talkswap.cli import doctor, main
from talkswap.errors import EncoderError, WeightsMissingError


def test_this_machine_can_encode_join_and_decode() -> None:
    (finding,) = doctor.check_corridor()
    assert finding.state == "ok" and "5 frames" in finding.detail


def test_devices_and_encoders_are_named() -> None:
    assert {"cpu"} <= {finding.check for finding in doctor.check_device()}
    details = {finding.check: finding.detail for finding in doctor.check_ffmpeg()}
    assert "libx264" in details["encoders"] and Path(details["ffmpeg"]).is_file()


def test_space_and_packages() -> None:
    findings = [*doctor.check_space(), *doctor.check_packages(), *doctor.check_python()]
    assert {"memory", "disk here", "torch", "av", "opencv", "python"} <= {finding.check for finding in findings}


def test_no_weights_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("talkswap.checkpoints.manifest.weight_roots", lambda: [(tmp_path, "nowhere")])
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_presets, doctor.check_python))
    assert main(["doctor", "--json"]) == WeightsMissingError.exit_code
    findings = json.loads(capsys.readouterr().out)
    assert [finding["state"] for finding in findings] == ["failed", "ok"]  # the others are still looked at
    assert "compact lacks" in findings[0]["detail"]
    assert main(["doctor"]) == WeightsMissingError.exit_code
    assert "hint: reinstall talkswap" in capsys.readouterr().out


def test_a_missing_ffmpeg_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent() -> Path:
        raise EncoderError("no ffmpeg was found", "pip install imageio-ffmpeg, or install ffmpeg")

    monkeypatch.setattr("talkswap.media.program.find_ffmpeg", absent)
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_ffmpeg,))
    assert main(["doctor"]) == EncoderError.exit_code
    assert capsys.readouterr().out.startswith("failed ")
