"""``talkswap render`` as a user types it: what it prints, and what it says of bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from talkswap.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def render(
    source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command with some options changed; None leaves an option out."""

    def run(*extra: str, **changes: str | Path | None) -> tuple[int, str, str]:
        options: dict[str, str | Path | None] = {
            "source": source_photo,
            "target": talking_clip,
            "audio": voice_file,
            "output": tmp_path / "dubbed.mp4",
            "preset": "compact",
            "device": "cpu",
        } | changes
        given = [x for name, value in options.items() if value is not None for x in (f"--{name}", str(value))]
        code = main(["render", *given, *extra])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_it_ends_with_one_line_that_says_where_the_clip_is(render: Run, tmp_path: Path) -> None:
    code, out, err = render("--report", str(tmp_path / "report.json"))
    assert code == 0
    assert re.fullmatch(
        r".*dubbed\.mp4: 12 frames, 0\.48 s of video in [\d.]+ s, real-time factor [\d.]+, compact weights, cpu\n", out
    )
    assert "device cpu" in err and "12/12 frames" in err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["frames_out"] == 12 and report["plan"]["preset"] == "compact"


def test_quiet_keeps_stderr_empty(render: Run) -> None:
    assert render("--quiet")[2] == ""


def test_dry_run_prints_the_plan_as_json(render: Run, tmp_path: Path) -> None:
    code, out, _ = render("--dry-run")
    assert code == 0 and json.loads(out)["frames"] == 12
    assert not (tmp_path / "dubbed.mp4").exists()


def text(path: Path) -> Path:
    path.write_text("this is no video\n")
    return path


def cut(path: Path, whole: Path) -> Path:
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


def silent(path: Path) -> Path:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
    return path


def picture(path: Path, level: int) -> Path:
    import cv2

    cv2.imwrite(str(path), np.full((160, 160, 3), level, np.uint8))
    return path


BAD: dict[str, tuple[int, Callable[[Path, Path], dict[str, str | Path]]]] = {
    "missing source": (3, lambda t, c: {"source": t / "no.png"}),
    "missing target": (3, lambda t, c: {"target": t / "no.mp4"}),
    "missing voice": (3, lambda t, c: {"audio": t / "no.wav"}),
    "directory as source": (3, lambda t, c: {"source": t}),
    "directory as target": (3, lambda t, c: {"target": t}),
    "directory as voice": (3, lambda t, c: {"audio": t}),
    "text named mp4": (4, lambda t, c: {"target": text(t / "text.mp4")}),
    "text named png": (4, lambda t, c: {"source": text(t / "text.png")}),
    "text named wav": (4, lambda t, c: {"audio": text(t / "text.wav")}),
    "empty source": (4, lambda t, c: {"source": silent(t / "x.wav").rename(t / "x.png")}),
    "truncated mp4": (4, lambda t, c: {"target": cut(t / "cut.mp4", c)}),
    "sound as target": (5, lambda t, c: {"target": silent_sound(t / "sound.wav")}),
    "zero-length wav": (6, lambda t, c: {"audio": silent(t / "zero.wav")}),
    "no face in source": (7, lambda t, c: {"source": picture(t / "wall.png", 120)}),
    "no such face": (8, lambda t, c: {"face": "7"}),
    "unknown ending": (10, lambda t, c: {"output": t / "dubbed.doc"}),
    "missing folder": (10, lambda t, c: {"output": t / "no" / "dubbed.mp4"}),
    "unknown preset": (2, lambda t, c: {"preset": "best"}),
    "unknown encoder": (14, lambda t, c: {"encoder": "libx999"}),
    "unknown fit": (2, lambda t, c: {"fit": "stretch"}),
    "crf out of range": (14, lambda t, c: {"crf": "99"}),
}


def silent_sound(path: Path) -> Path:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(6400))
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_a_hint_and_its_code(
    case: str, render: Run, talking_clip: Path, tmp_path: Path
) -> None:
    expected, change = BAD[case]
    before = {p.name for p in tmp_path.iterdir()}
    changes = change(tmp_path, talking_clip)
    code, out, err = render("--quiet", **changes)
    assert code == expected, err
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+[^.\n]\n\nhint: [^\n]+[^.\n]\n", err), err
    assert "Traceback" not in err
    made = {p.name for p in tmp_path.iterdir()} - before - {Path(str(p)).name for p in changes.values()}
    assert not any(name.startswith((".talkswap", "dubbed")) for name in made), "something half-written was left"


def test_an_existing_output_is_kept(render: Run, tmp_path: Path) -> None:
    (tmp_path / "dubbed.mp4").write_bytes(b"mine")
    code, _, err = render()
    assert code == 9 and "--overwrite" in err
    assert (tmp_path / "dubbed.mp4").read_bytes() == b"mine"
    assert render("--overwrite", "--quiet")[0] == 0


def test_a_gpu_that_is_not_there_is_an_error(render: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = render(device="cuda")
    assert code == 13 and "no CUDA device can be had" in err


def test_weights_that_were_changed_are_refused(render: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from talkswap.checkpoints.presets import find_preset

    copy = tmp_path / "weights" / "compact"
    shutil.copytree(find_preset("compact").folders[0], copy)
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path / "weights"))
    data = bytearray((copy / "swaptalk" / "vqgan.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "swaptalk" / "vqgan.safetensors").write_bytes(data)
    code, _, err = render("--quiet")
    assert code == 12 and "vqgan.safetensors is damaged" in err
    (copy / "swaptalk" / "vqgan.safetensors").unlink()
    monkeypatch.setattr("talkswap.checkpoints.manifest.checkout_weights", lambda: None)
    monkeypatch.setattr("talkswap.checkpoints.manifest.packaged_weights", lambda: None)
    code, _, err = render("--quiet")
    assert code == 11 and "vqgan" in err


def test_names_with_spaces_quotes_and_other_letters_render(render: Run, talking_clip: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'l\'été "ß" 映画 %d.mp4'
    odd.write_bytes(talking_clip.read_bytes())
    code, out, _ = render("--quiet", target=odd, output=tmp_path / "-dubbed 映画.mp4")
    assert code == 0 and (tmp_path / "-dubbed 映画.mp4").is_file()


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("nowhere/report.json", 10, "there is no folder"),
        (".", 10, "is a folder"),
        ("locked/report.json", 10, "read-only"),
        ("dubbed.mp4", 2, "would replace a file of this render"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    render: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, said: str
) -> None:
    import os

    access = os.access
    (tmp_path / "locked").mkdir()
    # root may write anywhere, so the file system's answer is given here
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    monkeypatch.setattr(
        "talkswap.render.render.render_clip", lambda plan, progress: pytest.fail("the render was begun")
    )
    got, out, err = render("--report", str(tmp_path / name))
    assert got == code and said in err and out == ""
    assert render("--dry-run", "--report", str(tmp_path / name))[0] == code


def test_the_last_line_is_said_though_the_report_fails(
    render: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from talkswap.types import RenderReport

    done = RenderReport(Path("x.mp4"), 1, 1, 1.0, 1.0, 1.0, "compact", "cpu", [], 0, None, {}, 1.0)
    monkeypatch.setattr(
        "talkswap.render.render.render_clip", lambda plan, progress: (tmp_path / "gone").rmdir() or done
    )
    (tmp_path / "gone").mkdir()
    code, out, err = render("--quiet", "--report", str(tmp_path / "gone" / "report.json"))
    assert code == 10 and out.startswith("x.mp4: 1 frames") and "cannot write" in err


def test_there_is_no_seed(render: Run) -> None:
    code, _, err = render("--seed", "1")
    assert code == 2 and "--seed" in err


def test_each_system_brings_its_own_options(render: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for system, there in (("swaptalk", True), ("wav2lip", False)):
        assert main(["render", "--system", system, "--help"]) == 0
        assert ("--order" in capsys.readouterr().out) == there
    code, _, err = render("--system=wav2lip", "--order", "sync-swap")
    assert code == 2 and "the system wav2lip has no option --order" in err
    assert "choose one of: swaptalk" in render(system="nobody")[2]
    assert render("--order", "sync-swap", "--save-plan", str(tmp_path / "plan.json"))[0] == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["options"] == {"mode": "cross", "order": "sync-swap", "networks": "auto"}


def test_a_systems_options_may_stand_beside_the_plans(tmp_path: Path) -> None:
    from talkswap.errors import UsageError
    from talkswap.render.plan_file import plan_from_json

    least: dict[str, object] = {"source": None, "target": "t.mp4", "audio": None, "output": "o.mp4"}
    assert plan_from_json(least | {"order": "sync-swap"}, tmp_path).options == {"order": "sync-swap"}
    assert plan_from_json(least | {"options": {"mode": "self"}}, tmp_path).options == {"mode": "self"}
    with pytest.raises(UsageError, match="--order of the system swaptalk can't be 'x'"):
        plan_from_json(least | {"order": "x"}, tmp_path)
    with pytest.raises(UsageError, match="unknown fields: order"):
        plan_from_json(least | {"order": "sync-swap", "system": "wav2lip"}, tmp_path)
