"""Opening a media file of unknown origin: a plain file that opens no other one, and every failure has a name."""

from __future__ import annotations

import errno
import functools
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from talkswap.errors import InputMissingError, NoVideoError, OutputUnwritableError, UnreadableMediaError
from talkswap.files import write_error

# Demuxers that make one picture of one file, or a picture of text.
_STILL_FORMATS = ("image2", "_pipe")
_TEXT_CODECS = ("ansi", "bintext", "xbin", "idf")
_REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO,
)  # fmt: skip


NAMING_OTHERS = frozenset(
    (
        "hls", "applehttp", "dash", "imf", "webm_dash_manifest", "concat", "concatf", "image2", "image2pipe", "vobsub",
        "avisynth", "vapoursynth", "sdp", "sap", "rtp", "rtsp", "lavfi",
    )
)  # fmt: skip
"""Formats whose files name others, or that read what no file holds."""

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

    formats = sorted(set(formats_available) - NAMING_OTHERS - DEVICES)
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(formats)}


def check_plain(path: Path, what: str = "") -> None:
    """Refuse anything but a plain file before it's opened: reading a pipe or a device could wait for ever.

    Args:
        path: an input.
        what: names it in messages, with a space behind.

    Raises:
        InputMissingError: nothing is there, or a directory, a pipe, a socket or a device.
    """
    try:
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
        path: the file.
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
