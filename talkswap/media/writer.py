"""The one lossy encode: RGB frames at exact times become closed segments, and those become one picture.

Every file has the target's clock and colour tags.  A segment's own clock only has to keep the order of its frames: times,
durations and decoding order of the whole come from the plan, so that nothing is rounded twice and nothing drifts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

from av import Packet, VideoFrame, VideoStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError

from talkswap.errors import EncoderError, TalkswapError
from talkswap.media import codecs
from talkswap.media.colour import LIMITED_RANGE, PixelConverter, matrix_tag
from talkswap.media.index import nominal_ticks
from talkswap.media.probe import open_clip, output_error, video_stream
from talkswap.types import ClipInfo, Int8Image, UInt8Image


class VideoWriter:
    """Encodes frames into ``path`` (.mp4, .mov, .mkv, .webm), without sound.

    The stream's clock is the target's time base, so that every time is written as it was read (Matroska's
    own clock has milliseconds: use .mp4 for what goes on to :func:`talkswap.media.mux.mux`, .mkv only for ffv1).
    Matrix, range, primaries and transfer are the target's, in the pixels and in the tags; an untagged target
    stays untagged.  Odd sizes keep their size: VP9 in 4:2:0, H.264 and HEVC in 4:4:4, which QuickTime and many
    phones do not play.

    Args:
        duration: seconds from the first frame's start to the last one's end; without it the last frame
            lasts as long as a nominal one.

    Raises:
        EncoderError: the encoder is unknown, does not fit, or fails.
        OutputUnwritableError: no right to write there, the folder is missing, or the disk is full.
    """

    def __init__(
        self, path: Path, info: ClipInfo, settings: codecs.EncoderSettings, duration: Fraction | None = None
    ) -> None:
        self.path = Path(path)
        if not codecs.find_codec(settings.encoder).full_range:
            # Nobody would know that these pictures are full: their levels are written limited.
            info = replace(info, colour=replace(info.colour, range=LIMITED_RANGE))
        self.info = info
        self.frames = 0
        self.pixel_format = codecs.pixel_format_for(settings, info.width, info.height, info.bits)
        self._encoded_format = codecs.find_codec(settings.encoder).formats[self.pixel_format]
        self._duration = duration
        self._converter = PixelConverter(info)
        self._waiting: VideoFrame | None = None  # its duration is known when its successor's time is
        self._ticks: dict[int, int] = {}  # pts -> duration of what the encoder holds back
        options = codecs.encoder_options(settings)
        try:
            self._container: OutputContainer | None = codecs.open_output(self.path, info.time_base)
            self._stream = self._add_stream(self._container, settings, options)
            with codecs.ordinary_priority():
                self._container.start_encoding()  # writes the header: a place that cannot be written shows now
        except (FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        # Nothing half-written stays after a failure, whatever the encoder says to being closed in the middle.
        if self._container is not None:
            container, self._container = self._container, None
            with contextlib.suppress(FFmpegError, OSError, ValueError):
                container.close()
        if self.path.is_file():
            self.path.unlink()

    def write(self, rgb: UInt8Image, time: Fraction, fine: Int8Image | None = None) -> None:
        """Encode one frame.

        Args:
            rgb: H x W x 3 of the clip's size.
            time: its start in seconds, after the previous frame's; a whole number of the target's ticks.
            fine: the frame's, for an encode of more than 8 bits; of no effect in another.
        """
        if rgb.shape != (self.info.height, self.info.width, 3):
            raise ValueError(f"a frame is {rgb.shape}, the clip is {(self.info.height, self.info.width, 3)}")
        ticks = time / self.info.time_base
        if ticks.denominator != 1:
            raise ValueError(f"{time} s is not a whole number of ticks of {self.info.time_base} s")
        if self._waiting is not None and ticks <= (self._waiting.pts or 0):
            raise ValueError(f"the frame at {time} s does not come after its predecessor")
        picture = self._converter.from_rgb(
            rgb, self._encoded_format, fine if codecs.is_deep(self.pixel_format) else None
        )
        picture.pts = ticks.numerator
        picture.time_base = self.info.time_base
        picture.color_primaries = self.info.colour.primaries
        picture.color_trc = self.info.colour.transfer
        if self._waiting is not None:
            self._encode(self._waiting, picture.pts - (self._waiting.pts or 0))
        self._waiting = picture
        self.frames += 1

    def close(self) -> None:
        """Encode what waits, flush the encoder and finish the file."""
        if self._container is None:
            return
        try:
            if self._waiting is not None:
                # The last frame has no successor that would give its duration.
                ticks = nominal_ticks(self.info)
                if self._duration is not None:
                    ticks = max(1, round(self._duration / self.info.time_base) - (self._waiting.pts or 0))
                self._encode(self._waiting, ticks)
                self._waiting = None
            self._mux(None)
            container, self._container = self._container, None
            container.close()
        except (FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error

    def _add_stream(
        self, container: OutputContainer, settings: codecs.EncoderSettings, options: dict[str, str]
    ) -> VideoStream:
        info, colour = self.info, self.info.colour
        stream = cast(VideoStream, container.add_stream(settings.encoder, rate=info.rate, options=options))
        context = stream.codec_context
        context.width, context.height = info.width, info.height
        context.pix_fmt = self._encoded_format
        context.time_base = info.time_base
        stream.time_base = info.time_base
        context.sample_aspect_ratio = info.sample_aspect_ratio
        context.thread_count = settings.threads
        context.colorspace = matrix_tag(colour)
        context.color_primaries = colour.primaries
        context.color_trc = colour.transfer
        # A stream that said nothing of its range keeps saying nothing.
        context.color_range = self._converter.range if colour.range else 0
        return stream

    def _encode(self, picture: VideoFrame, ticks: int) -> None:
        self._ticks[picture.pts or 0] = ticks
        try:
            self._mux(picture)
        except (FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error

    def _mux(self, picture: VideoFrame | None) -> None:
        if self._container is not None:
            for packet in self._stream.encode(picture):
                # Encoders hand durations on in part only; the last frame's is the length of the file.
                packet.duration = self._ticks.pop(packet.pts or 0, packet.duration)
                self._container.mux(packet)

    def _failure(self, error: FFmpegError | OSError | ValueError) -> TalkswapError:
        message = f"the video could not be encoded ({error})"
        return output_error(error, self.path) or EncoderError(message, "try --encoder libx264")


# --- Closed segments become one file: packets are copied, and every frame gets its planned time.


_BROKEN = "start again with --fresh"


@dataclass(frozen=True)
class Piece:
    """One closed segment: a file that decodes by itself, and the frames of the whole that it holds."""

    path: Path
    first: int  # frame of the whole
    last: int  # the frame after its last one


def picture_ending(encoder: str) -> str:
    """The container that an encoded picture waits in: one with an exact clock wherever the codec fits into one."""
    containers = codecs.find_codec(encoder).containers
    return next(ending for ending in (".mp4", ".mov", ".mkv") if ending in containers)


def join(
    pieces: Sequence[Piece], output: Path, times: Sequence[Fraction], duration: Fraction, time_base: Fraction
) -> None:
    """Copy the packets of all pieces into one stream.

    Args:
        pieces: in order, without a gap, all written by one encoder with the same settings.
        times: planned start of each frame in seconds, whole ticks of ``time_base``.
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
        with codecs.open_output(output, time_base) as container:
            stream: VideoStream | None = None
            kind = None
            # One file is open at a time, however many segments a long clip has.
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
                        # Packets are stored in decoding order, and a player needs each before the frame is due.
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
