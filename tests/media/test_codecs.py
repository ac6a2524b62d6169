"""Every encoder in every container that takes it: colours, shape of pixels, depth and times as the target's.

And no encoder makes a render a real-time process (SVT-AV1 does, when root opens it, and a render then stands still).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkswap.errors import EncoderError
from talkswap.media import codecs
from talkswap.media.codecs import (
    CODECS,
    EncoderSettings,
    check_encoder,
    encoder_for,
    encoder_options,
    ordinary_priority,
    pixel_format_for,
)
from talkswap.media.index import index_frames
from talkswap.media.mux import mux
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.writer import VideoWriter, picture_ending
from talkswap.types import ClipInfo

MakeClip = Callable[..., Path]

SOFTWARE = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "ffv1")
PAIRS = [(name, ending) for name in SOFTWARE for ending in sorted(CODECS[name].containers)]
NARROW = {"colorspace": 6, "color_primaries": 6, "color_trc": 6, "color_range": 1}
WIDE = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 2}


def quick(name: str, **how: Any) -> EncoderSettings:
    """The encoder at its least effort."""
    return EncoderSettings(name, preset="auto" if name == "prores_ks" else "ultrafast", **how)


def passed_through(target: Path, output: Path, settings: EncoderSettings) -> ClipInfo:
    """The clip encoded once and finished in the output's container, with its own sound."""
    info = probe(target)
    index = index_frames(info)
    encoded = output.with_name(f"encoded{picture_ending(settings.encoder)}")
    with ClipReader(info, index, deep=True) as clip, VideoWriter(encoded, info, settings, index.duration) as video:
        for frame in clip.frames():
            video.write(frame.rgb, frame.time, frame.fine)
    mux(encoded, None, target, output, index.times, index.duration, index=index)
    return probe(output)


@pytest.mark.parametrize("colour", [NARROW, WIDE], ids=["601-limited", "709-full"])
@pytest.mark.parametrize(("encoder", "ending"), PAIRS)
def test_colour_tags_and_pixel_shape_survive(
    make_clip: MakeClip, tmp_path: Path, encoder: str, ending: str, colour: dict[str, int]
) -> None:
    target = make_clip(size=(64, 64), count=6, colour=colour, aspect=Fraction(8, 9))
    written = passed_through(target, tmp_path / f"out{ending}", quick(encoder))
    tags = written.colour
    assert (tags.matrix, tags.primaries, tags.transfer) == (colour["colorspace"],) * 3
    assert tags.range == (colour["color_range"] if CODECS[encoder].full_range else 1)
    assert abs(written.sample_aspect_ratio - Fraction(8, 9)) < Fraction(1, 40)  # webm rounds to whole pixels
    with ClipReader(probe(target)) as before, ClipReader(written) as after:
        pairs = zip(before.frames(), after.frames(), strict=True)
        errors = np.stack([one.rgb.astype(np.float64) - two.rgb for one, two in pairs])
    assert np.abs(errors.mean((0, 1, 2))).max() < 1.2
    assert np.sqrt((errors**2).mean()) < 4


@pytest.mark.parametrize("encoder", SOFTWARE)
def test_odd_sizes_and_rotation_survive(make_clip: MakeClip, tmp_path: Path, encoder: str) -> None:
    ending = picture_ending(encoder)
    odd = make_clip("odd.mkv", size=(71, 65), codec="ffv1", options={}, count=5)
    if encoder == "libsvtav1":
        with pytest.raises(EncoderError, match="odd size"):
            passed_through(odd, tmp_path / f"out{ending}", quick(encoder))
    else:
        written = passed_through(odd, tmp_path / f"out{ending}", quick(encoder))
        assert (written.width, written.height) == (71, 65)
    turned = make_clip("turned.mp4", size=(72, 64), rotation=90, mirrored=True, count=5)
    written = passed_through(turned, tmp_path / f"turned-out{ending}", quick(encoder))
    assert (written.width, written.height, written.rotation, written.mirrored) == (64, 72, 0, False)


def luma(path: Path) -> np.ndarray:
    """Luma of all pictures in tenth bits: N H W."""
    pictures = []
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            assert picture.format.components[0].bits == 10
            plane = picture.planes[0]
            rows = np.frombuffer(plane, "<u2").reshape(plane.height, plane.line_size // 2)
            pictures.append(rows[:, : plane.width].astype(int))
    return np.stack(pictures)


def ramp_clip(path: Path, full: bool = False) -> Path:
    """Ten bits that eight cannot hold: luma climbs by one step from pixel to pixel."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p10le"
        stream.codec_context.color_range = 2 if full else 1
        stream.codec_context.colorspace = 1
        for number in range(6):
            picture = av.VideoFrame(128, 64, "yuv420p10le")
            for plane, value in zip(picture.planes, (300 + number + np.arange(128), 512, 520), strict=True):
                rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
                rows[:, : plane.width] = value
                plane.update(rows.tobytes())
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_ten_bits_are_kept_to_the_last_one(tmp_path: Path, full: bool) -> None:
    target = ramp_clip(tmp_path / "deep.mkv", full)
    info = probe(target)
    assert info.bits == 10
    with ClipReader(info, deep=True) as clip, VideoWriter(tmp_path / "out.mkv", info, EncoderSettings("ffv1")) as video:
        for frame in clip.frames():
            assert frame.fine is not None
            video.write(frame.rgb, frame.time, frame.fine)
    assert probe(tmp_path / "out.mkv").pixel_format == "yuv420p10le"
    difference = luma(tmp_path / "out.mkv") - luma(target)
    assert np.abs(difference).max() <= 1
    if not full:
        assert not difference.any()
    with av.open(str(tmp_path / "out.mkv")) as container:
        picture = next(container.decode(video=0))
        for plane, value in zip(picture.planes[1:], (512, 520), strict=True):
            assert np.abs(np.frombuffer(plane, "<u2").astype(int)[: plane.width] - value).max() <= 1


def test_what_is_painted_on_a_deep_picture_changes_nothing_around_it(tmp_path: Path) -> None:
    target = ramp_clip(tmp_path / "deep.mkv")
    info = probe(target)
    with ClipReader(info, deep=True) as clip, VideoWriter(tmp_path / "out.mkv", info, EncoderSettings("ffv1")) as video:
        for frame in clip.frames():
            frame.rgb[16:32, 16:32] = (200, 30, 30)
            video.write(frame.rgb, frame.time, frame.fine)
    difference = luma(tmp_path / "out.mkv") - luma(target)
    assert np.abs(difference[:, 20:28, 20:28]).min() > 10
    difference[:, 15:33, 15:33] = 0
    assert not difference.any()


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libsvtav1", "prores_ks"])
def test_a_deep_target_gives_a_deep_output(tmp_path: Path, encoder: str) -> None:
    target = ramp_clip(tmp_path / "deep.mkv")
    info = probe(target)
    path = tmp_path / f"out{picture_ending(encoder)}"
    settings = quick(encoder, crf=None if encoder == "prores_ks" else 4)
    with ClipReader(info, deep=True) as clip, VideoWriter(path, info, settings) as video:
        for frame in clip.frames():
            video.write(frame.rgb, frame.time, frame.fine)
    assert probe(path).bits == 10
    error = luma(path) - luma(target)
    assert np.abs(error.mean()) < 0.5
    assert np.sqrt((error**2).mean()) < 2  # eight bits alone would give 1.2 and steps of four


def test_an_encoder_of_eight_bits_takes_a_deep_target_with_eight(tmp_path: Path) -> None:
    if "yuv420p10le" in {form.name for form in av.Codec("libvpx-vp9", "w").video_formats or ()}:
        pytest.skip("this libvpx writes ten bits")
    assert pixel_format_for(EncoderSettings("libvpx-vp9"), 64, 48, 10) == "yuv420p"
    with pytest.raises(EncoderError, match="pixel format") as caught:
        check_encoder("libvpx-vp9", settings=EncoderSettings("libvpx-vp9", pixel_format="yuv420p10le"))
    assert "yuv444p" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        (EncoderSettings("libx264", pixel_format="yuv422p"), "yuv422p"),
        (EncoderSettings("libx264", pixel_format="yuv444p10le"), "yuv444p10le"),
        (EncoderSettings("libx265", pixel_format="yuv420p10le"), "yuv420p10le"),
        (EncoderSettings("prores_ks"), "yuv422p10le"),
        (EncoderSettings("prores_ks", preset="4444"), "yuv444p12le"),  # ten bits, as FFmpeg's decoder hands them out
        (EncoderSettings("ffv1", pixel_format="yuv444p"), "yuv444p"),
    ],
)
def test_the_pixel_format_asked_for_is_written(
    make_clip: MakeClip, tmp_path: Path, settings: EncoderSettings, written: str
) -> None:
    info = probe(make_clip(count=5))
    path = tmp_path / f"out{picture_ending(settings.encoder)}"
    with ClipReader(info) as clip, VideoWriter(path, info, settings) as video:
        for frame in clip.frames():
            video.write(frame.rgb, frame.time)
    assert probe(path).pixel_format == written


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (EncoderSettings("prores_ks", crf=18), "has no crf"),
        (EncoderSettings("prores_ks", preset="fast"), "no encoder preset 'fast' of prores_ks"),
        (EncoderSettings("prores_ks", preset="hq", pixel_format="yuv444p10le"), "profile hq cannot hold"),
        (EncoderSettings("libsvtav1", pixel_format="yuv422p"), "cannot write the pixel format"),
        (EncoderSettings("libx264", pixel_format="rgb24"), "cannot write the pixel format 'rgb24'"),
    ],
)
def test_settings_that_an_encoder_cannot_keep_are_named_before_a_render(settings: EncoderSettings, words: str) -> None:
    with pytest.raises(EncoderError, match=words) as caught:
        check_encoder(settings.encoder, settings=settings)
    assert caught.value.hint


def test_the_container_chooses_the_encoder() -> None:
    assert encoder_for("auto", Path("a.webm")) == "libvpx-vp9"
    assert encoder_for("auto", Path("a.MOV")) == encoder_for("auto", Path("a.mkv")) == "libx264"
    assert encoder_for("ffv1", Path("a.webm")) == "ffv1"


def test_hardware_encoders_get_options_on_their_own_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    # They run on few machines, and VideoToolbox on none of a test's: what is asked of them is checked here.
    monkeypatch.setattr(codecs, "find_codec", CODECS.__getitem__)
    monkeypatch.setattr(codecs, "compiled_formats", lambda name: set(CODECS[name].formats.values()))
    nvenc = encoder_options(EncoderSettings("hevc_nvenc", crf=23, preset="slow"))
    assert (nvenc["cq"], nvenc["preset"]) == ("23", "p7")
    apple = encoder_options(EncoderSettings("hevc_videotoolbox", crf=18))
    assert apple["global_quality"] == str(118 * 64) and apple["prio_speed"] == "1"
    assert pixel_format_for(EncoderSettings("hevc_videotoolbox"), 64, 48, 10) == "yuv420p10le"
    assert pixel_format_for(EncoderSettings("h264_videotoolbox"), 64, 48, 10) == "yuv420p"


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001)])
@pytest.mark.parametrize(("encoder", "ending"), [("libx264", ".mkv"), ("libvpx-vp9", ".webm"), ("ffv1", ".mkv")])
def test_the_milliseconds_of_matroska_never_add_up(
    make_clip: MakeClip, tmp_path: Path, rate: Fraction, encoder: str, ending: str
) -> None:
    count = 120
    grey = [np.full((64, 64, 3), 100, np.uint8)] * count
    target = make_clip(
        size=(64, 64), count=count, rate=rate, time_base=Fraction(1, rate.numerator), pictures=grey, gop=250
    )
    passed_through(target, tmp_path / f"out{ending}", quick(encoder))
    times = index_frames(probe(tmp_path / f"out{ending}")).times
    assert len(times) == count
    assert max(abs(time - number / rate) for number, time in enumerate(times)) <= Fraction(1, 1000)


needs_threads = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's threads in /proc")


def real_time_threads() -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
    return [n for n in numbers if os.sched_getscheduler(n) not in (os.SCHED_OTHER, os.SCHED_BATCH)]


@needs_threads
@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def test_an_encoder_leaves_every_thread_ordinary(encoder: str, make_clip: MakeClip, tmp_path: Path) -> None:
    check_encoder(encoder)
    assert real_time_threads() == []
    info = probe(make_clip(size=(128, 128), count=4))
    settings = EncoderSettings(encoder, preset="ultrafast")
    with ClipReader(info) as clip, VideoWriter(tmp_path / "out.mkv", info, settings) as writer:
        for frame in clip.frames():
            writer.write(frame.rgb, frame.time)
            assert real_time_threads() == []


@needs_threads
def test_policies_come_back_and_new_threads_get_the_caller_s() -> None:
    done = threading.Event()
    started: list[int] = []
    os_policy = os.sched_getscheduler(0)
    with ordinary_priority():
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # allowed to every user

        def wait() -> None:
            started.append(threading.get_native_id())
            done.wait()

        thread = threading.Thread(target=wait)
        thread.start()
        while not started:
            done.wait(0.01)
        assert os.sched_getscheduler(started[0]) == os.SCHED_BATCH, "it inherits what its maker has"
    try:
        assert os.sched_getscheduler(0) == os.sched_getscheduler(started[0]) == os_policy
    finally:
        done.set()
        thread.join()


@needs_threads
def test_what_was_set_before_stays() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        with ordinary_priority():
            pass
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
