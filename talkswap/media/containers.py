"""Opening a media file for reading, with every way it can fail given its name."""

from __future__ import annotations

import errno
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from talkswap.errors import NoVideoError, OutputUnwritableError, TalkswapError, UnreadableMediaError
from talkswap.untrusted import check_plain, container_options

# Demuxers that make one picture of one file, or a picture of text.
_STILL_FORMATS = ("image2", "_pipe")
_TEXT_CODECS = ("ansi", "bintext", "xbin", "idf")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


def local_url(path: Path) -> str:
    """The path as FFmpeg's ``file:`` protocol takes it, so that no name is read as an option or another protocol."""
    return f"file:{path}"


def open_clip(path: Path) -> InputContainer:
    """Open a local media file; nothing in it can open another file, or reach the network.

    Raises:
        InputMissingError: the path does not exist, or is a directory, a pipe or a device.
        UnreadableMediaError: it cannot be opened, is not a media file, or only names other files.
    """
    check_plain(path)
    try:
        return av.open(local_url(path), options=container_options(), metadata_errors="replace")
    except PermissionError as error:
        raise UnreadableMediaError(f"{path} cannot be read: permission denied", "check the file's rights") from error
    except (FFmpegError, OSError) as error:
        raise UnreadableMediaError(
            f"{path} is not a media file that can be read ({_reason(error)})",
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


def output_error(error: OSError | FFmpegError, path: Path) -> TalkswapError | None:
    """The named failure behind an operating system's refusal to write, or None when it is something else."""
    code = getattr(error, "errno", None)
    if code in _FULL_DISK:
        return OutputUnwritableError(f"the disk is full: {path} could not be written", "free some space and try again")
    if code in _NOT_WRITABLE:
        return OutputUnwritableError(f"{path} cannot be written ({_reason(error)})", "check the folder and its rights")
    return None


def _reason(error: OSError | FFmpegError) -> str:
    return (getattr(error, "strerror", None) or type(error).__name__).lower()
