"""``talkswap weights`` and ``--weights`` as a user types them, with the weights that travel with talkswap."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from talkswap.checkpoints.manifest import write_manifest
from talkswap.checkpoints.preset_folder import load_weights
from talkswap.checkpoints.presets import find_preset
from talkswap.cli import main
from talkswap.files import file_sha256

COMPACT = Path(__file__).parents[2] / "weights" / "compact"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped lip-sync as the run folder that it came from."""
    folder = tmp_path_factory.mktemp("run") / "lip-sync"
    shutil.copytree(COMPACT / "swaptalk" / "runs" / "lip-sync", folder)
    (folder / "export").mkdir()
    for name in ("lip_sync.json", "lip_sync.safetensors"):
        shutil.copy(COMPACT / "swaptalk" / name, folder / "export")
    (folder / "clips.json").rename(folder / "export" / "clips.json")
    return folder


@pytest.fixture(scope="module")
def mine(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset packed by the command: that run, the rest from the shipped weights, in shards; not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "mine"
    command = ["weights", "pack", str(run), "--out", str(out), "--base", str(COMPACT), "--precision", "int8"]
    assert main([*command, "--largest-mb", "2", "--licence", "Research use only"]) == 0
    return out


def test_pack_says_what_it_made(run: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again"
    command = ["weights", "pack", str(run), "--out", str(out), "--base", str(mine), "--name", "Again"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert re.fullmatch(rf"{re.escape(str(out))}: 10 networks like the compact preset, \d+\.\d MB\n", said.out)
    assert "names no licence" in said.err
    assert main(command) == 9
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_pack_names_missing_networks(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "pack", str(run), "--out", str(tmp_path / "out")]) == 11
    said = capsys.readouterr().err
    assert (
        "needs faces/detector, faces/landmarks, faces/identity, swaptalk/vqgan, swaptalk/face_swap as well" in said
        and "--base" in said
    )
    assert main(["weights", "pack", str(tmp_path / "no"), "--out", str(tmp_path / "out")]) == 3
    notes = ["--notes", str(tmp_path / "no.md")]
    assert main(["weights", "pack", str(run), "--out", str(tmp_path / "out"), *notes]) == 3


def test_a_packed_preset_renders(
    mine: Path,
    source_photo: Path,
    talking_clip: Path,
    voice_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    media = ["--source", str(source_photo), "--target", str(talking_clip), "--audio", str(voice_file)]
    report = tmp_path / "report.json"
    assert len(list(mine.glob("swaptalk/vqgan-*-of-*.safetensors"))) > 1
    command = ["render", *media, "--output", str(tmp_path / "dubbed.mp4"), "--report", str(report)]
    assert main([*command, "--weights", str(mine)]) == 0
    said = capsys.readouterr()
    assert "12 frames" in said.out and f"preset compact: {mine}" in said.err
    done = json.loads(report.read_text())
    assert (
        "swaptalk/vqgan-00001-of-00006.safetensors" in done["weights"]
        and "swaptalk/vqgan.safetensors" not in done["weights"]
    )
    assert main([*command, "--weights", str(tmp_path / "nowhere"), "--overwrite"]) == 11
    assert "not there" in capsys.readouterr().err
    assert main([*command, "--weights", str(mine), "--preset", "paper", "--overwrite"]) == 2


def test_shards_hold_the_same_network(mine: Path) -> None:
    whole, split = (load_weights(find_preset("compact", folder), "swaptalk/vqgan") for folder in (COMPACT, mine))
    assert whole.keys() == split.keys() and all(bool((whole[n] == split[n]).all()) for n in whole)


def test_faces_takes_the_folder(
    mine: Path, talking_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["faces", str(talking_clip), "--thumbnails", str(tmp_path), "--json", "--weights"]
    assert main([*command, str(mine)]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert main([*command, str(tmp_path)]) == 11


def test_doctor_looks_at_the_folder(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from talkswap.cli import doctor

    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python,))
    assert main(["doctor", "--weights", str(mine)]) == 0
    assert f"weights {mine}" in capsys.readouterr().out
    assert main(["doctor", "--json", "--weights", str(tmp_path)]) == 11
    assert [f["state"] for f in json.loads(capsys.readouterr().out)] == ["ok", "failed"]


def test_bench_of_random_weights_takes_no_folder(mine: Path) -> None:
    assert main(["bench", "--random-weights", "--preset", "compact", "--weights", str(mine)]) == 2


def test_check(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "check", str(mine)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["FILE", "BYTES", "STATE"] and all(line.endswith("whole") for line in lines[1:])
    folder = tmp_path / "copy"
    shutil.copytree(mine, folder)
    (folder / "swaptalk" / "vqgan.json").write_text("{}")
    (folder / "stray.json").write_text("{}")
    assert main(["weights", "check", str(folder), "--json"]) == 12
    said = capsys.readouterr()
    states = {row["file"]: row["state"] for row in json.loads(said.out)}
    assert "is damaged" in states["swaptalk/vqgan.json"] and "not listed" in states["stray.json"]
    assert "damaged or not listed: swaptalk/vqgan.json, stray.json" in said.err
    (folder / "stray.json").unlink()
    (folder / "swaptalk" / "vqgan.json").unlink()
    assert main(["weights", "check", str(folder)]) == 11
    assert "missing: swaptalk/vqgan.json" in capsys.readouterr().err
    write_manifest(folder)
    assert main(["weights", "check", str(folder)]) == 11
    assert "lacks swaptalk/vqgan.json" in capsys.readouterr().err
    assert main(["weights", "check", str(tmp_path)]) == 11


def test_list(mine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(mine.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["weights", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == ["mine", "compact"]
    assert listed[0]["folder"] == str(mine) and listed[0]["missing"] == [] and listed[0]["preset"] == "compact"
    assert main(["weights", "list"]) == 0
    assert str(COMPACT) in capsys.readouterr().out


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights as they lay before systems had folders: all networks side by side, runs/ at the top."""
    folder = tmp_path_factory.mktemp("old") / "flat"
    (folder / "runs").mkdir(parents=True)
    for path in [*COMPACT.glob("faces/*.*"), *COMPACT.glob("swaptalk/*.*")]:
        shutil.copy(path, folder)
    for path in COMPACT.glob("*/runs/*"):
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, folder / "runs" / path.name)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n[the joint run](runs/joint), a score of 0.42\n")
    lines = ["version = 1", 'name = "old"']
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        lines += [
            "[[file]]",
            f'file = "{path.name}"',
            f"size = {path.stat().st_size}",
            f'sha256 = "{file_sha256(path)}"',
        ]
    (folder / "manifest.toml").write_text("\n".join(lines) + "\n")
    return folder


def test_an_old_flat_folder_renders_and_one_line_says_so(
    flat: Path,
    source_photo: Path,
    talking_clip: Path,
    voice_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    media = ["--source", str(source_photo), "--target", str(talking_clip), "--audio", str(voice_file)]
    assert main(["render", *media, "--output", str(tmp_path / "dubbed.mp4"), "--weights", str(flat)]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "old preset folder" in line]
    assert f"talkswap weights pack --base {flat} --out NEW" in line
    assert main(["weights", "check", str(flat)]) == 0
    assert "old preset folder" in capsys.readouterr().err


def test_pack_moves_an_old_flat_folder_on(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new"
    assert main(["weights", "pack", "--base", str(flat), "--out", str(new)]) == 0
    assert "8 networks like the compact preset" in capsys.readouterr().out
    assert main(["weights", "check", str(new)]) == 0
    assert "old preset" not in capsys.readouterr().err
    for path in [*new.glob("*/*.json"), *new.glob("*/*.safetensors")]:
        assert file_sha256(path) == file_sha256(flat / path.name)  # not a byte of a network changes
    assert (new / "swaptalk" / "runs" / "joint" / "config.json").is_file()
    assert (new / "faces" / "runs" / "detector" / "scores.json").is_file()
    card = (new / "README.md").read_text()
    assert "[the joint run](swaptalk/runs/joint), a score of 0.42" in card
    assert main(["weights", "pack", "--out", str(tmp_path / "nothing")]) == 2
    assert "nothing to pack" in capsys.readouterr().err
