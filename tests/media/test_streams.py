"""What becomes of a target's other streams: copied bit by bit, cut with the picture, or named."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkswap.errors import UsageError
from talkswap.media.codecs import EncoderSettings
from talkswap.media.index import FrameIndex, cut, index_frames
from talkswap.media.mux import mux
from talkswap.media.output import FinishedClip
from talkswap.media.probe import probe
from talkswap.media.program import find_ffmpeg
from talkswap.media.reader import ClipReader
from talkswap.media.streams import Chapter, chapter_file, holdable
from talkswap.media.timeline import plan_timeline
from talkswap.media.writer import VideoWriter

MakeVoice = Callable[..., Path]
Dub = Callable[..., tuple[FinishedClip, Path]]

SUBTITLES = "1\n00:00:00,200 --> 00:00:00,600\nhello\n\n2\n00:00:00,700 --> 00:00:01,500\nworld\n"
CHAPTERS = """;FFMETADATA1
title=the title
{tag}
[CHAPTER]
TIMEBASE=1/1000
START=0
END=1000
title=one
[CHAPTER]
TIMEBASE=1/1000
START=1000
END=2000
title=two
"""


def ffmpeg(*arguments: object) -> None:
    subprocess.run([str(find_ffmpeg().path), "-v", "error", "-y", *map(str, arguments)], check=True)


def rich(folder: Path, ending: str) -> Path:
    """Two seconds with two sounds of different languages, subtitles, chapters and tags; in mkv a font and a cover."""
    (folder / "words.srt").write_text(SUBTITLES)
    (folder / "chapters.txt").write_text(CHAPTERS.format(tag="foo=bar" if ending == ".mkv" else "artist=them"))
    (folder / "font.ttf").write_bytes(b"not really a font" * 50)
    codecs = {
        ".mp4": ["-c:a", "aac", "-c:s", "mov_text"],
        ".mov": ["-c:a:0", "pcm_s16le", "-c:a:1", "aac", "-c:s", "mov_text"],
        ".mkv": ["-c:a:0", "aac", "-c:a:1", "libopus", "-c:s", "subrip"],
        ".webm": ["-c:a", "libopus", "-c:s", "webvtt", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8],
    }[ending]
    attached = ["-attach", folder / "font.ttf", "-metadata:s:t:0", "mimetype=font/ttf"] if ending == ".mkv" else []
    path = folder / f"rich{ending}"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=2", "-f", "lavfi", "-i", "sine=440:d=2"),
        *("-f", "lavfi", "-i", "sine=880:d=2:r=48000", "-i", folder / "words.srt", "-i", folder / "chapters.txt"),
        *("-map", 0, "-map", 1, "-map", 2, "-map", 3, "-map_metadata", 4, "-preset", "ultrafast", *codecs),
        *("-metadata:s:v:0", "language=fra", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu"),
        *("-metadata:s:a:1", "title=Kommentar", "-metadata:s:s:0", "language=eng"),
        *("-disposition:a:0", "default", "-disposition:a:1", "comment", *attached, path),
    )
    return path


@dataclass(frozen=True)
class Payload:
    """One stream of a file."""

    kind: str
    packets: tuple[tuple[float, bytes], ...]  # seconds from the first picture, content
    tags: dict[str, str]
    marks: int
    codec: str


def payloads(path: Path) -> list[Payload]:
    with av.open(str(path)) as container:
        found: list[list[tuple[Any, bytes]]] = [[] for _ in container.streams]
        for packet in container.demux():
            if packet.size:
                found[packet.stream_index].append(((packet.pts or 0) * packet.time_base, bytes(packet)))
        first = min(seconds for seconds, _ in found[0])
        return [
            Payload(
                stream.type,
                tuple((float(seconds - first), content) for seconds, content in packets),
                dict(stream.metadata),
                int(stream.disposition),
                stream.codec_context.name if stream.codec_context else "",
            )
            for stream, packets in zip(container.streams, found, strict=True)
            if stream.type != "data"  # chapters, which mp4 writes a second time as a track
        ]


def of(kind: str, path: Path) -> list[Payload]:
    return [payload for payload in payloads(path) if payload.kind == kind]


def contents(payload: Payload) -> list[bytes]:
    return [content for _, content in payload.packets]


def chapters(container: Any) -> list[tuple[float, float, str]]:
    """Seconds and title of each chapter."""
    return [
        (float(one["start"] * one["time_base"]), float(one["end"] * one["time_base"]), one["metadata"]["title"])
        for one in container.chapters()
    ]


@pytest.fixture
def dub(tmp_path: Path) -> Dub:
    """Encode a target's picture, or a part of it, and finish it: ``dub(target, ".mp4", voice, mix, start, end)``."""

    def make(
        target: Path, ending: str, voice: Path | None = None, mix: str = "replace", start: str = "0", end: str = "9"
    ) -> tuple[FinishedClip, Path]:
        info = probe(target)
        index, _ = cut(index_frames(info), Fraction(start), Fraction(end))
        timeline = plan_timeline(index.times, index.last_duration, index.duration)
        settings = EncoderSettings("libvpx-vp9" if ending == ".webm" else "libx264", preset="ultrafast")
        encoded = tmp_path / "encoded.mp4"
        with ClipReader(info, index) as clip, VideoWriter(encoded, info, settings, timeline.duration) as video:
            for frame in clip.frames_for(timeline):
                video.write(frame.rgb, frame.time)
        output = tmp_path / f"out{ending}"
        found = mux(
            encoded,
            voice,
            target,
            output,
            timeline.times,
            timeline.duration,
            audio_mix=mix,
            index=index,
            overwrite=True,
        )
        return found, output

    return make


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_pass_through_copies_every_other_stream_bit_by_bit(tmp_path: Path, dub: Dub, ending: str) -> None:
    target = rich(tmp_path, ending)
    found, output = dub(target, ending)
    before, after = payloads(target), payloads(output)
    assert [one.kind for one in after] == [one.kind for one in before]
    for one, two in zip(before[1:], after[1:], strict=True):
        assert contents(one) == contents(two)
        assert [time for time, _ in one.packets] == pytest.approx([time for time, _ in two.packets], abs=0.0011)
        assert two.marks == one.marks and two.codec == one.codec
        for tag in ("language", "title", "filename", "mimetype"):
            assert two.tags.get(tag) == one.tags.get(tag)
    assert after[0].tags["language"] == before[0].tags["language"]
    with av.open(str(target)) as one_file, av.open(str(output)) as two_files:
        assert chapters(two_files) == chapters(one_file) and len(chapters(one_file)) == 2
        tags = {name.lower(): value for name, value in two_files.metadata.items()}
        for name, value in one_file.metadata.items():
            assert name.lower() in ("encoder", "minor_version") or tags[name.lower()] == value
        attached = [getattr(stream, "data", b"") for stream in two_files.streams if stream.type == "attachment"]
        assert attached == ([(tmp_path / "font.ttf").read_bytes()] if ending == ".mkv" else [])
    assert all("copied" in fate for fate in found.streams) and len(found.streams) >= 4
    assert found.warnings == ()


def test_the_sound_keeps_its_place_where_the_picture_is_late(tmp_path: Path, dub: Dub) -> None:
    plain = rich(tmp_path, ".mp4")
    for ending in (".mp4", ".mkv", ".ts"):
        late = tmp_path / f"late{ending}"
        ffmpeg(*("-itsoffset", "0.3", "-i", plain, "-i", plain, "-map", "0:v", "-map", "1:a:0", "-c", "copy", late))
        _, output = dub(late, ".mp4")
        before, after = of("audio", late)[0], of("audio", output)[0]
        assert before.packets[0][0] == pytest.approx(-0.3, abs=0.06)
        # MPEG-TS wraps every packet once more, which mp4 takes off.
        if ending != ".ts":
            assert contents(before) == contents(after)
        assert len(before.packets) == len(after.packets)
        assert [time for time, _ in before.packets] == pytest.approx([t for t, _ in after.packets], abs=0.0011)


def test_a_voice_takes_the_place_of_the_main_sound_only(tmp_path: Path, dub: Dub, make_voice: MakeVoice) -> None:
    target = rich(tmp_path, ".mkv")
    found, output = dub(target, ".mkv", make_voice(2))
    voice, other = of("audio", output)
    assert (voice.codec, voice.marks) == ("aac", 1)
    assert "language" not in voice.tags  # whose words these are, nobody told
    assert contents(other) == contents(of("audio", target)[1])
    assert other.tags["language"] == "deu" and other.marks & 8
    assert found.streams[:2] == ("sound 1 (aac, eng): replaced by the voice", "sound 2 (opus, deu, Kommentar): copied")


def test_keep_puts_the_voice_before_the_targets_own_tracks(tmp_path: Path, dub: Dub, make_voice: MakeVoice) -> None:
    target = rich(tmp_path, ".mp4")
    _, output = dub(target, ".mp4", make_voice(2), "keep")
    voice, *own = of("audio", output)
    assert [contents(one) for one in own] == [contents(one) for one in of("audio", target)]
    assert (voice.marks & 1, own[0].marks & 1) == (1, 0)  # the voice is what plays unasked
    assert [one.tags["language"] for one in own] == ["eng", "deu"]


def level(path: Path, hertz: float, start: float, end: float) -> float:
    """Decibels of one tone in a stretch of a file's first sound."""
    pieces = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[0]):
            pieces.append(frame.to_ndarray().mean(0))
            rate = frame.sample_rate
    samples = np.concatenate(pieces)[round(start * rate) : round(end * rate)]
    wave = np.exp(-2j * np.pi * hertz * np.arange(len(samples)) / rate)
    return float(20 * np.log10(np.abs((samples * wave).mean()) * 2 + 1e-9))


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_duck_lowers_the_targets_own_sound_under_the_voice(
    tmp_path: Path, dub: Dub, make_voice: MakeVoice, ending: str
) -> None:
    target = rich(tmp_path, ending)
    found, output = dub(target, ending, make_voice(1), "duck")  # 300 Hz for a second, then silence; 440 Hz below
    assert len(of("audio", output)) == 2
    assert found.streams[0].endswith("mixed under the voice")
    assert level(output, 300, 0.3, 0.9) > -12
    assert level(output, 300, 1.3, 1.9) < -50
    lowered, free = level(output, 440, 0.3, 0.9), level(output, 440, 1.7, 1.95)
    assert free == pytest.approx(level(target, 440, 1.7, 1.95), abs=1)
    assert 10 < free - lowered < 30
    with pytest.raises(UsageError, match="audio mix"):
        dub(target, ending, make_voice(1), "louder")


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_a_part_has_its_own_sound_subtitles_and_chapters(tmp_path: Path, dub: Dub, ending: str) -> None:
    target = rich(tmp_path, ending)
    found, output = dub(target, ending, None, "replace", "0.52", "1.4")
    assert len(found.times) == 22
    shift = 13 / 25
    for before, after in zip(of("audio", target), of("audio", output), strict=True):
        known: dict[bytes, list[float]] = {}
        for time, content in before.packets:
            known.setdefault(content, []).append(time - shift)
        assert all(min(abs(one - time) for one in known[content]) < 0.0021 for time, content in after.packets)
        heard = [time for time, _ in after.packets]
        assert -0.13 < min(heard) < 0.025 and 0.88 - 0.025 < max(heard) < 0.88
        inside = [time for time, _ in before.packets if 0.02 < time - shift < 0.86]
        assert len(heard) >= len(inside) > 30
    texts = [(time, content) for time, content in of("subtitle", output)[0].packets if content.strip(b"\0")]
    words = {word: time for time, content in texts for word in (b"hello", b"world") if word in content}
    assert words == {b"hello": pytest.approx(0, abs=0.002), b"world": pytest.approx(0.7 - shift, abs=0.002)}
    with av.open(str(output)) as container:
        spans = chapters(container)
        assert container.duration is not None and container.duration < 1_050_000
    assert [title for _, _, title in spans] == ["one", "two"]
    assert [time for span in spans for time in span[:2]] == pytest.approx([0, 0.48, 0.48, 0.88], abs=0.002)


def test_what_the_container_cannot_hold_is_encoded_anew_or_named(
    tmp_path: Path, dub: Dub, make_voice: MakeVoice
) -> None:
    target = rich(tmp_path, ".mkv")
    found, output = dub(target, ".mp4")
    assert [one.codec for one in of("audio", output)] == ["aac", "opus"]
    assert any("attachment 1" in line and "left out" in line for line in found.warnings)
    assert any("tags FOO" in line for line in found.warnings)
    found, output = dub(target, ".webm", make_voice(1), "keep")
    assert [one.codec for one in of("audio", output)] == ["opus"] * 3
    assert [one.tags.get("language") for one in of("audio", output)] == [None, "eng", "deu"]
    assert any("sound 1 (aac, eng)" in line and "encoded again" in line for line in found.warnings)
    found, output = dub(target, ".mov")
    assert [one.codec for one in of("audio", output)] == ["aac", "aac"]
    assert [one.codec for one in of("subtitle", output)] == ["mov_text"]


def test_bitmap_subtitles_stay_in_mkv_and_are_named_elsewhere(tmp_path: Path, dub: Dub) -> None:
    plain = rich(tmp_path, ".mp4")
    target = tmp_path / "bitmaps.mkv"
    ffmpeg(
        "-i",
        plain,
        "-f",
        "lavfi",
        "-i",
        "color=white:s=64x48:d=1:r=1",
        "-map",
        "0:v",
        "-map",
        "0:a",
        "-c",
        "copy",
        target,
    )
    with av.open(str(target)) as source, av.open(str(tmp_path / "subs.mkv"), "w") as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in source.streams}
        bitmap: Any = made.add_stream("dvdsub")
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                made.mux(packet)
        drawn = av.Packet(bytes([0, 16, 0, 12, 0, 0, 0, 12, 1, 2, 255, 0]) + bytes(4))
        drawn.stream, drawn.pts, drawn.dts, drawn.duration = bitmap, 500, 500, 400
        drawn.time_base = Fraction(1, 1000)
        made.mux(drawn)
    found, output = dub(tmp_path / "subs.mkv", ".mkv")
    assert [contents(one) for one in of("subtitle", output)] == [
        contents(one) for one in of("subtitle", tmp_path / "subs.mkv")
    ]
    found, output = dub(tmp_path / "subs.mkv", ".webm")
    assert not of("subtitle", output)
    assert any("subtitle 1 (dvd_subtitle)" in line for line in found.warnings)


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_cover_pictures_and_time_codes_travel(tmp_path: Path, dub: Dub, ending: str) -> None:
    plain = rich(tmp_path, ".mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32:d=1:r=1", "-frames:v", 1, tmp_path / "cover.jpg")
    joined = tmp_path / "covered.mp4"
    ffmpeg(
        *("-i", plain, "-i", tmp_path / "cover.jpg", "-map", "0:v", "-map", "0:a", "-map", 1, "-c", "copy"),
        *("-disposition:v:1", "attached_pic", "-timecode", "01:02:03:04", joined),
    )
    found, output = dub(joined, ending)
    assert found.warnings == () and "cover 1 (mjpeg): copied" in found.streams
    _, cover = of("video", output)
    assert contents(cover) == [(tmp_path / "cover.jpg").read_bytes()]
    assert cover.marks == int(av.stream.Disposition.attached_pic)
    tags = {name.lower(): value for name, value in of("video", output)[0].tags.items()}
    assert tags["timecode"] == "01:02:03:04"
    found, output = dub(joined, ".mov", None, "replace", "0.4")
    assert any("cover 1" in line for line in found.warnings)
    assert any("data 1" in line for line in found.warnings)  # the first frame is another: so would the time be
    assert "timecode" not in of("video", output)[0].tags


def test_a_target_without_sound_stays_without(tmp_path: Path, dub: Dub) -> None:
    plain = rich(tmp_path, ".mp4")
    silent = tmp_path / "silent.mp4"
    ffmpeg("-i", plain, "-map", "0:v", "-c", "copy", silent)
    found, output = dub(silent, ".mp4")
    assert [one.kind for one in payloads(output)] == ["video"]
    assert len(found.times) == 50


def test_hevc_in_mp4_has_the_name_that_all_players_know(tmp_path: Path) -> None:
    target = rich(tmp_path, ".mp4")
    info = probe(target)
    index: FrameIndex = index_frames(info)
    with (
        ClipReader(info, index) as clip,
        VideoWriter(tmp_path / "e.mp4", info, EncoderSettings("libx265", preset="ultrafast"), index.duration) as video,
    ):
        for frame in clip.frames():
            video.write(frame.rgb, frame.time)
    mux(tmp_path / "e.mp4", None, target, tmp_path / "out.mp4", index.times, index.duration)
    assert b"hvc1" in (tmp_path / "out.mp4").read_bytes()


def test_chapters_are_written_as_ffmpeg_reads_them() -> None:
    text = chapter_file((Chapter(Fraction(1, 3), Fraction(2, 3), {"title": "a=b;c#d\\e\nf"}),))
    assert "START=333333\nEND=666667\ntitle=a\\=b\\;c\\#d\\\\e\\\nf\n" in text


def test_containers_say_what_they_hold() -> None:
    assert {"aac", "mov_text", "opus"} <= holdable(".mp4") and "subrip" not in holdable(".mp4")
    assert {"subrip", "hdmv_pgs_subtitle", "dvd_subtitle", "ass", "flac"} <= holdable(".mkv")
    assert {"opus", "vorbis", "webvtt"} <= holdable(".webm") and "aac" not in holdable(".webm")
    assert "opus" not in holdable(".mov")
