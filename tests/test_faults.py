"""What fails on the way of a render besides what tests/test_resume.py lets fail: the program, the folder, the weights."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from talkswap.cli import main
from talkswap.errors import OutputUnwritableError, WeightsCorruptError
from talkswap.media import program
from talkswap.render.render import render_clip
from talkswap.render.segments import Span, WorkFolder, work_folder
from talkswap.types import ProgressEvent, RenderPlan

from .resume_workshop import content, small_system


@pytest.fixture
def plan(
    source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RenderPlan:
    """Three segments of four frames, by a system that answers at once."""
    monkeypatch.setattr("talkswap.render.prepare.load_system", small_system)
    output = tmp_path / "out" / "dubbed.mp4"
    output.parent.mkdir()
    return RenderPlan(
        source_photo, talking_clip, voice_file, output,
        preset="compact", device="cpu", segment_seconds=0.16, batch_size=2,
    )  # fmt: skip


def at(frame: int, act: Callable[[], object]) -> Callable[[ProgressEvent], None]:
    """A listener that does something at a frame."""

    def tell(event: ProgressEvent) -> None:
        if event.stage == "render" and event.done == frame:
            act()

    return tell


@pytest.fixture
def no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PATH leads nowhere, and the package that brings one is hidden."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    program.find_ffmpeg.cache_clear()
    yield
    program.find_ffmpeg.cache_clear()


def test_a_missing_ffmpeg_is_named_before_the_work(
    no_ffmpeg: None,
    talking_clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("talkswap.render.prepare.probe", lambda path: pytest.fail("the work was begun"))
    given = ["render", "--target", str(talking_clip), "--no-swap", "--no-sync", "--output", str(tmp_path / "x.mp4")]
    assert main(given) == 14
    said = capsys.readouterr().err
    assert "error: no ffmpeg was found" in said and "hint: pip install imageio-ffmpeg" in said
    assert list(tmp_path.iterdir()) == []


NOBODY = 65534


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder that can be read and not written; root, whom no rights hold, becomes nobody for that time."""
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        for path in folder.iterdir():
            os.chown(path, NOBODY, NOBODY)
    folder.chmod(0o500)
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder whose parents everybody may enter; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="talkswap-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_folder_that_becomes_read_only_costs_one_segment(
    plan: RenderPlan, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(plan, output=open_folder / "whole.mp4")
    render_clip(whole)
    expected = content(whole.output)
    whole.output.unlink()
    plan = replace(plan, output=open_folder / "dubbed.mp4")
    finish = WorkFolder.finish
    with ExitStack() as stack:

        def finish_and_lock(self: WorkFolder, span: Span, facts: Mapping[str, Any]) -> None:
            finish(self, span, facts)
            stack.enter_context(locked(work_folder(plan.output)))

        monkeypatch.setattr(WorkFolder, "finish", finish_and_lock)
        with pytest.raises(OutputUnwritableError, match="permission denied"):
            render_clip(plan)
    monkeypatch.setattr(WorkFolder, "finish", finish)
    assert render_clip(plan).resumed_frames == 4
    assert content(plan.output) == expected
    assert [path.name for path in open_folder.iterdir()] == [plan.output.name]


def test_an_output_folder_that_goes_away_is_named(plan: RenderPlan) -> None:
    with pytest.raises(OutputUnwritableError):
        render_clip(plan, at(6, lambda: shutil.rmtree(plan.output.parent)))
    assert not plan.output.exists()


def test_weights_replaced_between_check_and_load_are_refused(
    plan: RenderPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import talkswap.render.prepare as preparation
    from talkswap.checkpoints.presets import find_preset

    copy = tmp_path / "weights" / "compact"
    shutil.copytree(find_preset("compact").folders[0], copy)
    check = preparation.find_preset

    def check_and_replace(*arguments: Any) -> object:
        found = check(*arguments)
        data = (copy / "faces" / "landmarks.safetensors").read_bytes()
        (copy / "faces" / "landmarks.safetensors").write_bytes(data[:-2] + bytes(2))
        return found

    monkeypatch.setattr(preparation, "find_preset", check_and_replace)
    with pytest.raises(WeightsCorruptError, match="landmarks.safetensors"):
        render_clip(replace(plan, weights=copy))
    assert list(plan.output.parent.iterdir()) == []


def test_a_gpu_too_small_for_the_photo_is_a_sentence(plan: RenderPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from talkswap.errors import DeviceError

    from . import resume_workshop

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resume_workshop.SmallSystem, "begin", full)
    with pytest.raises(DeviceError, match="memory is too small") as caught:
        render_clip(plan)
    assert caught.value.hint and list(plan.output.parent.iterdir()) == []
