"""Reading voices from really encoded files."""

from __future__ import annotations

import struct
import time
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from talkswap.errors import InputMissingError, NoAudioError, TalkswapError, UnreadableMediaError
from talkswap.media import sound
from talkswap.media.sound import load_voice, shift_voice
from talkswap.types import Voice


def write_sound(
    path: Path,
    planes: np.ndarray,
    rate: int,
    codec: str,
    sample_format: str,
    layout: str,
    pts: list[int] | None = None,
    frame_size: int = 1024,
) -> Path:
    """Encode float planes (channels x samples) with PyAV; ``pts`` gives each frame's own start in samples."""
    with av.open(str(path), "w") as container:
        add_sound(container, planes, rate, codec, sample_format, layout, pts, frame_size)
    return path


def add_sound(
    container: av.container.OutputContainer,
    planes: np.ndarray,
    rate: int,
    codec: str,
    sample_format: str,
    layout: str,
    pts: list[int] | None = None,
    frame_size: int = 1024,
) -> None:
    stream = container.add_stream(codec, rate=rate, layout=layout, format=sample_format)
    converter = av.AudioResampler(format=sample_format, layout=layout, rate=rate)
    for number, first in enumerate(range(0, planes.shape[1], frame_size)):
        piece = np.ascontiguousarray(planes[:, first : first + frame_size].astype(np.float32))
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = first if pts is None else pts[number]
        for converted in converter.resample(frame):
            for packet in stream.encode(converted):
                container.mux(packet)
    for packet in stream.encode(None):
        container.mux(packet)


def write_wave(path: Path, samples: np.ndarray, rate: int = 16000, form: int = 3, channels: int = 1) -> Path:
    """A wav written by hand (form 1: integers, 3: floats): values that no encoder would let through."""
    data = samples.tobytes()
    width = samples.dtype.itemsize
    head = struct.pack("<HHIIHH", form, channels, rate, rate * channels * width, channels * width, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def clicks(rate: int, at: list[float], seconds: float) -> np.ndarray:
    """Short smooth pulses (a Gaussian of 1 ms) that survive any resampling and codec."""
    clock = np.arange(round(rate * seconds)) / rate
    return sum(0.7 * np.exp(-(((clock - second) / 0.001) ** 2)) for second in at)[None]


def peak_second(samples: np.ndarray, between: tuple[float, float], hz: int = 16000) -> float:
    first, last = (round(edge * hz) for edge in between)
    return (first + int(np.argmax(np.abs(samples[first:last])))) / hz


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_any_rate_keeps_time_and_level(tmp_path: Path, rate: int) -> None:
    planes = clicks(rate, [0.25, 1.5], 2.0)
    voice = load_voice(write_sound(tmp_path / "a.wav", planes, rate, "pcm_s16le", "s16", "mono"))
    assert voice.hz == 16000 and voice.samples.dtype == np.float32
    assert abs(len(voice.samples) - 32000) <= 1
    for second in (0.25, 1.5):
        assert peak_second(voice.samples, (second - 0.1, second + 0.1)) == pytest.approx(second, abs=2 / 16000)
    assert voice.samples.max() == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(
    ("codec", "sample_format"),
    [("pcm_u8", "u8"), ("pcm_s16le", "s16"), ("pcm_s24le", "s32"), ("pcm_f32le", "flt"), ("pcm_f64le", "dbl")],
)
def test_any_sample_format_is_scaled_alike(tmp_path: Path, codec: str, sample_format: str) -> None:
    clock = np.arange(16000) / 16000
    planes = (0.5 * np.sin(2 * np.pi * 220 * clock))[None]
    voice = load_voice(write_sound(tmp_path / "a.wav", planes, 16000, codec, sample_format, "mono"))
    np.testing.assert_allclose(voice.samples, planes[0], atol=0.01 if codec == "pcm_u8" else 1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "sample_format"),
    [
        ("a.flac", "flac", "s16"),
        ("a.m4a", "aac", "fltp"),
        ("a.mp4", "aac", "fltp"),
        ("a.mp3", "libmp3lame", "fltp"),
        ("a.ogg", "libopus", "flt"),
        ("a.opus", "libopus", "flt"),
        ("a.mkv", "aac", "fltp"),
        ("a.mov", "pcm_s16le", "s16"),
        ("a.avi", "pcm_s16le", "s16"),
    ],
)
def test_codecs_and_containers_keep_time(tmp_path: Path, name: str, codec: str, sample_format: str) -> None:
    planes = clicks(48000, [0.3, 1.2], 1.6)
    voice = load_voice(write_sound(tmp_path / name, planes, 48000, codec, sample_format, "mono", frame_size=960))
    # Matroska says the encoder's delay in milliseconds, and not every player-side trim is sample exact.
    tolerance = 0.03 if name == "a.mkv" else 0.002
    for second in (0.3, 1.2):
        assert peak_second(voice.samples, (second - 0.1, second + 0.1)) == pytest.approx(second, abs=tolerance)
    assert float(voice.seconds) == pytest.approx(1.6, abs=0.06)


def test_stereo_is_the_mean(tmp_path: Path) -> None:
    clock = np.arange(16000) / 16000
    left, right = 0.4 * np.sin(2 * np.pi * 200 * clock), 0.2 * np.sin(2 * np.pi * 330 * clock)
    path = write_sound(tmp_path / "a.wav", np.stack([left, right]), 16000, "pcm_f32le", "flt", "stereo")
    np.testing.assert_allclose(load_voice(path).samples, (left + right) / 2, atol=1e-4)


def test_speech_in_the_centre_of_surround_is_heard(tmp_path: Path) -> None:
    clock = np.arange(48000) / 48000
    planes = np.zeros((6, 48000))
    planes[2] = 0.5 * np.sin(2 * np.pi * 300 * clock)  # FL FR FC LFE BL BR
    path = write_sound(tmp_path / "a.wav", planes, 48000, "pcm_s16le", "s16", "5.1")
    samples = load_voice(path).samples
    assert len(samples) == pytest.approx(16000, abs=1)
    assert np.abs(samples[1000:-1000]).max() > 0.1
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) == pytest.approx(300, abs=1)


@pytest.mark.parametrize("channels", [3, 5, 7, 9, 16])
@pytest.mark.parametrize("form", [1, 3])
def test_channels_without_names_are_averaged(tmp_path: Path, channels: int, form: int) -> None:
    clock = np.arange(8000) / 16000
    planes = np.stack([0.1 * (number % 3) * np.sin(2 * np.pi * 250 * clock) for number in range(channels)])
    values = planes.T.astype(np.float32) if form == 3 else np.round(planes.T * 32767).astype(np.int16)
    path = write_wave(tmp_path / "a.wav", np.ascontiguousarray(values), form=form, channels=channels)
    samples = load_voice(path).samples
    assert len(samples) == 8000
    gain = float(samples @ np.sin(2 * np.pi * 250 * clock) / np.square(np.sin(2 * np.pi * 250 * clock)).sum())
    assert 0.02 < gain < 0.2
    np.testing.assert_allclose(samples, gain * np.sin(2 * np.pi * 250 * clock), atol=1e-3)


def test_another_rate_can_be_asked_for(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", clicks(48000, [0.5], 1.0), 48000, "pcm_s16le", "s16", "mono")
    voice = load_voice(path, 24000)
    assert voice.hz == 24000 and abs(len(voice.samples) - 24000) <= 1
    assert peak_second(voice.samples, (0.4, 0.6), 24000) == pytest.approx(0.5, abs=1e-4)


def write_video(path: Path, sound_starts: float, video_starts: float = 0.0) -> Path:
    """Two seconds of grey pictures, and a second of sound with a click in its middle."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(50):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            picture.pts = number + round(video_starts * 25)
            picture.time_base = Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        planes = clicks(16000, [0.5], 1.0).astype(np.float32)
        for first in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(planes[:, first : first + 1024]), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            frame.pts = first + round(sound_starts * 16000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize("offset", [0.0, 0.4, 1.25])
def test_sound_that_starts_late_gets_silence_in_front(tmp_path: Path, name: str, offset: float) -> None:
    samples = load_voice(write_video(tmp_path / name, offset)).samples
    tolerance = 0.07 if name == "a.mkv" else 0.005  # Matroska writes AAC's 1024 samples of delay as they are
    assert peak_second(samples, (offset + 0.3, offset + 0.7)) == pytest.approx(offset + 0.5, abs=tolerance)
    if offset:
        assert (samples[: round((offset - 0.08) * 16000)] == 0).all()


def test_a_hole_in_the_stream_stays_a_hole(tmp_path: Path) -> None:
    starts = [number * 1024 if number < 10 else number * 1024 + 32000 for number in range(20)]
    planes = clicks(16000, [0.3, 0.9], 1.28)
    path = write_sound(tmp_path / "a.mka", planes, 16000, "pcm_s16le", "s16", "mono", pts=starts)
    samples = load_voice(path).samples
    assert len(samples) == pytest.approx(20 * 1024 + 32000, abs=16)
    assert peak_second(samples, (0.1, 0.5)) == pytest.approx(0.3, abs=0.002)
    assert peak_second(samples, (2.5, 3.2)) == pytest.approx(2.9, abs=0.002)
    assert (samples[11 * 1024 : 9 * 1024 + 32000] == 0).all()


def test_absurd_time_stamps_add_no_years_of_silence(tmp_path: Path) -> None:
    starts = [number * 1024 if number < 10 else number * 1024 + 16000 * 10**7 for number in range(20)]
    planes = clicks(16000, [0.3, 0.9], 1.28)
    path = write_sound(tmp_path / "a.mka", planes, 16000, "pcm_s16le", "s16", "mono", pts=starts)
    samples = load_voice(path).samples
    assert len(samples) == pytest.approx(20 * 1024, abs=16)
    assert peak_second(samples, (0.7, 1.1)) == pytest.approx(0.9, abs=0.002)


def test_bad_samples_become_silence_and_the_rest_stays(tmp_path: Path) -> None:
    clock = np.arange(16000) / 16000
    samples = (0.3 * np.sin(2 * np.pi * 250 * clock)).astype(np.float32)
    broken = samples.copy()
    broken[4000:4100] = np.nan
    broken[9000] = np.inf
    voice = load_voice(write_wave(tmp_path / "a.wav", broken))
    assert np.isfinite(voice.samples).all()
    assert (voice.samples[4000:4100] == 0).all() and voice.samples[9000] == 0
    untouched = np.isfinite(broken)
    np.testing.assert_allclose(voice.samples[untouched], samples[untouched], atol=1e-6)


def test_bad_samples_do_not_spread_through_the_resampler(tmp_path: Path) -> None:
    clock = np.arange(48000) / 48000
    samples = (0.3 * np.sin(2 * np.pi * 250 * clock)).astype(np.float32)
    samples[24000:24010] = np.nan
    voice = load_voice(write_wave(tmp_path / "a.wav", samples, 48000))
    reference = 0.3 * np.sin(2 * np.pi * 250 * np.arange(16000) / 16000)
    far = np.abs(np.arange(16000) - 8001) > 100
    far[:50] = far[-50:] = False
    np.testing.assert_allclose(voice.samples[far], reference[far], atol=2e-3)


def test_only_bad_samples_are_an_error(tmp_path: Path) -> None:
    path = write_wave(tmp_path / "a.wav", np.full(16000, np.nan, np.float32))
    with pytest.raises(UnreadableMediaError, match="number"):
        load_voice(path)


def test_floats_beyond_full_scale_are_turned_down_or_clipped(tmp_path: Path) -> None:
    clock = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 250 * clock)
    as_integers = load_voice(write_wave(tmp_path / "a.wav", (20000 * tone).astype(np.float32))).samples
    np.testing.assert_allclose(as_integers, tone, atol=0.01)
    spiky = (0.3 * tone).astype(np.float32)
    spiky[100] = 1e30
    one_spike = load_voice(write_wave(tmp_path / "b.wav", spiky)).samples
    assert one_spike[100] == 1
    np.testing.assert_allclose(np.delete(one_spike, 100), 0.3 * np.delete(tone, 100), atol=1e-6)


def test_one_sample_is_a_voice(tmp_path: Path) -> None:
    assert load_voice(write_wave(tmp_path / "a.wav", np.full(1, 0.25, np.float32))).samples.tolist() == [0.25]


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="does not exist"):
        load_voice(tmp_path / "no.wav")
    with pytest.raises(InputMissingError, match="directory"):
        load_voice(tmp_path)


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.mp3"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no sound at all\n" * 40, bytes(5000)])
def test_not_media(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableMediaError) as caught:
        load_voice(path)
    assert caught.value.hint and str(path) in caught.value.message


def test_wave_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
    with pytest.raises(NoAudioError, match="no samples"):
        load_voice(path)


def test_pictures_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(NoAudioError, match="no audio stream"):
        load_voice(path)


def test_a_name_with_a_protocol_in_it_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_wave(tmp_path / "voice.wav", np.full(1600, 0.25, np.float32)).rename(tmp_path / "concat:é 1.wav")
    assert len(load_voice(Path("concat:é 1.wav")).samples) == 1600


def test_a_playlist_reaches_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises((UnreadableMediaError, NoAudioError)):
        load_voice(path)


def test_the_default_track_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.mka"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for level, stream in zip((3000, 9000), streams, strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, 16000), level, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert load_voice(path).samples.mean() == pytest.approx(9000 / 32768, abs=1e-3)


def test_a_truncated_file_gives_what_is_there(tmp_path: Path) -> None:
    planes = clicks(44100, [0.3], 2.0)
    path = write_sound(tmp_path / "a.mp3", planes, 44100, "libmp3lame", "fltp", "mono")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    voice = load_voice(path)
    assert 0.8 < voice.seconds < 1.3
    assert peak_second(voice.samples, (0.2, 0.4)) == pytest.approx(0.3, abs=0.003)


def test_a_truncated_mp4_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 0.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableMediaError):
        load_voice(path)


def test_damage_in_the_middle_costs_the_middle_only(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    planes = clicks(44100, [0.2, 1.8], 2.0) + 0.01 * generator.normal(size=(1, 88200))
    path = write_sound(tmp_path / "a.m4a", planes, 44100, "aac", "fltp", "mono")
    content = bytearray(path.read_bytes())
    begin = content.index(b"mdat") + 4
    size = struct.unpack(">I", content[begin - 8 : begin - 4])[0]
    middle = begin + size // 2
    content[middle - size // 10 : middle] = bytes(generator.integers(0, 256, size // 10, np.uint8))
    path.write_bytes(content)
    voice = load_voice(path)
    assert float(voice.seconds) == pytest.approx(2.0, abs=0.06)
    assert peak_second(voice.samples, (0.1, 0.3)) == pytest.approx(0.2, abs=0.005)
    assert peak_second(voice.samples, (1.7, 1.9)) == pytest.approx(1.8, abs=0.005)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    planes = clicks(44100, [0.3], 1.0)
    return {
        "a.mp3": write_sound(folder / "a.mp3", planes, 44100, "libmp3lame", "fltp", "mono").read_bytes(),
        "a.m4a": write_sound(folder / "a.m4a", planes, 44100, "aac", "fltp", "mono").read_bytes(),
        "a.wav": write_sound(folder / "a.wav", planes, 44100, "pcm_s16le", "s16", "mono").read_bytes(),
        "a.flac": write_sound(folder / "a.flac", planes, 44100, "flac", "s16", "mono").read_bytes(),
        "a.ogg": write_sound(
            folder / "a.ogg", clicks(48000, [0.3], 1.0), 48000, "libopus", "flt", "mono", None, 960
        ).read_bytes(),
        "a.mkv": write_video(folder / "a.mkv", 0.2).read_bytes(),
        "a.mp4": write_video(folder / "a.mp4", 0.2).read_bytes(),
    }


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_ends_soon_in_a_voice_or_a_named_error(
    tmp_path: Path, whole_files: dict[str, bytes], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(whole_files)))
    content = bytearray(whole_files[name])
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        blow = data.draw(st.binary(min_size=1, max_size=16))
        content[place : place + len(blow)] = blow
    path = tmp_path / name
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    began = time.monotonic()
    try:
        voice = load_voice(path)
    except TalkswapError as error:
        assert error.hint
    else:
        assert len(voice.samples) > 0 and np.isfinite(voice.samples).all() and np.abs(voice.samples).max() <= 1
    assert time.monotonic() - began < 20


def test_hours_of_sound_end_in_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "LONGEST_SECONDS", 1)
    with pytest.raises(UnreadableMediaError, match="hours"):
        load_voice(write_wave(tmp_path / "a.wav", np.zeros(40000, np.float32)))


@given(moved=st.integers(-40, 40), rest=st.fractions(-1, 1, max_denominator=7))
def test_a_shift_moves_every_sample(moved: int, rest: Fraction) -> None:
    voice = Voice(np.arange(1, 31, dtype=np.float32) / 30, 16000)
    shifted = shift_voice(voice, Fraction(moved, 16000) + rest / 40000)  # less than half a sample more: the same
    assert len(shifted.samples) == max(0, 30 + moved)
    for index, value in enumerate(shifted.samples):
        assert value == (voice.samples[index - moved] if index >= moved else 0)


class Stumbling:
    """A really opened container that fails to read so many times after so many packets."""

    def __init__(self, container: av.container.InputContainer, failures: dict[int, int]) -> None:
        self.container, self.failures, self.given = container, failures, 0

    def __enter__(self) -> Stumbling:
        return self

    def __exit__(self, *error: object) -> None:
        self.container.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self.container, name)

    def demux(self, stream: av.audio.stream.AudioStream) -> Iterator[av.Packet]:
        packets = self.container.demux(stream)
        while True:
            if self.failures.get(self.given, 0) > 0:
                self.failures[self.given] -= 1
                raise av.error.InvalidDataError(1, "the container is damaged here")
            packet = next(packets, None)
            if packet is None:
                return
            self.given += 1
            yield packet


def tone_file(path: Path) -> Path:
    planes = (0.3 * np.sin(np.arange(3 * 16000) * 0.1))[None]
    return write_sound(path, planes, 16000, "pcm_s16le", "s16", "mono")


@pytest.mark.parametrize("failures", [{4: 1}, {2: 3, 4: 1, 9: 1}])
def test_a_damaged_place_in_the_container_does_not_end_the_voice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: dict[int, int]
) -> None:
    path = tone_file(tmp_path / "a.wav")
    whole = load_voice(path)
    opened = sound.open_clip
    monkeypatch.setattr(sound, "open_clip", lambda *name: Stumbling(opened(*name), dict(failures)))
    assert np.array_equal(load_voice(path).samples, whole.samples)


def test_a_container_that_fails_for_ever_gives_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tone_file(tmp_path / "a.wav")
    whole = load_voice(path)
    opened = sound.open_clip
    monkeypatch.setattr(sound, "open_clip", lambda *name: Stumbling(opened(*name), {4: 10**9}))
    part = load_voice(path).samples
    assert 0 < len(part) < len(whole.samples)
    assert np.array_equal(part[:-64], whole.samples[: len(part) - 64])


def test_a_header_that_makes_hours_of_a_moment_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slow.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 2, 0, "NONE", ""))
        file.writeframes(bytes(9600))
    with pytest.raises(UnreadableMediaError, match="2 samples a second"):
        load_voice(path)
