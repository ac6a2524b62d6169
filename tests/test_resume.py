"""A render that was interrupted, however it was, goes on and gives what an uninterrupted one gives, bit for bit."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talkswap.cli import main
from talkswap.errors import EncoderError, NoTargetFaceError, OutputUnwritableError
from talkswap.media import program
from talkswap.render.corridor import Corridor
from talkswap.render.forecast import plan_summary
from talkswap.render.render import render_clip
from talkswap.render.segments import work_folder
from talkswap.types import ProgressEvent, RenderPlan

from .resume_workshop import SmallPerformance, content, small_system

FRAMES = 12


class Stop(Exception):
    """In the place of whatever ends a render."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renders with a system that answers at once."""
    monkeypatch.setattr("talkswap.render.prepare.load_system", small_system)


@pytest.fixture
def plan(source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path) -> RenderPlan:
    """Three segments of four frames."""
    output = tmp_path / "out" / "dubbed.mp4"
    output.parent.mkdir()
    return RenderPlan(
        source_photo, talking_clip, voice_file, output,
        preset="compact", device="cpu", segment_seconds=0.16, batch_size=2,
    )  # fmt: skip


@pytest.fixture
def whole(plan: RenderPlan, small: None) -> tuple[Any, Any]:
    """What an uninterrupted render gives: the decoded file, and the report."""
    there = replace(plan, output=plan.output.parent.parent / "whole.mp4")
    report = render_clip(there)
    return content(there.output), report


class Ear:
    """Keeps a render's lines, and does something at a frame."""

    def __init__(self, frame: int = 0, act: Callable[[], object] | None = None) -> None:
        self.frame, self.act = frame, act
        self.lines: list[str] = []
        self.made = 0

    def __call__(self, event: ProgressEvent) -> None:
        if event.message:
            self.lines.append(event.message)
        if event.stage == "render" and event.done:
            self.made += 1
            if event.done == self.frame and self.act is not None:
                self.act()

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)


def fail() -> None:
    raise Stop


def interrupt(plan: RenderPlan, frame: int = 10) -> Ear:
    """A render that ends at a frame; with 10, two of the three segments are finished."""
    ear = Ear(frame, fail)
    with pytest.raises(Stop):
        render_clip(plan, ear)
    return ear


def goes_on(plan: RenderPlan, whole: tuple[Any, Any], first: int) -> None:
    ear = Ear()
    report = render_clip(plan, ear)
    assert ear.said(f"goes on at frame {first} of {FRAMES}") and ear.made == FRAMES - first
    assert content(plan.output) == whole[0]
    assert report.resumed_frames == first and report.identity_similarity == whole[1].identity_similarity
    assert [p.name for p in plan.output.parent.iterdir()] == [plan.output.name]


def test_killed_at_twenty_random_moments(
    source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("resume_workshop.py")
    arguments = [source_photo, talking_clip, voice_file, tmp_path, 20]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the processes are forked: torch must have no threads yet
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] == 20 and found["done"] == found["equal"] > 0, found
    assert found["resumed"] >= 5, "most kills were to come after a finished segment"
    assert found["left"] == []


@pytest.mark.parametrize("change", [{}, {"options": {"mode": "self"}}, {"fit": "bounce"}], ids=str)
def test_what_went_before_is_remembered(plan: RenderPlan, small: None, change: dict[str, str]) -> None:
    one = replace(plan, **change)
    there = replace(one, output=plan.output.with_name("whole.mp4"))
    report = render_clip(there)
    expected = content(there.output)
    there.output.unlink()
    interrupt(one)
    goes_on(one, (expected, report), 8)


def test_changed_settings_and_inputs_start_anew_and_say_so(plan: RenderPlan, whole: tuple[Any, Any]) -> None:
    interrupt(plan)
    ear = interrupt(replace(plan, crf=30))
    assert ear.said("starts anew, since crf, encoder changed: 2 finished segments removed")
    voice = plan.output.parent.parent / "voice.wav"
    shutil.copy(plan.audio or "", voice)
    assert interrupt(replace(plan, crf=30, audio=voice)).said("goes on at frame 8"), "the same sound by another name"
    samples = bytearray(voice.read_bytes())
    samples[2000] ^= 8
    voice.write_bytes(samples)
    assert interrupt(replace(plan, crf=30, audio=voice)).said("since audio changed")
    ear = Ear()
    assert render_clip(replace(plan, crf=30, audio=voice, fresh=True), ear).resumed_frames == 0
    assert ear.said("since --fresh was given")
    assert [p.name for p in plan.output.parent.iterdir()] == [plan.output.name]


def test_a_dry_run_tells_what_is_finished(plan: RenderPlan, small: None) -> None:
    interrupt(plan)
    assert plan_summary(plan)["frames_finished"] == 8
    assert plan_summary(replace(plan, crf=30))["frames_finished"] == 0
    interrupt(plan)  # it is all still there


def test_a_segment_that_was_damaged_is_made_again(plan: RenderPlan, whole: tuple[Any, Any]) -> None:
    interrupt(plan)
    segment = work_folder(plan.output) / "segment-00001.mp4"
    segment.write_bytes(segment.read_bytes()[:-100])
    ear = Ear()
    assert render_clip(plan, ear).resumed_frames == 4 and ear.said("segment-00001.mp4 is damaged")
    assert content(plan.output) == whole[0]


def test_nothing_is_left_where_nothing_was_finished(plan: RenderPlan, small: None) -> None:
    interrupt(plan, frame=2)
    assert list(plan.output.parent.iterdir()) == []


def test_a_clip_without_the_face_leaves_nothing(plan: RenderPlan, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(self: Corridor) -> None:
        raise NoTargetFaceError("the chosen face was found in no frame")

    monkeypatch.setattr(Corridor, "check", nowhere)
    with pytest.raises(NoTargetFaceError):
        render_clip(plan)
    assert list(plan.output.parent.iterdir()) == []


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A folder whose disk can be filled and freed: a real one for root, else a limit on what files may hold."""
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    if mounted:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
        mounted = done.returncode == 0
    ballast = folder / "ballast"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
            return
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def free() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        ballast.unlink(missing_ok=True)

    try:
        yield fill, free
    finally:
        free()
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_costs_one_segment(plan: RenderPlan, whole: tuple[Any, Any]) -> None:
    with small_disk(plan.output.parent) as (fill, free):
        ear = Ear(6, fill)
        with pytest.raises(OutputUnwritableError, match="the disk is full"):
            render_clip(plan, ear)
        free()
        assert ear.said("stopped with 1 segment finished: the same command goes on at frame 4 of 12")
        assert sorted(p.name for p in work_folder(plan.output).iterdir()) == [
            "lock", "segment-00000.json", "segment-00000.mp4", "work.json",
        ]  # fmt: skip
        goes_on(plan, whole, 4)


def test_an_ffmpeg_that_dies_costs_nothing(
    plan: RenderPlan, whole: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = program.find_ffmpeg().path
    dying = tmp_path / "bin" / "ffmpeg"
    dying.parent.mkdir()
    # It writes the beginning of the output, then it is killed.
    dying.write_text(
        f'#!/bin/sh\ncase " $* " in *" -i "*) ;; *) exec {real} "$@";; esac\n'
        'for each in "$@"; do case "$each" in *finished.*) printf half > "${each#file:}";; esac; done\nkill -9 $$\n'
    )
    dying.chmod(0o755)
    monkeypatch.setenv(program.VARIABLE, str(dying))
    program.find_ffmpeg.cache_clear()
    try:
        with pytest.raises(EncoderError, match="ffmpeg could not finish"):
            render_clip(plan)
    finally:
        monkeypatch.undo()
        program.find_ffmpeg.cache_clear()
    monkeypatch.setattr("talkswap.render.prepare.load_system", small_system)
    monkeypatch.setattr(Corridor, "frames", lambda self: pytest.fail("a frame was made again"))
    goes_on(plan, whole, FRAMES)


def test_a_folder_that_cannot_be_written_is_named_before_the_work(
    plan: RenderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != plan.output.parent and access(path, mode))
    monkeypatch.setattr("talkswap.render.prepare", lambda *_: pytest.fail("the work was begun"))
    with pytest.raises(OutputUnwritableError, match="read-only"):
        render_clip(plan)
    assert list(plan.output.parent.iterdir()) == []


def test_weights_replaced_during_a_render_change_nothing(
    plan: RenderPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from talkswap.checkpoints.presets import find_preset

    copy = tmp_path / "weights" / "compact"
    shutil.copytree(find_preset("compact").folders[0], copy)
    real = replace(plan, weights=copy, segment_seconds=10.0)
    before = render_clip(replace(real, output=tmp_path / "before.mp4"))

    def replace_all() -> None:
        for file in copy.rglob("*.safetensors"):
            file.write_bytes(bytes(file.stat().st_size))
        (copy / "manifest.toml").write_text("version = 1\n")

    after = render_clip(real, Ear(1, replace_all))
    assert content(real.output) == content(tmp_path / "before.mp4")
    assert after.weights == before.weights != {}


def test_a_gpu_that_is_too_small_halves_its_batches_and_says_so(
    plan: RenderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    render_all = SmallPerformance.render
    sizes: list[int] = []

    def full(self: SmallPerformance, faces: Any, times: Any) -> list[np.ndarray]:
        sizes.append(len(faces))
        if len(faces) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return render_all(self, faces, times)

    monkeypatch.setattr("talkswap.render.prepare.load_system", small_system)
    monkeypatch.setattr(SmallPerformance, "render", full)
    ear = Ear()
    report = render_clip(replace(plan, batch_size=4, segment_seconds=10.0), ear)
    assert report.frames_out == FRAMES
    assert sizes == [4, 2] + [1] * FRAMES, "what did not fit once was tried again"
    for told in ("did not hold 4 frames at once, from there on 2", "did not hold 2 frames at once, from there on 1"):
        assert ear.said(told) and sum(told in warning for warning in report.warnings) == 1


def test_ctrl_c_keeps_what_is_finished_and_two_runs_do_not_meet(
    plan: RenderPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    from talkswap.render.plan_file import write_plans

    file = plan.output.parent.parent / "plan.json"
    write_plans(file, [plan])
    work = work_folder(plan.output)
    with (file.parent / "said.txt").open("w") as said:
        arguments = [sys.executable, "-m", "talkswap", "render", "--plan", str(file)]
        child = subprocess.Popen(arguments, stderr=said, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while child.poll() is None and not (work / "segment-00000.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGSTOP)  # else it might be done before the other one has begun
        code = main(["render", "--plan", str(file), "--quiet"])
        assert (
            code == 10
            and f"another talkswap is at work on {plan.output} (process {child.pid})" in capsys.readouterr().err
        )
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGCONT)
        assert child.wait(120) == 130
    finally:
        child.kill()
        child.wait()
    lines = (file.parent / "said.txt").read_text()
    assert "the same command goes on at frame" in lines and "Traceback" not in lines
    assert not [p for p in work.iterdir() if ".part" in p.name or p.is_dir()], "something half-written was left"
    assert main(["render", "--plan", str(file)]) == 0
    assert "goes on at frame" in capsys.readouterr().err
    assert [p.name for p in plan.output.parent.iterdir()] == [plan.output.name]
    again = replace(plan, output=file.parent / "whole.mp4")
    render_clip(again)
    assert content(again.output) == content(plan.output)
