"""The one encode: times, colours, size and shape of pixels come out as they went in."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.errors import EncoderError, OutputUnwritableError
from talkswap.media.codecs import CODECS, EncoderSettings, check_encoder, pixel_format_for
from talkswap.media.index import index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.writer import VideoWriter
from talkswap.types import ClipInfo

MakeClip = Callable[..., Path]
ReadIndex = Callable[[np.ndarray], int]

RATES = [
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
]


def pass_through(info: ClipInfo, path: Path, settings: EncoderSettings | None = None) -> ClipInfo:
    """Read and write every frame of a clip unchanged."""
    with ClipReader(info) as clip:
        duration = clip.index.duration
        with VideoWriter(path, info, settings or EncoderSettings(), duration) as video:
            for frame in clip.frames():
                video.write(frame.rgb, frame.time)
    return probe(path)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("finer", [1, 512])
def test_times_survive_at_every_rate(make_clip: MakeClip, tmp_path: Path, rate: Fraction, finer: int) -> None:
    info = probe(make_clip(count=40, rate=rate, time_base=Fraction(1, rate.numerator * finer)))
    written = pass_through(info, tmp_path / "out.mp4")
    index = index_frames(written)
    assert index.times == tuple(n / rate for n in range(40))
    assert index.stamps is not None and index.stamps[0] == 0
    assert index.duration == written.duration == 40 / rate
    assert written.time_base == info.time_base


@pytest.mark.parametrize(
    ("time_base", "ticks"),
    [
        (Fraction(1, 600), [0, 17, 34, 150, 151, 400, 1000, 1017, 1900]),
        (Fraction(1, 90000), [0, 1, 2, 9000, 9001, 120000, 777777]),
        (Fraction(1, 1000), [0, 33, 67, 100, 133, 5000, 5001]),
    ],
)
def test_variable_times_survive(make_clip: MakeClip, tmp_path: Path, time_base: Fraction, ticks: list[int]) -> None:
    info = probe(make_clip(ticks=ticks, rate=Fraction(30), time_base=time_base))
    written = pass_through(info, tmp_path / "out.mp4")
    assert index_frames(written).times == tuple(tick * time_base for tick in ticks)


def test_times_of_a_clock_with_an_odd_tick_survive(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip("clip.avi", codec="mpeg4", options={}, rate=Fraction(30000, 1001), count=20))
    assert info.time_base == Fraction(1001, 30000)
    written = pass_through(info, tmp_path / "out.mp4")
    assert index_frames(written).times == tuple(Fraction(1001 * n, 30000) for n in range(20))


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("encoder", ["libx264", "libvpx-vp9"])
def test_pass_through_keeps_colours_and_tags(
    make_clip: MakeClip, tmp_path: Path, matrix: int, full: bool, encoder: str
) -> None:
    colour = {"colorspace": matrix, "color_primaries": matrix, "color_trc": matrix, "color_range": 2 if full else 1}
    info = probe(make_clip(size=(192, 128), count=8, colour=colour, aspect=Fraction(8, 9)))
    written = pass_through(info, tmp_path / "out.mp4", EncoderSettings(encoder))
    assert written.colour.matrix == matrix
    assert written.colour.range == (2 if full else 1)
    assert (written.colour.primaries, written.colour.transfer) == (matrix, matrix)
    assert written.sample_aspect_ratio == Fraction(8, 9)
    with ClipReader(info) as before, ClipReader(written) as after:
        errors = [
            after_.rgb.astype(np.float64) - before_.rgb
            for before_, after_ in zip(before.frames(), after.frames(), strict=True)
        ]
    difference = np.stack(errors)
    assert 10 * np.log10(255**2 / (difference**2).mean()) > 40
    assert np.abs(difference.mean((0, 1, 2))).max() < 0.5


def test_an_untagged_clip_stays_untagged(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(count=3))
    assert pass_through(info, tmp_path / "out.mp4").colour == info.colour


def test_an_untagged_portrait_clip_keeps_its_colours(make_clip: MakeClip, tmp_path: Path) -> None:
    picture = np.full((96, 1280, 3), (200, 40, 40), np.uint8)
    info = probe(make_clip(size=(1280, 96), rotation=90, count=2, pictures=[picture] * 2))
    assert (info.width, info.height) == (96, 1280)  # upright, a player now guesses the other matrix
    written = pass_through(info, tmp_path / "out.mp4")
    with ClipReader(info) as before, ClipReader(written) as after:
        first, second = next(iter(before.frames())).rgb, next(iter(after.frames())).rgb
    assert np.abs(first.astype(int) - second)[640, 48].max() <= 3


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (63, 48)])
@pytest.mark.parametrize(("encoder", "suffix"), [("libx264", ".mp4"), ("libvpx-vp9", ".webm")])
def test_odd_sizes_stay(make_clip: MakeClip, tmp_path: Path, size: tuple[int, int], encoder: str, suffix: str) -> None:
    source = make_clip("odd.mkv", size=size, codec="ffv1", options={}, count=3)
    written = pass_through(probe(source), tmp_path / f"out{suffix}", EncoderSettings(encoder))
    assert (written.width, written.height) == size


@pytest.mark.parametrize("size", [(64, 47), (63, 48), (63, 47)])
def test_only_4_2_0_of_encoders_that_need_even_sizes_changes(size: tuple[int, int]) -> None:
    assert pixel_format_for(EncoderSettings("libx264"), *size) == "yuv444p"
    assert pixel_format_for(EncoderSettings("libvpx-vp9"), *size) == "yuv420p"
    assert pixel_format_for(EncoderSettings("libx264"), 64, 48) == "yuv420p"


def test_rotated_clips_are_written_upright(make_clip: MakeClip, tmp_path: Path, read_index: ReadIndex) -> None:
    info = probe(make_clip(rotation=90, count=4))
    written = pass_through(info, tmp_path / "out.mp4")
    assert (written.width, written.height, written.rotation) == (48, 64, 0)
    with ClipReader(written) as clip:
        assert [read_index(frame.rgb) for frame in clip.frames()] == list(range(4))


def test_a_last_frame_lasts_as_planned(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(count=5))
    with ClipReader(info) as clip, VideoWriter(tmp_path / "out.mp4", info, EncoderSettings(), Fraction(2)) as video:
        for frame in clip.frames():
            video.write(frame.rgb, frame.time)
    assert probe(tmp_path / "out.mp4").duration == 2
    assert video.frames == 5


def test_wrong_frames_are_refused(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(count=1))
    picture = np.zeros((48, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "out.mp4", info, EncoderSettings()) as video:
        video.write(picture, Fraction(0))
        with pytest.raises(ValueError, match="ticks"):
            video.write(picture, Fraction(1, 7))
        with pytest.raises(ValueError, match="predecessor"):
            video.write(picture, Fraction(0))
        with pytest.raises(ValueError, match="the clip is"):
            video.write(picture[:, :60], Fraction(1, 25))


def test_a_failed_render_leaves_no_half_written_file(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(count=1))
    path = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError), VideoWriter(path, info, EncoderSettings()) as video:
        video.write(np.zeros((48, 64, 3), np.uint8), Fraction(0))
        raise RuntimeError
    assert not path.exists()


def test_a_full_disk_has_its_name(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(count=60, size=(256, 256)))
    path = tmp_path / "out.mkv"
    path.symlink_to("/dev/full")  # every write there fails as on a full disk
    with pytest.raises(OutputUnwritableError, match="disk is full"):
        pass_through(info, path, EncoderSettings(crf=0))
    assert os.strerror(errno.ENOSPC)


def test_a_missing_folder_has_its_name(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(count=1))
    with pytest.raises(OutputUnwritableError):
        VideoWriter(tmp_path / "nowhere" / "out.mp4", info, EncoderSettings())
    with pytest.raises(OutputUnwritableError, match="ending"):
        VideoWriter(tmp_path / "out.xyz", info, EncoderSettings())


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1"])
def test_software_encoders_work_here_and_keep_quiet(
    encoder: str, make_clip: MakeClip, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = EncoderSettings(encoder, preset="ultrafast")
    suffix = ".mp4" if ".mp4" in CODECS[encoder].containers else ".mkv"
    check_encoder(encoder, tmp_path / f"out{suffix}", settings)
    info = probe(make_clip(size=(128, 128), count=12))
    index = index_frames(pass_through(info, tmp_path / f"out{suffix}", settings))
    assert len(index.times) == 12
    assert capfd.readouterr().err == ""
    if suffix == ".mp4":
        assert index.times == tuple(Fraction(n, 25) for n in range(12))


def test_encoders_are_checked_before_a_render(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no encoder called 'h264'") as caught:
        check_encoder("h264")
    assert "libx264" in caught.value.hint
    with pytest.raises(EncoderError, match="webm") as caught:
        check_encoder("libx264", tmp_path / "out.webm")
    assert "libvpx-vp9" in caught.value.hint
    with pytest.raises(EncoderError, match="mov"):
        check_encoder("libvpx-vp9", tmp_path / "out.mov")
    with pytest.raises(EncoderError, match="crf 64"):
        check_encoder("libx264", settings=EncoderSettings(crf=64))
    with pytest.raises(EncoderError, match="preset"):
        check_encoder("libx264", settings=EncoderSettings(preset="quick"))
    with pytest.raises(OutputUnwritableError):
        check_encoder("libx264", tmp_path / "out.gif")


def test_an_encoder_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise av.error.ExternalError(-542398533, "Generic error in an external library")

    monkeypatch.setattr("talkswap.media.codecs.CodecContext.create", refuse)
    with pytest.raises(EncoderError, match="does not work on this machine"):
        check_encoder("h264_nvenc")
