"""The encoders that talkswap can use: what each can write, and its options for quality."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av import CodecContext, VideoCodecContext, VideoFrame
from av.container import OutputContainer
from av.error import FFmpegError

from talkswap.errors import EncoderError, OutputUnwritableError
from talkswap.media.probe import local_url

# Endings of an output, and FFmpeg's name for the container.
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}

# x264's words for effort, fastest first; other encoders' own scales are mapped onto them.
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")

# What ProRes calls its qualities, smallest files first; the last two are for 4:4:4.
PRORES_PROFILES = ("proxy", "lt", "standard", "hq", "4444", "4444xq")

EIGHT_BITS = ("yuv420p", "yuv422p", "yuv444p")
TEN_BITS = ("yuv420p10le", "yuv422p10le", "yuv444p10le")
AUTO = "auto"


@dataclass(frozen=True)
class EncoderSettings:
    """How the one lossy encode is made; what is left open is the encoder's own default."""

    encoder: str = "libx264"
    crf: int | None = None  # constant quality: lower is better
    preset: str = AUTO  # effort: one of PRESETS; a profile for ProRes
    pixel_format: str = AUTO  # as deep as the clip, where the encoder can
    threads: int = 0  # 0: the encoder's own choice


@dataclass(frozen=True)
class Codec:
    """One encoder's abilities."""

    containers: frozenset[str]  # endings
    crf: int | None  # the default; None where the encoder has no such scale
    most_crf: int
    odd_sizes: bool  # whether subsampled pictures may have an odd width or height
    options: Callable[[EncoderSettings, str], dict[str, str]]  # of complete settings and the pixel format
    formats: dict[str, str]  # pixel formats it can write, the default first -> its own names for them
    presets: tuple[str, ...] = PRESETS
    preset: str = "veryfast"  # the default
    full_range: bool = True  # whether it can say that its pictures use the full range


def x264_options(settings: EncoderSettings, pixel_format: str) -> dict[str, str]:
    """H.264 by constant quality, with the adaptive tools off that would take bits from the target's own pixels."""
    # Adaptive quantisation takes bits from textured areas. Without it the worst of ten clips came 1.35 dB nearer
    # to its target at the same size and time, and what lies outside the face is to stay the target's.
    # Without macroblock trees equal pictures give equal bytes: with them (PyAV 18) one clip encoded five times gave four files.
    return {"crf": str(settings.crf), "preset": settings.preset, "aq-mode": "0", "mbtree": "0"}


def x265_options(settings: EncoderSettings, pixel_format: str) -> dict[str, str]:
    """HEVC by constant quality, silent on stderr."""
    return {"crf": str(settings.crf), "preset": settings.preset, "x265-params": "log-level=error"}


def vp9_options(settings: EncoderSettings, pixel_format: str) -> dict[str, str]:
    """VP9 by constant quality; its speeds run from 8 (fast) to 0."""
    # Speeds above 5 are for live encoding: libvpx ignores them with a good deadline.
    speed = max(0, min(8, 8 - PRESETS.index(settings.preset)))
    return {"crf": str(settings.crf), "b": "0", "deadline": "good", "cpu-used": str(min(speed, 5)), "row-mt": "1"}


def svt_av1_options(settings: EncoderSettings, pixel_format: str) -> dict[str, str]:
    """AV1 by constant quality; its presets run from 12 (fast) to 0."""
    os.environ.setdefault("SVT_LOG", "1")  # errors only: the library writes to stderr past every logger
    return {"crf": str(settings.crf), "preset": str(12 - PRESETS.index(settings.preset)), "svtav1-params": "scd=0"}


def nvenc_options(settings: EncoderSettings, pixel_format: str) -> dict[str, str]:
    """NVIDIA's H.264 and HEVC by constant quality."""
    # Nine words of effort fall on seven presets; the three slowest share the last one.
    step = PRESETS.index(settings.preset)  # p1 (fastest) to p7
    return {"rc": "vbr", "cq": str(settings.crf), "b": "0", "preset": f"p{min(7, 1 + step)}"}


def videotoolbox_options(settings: EncoderSettings, pixel_format: str) -> dict[str, str]:
    """Apple's H.264 and HEVC by constant quality."""
    # Its constant quality runs from 1 to 100, best last; FFmpeg hands it on in units of FF_QP2LAMBDA, 118.
    quality = max(1, min(100, 100 - 2 * (settings.crf or 0)))
    fast = PRESETS.index(settings.preset) < PRESETS.index("medium")
    return {"flags": "+qscale", "global_quality": str(118 * quality), "prio_speed": str(int(fast)), "allow_sw": "1"}


def prores_options(settings: EncoderSettings, pixel_format: str) -> dict[str, str]:
    """ProRes has profiles instead of a quality; 4:4:4 has its own."""
    profile = settings.preset
    if profile == AUTO:
        profile = "4444" if pixel_format.startswith("yuv444") else "hq"
    return {"profile": profile, "vendor": "apl0"}  # some editors take no other vendor's


def ffv1_options(settings: EncoderSettings, pixel_format: str) -> dict[str, str]:
    """Lossless; version 3 of the format has checksums and slices."""
    return {"level": "3"}  # one effort only; how many slices fit an odd size, FFmpeg knows best


_MP4_FAMILY = frozenset({".mp4", ".mov", ".mkv"})
_OPEN_FAMILY = frozenset({".mp4", ".mkv", ".webm"})
_ALL = {name: name for name in (*EIGHT_BITS, *TEN_BITS)}
_HARDWARE = {"yuv420p": "yuv420p", "yuv420p10le": "p010le"}

CODECS = {
    "libx264": Codec(_MP4_FAMILY, 18, 51, False, x264_options, _ALL),
    "libx265": Codec(_MP4_FAMILY, 20, 51, False, x265_options, _ALL),
    "libvpx-vp9": Codec(_OPEN_FAMILY, 24, 63, True, vp9_options, _ALL),
    "libsvtav1": Codec(_OPEN_FAMILY, 24, 63, False, svt_av1_options, {"yuv420p": "yuv420p", "yuv420p10le": "yuv420p10le"}),
    "prores_ks": Codec(
        frozenset({".mov", ".mkv"}), None, 0, True, prores_options, {"yuv422p10le": "yuv422p10le", "yuv444p10le": "yuv444p10le"},
        (AUTO, *PRORES_PROFILES), AUTO, False,
    ),
    "h264_nvenc": Codec(_MP4_FAMILY, 19, 51, False, nvenc_options, {"yuv420p": "yuv420p", "yuv444p": "yuv444p"}),
    "hevc_nvenc": Codec(
        _MP4_FAMILY, 21, 51, False, nvenc_options, {**_HARDWARE, "yuv444p": "yuv444p", "yuv444p10le": "yuv444p16le"}
    ),
    "h264_videotoolbox": Codec(_MP4_FAMILY, 18, 49, False, videotoolbox_options, {"yuv420p": "yuv420p"}),
    "hevc_videotoolbox": Codec(_MP4_FAMILY, 18, 49, False, videotoolbox_options, _HARDWARE),
    "ffv1": Codec(frozenset({".mkv"}), None, 0, True, ffv1_options, _ALL),
}  # fmt: skip


def encoder_for(name: str, output: Path) -> str:
    """The encoder that a name stands for: itself, or for ``auto`` the one that the output's container is known for."""
    if name != AUTO:
        return name
    return "libvpx-vp9" if output.suffix.lower() == ".webm" else "libx264"


def container_of(output: Path) -> str:
    """FFmpeg's name of the container that an output's ending asks for.

    Raises:
        OutputUnwritableError: the ending is unknown.
    """
    ending = output.suffix.lower()
    if ending not in CONTAINERS:
        description = f"the ending {output.suffix}, which is not written here" if output.suffix else "no ending"
        *endings, last = CONTAINERS
        raise OutputUnwritableError(f"{output} has {description}", f"end its name in {', '.join(endings)} or {last}")
    return CONTAINERS[ending]


def open_output(path: Path, time_base: Fraction) -> OutputContainer:
    """A new file whose container is the one of its ending, with the target's clock."""
    name, options = container_of(path), {}
    if name in ("mp4", "mov"):
        # Left alone, the muxer would choose a time scale of its own and round the times to it.
        options["video_track_timescale"] = str(time_base.denominator)
    return av.open(local_url(path), "w", format=name, options=options)


def check_encoder(
    name: str, output: Path | None = None, settings: EncoderSettings | None = None, bits: int = 8
) -> None:
    """Make sure before a render that its encoder is known, fits the output and really encodes here.

    Two small pictures are encoded: an encoder that is compiled in may still lack its GPU or driver.

    Args:
        output: where the result is to go; its ending has to suit the encoder.
        settings: checked as well where given (preset, crf, pixel format).
        bits: of the clip, which an open pixel format follows.

    Raises:
        EncoderError: unknown, unfit for the container, wrong settings, or failing.
    """
    # Cheap questions first: only an encoder that fits is tried.
    codec = find_codec(name)
    if output is not None:
        container_of(output)
        if output.suffix.lower() not in codec.containers:
            fitting = [other for other in CODECS if output.suffix.lower() in CODECS[other].containers]
            raise EncoderError(
                f"{output.suffix} files cannot hold what {name} writes",
                f"use --encoder {fitting[0]}, or an output that ends in {' or '.join(sorted(codec.containers))}",
            )
    settings = settings or EncoderSettings(encoder=name)
    options = encoder_options(settings)
    pixel_format = codec.formats[pixel_format_for(settings, 256, 256, bits)]
    try:
        # Hardware encoders refuse very small pictures.
        context = cast(VideoCodecContext, CodecContext.create(name, "w"))
        context.width, context.height = 256, 256
        context.pix_fmt = pixel_format
        context.time_base = Fraction(1, 25)
        context.framerate = Fraction(25)
        context.options = options
        picture = VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")
        packets = []
        with ordinary_priority():
            # The first picture is a key frame and the second refers to it: both kinds must work.
            for pts in range(2):
                picture = picture.reformat(format=pixel_format)
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


def find_codec(name: str) -> Codec:
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
        EncoderError: unknown preset, a crf outside the encoder's scale, or a profile that the pixel format forbids.
    """
    name, codec = settings.encoder, find_codec(settings.encoder)
    preset = codec.preset if settings.preset == AUTO else settings.preset
    if preset not in codec.presets:
        presets = [word for word in codec.presets if word != AUTO]
        raise EncoderError(
            f"there is no encoder preset '{preset}' of {name}",
            f"choose one of {', '.join(presets)}" if presets else "leave --encoder-preset away",
        )
    if settings.crf is not None and codec.crf is None:
        raise EncoderError(f"{name} has no crf", "leave --crf away")
    if settings.crf is not None and not 0 <= settings.crf <= codec.most_crf:
        raise EncoderError(f"crf {settings.crf} is outside {name}'s scale", f"choose between 0 and {codec.most_crf}")
    pixel_format = pixel_format_for(settings, 256, 256)
    if preset in PRORES_PROFILES and preset.startswith("4444") != pixel_format.startswith("yuv444"):
        raise EncoderError(
            f"the ProRes profile {preset} cannot hold {pixel_format}",
            "use --pixel-format yuv444p10le with 4444 and 4444xq, yuv422p10le with the others",
        )
    # From here on the settings are complete, so an encoder's function needn't know any default.
    crf = codec.crf if settings.crf is None else settings.crf
    return codec.options(replace(settings, preset=preset, crf=crf), pixel_format)


def pixel_format_for(settings: EncoderSettings, width: int, height: int, bits: int = 8) -> str:
    """The format to encode a clip of so many bits in.

    Left open, it is the encoder's first of that depth; an encoder that cannot write ten bits writes eight, one that
    writes nothing else ten.  H.264 and HEVC cannot hold an odd size in 4:2:0, so 4:4:4 keeps the size then.

    Raises:
        EncoderError: the encoder cannot write the format asked for.
    """
    codec = find_codec(settings.encoder)
    formats = [name for name in codec.formats if codec.formats[name] in compiled_formats(settings.encoder)]
    if settings.pixel_format != AUTO:
        if settings.pixel_format not in formats:
            raise EncoderError(
                f"{settings.encoder} cannot write the pixel format '{settings.pixel_format}' here",
                f"choose one of {', '.join(formats)}",
            )
        choice = settings.pixel_format
    else:
        choice = next((name for name in formats if (name in TEN_BITS) == (bits > 8)), formats[0])
        if settings.preset.startswith("4444"):
            choice = "yuv444p10le"
    # 4:2:0 halves both sides and 4:2:2 the width: an odd side has no half.
    odd = bool(width % 2 or height % 2)
    if odd and "444" not in choice and not codec.odd_sizes:
        whole = choice.replace("420", "444").replace("422", "444")
        if whole not in formats:
            raise EncoderError(
                f"{settings.encoder} cannot write pictures of {width}x{height}, an odd size",
                "use --encoder libx264 or libvpx-vp9",
            )
        return whole
    return choice


def compiled_formats(encoder: str) -> set[str]:
    """The encoder's own names of the pixel formats that it was compiled with."""
    return {form.name for form in av.Codec(encoder, "w").video_formats or ()}


def is_deep(pixel_format: str) -> bool:
    """Whether a format of :func:`pixel_format_for` has more than eight bits."""
    return pixel_format in TEN_BITS


THREADS = Path("/proc/self/task")


def thread_policies() -> dict[int, tuple[int, int]]:
    """Scheduling policy and priority by thread of this process; empty where the system does not tell."""
    policies: dict[int, tuple[int, int]] = {}
    if not hasattr(os, "sched_getscheduler") or not THREADS.is_dir():
        return policies
    for entry in THREADS.iterdir():
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            number = int(entry.name)
            policies[number] = (os.sched_getscheduler(number), os.sched_getparam(number).sched_priority)
    return policies


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Undo what an encoder does to scheduling: SVT-AV1 makes the whole process a real-time one.

    After the block every thread has its policy of before, and new threads have the calling thread's.
    """
    before = thread_policies()
    own = before.get(threading.get_native_id())
    try:
        yield
    finally:
        if own is not None:
            # Threads that the encoder made meanwhile have no policy of before; they get the calling thread's.
            for number, now in thread_policies().items():
                policy, priority = before.get(number, own)
                if now != (policy, priority):
                    with contextlib.suppress(OSError):
                        os.sched_setscheduler(number, policy, os.sched_param(priority))
