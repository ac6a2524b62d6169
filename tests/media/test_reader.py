"""Frames out of real files: exact times, upright, true colours, damage survived, any order in bounded memory."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.media import reader as reader_module
from talkswap.media.index import index_frames
from talkswap.media.probe import probe
from talkswap.media.program import find_ffmpeg
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import Timeline, plan_timeline

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


def damage(path: Path, first_packet: int, packets: int) -> Path:
    """Overwrite the bytes of some video packets with noise, in place."""
    with av.open(str(path)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0)
    for start, size in spans[first_packet : first_packet + packets]:
        assert start is not None
        data[start + 4 : start + size] = noise.integers(0, 256, size - 4, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("rate", RATES)
def test_times_are_exact_fractions(make_clip: MakeClip, rate: Fraction, read_index: ReadIndex) -> None:
    info = probe(make_clip(count=20, rate=rate, time_base=Fraction(1, rate.numerator)))
    with ClipReader(info) as clip:
        frames = list(clip.frames())
    assert [frame.time for frame in frames] == [index / rate for index in range(20)] == list(index_frames(info).times)
    assert [frame.index for frame in frames] == [frame.source_index for frame in frames] == list(range(20))
    assert [read_index(frame.rgb) for frame in frames] == list(range(20))
    assert clip.damaged == 0
    assert index_frames(info).last_duration == 1 / rate


def test_variable_rate_keeps_every_time(make_clip: MakeClip) -> None:
    ticks = [0, 17, 34, 150, 151, 400, 1000, 1017, 1900]
    info = probe(make_clip(ticks=ticks, rate=Fraction(30), time_base=Fraction(1, 600)))
    assert list(index_frames(info).times) == [Fraction(tick, 600) for tick in ticks]
    with ClipReader(info) as clip:
        assert [frame.time for frame in clip.frames()] == [Fraction(tick, 600) for tick in ticks]


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "options"),
    [
        ("clip.mkv", "libx264", "yuv420p", None),
        ("clip.ts", "libx264", "yuv420p", None),
        ("clip.avi", "mpeg4", "yuv420p", {"b": "2000000"}),
        ("clip.webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
        ("clip.webm", "libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
        ("clip.mov", "prores_ks", "yuv422p10le", {}),
        ("clip.mkv", "ffv1", "yuv444p10le", {}),
        ("clip.gif", "gif", "rgb8", {}),
    ],
)
def test_times_by_demuxing_equal_those_of_decoding(
    make_clip: MakeClip, name: str, codec: str, pixel_format: str, options: dict[str, str] | None, read_index: ReadIndex
) -> None:
    info = probe(make_clip(name, codec=codec, pixel_format=pixel_format, options=options, count=30, gop=10))
    with ClipReader(info) as clip:
        frames = list(clip.frames())
        assert [frame.time for frame in frames] == list(index_frames(info).times)
        planned = plan_timeline(clip.index.times, clip.index.last_duration, clip.index.duration, "clip")
        again = list(clip.frames_for(planned))
    assert len(frames) == 30
    assert [read_index(frame.rgb) for frame in frames] == [read_index(frame.rgb) for frame in again] == list(range(30))
    assert clip.damaged == 0


def test_missing_time_stamps_are_repaired_at_the_nominal_rate(make_clip: MakeClip, read_index: ReadIndex) -> None:
    raw = make_clip("raw.h264", count=20, rate=Fraction(25))  # an elementary stream has no clock
    info = probe(raw)
    assert index_frames(info).stamps is None
    with ClipReader(info) as clip:
        frames = list(clip.frames())
        steps = {after.time - before.time for before, after in zip(frames, frames[1:], strict=False)}
        assert len(steps) == 1
        assert list(index_frames(info).times) == [frame.time for frame in frames]
        planned = plan_timeline(clip.index.times, clip.index.last_duration, 3 * clip.index.duration, "bounce")
        shown = [read_index(frame.rgb) for frame in clip.frames_for(planned)]
    assert len(frames) == 20
    assert shown == list(planned.picture)


def test_time_stamps_that_stand_still_or_go_back_become_increasing(tmp_path: Path) -> None:
    path = tmp_path / "stamps.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        for pts, shown in enumerate([0, 40, 80, 80, 60, 200, 240]):
            frame.pts, frame.time_base = pts * 40, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.pts, packet.dts = shown, pts - 100  # Matroska stores the pts alone
                container.mux(packet)
    info = probe(path)
    with ClipReader(info) as clip:
        times = [frame.time for frame in clip.frames()]
    assert len(times) == 7
    assert all(after > before for before, after in zip(times, times[1:], strict=False))
    assert times == list(index_frames(info).times)
    assert times[:3] == [Fraction(0), Fraction(40, 1000), Fraction(80, 1000)]
    assert times[-2:] == [Fraction(200, 1000), Fraction(240, 1000)]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_pictures_stand_upright_as_ffmpeg_shows_them(make_clip: MakeClip, rotation: int, mirrored: bool) -> None:
    path = make_clip(rotation=rotation, mirrored=mirrored, count=2)
    info = probe(path)
    with ClipReader(info) as clip:
        ours = next(iter(clip.frames())).rgb
    shown = subprocess.run(
        [
            str(find_ffmpeg().path),
            "-v",
            "error",
            "-i",
            str(path),
            "-frames:v",
            "1",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    ).stdout
    theirs = np.frombuffer(shown, np.uint8).reshape(info.height, info.width, 3)
    assert np.abs(ours.astype(int) - theirs).mean() < 2
    assert ours.flags.c_contiguous and ours.flags.writeable


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_colours_follow_the_streams_matrix_and_range(
    make_clip: MakeClip, matrix: int, full: bool, pixel_format: str
) -> None:
    picture = np.empty((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:] = (200, 40, 40), (40, 200, 40)
    picture[24:, :32], picture[24:, 32:] = (40, 40, 200), (128, 128, 128)
    colour = {"colorspace": matrix, "color_range": 2 if full else 1}
    info = probe(
        make_clip(
            "c.mkv", codec="ffv1", options={}, pixel_format=pixel_format, colour=colour, pictures=[picture], count=1
        )
    )
    with ClipReader(info) as clip:
        rgb = next(iter(clip.frames())).rgb
    for y, x in ((12, 16), (12, 48), (36, 16), (36, 48)):
        assert np.abs(rgb[y, x].astype(int) - picture[y, x]).max() <= 2


@pytest.mark.parametrize(("size", "matrix"), [((64, 48), 6), ((1280, 720), 1)])
def test_untagged_colours_are_guessed_as_players_do(make_clip: MakeClip, size: tuple[int, int], matrix: int) -> None:
    picture = np.full((size[1], size[0], 3), (200, 40, 40), np.uint8)
    yuv = {"size": size, "codec": "ffv1", "options": {}, "pictures": [picture], "count": 1}
    tagged = probe(make_clip("tagged.mkv", colour={"colorspace": matrix}, **yuv))
    with av.open(str(tagged.path)) as container:
        decoded = next(container.decode(video=0)).to_ndarray()
    path = tagged.path.with_name("untagged.mkv")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(decoded, format="yuv420p")))
        container.mux(stream.encode(None))
    info = probe(path)
    assert info.colour.matrix == 2
    with ClipReader(info) as clip:
        rgb = next(iter(clip.frames())).rgb
    assert np.abs(rgb[10, 10].astype(int) - (200, 40, 40)).max() <= 2


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (33, 64)])
def test_odd_sizes(make_clip: MakeClip, size: tuple[int, int], read_index: ReadIndex) -> None:
    info = probe(
        make_clip("odd.webm", size=size, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}, count=6)
    )
    assert (info.width, info.height) == size
    with ClipReader(info) as clip:
        frames = list(clip.frames())
    assert frames[0].rgb.shape == (size[1], size[0], 3)
    assert [read_index(frame.rgb) for frame in frames] == list(range(6))


def test_damaged_packets_cost_their_frames_and_nothing_else(make_clip: MakeClip, read_index: ReadIndex) -> None:
    path = damage(make_clip(count=48, gop=12, options={"preset": "ultrafast", "bf": "0"}), 16, 3)
    info = probe(path)
    with ClipReader(info) as clip:
        through = list(clip.frames())
        assert clip.damaged > 0
        assert len(through) > 36
        timeline = plan_timeline(clip.index.times, clip.index.last_duration, clip.index.duration, "clip")
        frames = list(clip.frames_for(timeline))
        assert 0 < clip.damaged < 12
    assert [frame.time for frame in frames] == [Fraction(index, 25) for index in range(48)]
    shown = [read_index(frame.rgb) for frame in frames]
    assert shown[:16] == list(range(16))
    assert shown[24:] == [index % 32 for index in range(24, 48)]


def test_a_clip_cut_off_after_its_index_still_reads(make_clip: MakeClip, tmp_path: Path) -> None:
    whole = make_clip("whole.mkv", count=48, gop=12)
    data = whole.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) * 2 // 3])
    info = probe(cut)
    with ClipReader(info) as clip:
        timeline = plan_timeline(clip.index.times, clip.index.last_duration, clip.index.duration, "clip")
        frames = list(clip.frames_for(timeline))
    assert 10 < len(frames) == len(timeline) < 48


@pytest.mark.parametrize("fit", ["loop", "bounce", "freeze", "voice", "clip"])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_timelines_deliver_their_pictures_in_order(
    make_clip: MakeClip, fit: str, name: str, read_index: ReadIndex
) -> None:
    info = probe(make_clip(name, count=30, gop=7))
    with ClipReader(info) as clip:
        voice = Fraction(1, 2) if fit == "voice" else Fraction(4)
        timeline = plan_timeline(clip.index.times, clip.index.last_duration, voice, fit)
        frames = list(clip.frames_for(timeline))
        assert clip.damaged == 0
    assert [read_index(frame.rgb) for frame in frames] == list(timeline.picture)
    assert [frame.source_index for frame in frames] == list(timeline.picture)
    assert [frame.time for frame in frames] == list(timeline.times)
    assert [frame.index for frame in frames] == list(range(len(timeline)))


def arbitrary(picture: Sequence[int]) -> Timeline:
    times = tuple(Fraction(index, 25) for index in range(len(picture)))
    return Timeline(tuple(picture), times, Fraction(len(picture), 25))


def test_backward_play_holds_few_pictures(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch, read_index: ReadIndex
) -> None:
    info = probe(make_clip(count=31, gop=31))
    monkeypatch.setattr(reader_module, "BACKWARD_BYTES", 4 * 64 * 48 * 3 // 2)
    largest = 0
    forward = ClipReader._forward

    def counted(self: ClipReader, first: int, last: int, held: object) -> object:
        nonlocal largest
        largest = max(largest, last - first + 1)
        return forward(self, first, last, held)  # type: ignore[arg-type]

    monkeypatch.setattr(ClipReader, "_forward", counted)
    with ClipReader(info) as clip:
        shown = [read_index(frame.rgb) for frame in clip.frames_for(arbitrary(range(30, -1, -1)))]
    assert shown == list(range(30, -1, -1))
    assert largest == 4


def test_any_order_of_pictures(make_clip: MakeClip, read_index: ReadIndex) -> None:
    order = [5, 5, 6, 7, 7, 6, 5, 29, 0, 1, 2, 12, 11, 10, 3, 3, 3, 28, 29]
    info = probe(make_clip(count=30, gop=6))
    with ClipReader(info) as clip:
        assert [read_index(frame.rgb) for frame in clip.frames_for(arbitrary(order))] == order


def test_drawing_on_a_held_frame_does_not_reach_the_next(make_clip: MakeClip, read_index: ReadIndex) -> None:
    info = probe(make_clip(count=3))
    with ClipReader(info) as clip:
        for frame in clip.frames_for(arbitrary([0, 1, 2, 2, 2])):
            assert read_index(frame.rgb) == frame.source_index
            frame.rgb[:] = 255


def test_leaving_half_way_closes_the_file_and_a_second_pass_starts_anew(make_clip: MakeClip) -> None:
    info = probe(make_clip(count=10))
    with ClipReader(info) as clip:
        assert next(iter(clip.frames())).index == 0
        assert len(list(clip.frames())) == 10
        half = iter(clip.frames())
        next(half)
    assert list(half) == []


def test_frames_that_change_size_come_in_the_clips_size(tmp_path: Path) -> None:
    path = tmp_path / "sizes.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index, (width, height) in enumerate([(64, 48), (32, 24), (64, 48)]):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"  # type: ignore[attr-defined]
            encoder.time_base = Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            frame = frame.reformat(format="yuvj420p")
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:  # type: ignore[attr-defined]
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
                container.mux(packet)
    with ClipReader(probe(path)) as clip:
        assert [frame.rgb.shape for frame in clip.frames()] == [(48, 64, 3)] * 3
