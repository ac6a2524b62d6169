"""Whole renders: a clip passes through as it was, a part of one is dubbed from its first frame, depth is kept."""

from __future__ import annotations

import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.errors import EncoderError, UsageError
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.sound import load_voice
from talkswap.render.prepare import prepare
from talkswap.render.render import render_clip
from talkswap.types import ProgressEvent, RenderPlan


@pytest.fixture
def untouched(talking_clip: Path, tmp_path: Path) -> RenderPlan:
    """A render that changes nothing."""
    return RenderPlan(
        None, talking_clip, None, tmp_path / "out.mp4", preset="compact", device="cpu", swap=False, sync=False
    )


def sounds(path: Path) -> list[list[bytes]]:
    with av.open(str(path)) as container:
        found: list[list[bytes]] = [[] for _ in container.streams]
        for packet in container.demux(container.streams.audio):
            if packet.size:
                found[packet.stream_index].append(bytes(packet))
    return [packets for packets in found if packets]


def test_a_clip_passes_through_with_its_sound_bit_by_bit(untouched: RenderPlan) -> None:
    report = render_clip(untouched)
    assert sounds(untouched.output) == sounds(untouched.target)
    assert report.streams == ["sound 1 (aac): copied"] and report.warnings == []
    with ClipReader(probe(untouched.target)) as before, ClipReader(probe(untouched.output)) as after:
        for one, two in zip(before.frames(), after.frames(), strict=True):
            assert one.time == two.time
            error = ((one.rgb.astype(np.float64) - two.rgb) ** 2).mean()
            assert 10 * np.log10(255**2 / error) > 38


def click(path: Path, second: float) -> Path:
    samples = 0.7 * np.exp(-(((np.arange(16000) / 16000 - second) / 0.001) ** 2))
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_part_is_dubbed_from_its_first_frame(untouched: RenderPlan, tmp_path: Path, name: str) -> None:
    plan = replace(
        untouched, output=tmp_path / name, audio=click(tmp_path / "click.wav", 0.1), audio_mix="keep",
        start=Fraction("0.11"), end=Fraction("0.4"),
    )  # fmt: skip
    report = render_clip(plan)
    assert (report.frames_in, report.frames_out) == (7, 7)  # 0.12 to 0.36 s
    assert report.video_seconds == pytest.approx(0.28)
    assert np.abs(load_voice(plan.output).samples).argmax() / 16000 == pytest.approx(0.1, abs=0.005)
    with ClipReader(probe(plan.target)) as before, ClipReader(probe(plan.output)) as after:
        expected = [frame.rgb.astype(np.float64) for frame in before.frames()][3:10]
        for one, two in zip(expected, after.frames(), strict=True):
            assert 10 * np.log10(255**2 / ((one - two.rgb) ** 2).mean()) > 38
    own, kept = sounds(plan.target)[0], sounds(plan.output)[1]
    assert kept == own[own.index(kept[0]) :][: len(kept)]


def test_the_targets_own_sound_is_heard_from_the_part_on(untouched: RenderPlan) -> None:
    whole = prepare(untouched, lambda event: None).voices.common.samples
    ready = prepare(replace(untouched, start=Fraction("0.12"), end=Fraction("0.36")), lambda event: None)
    assert len(ready.voices.common.samples) == round(0.24 * 16000)
    assert np.array_equal(ready.voices.common.samples, whole[1920 : 1920 + 3840])
    assert ready.clip.index.start == Fraction("0.12")


def test_wishes_that_cannot_be_met_are_named_before_the_render(untouched: RenderPlan) -> None:
    with pytest.raises(UsageError, match="behind the end"):
        render_clip(replace(untouched, start=Fraction(9)))
    with pytest.raises(UsageError, match="audio mix"):
        render_clip(replace(untouched, audio_mix="loud"))
    with pytest.raises(EncoderError, match="pixel format"):
        render_clip(replace(untouched, pixel_format="yuv410p"))
    with pytest.raises(EncoderError, match=r"\.mp4 files cannot hold"):
        render_clip(replace(untouched, encoder="prores_ks"))
    assert not untouched.output.exists()


def test_webm_gets_its_own_encoder_and_says_so(untouched: RenderPlan, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    report = render_clip(replace(untouched, output=tmp_path / "out.webm"), told.append)
    assert probe(tmp_path / "out.webm").codec == "vp9"
    assert [event.message for event in told if "encoder" in event.message] == [
        "encoder libvpx-vp9: the one for .webm files"
    ]
    assert any("encoded again" in line for line in report.warnings)


def test_ten_bits_in_are_ten_bits_out(
    untouched: RenderPlan, tmp_path: Path, example_pictures: list[np.ndarray]
) -> None:
    deep = tmp_path / "deep.mkv"
    with av.open(str(deep), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = example_pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p10le"
        for number, rgb in enumerate(example_pictures[:6]):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
                format="yuv420p10le", dst_colorspace=5, dst_color_range=1
            )
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    render_clip(replace(untouched, target=deep))
    assert probe(untouched.output).pixel_format == "yuv420p10le"
    render_clip(replace(untouched, target=deep, pixel_format="yuv420p", overwrite=True))
    assert probe(untouched.output).pixel_format == "yuv420p"
