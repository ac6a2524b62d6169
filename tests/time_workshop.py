"""Clips for the tests of time and memory: small, quick to encode, with flashes in the picture and clicks in the sound."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT = 64, 48
HZ = 16000
DARK, WHITE = 40, 235
_CODECS = {
    "libx264": {"preset": "ultrafast", "crf": "16"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
}


def grey(level: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    """A picture of one grey."""
    planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    planes[:HEIGHT] = level
    return av.VideoFrame.from_ndarray(planes, format="yuv420p").reformat(format=pixel_format)


def clicks_at(seconds: Sequence[Fraction], length: Fraction) -> np.ndarray:
    """Silence with a click of a millisecond, which every codec and resampler keeps, at each of these moments."""
    samples = np.zeros(round(length * HZ), np.float32)
    clock = np.arange(-80, 80) / HZ
    for second in seconds:
        first = round(second * HZ) - 80
        place = slice(max(first, 0), min(first + 160, len(samples)))
        samples[place] += (0.8 * np.exp(-((clock / 0.001) ** 2)))[place.start - first : place.stop - first]
    return samples


def write_clip(
    path: Path,
    ticks: Sequence[int],
    clock: Fraction,
    rate: Fraction,
    flashes: Sequence[int] = (),
    codec: str = "libx264",
    pictures: Sequence[av.VideoFrame] | None = None,
    pixel_format: str = "yuv420p",
    sound: bool = True,
) -> Path:
    """Encode a clip whose frames begin at ``ticks`` of ``clock`` seconds.

    Args:
        path: its ending says the container.
        ticks: one per frame.
        clock: seconds per tick.
        rate: the stream's nominal rate.
        flashes: frames that are white, with a click in the sound where they begin; the others are dark.
        codec, pixel_format: of the picture.
        pictures: shown one after another and over again; without them greys.
        sound: whether there is one, as long as the picture.
    """
    exact = {"video_track_timescale": str(clock.denominator)} if path.suffix in (".mp4", ".mov") else {}
    white = grey(WHITE)
    shown = pictures or [grey(DARK + 2 * level) for level in range(24)]
    length = (2 * ticks[-1] - ticks[-2]) * clock
    samples = clicks_at([ticks[flash] * clock for flash in flashes], length)
    with av.open(str(path), "w", options=exact) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=_CODECS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.codec_context.time_base = stream.time_base = clock
        stream.codec_context.gop_size = 48
        voice: Any = None
        if sound:
            voice = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000)
            voice.layout = "mono"
        done, bright = 0, set(flashes)
        resampler = (
            av.AudioResampler(format=voice.codec_context.format.name, layout="mono", rate=48000) if sound else None
        )
        for number, pts in enumerate(ticks):
            picture = white if number in bright else shown[number % len(shown)]
            picture.pts, picture.time_base, picture.pict_type = pts, clock, 0
            container.mux(stream.encode(picture))
            until = len(samples) if number == len(ticks) - 1 else round((pts * clock + 1) * HZ)
            if resampler is not None and min(until, len(samples)) - done >= (HZ if until < len(samples) else 1):
                block = av.AudioFrame.from_ndarray(samples[None, done:until].copy(), format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = HZ, done, Fraction(1, HZ)
                done = min(until, len(samples))
                for piece in resampler.resample(block):
                    container.mux(voice.encode(piece))
        container.mux(stream.encode(None))
        if resampler is not None:
            for piece in resampler.resample(None):
                container.mux(voice.encode(piece))
            container.mux(voice.encode(None))
    return path


def write_voice(path: Path, samples: np.ndarray) -> Path:
    """A voice of 16 kHz as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, HZ, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def stamps_of(path: Path) -> tuple[list[Fraction], Fraction]:
    """Start of each frame of a file in seconds from the first, by its packets; and the clock they are counted in."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        clock = Fraction(stream.time_base or 0)
        stamps = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None and packet.size)
    return [(pts - stamps[0]) * clock for pts in stamps], clock


def flashes_in(path: Path) -> list[Fraction]:
    """When white pictures begin, in seconds from the first picture, as a player shows them."""
    found, first = [], None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for picture in container.decode(stream):
            moment = picture.pts * Fraction(stream.time_base or 0)
            first = moment if first is None else first
            if np.frombuffer(picture.planes[0], np.uint8)[0] > (DARK + WHITE) // 2 + 20:
                found.append(moment - first)
    return found


def clicks_in(path: Path, count: int) -> list[Fraction]:
    """When the loudest clicks are heard, in seconds from the first picture, by the sound's own time stamps."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        first = (video.start_time or 0) * Fraction(video.time_base or 0)
        peaks: list[tuple[float, Fraction]] = []
        for frame in container.decode(container.streams.audio[0]):
            heard = np.abs(frame.to_ndarray()).max(0)
            place = int(heard.argmax())
            peaks.append(
                (
                    float(heard[place]),
                    frame.pts * Fraction(frame.time_base or 0) + Fraction(place, frame.sample_rate) - first,
                )
            )
    loudest: list[Fraction] = []
    for _, moment in sorted(peaks, reverse=True):
        if all(abs(moment - other) > Fraction(1, 50) for other in loudest):
            loudest.append(moment)
        if len(loudest) == count:
            break
    return sorted(loudest)


def sound_end(path: Path) -> Fraction:
    """When the sound of a file ends, in seconds from its first picture, without the encoder's padding."""
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        first = (video.start_time or 0) * Fraction(video.time_base or 0)
        announced = max(
            (packet.pts + (packet.duration or 0)) * packet.time_base
            for packet in container.demux(sound)
            if packet.pts is not None and packet.size
        )
        container.seek(0)
        *_, last = container.decode(sound)
        heard = last.pts * Fraction(last.time_base or 0) + Fraction(last.samples, last.sample_rate)
        return min(announced, heard) - first  # mp4 shortens the last packet, Matroska has the decoder cut it


def picture_end(path: Path) -> Fraction:
    """When the last picture of a file ends, in seconds from its first one, by its packets."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None and p.size]
        return (max(p.pts + (p.duration or 0) for p in packets) - min(p.pts for p in packets)) * packets[0].time_base


def near(found: list[Fraction], expected: list[Fraction], within: Fraction) -> bool:
    """Whether moments are where they are expected, each within so many seconds."""
    return len(found) == len(expected) and max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= within
