"""A clip encoded anew so that nothing but picture and sound tells where it comes from: for raters who must not know."""

from __future__ import annotations

from pathlib import Path

import ffmpeg

from talkswap.errors import EncoderError
from talkswap.media.containers import open_clip, video_stream
from talkswap.media.program import ffmpeg_url, find_ffmpeg, run_ffmpeg

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
