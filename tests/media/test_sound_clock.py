"""One clock for what the system listens to and what the output plays: clicks are found where they were made.

What is heard by the features comes from ``load_voice``, what the viewer hears from ``mux``; each file is read by
both and the clicks of both are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkswap.media.index import index_frames
from talkswap.media.mux import mux
from talkswap.media.probe import probe
from talkswap.media.sound import load_voice, shift_voice
from talkswap.types import Voice

Play = Callable[..., list[float]]

HZ = 48000
CLICKS = (0.5, 1.5)  # seconds after the sound's own start
NEAR = 0.005  # seconds


@dataclass(frozen=True)
class Sound:
    """Two seconds with a click at 0.5 and at 1.5, and what is odd about its time stamps."""

    codec: str = "aac"
    begins: float = 0.0  # seconds
    moved: tuple[tuple[float, float, float], ...] = ()  # from a second, to a second, by how many seconds
    missing: tuple[float, float] = (9.0, 9.0)  # seconds that are not there
    silent: bool = False
    block: int = 1024  # samples between two time stamps


def packets(container: Any, sound: Sound) -> list[Any]:
    """The encoded sound; packets whose start lies in ``missing`` never get into the encoder."""
    stream = container.add_stream(sound.codec, rate=HZ, layout="mono")
    clock = np.arange(2 * HZ) / HZ
    # Gaussians of 1 ms survive any codec and any resampler.
    samples = sum(0.7 * np.exp(-(((clock - second) / 0.001) ** 2)) for second in CLICKS) * (not sound.silent)
    converter = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=HZ)
    block = {"libopus": 960, "libmp3lame": 1152}.get(sound.codec, sound.block)
    found = []
    for first in range(0, 2 * HZ, block):
        second = first / HZ
        if sound.missing[0] <= second < sound.missing[1]:
            continue
        piece = np.ascontiguousarray(samples[None, first : first + block], np.float32)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        shift = sum(by for start, end, by in sound.moved if start <= second < end)
        frame.sample_rate, frame.time_base = HZ, Fraction(1, HZ)
        frame.pts = first + round((sound.begins + shift) * HZ)
        for converted in converter.resample(frame):
            found += stream.encode(converted)
    return found + stream.encode(None)


def write_sound(path: Path, sound: Sound) -> Path:
    with av.open(str(path), "w") as container:
        for packet in packets(container, sound):
            container.mux(packet)
    return path


def write_clip(path: Path, *sounds: Sound, picture_begins: float = 0.0) -> Path:
    """Fifty small pictures at 25 a second, and their sounds; the last of several is the default track."""
    codec = "libvpx" if path.suffix == ".webm" else "libx264"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if codec == "libx264":
            video.options = {"preset": "ultrafast", "bf": "2"}
        else:
            video.options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
        waiting = [packet for sound in sounds for packet in packets(container, sound)]
        for number in range(50):
            grey = np.full((48, 64, 3), 20 + 4 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = number + round(picture_begins * 25), Fraction(1, 25)
            waiting += video.encode(frame)
        waiting += video.encode(None)
        for track in container.streams.audio[:-1]:
            track.disposition = av.stream.Disposition.comment
        if len(sounds) > 1:
            container.streams.audio[-1].disposition = av.stream.Disposition.default
        # As a muxer meets them: by time, so that none has to wait.
        for packet in sorted(waiting, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def loudest(samples: np.ndarray, hz: int, count: int = 2) -> list[float]:
    """Seconds of the loudest clicks, in order of time."""
    rest, found = np.abs(samples), []
    for _ in range(count):
        place = int(rest.argmax())
        assert rest[place] > 0.2, "a click is missing"
        found.append(place / hz)
        rest[max(0, place - hz // 50) : place + hz // 50] = 0
    return sorted(found)


def played(path: Path, count: int = 2) -> list[float]:
    """Seconds after the first picture at which a player makes the clicks heard, by the file's own time stamps."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        first = min(packet.pts for packet in container.demux(video) if packet.pts is not None) * video.time_base
    heard = np.zeros(20 * HZ, np.float32)
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[0]):
            assert frame.sample_rate == HZ
            start = round((frame.pts * frame.time_base - first) * HZ)
            samples = frame.to_ndarray()[0]
            hidden = max(0, -start)  # the encoder's delay, before the first picture
            heard[start + hidden : start + len(samples)] = samples[hidden:]
    return loudest(heard, HZ, count)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of picture; it stands for every freshly encoded one."""
    return write_clip(tmp_path_factory.mktemp("clip") / "plain.mp4", Sound(silent=True))


@pytest.fixture
def play(tmp_path: Path, plain: Path) -> Play:
    """Clicks of the output when a voice is put to a target: ``play(voice, target, offset, count)``."""

    def dub(voice: Path, target: Path = plain, offset: Fraction = Fraction(0), count: int = 2) -> list[float]:
        index = index_frames(probe(target))
        output = tmp_path / "dubbed.mp4"
        mux(plain, voice, target, output, index.times, index.duration, voice_offset=offset, overwrite=True)
        return played(output, count)

    return dub


def listened(voice: Voice, count: int = 2) -> list[float]:
    """Clicks as the features see them."""
    return loudest(voice.samples, voice.hz, count)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("voice.ogg", "libopus"),
        ("voice.opus", "libopus"),
        ("voice.mp3", "libmp3lame"),
        ("voice.m4a", "aac"),
        ("voice.flac", "flac"),
        ("voice.wav", "pcm_s16le"),
        ("voice.mka", "libmp3lame"),
    ],
)
def test_an_encoders_delay_is_heard_by_nobody(tmp_path: Path, play: Play, name: str, codec: str) -> None:
    voice = write_sound(tmp_path / name, Sound(codec))
    assert listened(load_voice(voice)) == pytest.approx(CLICKS, abs=NEAR)
    assert play(voice) == pytest.approx(CLICKS, abs=NEAR)


STREAMS = {
    "sound late": (Sound(begins=0.4), 0.0),
    "picture late": (Sound(), 0.4),
    "long hole": (Sound(missing=(0.7, 1.2)), 0.0),
    "short hole": (Sound(missing=(0.7, 0.78)), 0.0),
    "late with a hole": (Sound(begins=0.2, missing=(0.7, 1.2)), 0.0),
}
CONTAINERS = [(".mp4", "aac"), (".mov", "aac"), (".mkv", "aac"), (".webm", "libopus"), (".ts", "aac")]


@pytest.mark.parametrize("case", STREAMS)
@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_features_and_sound_keep_one_clock(tmp_path: Path, play: Play, suffix: str, codec: str, case: str) -> None:
    sound, picture_begins = STREAMS[case]
    sound = Sound(codec, sound.begins, (), sound.missing)
    clip = write_clip(tmp_path / f"voice{suffix}", sound, picture_begins=picture_begins)
    # MPEG-TS cannot hide AAC's first 1024 samples; where sound comes first, the file begins with them.
    delay = 1024 / HZ if suffix == ".ts" and sound.begins == 0 else 0.0
    seen = [click + sound.begins for click in CLICKS]
    count = sum(second < 2 for second in seen)  # the plain target ends at 2 s
    voice = listened(load_voice(clip))
    assert voice == pytest.approx([second + delay for second in seen], abs=NEAR)
    assert play(clip, count=count) == pytest.approx(voice[:count], abs=NEAR)
    offset = probe(clip).audio_offset
    own = listened(shift_voice(load_voice(clip), offset))
    assert own == pytest.approx([second - picture_begins for second in seen], abs=NEAR)
    assert play(clip, clip, offset, count) == pytest.approx(own[:count], abs=NEAR)


def test_the_default_track_is_both_heard_and_played(tmp_path: Path, play: Play) -> None:
    clip = write_clip(tmp_path / "two.mkv", Sound("pcm_s16le", silent=True), Sound("pcm_s16le", begins=0.2))
    assert listened(load_voice(clip)) == pytest.approx([0.7, 1.7], abs=NEAR)
    assert play(clip) == pytest.approx([0.7, 1.7], abs=NEAR)


@pytest.mark.parametrize(
    ("sound", "expected"),
    [
        (Sound("pcm_s16le", moved=((1.0, 2.0, -0.2),), block=HZ // 2), [0.5, 1.3]),
        (Sound("pcm_s16le", moved=((0.6, 1.2, -0.2), (1.2, 2.0, 0.1)), block=HZ * 3 // 10), [0.5, 1.6]),
        (Sound("pcm_s16le", moved=((1.0, 2.0, 1e7),)), [0.5, 1.5]),  # months are damage: played on
        (Sound("pcm_s16le", begins=1e6), [0.5, 1.5]),
    ],
    ids=["overlap", "overlap and hole", "jump", "far start"],
)
def test_time_stamps_that_jump_are_read_alike(tmp_path: Path, play: Play, sound: Sound, expected: list[float]) -> None:
    voice = write_clip(tmp_path / "voice.mkv", sound)  # with a picture, so that the file starts at 0 in any case
    assert listened(load_voice(voice)) == pytest.approx(expected, abs=NEAR)
    assert play(voice) == pytest.approx(expected, abs=NEAR)


def test_recordings_in_a_row_and_long_pauses_are_read_alike(tmp_path: Path, plain: Path) -> None:
    one = write_sound(tmp_path / "one.ts", Sound("libmp3lame", moved=((1.0, 2.0, 14.0),))).read_bytes()
    two = write_sound(tmp_path / "two.ts", Sound("libmp3lame", missing=(1.0, 2.0))).read_bytes()
    voice = tmp_path / "voice.ts"
    voice.write_bytes(one + two)  # the second one's time stamps begin anew
    seen = listened(load_voice(voice), 3)
    assert seen[1] - seen[0] == pytest.approx(15, abs=NEAR)
    assert seen[2] - seen[1] == pytest.approx(1, abs=0.1)  # the encoder's delay and padding lie between
    index = index_frames(probe(plain))
    output = tmp_path / "out.mp4"
    mux(plain, voice, plain, output, index.times, Fraction(18))
    assert played(output, 3) == pytest.approx(seen, abs=NEAR)
