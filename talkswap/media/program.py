"""The ffmpeg program: found, and run without a shell and without a keyboard."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import ffmpeg

from talkswap.errors import EncoderError, OutputUnwritableError
from talkswap.media.containers import local_url, open_clip, video_stream

_LAST_LINES = 6
_NO_TEXT = "\udc80", "\udcff"  # how Python holds bytes of a name that are no text
_ASIDE = 0x10FF00 - 0xDC00  # to where nobody has letters: the end of the last plane for private use
_DISK_FULL = "No space left on device"


@functools.lru_cache(maxsize=1)
def find_ffmpeg() -> Path:
    """The ffmpeg program: from PATH if it runs and can cut copied streams, else the one that imageio-ffmpeg brings.

    Raises:
        EncoderError: neither is there.
    """
    on_path = shutil.which("ffmpeg")
    if on_path is not None and _serves(Path(on_path)):
        return Path(on_path)
    try:
        import imageio_ffmpeg  # only where PATH has none: it looks through the system's folders

        bundled = Path(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise EncoderError("no ffmpeg was found", "pip install imageio-ffmpeg, or install ffmpeg") from error
    if not _serves(bundled):
        raise EncoderError(f"{bundled} does not run", "pip install --force-reinstall imageio-ffmpeg")
    return bundled


def _serves(program: Path) -> bool:
    # The filter that leaves out packets came with FFmpeg 5.
    question = [str(program), "-hide_banner", "-h", "bsf=noise"]
    try:
        done = subprocess.run(question, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"-drop " in done.stdout


def ffmpeg_url(path: Path) -> str:
    """The path as an argument that ffmpeg-python can hold; :func:`run_ffmpeg` makes the name of it again.

    A name is bytes, and Python holds those that are no text as lone surrogates, which ffmpeg-python cannot encode.
    """
    return "".join(chr(ord(c) + _ASIDE) if _NO_TEXT[0] <= c <= _NO_TEXT[1] else c for c in local_url(path))


def run_ffmpeg(arguments: Sequence[str], output: Path) -> None:
    """Run ffmpeg with these arguments, the program first.

    Args:
        arguments: no shell reads them.
        output: what is being made, for messages.

    Raises:
        OutputUnwritableError: the disk is full.
        EncoderError: it could not be started, or failed; its last lines are in the message.
    """
    first, last = (chr(ord(c) + _ASIDE) for c in _NO_TEXT)
    named = ["".join(chr(ord(c) - _ASIDE) if first <= c <= last else c for c in word) for word in arguments]
    try:
        done = subprocess.run(
            named,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise EncoderError(f"ffmpeg could not be started ({error.strerror})", "install ffmpeg anew") from error
    if done.returncode == 0:
        return
    if _DISK_FULL in done.stderr:
        raise OutputUnwritableError(f"the disk is full: {output} could not be written", "free some space and try again")
    last = "; ".join(line.strip() for line in done.stderr.strip().splitlines()[-_LAST_LINES:])
    raise EncoderError(
        f"ffmpeg could not finish {output.name}: {last or 'it said nothing'}", "see ffmpeg's words above"
    )


# --- A clip encoded anew so that nothing but picture and sound tells where it comes from: for raters who must not know.


_BOX_HEAD = 8  # bytes of an MP4 box before its content: length and name
_ROUND = 4096  # bytes


def write_plain_copy(clip: Path, output: Path, comment: str) -> None:
    """Encode a clip as H.264 and AAC in MP4, always with the same settings, without any of its tags.

    Whatever encoded the clip before, the copies of two clips differ in picture and sound alone: codec, settings, sample
    rate, channels and tags are the same, and a clip without sound gets no sound track.  Every browser plays the result.

    Args:
        clip: a video.
        output: the .mp4 to write; an existing one is replaced.
        comment: the one tag that is written.

    Raises:
        InputMissingError, UnreadableMediaError, NoVideoError: the clip.
        EncoderError: ffmpeg is missing or failed.
        OutputUnwritableError: the folder is missing or read-only, or the disk full.
    """
    with open_clip(clip) as container:
        video_stream(container, clip)
        sound = bool(container.streams.audio)
    source = ffmpeg.input(ffmpeg_url(clip), protocol_whitelist="file")
    # H.264 in 4:2:0, which is what every browser plays, wants even sizes
    picture = source["v:0"].filter("scale", "trunc(iw/2)*2", "trunc(ih/2)*2").filter("setsar", "1")
    streams = [picture, source["a:0"]] if sound else [picture]
    written = ffmpeg.output(
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
    written = written.global_args("-hide_banner", "-nostdin", "-loglevel", "error").overwrite_output()
    command = [str(argument) for argument in ffmpeg.compile(written, cmd=str(find_ffmpeg()))]
    try:
        run_ffmpeg(command, output)
    except EncoderError as error:
        raise EncoderError(f"{clip} could not be copied: {error.message}", error.hint) from error


def even_sizes(clips: list[Path]) -> int:
    """Make MP4 files equally large with an empty box at their ends, which players skip; returns the size in bytes."""
    size = max((clip.stat().st_size for clip in clips), default=0) + _BOX_HEAD
    size += -size % _ROUND
    for clip in clips:
        missing = size - clip.stat().st_size
        with clip.open("ab") as file:
            file.write(missing.to_bytes(4, "big") + b"free" + bytes(missing - _BOX_HEAD))
    return size
