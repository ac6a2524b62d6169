"""Clips that the media tests encode for themselves: small, and every picture recognisable by its brightness."""

from __future__ import annotations

import wave
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

MakeClip = Callable[..., Path]


def picture(index: int, width: int, height: int) -> np.ndarray:
    """A smooth colour gradient whose grey patch in the middle says which frame it is."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([60 + 120 * x / width, 60 + 120 * y / height, 180 - 100 * x / width], axis=-1)
    rgb[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 20 + 7 * (index % 32)
    return rgb.round().astype(np.uint8)


def index_in(rgb: np.ndarray) -> int:
    """Which of 32 pictures this is, read from its grey patch."""
    height, width = rgb.shape[:2]
    patch = rgb[3 * height // 8 : 5 * height // 8, 3 * width // 8 : 5 * width // 8]
    return round((float(patch.mean()) - 20) / 7)


def encode_clip(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    ticks: Sequence[int] | None = None,
    count: int = 24,
    rate: Fraction = Fraction(25),
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    gop: int = 12,
    colour: dict[str, int] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    aspect: Fraction = Fraction(1),
    sound: bool = False,
    pictures: Sequence[np.ndarray] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode a clip with the given time stamps (in ticks of ``time_base``)."""
    time_base = time_base or 1 / rate
    if ticks is None:
        step = 1 / rate / time_base
        assert step.denominator == 1
        ticks = [index * step.numerator for index in range(count)]
    width, height = size
    muxer_options = {"video_track_timescale": str(time_base.denominator)} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=muxer_options) as container:
        container.metadata.update(metadata or {})
        fast = {"preset": "ultrafast", "crf": "10", "bf": "2"} if codec == "libx264" else {}
        stream: Any = container.add_stream(codec, rate=rate, options=fast if options is None else options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pixel_format
        context.time_base = stream.time_base = time_base
        context.gop_size = gop
        context.sample_aspect_ratio = aspect
        for name, value in (colour or {}).items():
            setattr(context, name, value)
        if rotation or mirrored:
            # FFmpeg counts anticlockwise.
            stream.set_display_rotation(-rotation, hflip=mirrored)
        audio: Any = None
        if sound:
            audio = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000)
            audio.layout = "mono"
        matrix = {1: 1, 9: 9}.get((colour or {}).get("colorspace", 2), 5)
        full = (colour or {}).get("color_range", 1)
        for index, pts in enumerate(ticks):
            rgb = picture(index, width, height) if pictures is None else pictures[index]
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            if not pixel_format.startswith(("rgb", "gbr", "bgr")):
                # The same flags as a careful player, so that the clip's own error stays out of what is measured.
                frame = frame.reformat(
                    format=pixel_format, dst_colorspace=matrix, src_color_range=2, dst_color_range=full,
                    interpolation=0x20 | 0x40000 | 0x4000,
                )  # fmt: skip
            frame.pts, frame.time_base = pts, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            seconds = (ticks[-1] + (ticks[-1] - ticks[-2] if len(ticks) > 1 else 1)) * time_base
            for start in range(0, round(seconds * 48000), 960):
                tone = 0.3 * np.sin(np.arange(start, start + 960) * 2 * np.pi * 440 / 48000)
                block = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = 48000, start, Fraction(1, 48000)
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """Encode a clip in the test's own folder: ``make_clip("name.mp4", count=..., rate=...)``."""

    def make(name: str = "clip.mp4", **how: Any) -> Path:
        return encode_clip(tmp_path / name, **how)

    return make


@pytest.fixture
def make_voice(tmp_path: Path) -> Callable[..., Path]:
    """Write a tone as a WAV file: ``make_voice(seconds, hz=16000, channels=1)``."""

    def make(seconds: float, hz: int = 16000, channels: int = 1, name: str = "voice.wav") -> Path:
        tone = 0.5 * np.sin(np.arange(round(seconds * hz)) * 2 * np.pi * 300 / hz)
        samples = np.repeat((tone * 32767).astype("<i2")[:, None], channels, axis=1)
        with wave.open(str(tmp_path / name), "wb") as sound:
            sound.setnchannels(channels)
            sound.setsampwidth(2)
            sound.setframerate(hz)
            sound.writeframes(samples.tobytes())
        return tmp_path / name

    return make


@pytest.fixture
def read_index() -> Callable[[np.ndarray], int]:
    """Which of the clip's pictures a decoded frame shows."""
    return index_in
