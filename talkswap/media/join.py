"""Closed segments of one picture become one file: packets are copied, and every frame gets its planned time.

A segment's own clock only has to keep the order of its frames; times, durations and decoding order come from the plan,
so that nothing is rounded twice and nothing drifts from segment to segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from talkswap.errors import EncoderError
from talkswap.media.codecs import codec_named, open_output
from talkswap.media.containers import open_clip, output_error, video_stream

_BROKEN = "start again with --fresh"


@dataclass(frozen=True)
class Piece:
    """One closed segment: a file that decodes by itself, and the frames of the whole that it holds."""

    path: Path
    first: int  # frame of the whole
    last: int  # the frame after its last one


def picture_ending(encoder: str) -> str:
    """The container that an encoded picture waits in: one with an exact clock wherever the codec fits into one."""
    containers = codec_named(encoder).containers
    return next(ending for ending in (".mp4", ".mov", ".mkv") if ending in containers)


def join(
    pieces: Sequence[Piece], output: Path, times: Sequence[Fraction], duration: Fraction, time_base: Fraction
) -> None:
    """Copy the packets of all pieces into one stream.

    Args:
        pieces: in order, without a gap, all written by one encoder with the same settings.
        output: the file to write.
        times: planned start of each frame in seconds, whole ticks of ``time_base``.
        duration: planned length in seconds.
        time_base: seconds per tick of the target's clock.

    Raises:
        EncoderError: a piece does not hold its frames, or is of another kind than the first.
        OutputUnwritableError: the disk is full, or the folder cannot be written.
    """
    unit = Fraction(1, time_base.denominator)
    ends = [*times[1:], duration]
    try:
        ranks = [frame_ranks(piece) for piece in pieces]
        # How many packets a frame may come before its turn: players get each of them that much earlier.
        delay = max(place - rank for order in ranks for place, rank in enumerate(order))
        # The first ones come so early that the packets together last as long as the picture.
        last = pieces[-1].first + ranks[-1][-1]
        lead = max(delay, round((duration - (ends[last] - times[last]) - times[len(times) - 1 - delay]) / unit))
        with open_output(output, time_base) as container:
            stream: VideoStream | None = None
            kind = None
            for piece, order in zip(pieces, ranks, strict=True):
                with open_clip(piece.path) as source:
                    segment = video_stream(source, piece.path)
                    if stream is None:
                        stream = container.add_stream_from_template(segment, opaque=True)  # parameters as they are
                        stream.time_base = unit
                        stream.codec_context.sample_aspect_ratio = segment.sample_aspect_ratio or Fraction(1)
                        kind = stream_kind(segment)
                    elif stream_kind(segment) != kind:
                        raise EncoderError(f"the segment {piece.path.name} is of another kind than the first", _BROKEN)
                    for place, packet in enumerate(frame_packets(source, segment)):
                        frame = piece.first + order[place]
                        before = piece.first + place - delay
                        packet.stream = stream
                        packet.time_base = unit
                        packet.pts = round(times[frame] / unit)
                        packet.dts = round(times[before] / unit) if before >= 0 else (before * lead) // delay
                        packet.duration = round((ends[frame] - times[frame]) / unit)
                        container.mux(packet)
    except (FFmpegError, OSError, ValueError) as error:
        message = f"the segments could not be joined ({error})"
        raise output_error(error, output) or EncoderError(message, _BROKEN) from error


def frame_packets(source: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets that hold a frame, in the order in which they are stored."""
    for packet in source.demux(stream):
        if packet.size and packet.pts is not None:
            yield packet


def frame_ranks(piece: Piece) -> list[int]:
    """For each packet as it is stored, which frame of the segment it holds."""
    with open_clip(piece.path) as source:
        stamps = [packet.pts or 0 for packet in frame_packets(source, video_stream(source, piece.path))]
    if len(stamps) != piece.last - piece.first:
        raise EncoderError(
            f"the segment {piece.path.name} holds {len(stamps)} frames instead of {piece.last - piece.first}", _BROKEN
        )
    # Frames whose times Matroska has rounded to one are in their order: what it holds here reorders nothing.
    order = sorted(range(len(stamps)), key=lambda place: (stamps[place], place))
    ranks = [0] * len(order)
    for rank, place in enumerate(order):
        ranks[place] = rank
    return ranks


def stream_kind(stream: VideoStream) -> tuple[str, int, int, str | None, bytes]:
    """What two streams must share for their packets to stand in one."""
    context = stream.codec_context
    return context.name, context.width, context.height, context.pix_fmt, bytes(context.extradata or b"")
