"""The final pass: sound and picture of one length, tags and subtitles kept, the output whole or untouched."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.errors import EncoderError, NoAudioError, OutputExistsError, OutputUnwritableError, TalkswapError
from talkswap.media import mux as mux_module
from talkswap.media.codecs import EncoderSettings
from talkswap.media.index import FrameIndex
from talkswap.media.mux import mux
from talkswap.media.output import check_output, staging_folder
from talkswap.media.probe import probe
from talkswap.media.program import Program, find_ffmpeg
from talkswap.media.reader import ClipReader
from talkswap.media.writer import VideoWriter
from talkswap.types import Voice

MakeClip = Callable[..., Path]
MakeVoice = Callable[..., Path]


@dataclass(frozen=True)
class Encoded:
    """A target and its freshly encoded picture."""

    target: Path
    video: Path
    index: FrameIndex


def encoded(target: Path, encoder: str = "libx264") -> Encoded:
    info = probe(target)
    path = target.with_name("encoded.mp4")
    with ClipReader(info) as clip, VideoWriter(path, info, EncoderSettings(encoder), clip.index.duration) as video:
        for frame in clip.frames():
            video.write(frame.rgb, frame.time)
    return Encoded(target, path, clip.index)


def tone_bounds(path: Path) -> tuple[float, float]:
    """Seconds at which a sound becomes loud and silent again, as a player would play it."""
    pieces = []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate = stream.codec_context.sample_rate
        for frame in container.decode(stream):
            # A decoder hands out what the edit list hides; its time stamp says so.
            start = 0 if frame.pts is None else round(frame.pts * stream.time_base * rate)
            pieces.append((start, np.abs(frame.to_ndarray().astype(np.float64)).max(0)))
    length = max(start + len(piece) for start, piece in pieces)
    loud = np.zeros(length)
    for start, piece in pieces:
        if start >= 0:
            loud[start : start + len(piece)] = piece
        else:
            loud[: len(piece) + start] = piece[-start:]
    where = np.flatnonzero(loud > 0.1 * loud.max())
    return where[0] / rate, where[-1] / rate


@pytest.mark.parametrize(
    "rate",
    [
        Fraction(24000, 1001),
        Fraction(24),
        Fraction(25),
        Fraction(30000, 1001),
        Fraction(30),
        Fraction(50),
        Fraction(60000, 1001),
        Fraction(60),
    ],
)
@pytest.mark.parametrize("seconds", [0.3, 5.0])
def test_sound_and_picture_have_one_length_at_every_rate(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path, rate: Fraction, seconds: float
) -> None:
    made = encoded(make_clip(count=53, rate=rate, time_base=Fraction(1, rate.numerator)))
    found = mux(
        made.video, make_voice(seconds), made.target, tmp_path / "out.mp4", made.index.times, made.index.duration
    )
    assert found.times == tuple(n / rate for n in range(53))
    assert found.sound_start == 0
    assert abs(found.sound_end - 53 / rate) <= Fraction(1, 16000)
    info = probe(tmp_path / "out.mp4")
    assert (info.frames, info.duration) == (53, 53 / rate)


@pytest.mark.parametrize(
    ("suffix", "encoder", "sound"),
    [
        (".mp4", "libx264", "aac"),
        (".mov", "libx264", "aac"),
        (".mkv", "libx264", "aac"),
        (".webm", "libvpx-vp9", "opus"),
        (".mp4", "libvpx-vp9", "aac"),
    ],
)
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(60)])
def test_every_container(
    make_clip: MakeClip,
    make_voice: MakeVoice,
    tmp_path: Path,
    suffix: str,
    encoder: str,
    sound: str,
    rate: Fraction,
) -> None:
    made = encoded(make_clip(count=31, rate=rate, time_base=Fraction(1, rate.numerator)), encoder)
    output = tmp_path / f"out{suffix}"
    found = mux(made.video, make_voice(9), made.target, output, made.index.times, made.index.duration)
    tick = Fraction(0) if suffix in (".mp4", ".mov") else Fraction(1, 1000)
    assert all(abs(one - two) <= tick for one, two in zip(found.times, made.index.times, strict=True))
    assert abs(found.sound_end - made.index.duration) <= 1 / rate
    assert abs(found.sound_start) <= Fraction(1, 100)
    with av.open(str(output)) as container:
        assert container.streams.audio[0].codec_context.name == sound
        assert "talkswap" in {name.lower(): value for name, value in container.metadata.items()}["comment"]
        assert sum(1 for _ in container.decode(video=0)) == 31


def test_the_encoded_picture_is_copied_not_encoded_again(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path
) -> None:
    made = encoded(make_clip(count=30))
    mux(made.video, make_voice(1), made.target, tmp_path / "out.mp4", made.index.times, made.index.duration)

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]

    assert packets(tmp_path / "out.mp4") == packets(made.video)


def test_variable_rate_and_a_long_last_frame(make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path) -> None:
    ticks = [0, 17, 34, 150, 151, 400, 1000, 1017, 1900]
    made = encoded(make_clip(ticks=ticks, rate=Fraction(30), time_base=Fraction(1, 600)))
    found = mux(made.video, make_voice(1), made.target, tmp_path / "out.mp4", made.index.times, made.index.duration)
    assert found.times == tuple(Fraction(tick, 600) for tick in ticks)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_voice_is_heard_when_it_should_be(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path, suffix: str
) -> None:
    made = encoded(make_clip(count=50))
    output = tmp_path / f"out{suffix}"
    for offset, begin, end in ((Fraction(0), 0.0, 1.0), (Fraction(1, 2), 0.5, 1.5), (Fraction(-1, 4), 0.0, 0.75)):
        mux(
            made.video, make_voice(1), made.target, output, made.index.times, made.index.duration,
            voice_offset=offset, overwrite=True,
        )  # fmt: skip
        heard = tone_bounds(output)
        assert abs(heard[0] - begin) < 0.005
        assert abs(heard[1] - end) < 0.005


def test_samples_and_other_sounds_become_the_voice(make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path) -> None:
    made = encoded(make_clip(count=25, sound=True))
    tone = 0.5 * np.sin(np.arange(16000) * 2 * np.pi * 300 / 16000).astype(np.float32)
    wide = make_voice(1, hz=96000, channels=2, name="wide.wav")
    for voice, hz, channels in (
        (Voice(tone, 16000), 48000, 1),
        (made.target, 48000, 1),
        (wide, 48000, 2),
        (make_voice(1, hz=44100), 44100, 1),
        (make_voice(1, hz=48000, channels=6, name="round.wav"), 48000, 2),
    ):
        found = mux(
            made.video, voice, made.target, tmp_path / "out.mp4", made.index.times, made.index.duration, overwrite=True
        )
        assert found.sound_end == 1
        with av.open(str(tmp_path / "out.mp4")) as container:
            context = container.streams.audio[0].codec_context
            assert (context.sample_rate, context.layout.nb_channels) == (hz, channels)


def with_subtitles(clip: Path) -> Path:
    """The clip with a subtitle from 0.2 to 9 s, a chapter and a title."""
    text = clip.with_suffix(".srt")
    text.write_text("1\n00:00:00,200 --> 00:00:09,000\nhello\n")
    chapters = clip.with_suffix(".txt")
    chapters.write_text(";FFMETADATA1\ntitle=the title\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=2000\ntitle=one\n")
    joined = clip.with_name("subtitled.mkv")
    arguments = [str(find_ffmpeg().path), "-v", "error", "-i", str(clip), "-i", str(text), "-i", str(chapters)]
    arguments += ["-map", "0:v", "-map", "1:0", "-map_metadata", "2", "-c", "copy", str(joined)]
    assert os.spawnv(os.P_WAIT, arguments[0], arguments) == 0
    return joined


@pytest.mark.parametrize(
    ("suffix", "encoder", "subtitle"),
    [(".mp4", "libx264", "mov_text"), (".mkv", "libx264", "srt"), (".webm", "libvpx-vp9", "webvtt")],
)
def test_title_subtitles_and_chapters_travel(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path, suffix: str, encoder: str, subtitle: str
) -> None:
    made = encoded(with_subtitles(make_clip(count=50)), encoder)
    output = tmp_path / f"out{suffix}"
    found = mux(
        made.video, make_voice(1), made.target, output, made.index.times, made.index.duration,
        metadata={"artist": "us"},
    )  # fmt: skip
    assert len(found.times) == 50
    with av.open(str(output)) as container:
        assert [stream.codec_context.name for stream in container.streams.subtitles] in ([subtitle], ["subrip"])
        tags = {name.lower(): value for name, value in container.metadata.items()}
        assert (tags["title"], tags["artist"]) == ("the title", "us")
        assert len(container.chapters()) == 1
        (line,) = [packet for packet in container.demux(container.streams.subtitles[0]) if b"hello" in bytes(packet)]
        assert abs(line.pts * line.time_base - Fraction(1, 5)) <= Fraction(1, 25)
    assert abs(probe(output).duration - 2) <= Fraction(1, 10)


def test_subtitles_that_cannot_be_written_cost_a_warning_not_the_render(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = encoded(with_subtitles(make_clip(count=50)))
    script = tmp_path / "ffmpeg"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *setts*) echo no such filter >&2; exit 1;; esac\nexec {find_ffmpeg().path} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(mux_module, "find_ffmpeg", lambda: Program(script))
    found = mux(made.video, make_voice(1), made.target, tmp_path / "out.mp4", made.index.times, made.index.duration)
    (warning,) = found.warnings
    assert "subtitles" in warning and "no such filter" in warning
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.subtitles


@pytest.mark.parametrize(("suffix", "encoder"), [(".webm", "libvpx-vp9"), (".mkv", "libx264"), (".mov", "libx264")])
def test_the_shape_of_pixels_and_the_colour_tags_reach_the_output(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path, suffix: str, encoder: str
) -> None:
    colour = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 2}
    made = encoded(make_clip(count=5, aspect=Fraction(8, 9), colour=colour), encoder)
    output = tmp_path / f"out{suffix}"
    mux(made.video, make_voice(1), made.target, output, made.index.times, made.index.duration)
    assert probe(output).colour == probe(made.target).colour
    assert abs(probe(output).sample_aspect_ratio - Fraction(8, 9)) < Fraction(1, 40)  # webm rounds to whole pixels


def test_chapters_of_a_clip_whose_length_changed_stay_away(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path
) -> None:
    made = encoded(with_subtitles(make_clip(count=50)))
    times = made.index.times[:20]  # 0.8 s, the chapter lasts 2 s and the subtitle 9
    info = probe(made.target)
    with ClipReader(info) as clip, VideoWriter(made.video, info, EncoderSettings(), Fraction(20, 25)) as video:
        for frame, time in zip(clip.frames(), times, strict=False):
            video.write(frame.rgb, time)
    mux(made.video, make_voice(1), made.target, tmp_path / "out.mkv", times, Fraction(20, 25))
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert not container.chapters()
        assert len(container.streams.subtitles) == 1
        assert container.duration is not None and container.duration < 900_000


def test_sound_comes_first_in_the_file_for_playing_while_loading(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path
) -> None:
    made = encoded(make_clip(count=10))
    mux(made.video, make_voice(1), made.target, tmp_path / "out.mp4", made.index.times, made.index.duration)
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_an_existing_output_is_only_replaced_when_told(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path
) -> None:
    made = encoded(make_clip(count=10))
    output = tmp_path / "out.mp4"
    output.write_text("precious")
    arguments = (made.video, make_voice(1), made.target, output, made.index.times, made.index.duration)
    with pytest.raises(OutputExistsError):
        mux(*arguments)
    assert output.read_text() == "precious"
    mux(*arguments, overwrite=True)
    assert probe(output).frames == 10


def test_a_failure_leaves_everything_as_it_was(make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path) -> None:
    made = encoded(make_clip(count=10))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(made.video.read_bytes()[:-600])
    output = tmp_path / "out.mp4"
    voice = make_voice(1)
    output.write_text("precious")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TalkswapError):
        mux(broken, voice, made.target, output, made.index.times, made.index.duration, overwrite=True)
    assert sorted(tmp_path.iterdir()) == before
    assert output.read_text() == "precious"


def test_ffmpegs_last_words_are_in_the_error(
    make_clip: MakeClip, make_voice: MakeVoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = encoded(make_clip(count=10))
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho first line >&2\necho encoder not found >&2\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(mux_module, "find_ffmpeg", lambda: Program(script))
    voice = make_voice(1)
    with pytest.raises(EncoderError, match="encoder not found"):
        mux(made.video, voice, made.target, tmp_path / "out.mp4", made.index.times, made.index.duration)
    script.write_text("#!/bin/sh\necho av_interleaved_write_frame: No space left on device >&2\nexit 1\n")
    with pytest.raises(OutputUnwritableError, match="disk is full"):
        mux(made.video, voice, made.target, tmp_path / "out.mp4", made.index.times, made.index.duration)


def test_a_voice_without_sound_has_its_name(make_clip: MakeClip, tmp_path: Path) -> None:
    made = encoded(make_clip(count=10))
    for voice in (made.target, Voice(np.zeros(0, np.float32), 16000)):
        with pytest.raises(NoAudioError):
            mux(made.video, voice, made.target, tmp_path / "out.mp4", made.index.times, made.index.duration)


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputUnwritableError, match="does not exist"):
        check_output(tmp_path / "nowhere" / "out.mp4")
    with pytest.raises(OutputUnwritableError, match="the ending .flv, which is not written") as caught:
        check_output(tmp_path / "out.flv")
    assert caught.value.hint == "end its name in .mp4, .mov, .mkv or .webm"
    with pytest.raises(OutputUnwritableError, match="no ending"):
        check_output(tmp_path / "out")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputUnwritableError, match="directory"):
        check_output(tmp_path / "folder.mp4")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(OutputUnwritableError, match="read-only"):
        check_output(tmp_path / "out.mp4")


def test_the_staging_folder_is_private_beside_the_output_and_goes_away(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staging_folder(tmp_path / "out.mp4") as folder:
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "big").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
