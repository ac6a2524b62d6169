"""The corridor on real encoded clips, with the compact weights that ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from talkswap.errors import NoSourceFaceError, NoTargetFaceError, OutputExistsError, UsageError, WeightsMissingError
from talkswap.render.forecast import plan_summary
from talkswap.render.render import render_clip
from talkswap.types import ProgressEvent, RenderPlan


def write_wav(path: Path, seconds: float) -> Path:
    from wave import open as open_wave

    t = np.arange(round(seconds * 16000)) / 16000
    with open_wave(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(1200 * t) * np.sin(20 * t)).astype("<i2").tobytes())
    return path


def pictures_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times_of(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sorted(p.pts * stream.time_base for p in container.demux(stream) if p.pts is not None)


def sound_seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(f.samples / f.sample_rate for f in container.decode(audio=0))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(a.astype(float) - b.astype(float)).mean())))


@pytest.fixture
def plan(source_photo: Path, talking_clip: Path, voice_file: Path, tmp_path: Path) -> RenderPlan:
    return RenderPlan(source_photo, talking_clip, voice_file, tmp_path / "dubbed.mp4", preset="compact", device="cpu")


def changed_area(before: list[np.ndarray], after: list[np.ndarray]) -> np.ndarray:
    """Pixels (H W) that differ clearly in some frame."""
    strongest = np.max(
        [cv2.GaussianBlur(cv2.absdiff(a, b), (0, 0), 1).max(2) for a, b in zip(before, after, strict=True)], 0
    )
    return strongest > 24


def test_a_clip_is_dubbed(plan: RenderPlan) -> None:
    events: list[ProgressEvent] = []
    report = render_clip(plan, events.append)
    before, after = pictures_of(plan.target), pictures_of(plan.output)
    assert report.frames_in == report.frames_out == len(after) == len(before) == 12
    assert times_of(plan.output) == times_of(plan.target)
    assert sound_seconds(plan.output) == pytest.approx(0.48, abs=0.04)
    assert report.faceless_frames == 0 and report.faceless == []
    changed = changed_area(before, after)
    assert 0.005 < changed.mean() < 0.2, "the face, and only the face, has changed"
    rows, columns = np.nonzero(cv2.erode(changed.astype(np.uint8), np.ones((3, 3))))
    far = np.ones(changed.shape, bool)
    margin = 24
    far[max(0, rows.min() - margin) : rows.max() + margin, max(0, columns.min() - margin) : columns.max() + margin] = (
        False
    )
    assert far.mean() > 0.5
    assert min(psnr(a[far], b[far]) for a, b in zip(before, after, strict=True)) >= 40
    assert report.identity_similarity is not None and report.real_time_factor > 0
    assert (
        report.preset == "compact"
        and report.device == "cpu"
        and len(report.weights["swaptalk/vqgan.safetensors"]) == 64
    )
    assert {"prepare", "read", "faces", "network", "paste", "encode", "mux"} <= report.timings.keys()
    done = [e.done for e in events if e.stage == "render"]
    assert done == sorted(done) and done[-1] == 12
    assert list(plan.output.parent.iterdir()) == [plan.output], "something was left behind"


def test_equal_plans_give_equal_frames_whatever_the_batch(plan: RenderPlan) -> None:
    one, two = plan, replace(plan, output=plan.output.with_name("again.mp4"))
    render_clip(one)
    render_clip(two)
    assert all(np.array_equal(a, b) for a, b in zip(pictures_of(one.output), pictures_of(two.output), strict=True))
    five = replace(plan, output=plan.output.with_name("five.mp4"), batch_size=5)
    render_clip(five)
    assert min(psnr(a, b) for a, b in zip(pictures_of(one.output), pictures_of(five.output), strict=True)) > 38


def test_frames_without_a_face_pass_through_and_are_counted(
    plan: RenderPlan, write_clip: Callable[..., Path], example_pictures: list[np.ndarray]
) -> None:
    empty = [np.full_like(example_pictures[0], 90 + i) for i in range(4)]
    clip = write_clip([*example_pictures[:4], *empty, *example_pictures[4:8]])
    report = render_clip(replace(plan, target=clip))
    before, after = pictures_of(clip), pictures_of(plan.output)
    assert report.frames_out == 12 and report.faceless_frames == 4
    assert report.faceless == [(pytest.approx(4 / 25), pytest.approx(8 / 25))]
    assert any("4 of 12 frames" in w for w in report.warnings)
    assert min(psnr(a, b) for a, b in zip(before[4:8], after[4:8], strict=True)) > 40
    assert min(psnr(before[i], after[i]) for i in (0, 3, 8, 11)) < 40, "the frames with a face have changed"


def test_time_stamps_of_a_variable_rate_survive(
    plan: RenderPlan, write_clip: Callable[..., Path], example_pictures: list[np.ndarray]
) -> None:
    ticks = [0, 1001, 2002, 4004, 4505, 6006, 9009, 10010]
    clip = write_clip(example_pictures[:8], ticks=ticks, time_base=Fraction(1, 30000))
    render_clip(replace(plan, target=clip, audio=write_wav(plan.output.with_name("v.wav"), 0.37)))
    assert times_of(plan.output) == [Fraction(t, 30000) for t in ticks]


def test_no_swap_and_no_sync_return_the_target(plan: RenderPlan) -> None:
    report = render_clip(replace(plan, swap=False, sync=False, source=None))
    assert report.faceless_frames == 0
    assert min(psnr(a, b) for a, b in zip(pictures_of(plan.target), pictures_of(plan.output), strict=True)) > 40


def test_without_a_swap_only_the_lower_face_changes(plan: RenderPlan) -> None:
    render_clip(replace(plan, swap=False, source=None))
    swapped = replace(plan, output=plan.output.with_name("swapped.mp4"), sync=False)
    render_clip(swapped)
    before = pictures_of(plan.target)
    spoken, whole = changed_area(before, pictures_of(plan.output)), changed_area(before, pictures_of(swapped.output))
    assert spoken.sum() < whole.sum()
    assert np.nonzero(spoken)[0].min(initial=10**6) > np.nonzero(whole)[0].min(), "the eyes stay the target's"


@pytest.mark.parametrize(
    "change", [{"options": {"order": "sync-swap"}}, {"options": {"mode": "self"}}, {"audio": None}], ids=str
)
def test_every_way_of_driving_renders(plan: RenderPlan, change: dict[str, str | None]) -> None:
    report = render_clip(replace(plan, **change))
    assert report.frames_out == 12 and sound_seconds(plan.output) == pytest.approx(0.48, abs=0.04)


@pytest.mark.parametrize(
    ("fit", "seconds", "frames"),
    [
        ("clip", 0.2, 12),
        ("clip", 0.8, 12),
        ("voice", 0.2, 5),
        ("loop", 0.8, 20),
        ("bounce", 0.8, 20),
        ("freeze", 0.8, 20),
    ],
)
def test_fit_decides_when_lengths_differ(plan: RenderPlan, fit: str, seconds: float, frames: int) -> None:
    voice = write_wav(plan.output.with_name("voice.wav"), seconds)
    report = render_clip(replace(plan, audio=voice, fit=fit))
    assert report.frames_out == len(pictures_of(plan.output)) == frames
    assert sound_seconds(plan.output) == pytest.approx(frames / 25, abs=0.04)
    cut = fit == "clip" and seconds > 0.5
    assert any("0.32" in w for w in report.warnings) == cut, "a cut voice is named with its seconds"


def test_a_face_is_chosen_by_number_or_photo(plan: RenderPlan, source_photo: Path) -> None:
    render_clip(replace(plan, face="0"))
    with pytest.raises(NoTargetFaceError, match="there is no face 3 in .*, only 0$"):
        render_clip(replace(plan, face="3", overwrite=True))


def test_dry_run_checks_everything_and_writes_nothing(plan: RenderPlan) -> None:
    summary = plan_summary(plan)
    assert summary["frames"] == 12 and summary["preset"] == "compact" and summary["people"][0]["index"] == 0
    assert list(plan.output.parent.iterdir()) == []


def test_a_photo_or_a_clip_without_a_face_is_named(
    plan: RenderPlan, tmp_path: Path, write_clip: Callable[..., Path], example_pictures: list[np.ndarray]
) -> None:
    wall = tmp_path / "wall.png"
    cv2.imwrite(str(wall), np.full((200, 200, 3), 128, np.uint8))
    with pytest.raises(NoSourceFaceError, match="no face was found in .*wall.png"):
        render_clip(replace(plan, source=wall))
    clip = write_clip([np.full_like(example_pictures[0], 100 + i) for i in range(8)])
    with pytest.raises(NoTargetFaceError, match="no face was found in"):
        render_clip(replace(plan, target=clip))
    assert not plan.output.exists()


def test_contradictions_and_existing_outputs_are_refused_before_any_work(
    plan: RenderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="needs a source photo"):
        render_clip(replace(plan, source=None))
    plan.output.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        render_clip(plan)
    assert plan.output.read_bytes() == b"mine"
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(plan.output.parent))
    with pytest.raises(WeightsMissingError):
        render_clip(replace(plan, preset="paper", overwrite=True))
    assert plan.output.read_bytes() == b"mine", "a render that failed has touched an existing file"


def test_a_silent_clip_can_be_swapped_and_no_more(
    plan: RenderPlan, write_clip: Callable[..., Path], example_pictures: list[np.ndarray]
) -> None:
    clip = write_clip(example_pictures[:6], sound=False)
    silent = replace(plan, target=clip, audio=None, sync=False)
    assert render_clip(silent).frames_out == 6
    with av.open(str(plan.output)) as container:
        assert max(np.abs(f.to_ndarray()).max() for f in container.decode(audio=0)) < 1e-3
    with pytest.raises(UsageError, match="no sound of its own"):
        render_clip(replace(silent, sync=True, overwrite=True))


def test_a_clip_without_a_face_passes_through_when_nothing_is_changed(
    plan: RenderPlan, write_clip: Callable[..., Path], example_pictures: list[np.ndarray]
) -> None:
    clip = write_clip([np.full_like(example_pictures[0], 100 + i) for i in range(6)])
    assert render_clip(replace(plan, target=clip, source=None, swap=False, sync=False)).frames_out == 6


def test_a_failure_in_the_middle_is_named_and_leaves_nothing(plan: RenderPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    from talkswap.errors import DeviceError
    from talkswap.systems.swaptalk.system import SwapTalkPerformance

    def full(*_: object) -> list[np.ndarray]:
        raise DeviceError("the GPU's memory does not hold a single frame")

    monkeypatch.setattr(SwapTalkPerformance, "render", full)
    with pytest.raises(DeviceError, match="single frame"):
        render_clip(replace(plan, options={"networks": "alone"}))
    assert list(plan.output.parent.iterdir()) == []
