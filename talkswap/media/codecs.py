"""The encoders talkswap knows: what each can write, and how quality is asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.context import CodecContext
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from talkswap.errors import EncoderError, OutputUnwritableError
from talkswap.media.priority import ordinary_priority

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Endings of an output, and FFmpeg's name for the container."""

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
"""x264's words for effort, fastest first; other encoders' own scales are mapped onto them."""


@dataclass(frozen=True)
class EncoderSettings:
    """How the one lossy encode is made."""

    encoder: str = "libx264"
    crf: int = 18  # constant quality: lower is better; 18 is visually lossless for x264
    preset: str = "veryfast"
    pixel_format: str = "yuv420p"
    threads: int = 0  # 0: the encoder's own choice


@dataclass(frozen=True)
class Codec:
    """One encoder's abilities."""

    containers: frozenset[str]  # endings
    most_crf: int
    odd_sizes: bool  # whether 4:2:0 pictures may have an odd width or height
    options: Callable[[EncoderSettings], dict[str, str]]


def _x264(settings: EncoderSettings) -> dict[str, str]:
    # Adaptive quantisation takes bits from textured areas. Without it the worst of ten clips came 1.35 dB nearer
    # to its target at the same size and time, and what lies outside the face is to stay the target's.
    # Without macroblock trees equal pictures give equal bytes: with them (PyAV 18) one clip encoded five times gave four files.
    return {"crf": str(settings.crf), "preset": settings.preset, "aq-mode": "0", "mbtree": "0"}


def _x265(settings: EncoderSettings) -> dict[str, str]:
    return {"crf": str(settings.crf), "preset": settings.preset, "x265-params": "log-level=error"}


def _vp9(settings: EncoderSettings) -> dict[str, str]:
    speed = max(0, min(8, 8 - PRESETS.index(settings.preset)))
    return {"crf": str(settings.crf), "b": "0", "deadline": "good", "cpu-used": str(min(speed, 5)), "row-mt": "1"}


def _svt_av1(settings: EncoderSettings) -> dict[str, str]:
    os.environ.setdefault("SVT_LOG", "1")  # errors only: the library writes to stderr past every logger
    return {"crf": str(settings.crf), "preset": str(12 - PRESETS.index(settings.preset)), "svtav1-params": "scd=0"}


def _nvenc(settings: EncoderSettings) -> dict[str, str]:
    step = PRESETS.index(settings.preset)  # p1 (fastest) to p7
    return {"rc": "vbr", "cq": str(settings.crf), "b": "0", "preset": f"p{min(7, 1 + step)}"}


def _lossless(settings: EncoderSettings) -> dict[str, str]:
    return {"level": "3", "slices": "4"}


_MP4_FAMILY = frozenset({".mp4", ".mov", ".mkv"})
_OPEN_FAMILY = frozenset({".mp4", ".mkv", ".webm"})

CODECS = {
    "libx264": Codec(_MP4_FAMILY, 51, False, _x264),
    "libx265": Codec(_MP4_FAMILY, 51, False, _x265),
    "libvpx-vp9": Codec(_OPEN_FAMILY, 63, True, _vp9),
    "libsvtav1": Codec(_OPEN_FAMILY, 63, False, _svt_av1),
    "h264_nvenc": Codec(_MP4_FAMILY, 51, False, _nvenc),
    "hevc_nvenc": Codec(_MP4_FAMILY, 51, False, _nvenc),
    "ffv1": Codec(frozenset({".mkv"}), 51, True, _lossless),
}


def container_of(output: Path) -> str:
    """FFmpeg's name of the container that an output's ending asks for.

    Raises:
        OutputUnwritableError: the ending is unknown.
    """
    ending = output.suffix.lower()
    if ending not in CONTAINERS:
        given = f"the ending '{output.suffix}'" if output.suffix else "no ending"
        raise OutputUnwritableError(f"{output} has {given}", f"name the output {', '.join(CONTAINERS)}")
    return CONTAINERS[ending]


def check_encoder(name: str, output: Path | None = None, settings: EncoderSettings | None = None) -> None:
    """Make sure before a render that its encoder is known, fits the output and really encodes here.

    Two small pictures are encoded: an encoder that is compiled in may still lack its GPU or driver.

    Args:
        name: the encoder.
        output: where the result is to go; its ending has to suit the encoder.
        settings: checked as well where given (preset, crf).

    Raises:
        EncoderError: unknown, unfit for the container, wrong settings, or failing.
        OutputUnwritableError: the output's ending is unknown.
    """
    codec = codec_named(name)
    if output is not None:
        container_of(output)
        if output.suffix.lower() not in codec.containers:
            fitting = [other for other, known in CODECS.items() if output.suffix.lower() in known.containers]
            raise EncoderError(
                f"{output.suffix} files cannot hold what {name} writes",
                f"use --encoder {fitting[0]}, or an output that ends in {' or '.join(sorted(codec.containers))}",
            )
    settings = settings or EncoderSettings(encoder=name)
    options = encoder_options(settings)
    try:
        context = cast(VideoCodecContext, CodecContext.create(name, "w"))
        context.width, context.height = 256, 256
        context.pix_fmt = settings.pixel_format
        context.time_base = Fraction(1, 25)
        context.framerate = Fraction(25)
        context.options = options
        picture = VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")
        packets = []
        with ordinary_priority():
            for pts in range(2):
                picture = picture.reformat(format=settings.pixel_format)
                picture.pts, picture.time_base = pts, Fraction(1, 25)
                packets += context.encode(picture)
            packets += context.encode(None)
    except (FFmpegError, ValueError, OSError) as error:
        raise EncoderError(
            f"the encoder {name} does not work on this machine ({error})",
            "use --encoder libx264, which needs no special hardware",
        ) from error
    if not packets:
        raise EncoderError(f"the encoder {name} wrote nothing", "use --encoder libx264")


def codec_named(name: str) -> Codec:
    """The abilities of an encoder.

    Raises:
        EncoderError: talkswap does not know it, or this PyAV was built without it.
    """
    if name not in CODECS:
        raise EncoderError(f"there is no encoder called '{name}'", f"choose one of {', '.join(CODECS)}")
    if name not in av.codecs_available:
        raise EncoderError(f"the encoder {name} is not part of this machine's PyAV", "use --encoder libx264")
    return CODECS[name]


def encoder_options(settings: EncoderSettings) -> dict[str, str]:
    """The encoder's private options.

    Raises:
        EncoderError: unknown preset, or a crf outside the encoder's scale.
    """
    codec = codec_named(settings.encoder)
    if settings.preset not in PRESETS:
        raise EncoderError(f"there is no encoder preset '{settings.preset}'", f"choose one of {', '.join(PRESETS)}")
    if not 0 <= settings.crf <= codec.most_crf:
        raise EncoderError(
            f"crf {settings.crf} is outside {settings.encoder}'s scale", f"choose between 0 and {codec.most_crf}"
        )
    return codec.options(settings)


def pixel_format_for(settings: EncoderSettings, width: int, height: int) -> str:
    """The format to encode in; H.264 and HEVC cannot hold an odd size in 4:2:0, so 4:4:4 keeps the size then."""
    odd = bool(width % 2 or height % 2)
    if odd and settings.pixel_format == "yuv420p" and not codec_named(settings.encoder).odd_sizes:
        return "yuv444p"
    return settings.pixel_format
