"""An output before and after it's made: its place, the private folder beside it, and the check against the plan.

The check reads the finished file packet by packet, not pixel by pixel, so that a promise that a container or a muxer
broke is an error here and no surprise for the user.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av import AudioCodecContext, Packet
from av.error import FFmpegError
from av.stream import Stream

from talkswap.errors import OutputCheckError, OutputExistsError, OutputUnwritableError
from talkswap.media.codecs import container_of
from talkswap.media.probe import local_url
from talkswap.media.timeline import typical_step

_HINT = "this is a fault of talkswap or of its ffmpeg; `talkswap doctor` shows which one that is"
_MATROSKA_CLOCK = Fraction(1, 1000)


def check_output(output: Path, overwrite: bool = False) -> None:
    """Make sure before a render that its result can be written.

    Raises:
        OutputUnwritableError: unknown ending, a directory, its folder is missing or read-only.
        OutputExistsError: it is there and ``overwrite`` is false.
    """
    # Every refusal here costs nothing; after the render it would cost the render.
    container_of(output)
    folder = output.parent
    if not folder.is_dir():
        raise OutputUnwritableError(f"the folder {folder} does not exist", "create it first")
    if output.is_dir():
        raise OutputUnwritableError(f"{output} is a directory", "name a file")
    if output.exists() and not output.is_file():
        raise OutputUnwritableError(f"{output} is a pipe or a device, not a file", "name a file")
    if output.exists() and not overwrite:
        raise OutputExistsError(f"{output} already exists", "choose another name, or allow it with --overwrite")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputUnwritableError(f"the folder {folder} is read-only", "choose another folder")


@contextmanager
def staging_folder(output: Path, overwrite: bool = False, within: Path | None = None) -> Iterator[Path]:
    """A private folder on the output's disk for a render's intermediate files; it's removed at the end in any case.

    Args:
        within: a folder on the same disk for the private one; by default the output's own.
    """
    check_output(output, overwrite)
    try:
        # On the output's own disk, since a rename moves nothing there and can't end half-way.
        folder = Path(tempfile.mkdtemp(prefix=".talkswap-", dir=within or output.parent))
    except OSError as error:
        raise OutputUnwritableError(f"nothing can be written in {output.parent} ({error.strerror})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class FinishedClip:
    """What a finished file holds, read from its packets."""

    times: tuple[Fraction, ...]  # seconds from the first frame
    time_base: Fraction  # seconds per tick of the video stream
    sound_start: Fraction  # seconds from the first frame to the first sound that is heard; 0 without sound
    sound_end: Fraction  # seconds from the first frame to the end of the sound; 0 without sound
    warnings: tuple[str, ...] = ()  # what of the target could not be kept, one sentence each
    streams: tuple[str, ...] = ()  # what became of each of the target's other streams


def read_back(path: Path, silent: bool = False) -> FinishedClip:
    """Times of a file's first video and first audio stream, without the sound's encoder delay and padding.

    Args:
        silent: whether it may be without sound.

    Raises:
        OutputCheckError: it cannot be read, has no frame, no sound, or its first picture does not decode.
    """
    stamps: list[int] = []
    sound_start: Fraction | None = None
    sound_end = Fraction(0)
    decoded = False
    try:
        with av.open(local_url(path), options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            if not container.streams.video or not (container.streams.audio or silent):
                missing = "sound" if container.streams.video else "picture"
                raise OutputCheckError(f"the finished file has no {missing}", _HINT)
            video, sounds = container.streams.video[0], container.streams.audio[:1]
            for packet in container.demux(video, *sounds):
                # Packets are enough for times; one decoded picture shows that the codec's header is right.
                if packet.pts is None or not packet.size:
                    continue
                if packet.stream_index != video.index:
                    start, end = audible_span(packet)
                    sound_start = start if sound_start is None else min(sound_start, start)
                    sound_end = max(sound_end, end)
                elif not packet.is_discard:
                    stamps.append(packet.pts)
                    decoded = decoded or bool(video.decode(packet))  # one picture is enough
            decoded = decoded or bool(video.decode(None))
            time_base = Fraction(video.time_base or 0)
    except (FFmpegError, OSError) as error:
        raise OutputCheckError(f"the finished file cannot be read back ({error})", _HINT) from error
    if not stamps or not decoded:
        raise OutputCheckError("the finished file has no picture that decodes", _HINT)
    if sound_start is None and not silent:
        raise OutputCheckError("the finished file has an empty sound", _HINT)
    # Packets come in decoding order, which B-frames change.
    stamps.sort()
    first = stamps[0] * time_base
    times = tuple(pts * time_base - first for pts in stamps)
    if sound_start is None:
        return FinishedClip(times, time_base, Fraction(0), Fraction(0))
    return FinishedClip(times, time_base, sound_start - first, sound_end - first)


def verify(path: Path, times: Sequence[Fraction], duration: Fraction, sound: str = "voice") -> FinishedClip:
    """Check a finished file against its plan.

    Every frame has to be there, at its planned time: exactly; within a millisecond in Matroska and WebM, whose
    clock counts milliseconds, where the plan's times are not whole ones.  The sound has to begin with the
    picture and end at ``duration``, both within one frame.

    Args:
        times: planned start of each frame in seconds, the first 0.
        duration: planned length of picture and sound in seconds.
        sound: ``voice`` has these promises to keep; ``own``, the target's as it was, only has to be there, and
            ``none`` not even that.

    Raises:
        OutputCheckError: one of these promises is broken; the message says which and by how much.
    """
    clip = read_back(path, silent=sound != "voice")
    if len(clip.times) != len(times):
        raise OutputCheckError(f"the finished file has {len(clip.times)} frames, {len(times)} were planned", _HINT)
    exact = all((time / clip.time_base).denominator == 1 for time in times)
    # The first frame is rounded as well, so that two half ticks can add up.
    allowed = _MATROSKA_CLOCK if clip.time_base == _MATROSKA_CLOCK and not exact else Fraction(0)
    for position, (planned, actual) in enumerate(zip(times, clip.times, strict=True)):
        if abs(planned - actual) > allowed:
            raise OutputCheckError(
                f"frame {position} of the finished file is at {float(actual):.4f} s, "
                f"{float(planned):.4f} s was planned",
                _HINT,
            )
    if sound != "voice":
        return clip
    # Sound is made of packets of about 20 ms, so it can't begin and end on exactly the planned ticks.
    frame = typical_step(times, max(duration - times[-1], clip.time_base))
    if abs(clip.sound_start) > frame:
        raise OutputCheckError(f"the sound begins {float(clip.sound_start):.4f} s after the picture", _HINT)
    if abs(clip.sound_end - duration) > frame:
        raise OutputCheckError(
            f"the sound ends at {float(clip.sound_end):.4f} s, the picture at {float(duration):.4f} s", _HINT
        )
    return clip


def audible_span(packet: Packet[Stream]) -> tuple[Fraction, Fraction]:
    """Start and end in seconds of the sound in a packet that a player plays, without encoder delay and padding."""
    time_base = packet.time_base
    start = (packet.pts or 0) * time_base
    end = start + (packet.duration or 0) * time_base
    if packet.has_sidedata("skip_samples"):
        rate = cast(AudioCodecContext, packet.stream.codec_context).sample_rate
        skipped, padded = struct.unpack("<II", bytes(packet.get_sidedata("skip_samples"))[:8])
        start += Fraction(skipped, rate)
        end -= Fraction(padded, rate)
    return start, end
