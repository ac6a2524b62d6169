"""The ffmpeg program: which one it is, how it is run without a shell and a keyboard, and plain copies made by it."""

import errno
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg

from talkswap.errors import EncoderError
from talkswap.files import write_error
from talkswap.media.probe import local_url, open_clip, video_stream

# Environment variable that names another ffmpeg than the one in the package imageio-ffmpeg.
VARIABLE = "TALKSWAP_FFMPEG"

_LAST_LINES = 6
_BOX_HEAD = 8  # bytes of an MP4 box before its content: length and name
_ROUND = 4096  # bytes

# Bytes of a file's name that are no text are lone surrogates in Python, which ffmpeg-python can't encode. They are moved
# to where no alphabet is, the end of the last plane for private use, and back when the program is run.
_ASIDE = {0xDC80 + byte: 0x10FF80 + byte for byte in range(0x80)}
_BACK = {aside: surrogate for surrogate, aside in _ASIDE.items()}


@dataclass(frozen=True)
class Program:
    """An ffmpeg program that can do the final pass."""

    path: Path
    note: str = ""  # why it isn't the bundled one, for the user; empty if it is


@functools.lru_cache(maxsize=1)
def find_ffmpeg() -> Program:
    """The ffmpeg of the package imageio-ffmpeg, whose version is pinned, unless ``TALKSWAP_FFMPEG`` names another.

    A program on PATH is used only if the bundled one is missing or can't run: outputs differ from version to version.

    Raises:
        EncoderError: there is none, or the one that the variable names can't do the final pass.
    """
    # The user's choice is never replaced by another program without a word.
    if name := os.environ.get(VARIABLE):
        path = shutil.which(name)
        if path is None or not can_cut_packets(path):
            raise EncoderError(
                f"{name}, which {VARIABLE} names, is no ffmpeg of version 5 or later that runs", f"unset {VARIABLE}"
            )
        return Program(Path(path), f"named by {VARIABLE}")
    problem = "the package imageio-ffmpeg has no program"
    try:
        import imageio_ffmpeg

        bundled = imageio_ffmpeg.get_ffmpeg_exe()  # without a program of its own it answers with the name on PATH
        if os.path.isabs(bundled):
            if can_cut_packets(bundled):
                return Program(Path(bundled))
            problem = f"{bundled} does not run"
    except (ImportError, RuntimeError):
        pass
    path = shutil.which("ffmpeg")
    if path is None or not can_cut_packets(path):
        raise EncoderError(
            f"no ffmpeg was found: {problem}", "pip install imageio-ffmpeg, with --force-reinstall if it's there"
        )
    return Program(Path(path), f"{problem}, {path} on PATH takes its place")


def can_cut_packets(program: str) -> bool:
    """Whether an ffmpeg runs and can drop packets of copied streams, which its filter ``noise`` learned in FFmpeg 5."""
    # Asked of the program itself: version strings of distributions and nightly builds differ.
    question = [program, "-hide_banner", "-h", "bsf=noise"]
    try:
        answer = subprocess.run(question, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and b"-drop " in answer.stdout


def ffmpeg_url(path: Path) -> str:
    """The path as an argument that ffmpeg-python can hold; :func:`run_ffmpeg` turns it into the name again."""
    return local_url(path).translate(_ASIDE)


def run_ffmpeg(arguments: Sequence[str], output: Path) -> None:
    """Run ffmpeg with these arguments, the program first.

    Args:
        output: what is being made, for messages.

    Raises:
        OutputUnwritableError: the disk is full.
        EncoderError: it could not be started, or failed; its last lines are in the message.
    """
    try:
        answer = subprocess.run(
            [argument.translate(_BACK) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise EncoderError(f"ffmpeg could not be started ({error.strerror})", "install ffmpeg again") from error
    if answer.returncode == 0:
        return
    # ffmpeg's exit code tells no reason, so its words decide.
    if (full := "No space left on device") in answer.stderr:
        raise write_error(output, OSError(errno.ENOSPC, full))
    last = "; ".join(line.strip() for line in answer.stderr.strip().splitlines()[-_LAST_LINES:])
    raise EncoderError(
        f"ffmpeg could not finish {output.name}: {last or 'it said nothing'}", "see ffmpeg's words above"
    )


def write_plain_copy(clip: Path, output: Path, comment: str) -> None:
    """Encode a clip as H.264 and AAC in MP4, always with the same settings, without any of its tags.

    For raters who must not know where a clip comes from: whatever encoded it before, the copies of two clips differ in
    picture and sound alone. Codec, settings, sample rate, channels and tags are the same, and a clip without sound gets
    no sound track.  Every browser plays the result.

    Args:
        output: the .mp4 to write; an existing one is replaced.
        comment: the one tag that is written.

    Raises:
        EncoderError: ffmpeg is missing or failed.
        OutputUnwritableError: the folder is missing or read-only, or the disk full.
    """
    with open_clip(clip) as container:
        video_stream(container, clip)
        sound = bool(container.streams.audio)
    source = ffmpeg.input(ffmpeg_url(clip), protocol_whitelist="file")
    # Sound and picture alone may differ between two copies: the rest would tell raters who made them.
    # Every browser plays H.264 in 4:2:0, which needs even sizes.
    picture = source["v:0"].filter("scale", "trunc(iw/2)*2", "trunc(ih/2)*2").filter("setsar", "1")
    streams = [picture, source["a:0"]] if sound else [picture]
    copy = ffmpeg.output(
        *streams,
        ffmpeg_url(output),
        format="mp4",
        map_metadata=-1,
        map_chapters=-1,
        fflags="+bitexact",
        metadata=f"comment={comment}",
        movflags="+faststart",
        **{
            "c:v": "libx264", "crf": 16, "preset": "veryfast", "pix_fmt": "yuv420p", "flags:v": "+bitexact",
            "flags:a": "+bitexact",
        },
        **({"c:a": "aac", "b:a": 160_000, "ar": 48000, "ac": 2} if sound else {}),
    )  # fmt: skip
    copy = copy.global_args("-hide_banner", "-nostdin", "-loglevel", "error").overwrite_output()
    command = [str(argument) for argument in ffmpeg.compile(copy, cmd=str(find_ffmpeg().path))]
    try:
        run_ffmpeg(command, output)
    except EncoderError as error:
        raise EncoderError(f"{clip} could not be copied: {error.message}", error.hint) from error


def even_sizes(clips: list[Path]) -> int:
    """Make MP4 files equally large with an empty box at their ends, which players skip; returns the size in bytes."""
    size = max((clip.stat().st_size for clip in clips), default=0) + _BOX_HEAD
    size += -size % _ROUND
    for clip in clips:
        rest = size - clip.stat().st_size
        with clip.open("ab") as file:
            file.write(rest.to_bytes(4, "big") + b"free" + bytes(rest - _BOX_HEAD))
    return size
