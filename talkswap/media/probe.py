"""Open a media file of unknown origin and read its properties: the first step of every render.

The rest of the room follows in this order, from a clip's file to frames with exact times and back to a file::

    info = probe(target)                                                # ClipInfo, or a named error
    check_encoder(settings.encoder, output, settings, info.bits)        # before anything costs time
    index, _ = cut(index_frames(info), start, end)                      # every frame's time, by demuxing
    plan = plan_timeline(index.times, index.last_duration, voice.seconds, fit)
    with staging_folder(output, overwrite) as folder, ClipReader(info, index, deep=True) as clip:
        encoded = folder / f"video{picture_ending(settings.encoder)}"
        with VideoWriter(encoded, info, settings, plan.duration) as video:
            for frame in clip.frames_for(plan):                         # exactly len(plan) frames
                video.write(frame.rgb, frame.time, frame.fine)
        mux(encoded, audio, target, output, plan.times, plan.duration, index=index, overwrite=overwrite)

A file that is opened here opens no other one, and every failure has a name.  What a container says is checked by decoding
the first picture.  Times are seconds as fractions from the clip's first frame, whole ticks of ``info.time_base``.
"""

import errno
import functools
import math
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av import VideoFrame, VideoStream
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition

from talkswap.errors import InputMissingError, NoVideoError, OutputUnwritableError, UnreadableMediaError
from talkswap.files import write_error
from talkswap.media.colour import UNSPECIFIED, check_convertible
from talkswap.types import ClipInfo, ColourTags

FALLBACK_RATE = Fraction(25)
_MOST_DAMAGED_PACKETS = 300  # before the first picture; a decoder has to find one by then
_DOLBY_VISION_TAGS = ("dvh1", "dvhe", "dva1", "dvav")


def probe(path: Path) -> ClipInfo:
    """Read a clip's properties.

    The first picture is decoded, because a container can promise what its stream does not hold.

    Raises:
        InputMissingError: the path does not exist or is a directory.
        UnreadableMediaError: not a media file, truncated, or of colours that cannot be kept (HDR).
        NoVideoError: no video stream, cover art only, a still picture, or no frame that decodes.
    """
    path = Path(path)
    with open_clip(path) as container:
        stream = video_stream(container, path)
        codec = stream.codec_context
        # Dolby Vision's own colours look purple and green without its metadata.
        if codec.codec_tag.lower() in _DOLBY_VISION_TAGS:
            raise UnreadableMediaError(f"{path} is a Dolby Vision clip, which is not supported", "convert it to SDR")
        colour_of_stream = ColourTags(
            matrix=int(codec.colorspace),
            primaries=int(codec.color_primaries),
            transfer=int(codec.color_trc),
            range=int(codec.color_range),
        )
        # Colour and orientation stand in the picture's own data where the container says nothing.
        picture = first_picture(container, stream, path)
        colour = colour_tags(colour_of_stream, picture)
        check_convertible(str(path), colour)
        rotation, mirrored = display_orientation(picture)
        sideways = rotation in (90, 270)
        aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
        # All times are whole ticks of this clock; without one there are no times.
        time_base = Fraction(stream.time_base or 0)
        if time_base <= 0:
            raise UnreadableMediaError(f"{path} has a video stream without a clock", "remux it, for example to .mkv")
        has_audio, audio_duration = sound_duration(container)
        return ClipInfo(
            path=path,
            width=picture.height if sideways else picture.width,
            height=picture.width if sideways else picture.height,
            rate=nominal_rate(stream),
            time_base=time_base,
            duration=picture_duration(container, stream, time_base),
            frames=stream.frames,
            rotation=rotation,
            codec=codec.codec.canonical_name,
            pixel_format=picture.format.name,
            bits=max(component.bits for component in picture.format.components),
            colour=colour,
            has_audio=has_audio,
            audio_duration=audio_duration,
            sample_aspect_ratio=1 / aspect if sideways else aspect,
            mirrored=mirrored,
            audio_offset=sound_offset(container, stream, picture) if has_audio else Fraction(0),
        )


def display_orientation(picture: VideoFrame) -> tuple[int, bool]:
    """(clockwise degrees, mirrored) from a decoded picture's display matrix.

    The matrix maps a stored pixel (x, y) to a x + c y, b x + d y (y down); a negative determinant means that
    the picture is mirrored left to right before it is turned.  Angles between right angles are rounded.
    """
    matrix = cast(Mapping[SideDataType, SideData], picture.side_data).get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return 0, False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    mirrored = a * d - b * c < 0
    # Undo the mirror first; what is left is a rotation.
    if mirrored:
        a, b = -a, -b
    if a == 0 and b == 0:
        return 0, False
    return round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360, mirrored


def first_picture(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    """The first picture that decodes; damaged packets before it are passed over."""
    stream.thread_count = 1  # one picture needs no pipeline
    failures = 0
    packets = container.demux(stream)
    while failures < _MOST_DAMAGED_PACKETS:
        try:
            packet = next(packets)
            for picture in packet.decode():
                return picture
        except StopIteration:
            break
        except FFmpegError:
            failures += 1
            packets = container.demux(stream)
    raise NoVideoError(f"{path} has a video stream but no frame that decodes", "the file may be damaged or empty")


def colour_tags(tags: ColourTags, picture: VideoFrame) -> ColourTags:
    """The stream's tags, completed by those of its first picture."""
    return ColourTags(
        matrix=int(picture.colorspace) if tags.matrix == UNSPECIFIED else tags.matrix,
        primaries=int(picture.color_primaries) if tags.primaries == UNSPECIFIED else tags.primaries,
        transfer=int(picture.color_trc) if tags.transfer == UNSPECIFIED else tags.transfer,
        range=tags.range or int(picture.color_range),
    )


def nominal_rate(stream: VideoStream) -> Fraction:
    """Frames per second as the container states them, where it states something possible."""
    # Variable rates and broken headers give 0, or 90000 as a rate; the first possible one counts.
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate < 1000:
            return Fraction(rate)
    return FALLBACK_RATE


def picture_duration(container: InputContainer, stream: VideoStream, time_base: Fraction) -> Fraction:
    """Seconds of the picture, else of the whole container; 0 if neither says."""
    if stream.duration and stream.duration > 0:
        return stream.duration * time_base
    if container.duration and container.duration > 0:
        return Fraction(container.duration, 1_000_000)
    return Fraction(0)


def sound_duration(container: InputContainer) -> tuple[bool, Fraction]:
    """(has sound, its seconds)."""
    if not container.streams.audio:
        return False, Fraction(0)
    sound = container.streams.audio[0]
    seconds = Fraction(sound.duration * (sound.time_base or 0) if sound.duration and sound.duration > 0 else 0)
    if not seconds and container.duration:
        seconds = Fraction(container.duration, 1_000_000)
    return True, seconds


def sound_offset(container: InputContainer, stream: VideoStream, picture: VideoFrame) -> Fraction:
    """The start of the container, where the sound's clock begins, seen from the first picture."""
    # An audio stream's own start is no measure: in mp4 it counts the encoder's delay, which is inaudible.
    first = picture.pts if picture.pts is not None else stream.start_time
    if first is None:
        return Fraction(0)
    return Fraction(container.start_time or 0, 1_000_000) - first * Fraction(stream.time_base or 0)


# --- Opening a file: it must be a plain one, of a format that can't name others.


# Demuxers that make one picture of one file, or a picture of text.
_STILL_FORMATS = ("image2", "_pipe")
_TEXT_CODECS = ("ansi", "bintext", "xbin", "idf")
_REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO,
)  # fmt: skip


# Formats whose files name others, or that read what no file holds.
NAMING_OTHERS = frozenset(
    (
        "hls", "applehttp", "dash", "imf", "webm_dash_manifest", "concat", "concatf", "image2", "image2pipe", "vobsub",
        "avisynth", "vapoursynth", "sdp", "sap", "rtp", "rtsp", "lavfi",
    )
)  # fmt: skip

DEVICES = frozenset(
    (
        "alsa", "avfoundation", "bktr", "caca", "decklink", "dshow", "fbdev", "gdigrab", "iec61883", "jack", "kmsgrab",
        "libcdio", "libdc1394", "openal", "oss", "pulse", "sndio", "v4l2", "vfwcap", "video4linux2", "x11grab", "xcbgrab",
    )
)  # fmt: skip


def local_url(path: Path) -> str:
    """The path as FFmpeg's ``file:`` protocol takes it, so that no name is read as an option or another protocol."""
    return f"file:{path}"


@functools.lru_cache(maxsize=1)
def container_options() -> dict[str, str]:
    """Options of ``av.open`` for a file of unknown origin: this file, and formats that hold what they show."""
    from av.format import formats_available

    # A white list of formats: a playlist named .mp4 could otherwise open any file or address.
    formats = sorted(set(formats_available) - NAMING_OTHERS - DEVICES)
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(formats)}


def check_plain(path: Path, what: str = "") -> None:
    """Refuse anything but a plain file before it's opened: reading a pipe or a device could wait for ever.

    Args:
        what: names it in messages, with a space behind.

    Raises:
        InputMissingError: nothing is there, or a directory, a pipe, a socket or a device.
    """
    try:
        # Asked before opening, since opening a pipe waits until somebody writes into it.
        exists, directory, plain = path.exists(), path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:  # a name that no file can have: too long, or impossible to encode
        reason = getattr(error, "strerror", None) or "no file can have this name"
        raise InputMissingError(f"{what}{path} cannot be looked for ({reason})", "check the path") from error
    if not exists:
        raise InputMissingError(f"{what}{path} does not exist", "check the path")
    if directory:
        raise InputMissingError(f"{what}{path} is a directory", "give the path of one file")
    if not plain:
        raise InputMissingError(
            f"{what}{path} is a pipe or a device, not a file", "save it as a file first: it is read more than once"
        )


def open_clip(path: Path, what: str = "") -> InputContainer:
    """Open a local media file; nothing in it can open another file, or reach the network.

    Args:
        what: names it in messages, with a space behind: ``"voice "``.

    Raises:
        InputMissingError: the path does not exist, or is a directory, a pipe or a device.
        UnreadableMediaError: it cannot be opened, is not a media file, or only names other files.
    """
    check_plain(path, what)
    try:
        return av.open(local_url(path), options=container_options(), metadata_errors="replace")
    except PermissionError as error:
        raise UnreadableMediaError(
            f"{what}{path} cannot be read: permission denied", "check the file's rights"
        ) from error
    except (FFmpegError, OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or type(error).__name__).lower()
        raise UnreadableMediaError(
            f"{what}{path} is not a media file that can be read ({reason})",
            "the file may be damaged, truncated, a playlist, or of another kind than its name says; does it play elsewhere?",
        ) from error


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream that counts as the clip's picture: the first that is not cover art, a default one before others.

    Raises:
        NoVideoError: there is none, or the file is a still picture.
    """
    if any(mark in container.format.name for mark in _STILL_FORMATS):
        raise NoVideoError(f"{path} is a still picture, not a video", "give a video clip as the target")
    # Music files carry their cover as a video stream, and text art decodes as pictures.
    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
        and stream.codec_context is not None
        and stream.codec_context.name not in _TEXT_CODECS
    ]
    if not moving:
        what = "cover art but no video" if container.streams.video else "no video stream"
        raise NoVideoError(f"{path} has {what}", "give a file that contains a video")
    return next((stream for stream in moving if stream.disposition & Disposition.default), moving[0])


def output_error(error: OSError | FFmpegError | ValueError, path: Path) -> OutputUnwritableError | None:
    """The named failure behind an operating system's refusal to write, or None if it's something else."""
    code, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
    return write_error(path, OSError(code, reason)) if code in _REFUSALS else None
