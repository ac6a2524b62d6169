"""How far a file of unknown origin is trusted: it is a plain file, and what stands in it opens no other one.

Some of FFmpeg's formats only name other files: playlists, manifests, lists of pictures, scripts.  Whoever sends such a
"clip" chooses what of this disk, or of the network behind it, goes into the result.  Others are devices that record, or
listen for ever.  None of them is opened here.
"""

from __future__ import annotations

import functools
from pathlib import Path

from talkswap.errors import InputMissingError

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


@functools.lru_cache(maxsize=1)
def container_options() -> dict[str, str]:
    """Options of ``av.open`` for a file of unknown origin: this file, and formats that hold what they show."""
    from av.format import formats_available

    formats = sorted(set(formats_available) - NAMING_OTHERS - DEVICES)
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(formats)}


def check_plain(path: Path, what: str = "") -> None:
    """Refuse what is no plain file before anything is opened: a pipe or a device would be waited for, without end.

    Args:
        path: an input.
        what: names it in messages, with a space behind.

    Raises:
        InputMissingError: nothing is there, or a directory, a pipe, a socket or a device.
    """
    try:
        there, directory, plain = path.exists(), path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:  # a name that no file can have: too long, or not to be encoded
        reason = getattr(error, "strerror", None) or "no file can have this name"
        raise InputMissingError(f"{what}{path} cannot be looked for ({reason})", "check the path") from error
    if not there:
        raise InputMissingError(f"{what}{path} does not exist", "check the path")
    if directory:
        raise InputMissingError(f"{what}{path} is a directory", "give the path of one file")
    if not plain:
        raise InputMissingError(
            f"{what}{path} is a pipe or a device, not a file", "save it as a file first: it is read more than once"
        )
