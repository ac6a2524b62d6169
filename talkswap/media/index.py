"""Where every frame of a clip lies: its time, and where decoding can start; and which part of a clip is dubbed.

Packets are read, not decoded; what they claim is compared with the first decoded pictures.  If the claim
fails, or the codec hides pictures that are never shown, the clip is decoded once instead.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from av import Packet, VideoFrame, VideoStream
from av.container import InputContainer
from av.error import FFmpegError

from talkswap.errors import NoVideoError, UsageError
from talkswap.media.probe import open_clip, video_stream
from talkswap.media.timeline import typical_step
from talkswap.types import ClipInfo

# One packet is one shown picture in these; VP8 hides reference pictures, others are unknown.
_ONE_PICTURE_A_PACKET = {"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg", "prores", "dnxhd", "ffv1"}
_PROBED_PICTURES = 8
_MOST_READ_ERRORS = 64  # in a row; a file that fails more often has no rest to read


@dataclass(frozen=True)
class FrameIndex:
    """Every frame of a clip, or of a part of it, in presentation order."""

    times: tuple[Fraction, ...]  # seconds from the first frame here
    last_duration: Fraction  # seconds that the last frame is shown
    stamps: tuple[int, ...] | None  # the frames' own pts; None where they were repaired and cannot be found again
    keyframes: tuple[int, ...]  # positions where decoding can start, ascending; empty without stamps
    start: Fraction = Fraction(0)  # seconds from the file's first frame to the first one here
    before: int = 0  # frames of the file before the first one here
    opening: int | None = None  # pts of a keyframe at or before the first one here; None = the file's start
    partial: bool = False  # the file has more frames, which must not be shown

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame's start to the last frame's end."""
        return self.times[-1] + self.last_duration

    def part(self, first: int, last: int, last_duration: Fraction) -> FrameIndex:
        """The frames from ``first`` to the one before ``last``, as if they were a clip of their own.

        Args:
            first, last: positions, ``first < last``.
            last_duration: seconds that the part's last frame is shown.
        """
        # Decoding must start at a keyframe, which may lie before the part.
        opening = self.opening
        if self.stamps is not None:
            place = bisect_right(self.keyframes, first) - 1
            if place >= 0 and self.keyframes[place] > 0:
                opening = self.stamps[self.keyframes[place]]
        return FrameIndex(
            tuple(time - self.times[first] for time in self.times[first:last]),
            last_duration,
            None if self.stamps is None else self.stamps[first:last],
            tuple(position - first for position in self.keyframes if first <= position < last),
            self.start + self.times[first],
            self.before + first,
            opening,
            True,
        )


class Clock:
    """Frame times from raw pts: a missing one, or one not after its predecessor's, follows by one nominal frame."""

    def __init__(self, info: ClipInfo) -> None:
        self._time_base = info.time_base
        self._step = nominal_ticks(info)
        self._first: int | None = None
        self._last: int | None = None
        self.repaired = 0

    def time_of(self, pts: int | None) -> Fraction:
        """Seconds from the first frame for the next frame in presentation order; whole ticks of the time base."""
        if self._first is None or self._last is None:
            self.repaired += pts is None
            self._first = self._last = 0 if pts is None else pts
        # Containers repeat or lose time stamps; a player shows such a frame one step later, and so do we.
        elif pts is None or pts <= self._last:
            self.repaired += 1
            self._last += self._step
        else:
            self._last = pts
        return (self._last - self._first) * self._time_base


def nominal_ticks(info: ClipInfo) -> int:
    """One frame at the clip's average rate, in ticks of its time base, at least 1."""
    return max(1, round(1 / (info.rate * info.time_base)))


def index_frames(info: ClipInfo) -> FrameIndex:
    """Find every frame of a clip.

    Raises:
        NoVideoError: there is no frame.
        InputMissingError, UnreadableMediaError: the file went away or changed since it was probed.
    """
    return index_of_packets(info) or index_of_pictures(info)


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream] | FFmpegError]:
    """The stream's packets; damage that stops the demuxer is handed on as an error, then reading goes on."""
    errors = 0
    packets = container.demux(stream)
    while errors < _MOST_READ_ERRORS:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError as error:
            errors += 1
            yield error
            packets = container.demux(stream)
        else:
            errors = 0
            yield packet


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame | FFmpegError]:
    """The stream's pictures in presentation order; a packet that does not decode comes as its error."""
    for packet in packets_of(container, stream):
        if isinstance(packet, FFmpegError):
            yield packet
            continue
        try:
            pictures = packet.decode()
        except EOFError:
            return
        except FFmpegError as error:
            yield error
            continue
        yield from pictures


def index_of_packets(info: ClipInfo) -> FrameIndex | None:
    """The index by demuxing alone; None if the packets don't tell all: see the docstring of the module."""
    if info.codec not in _ONE_PICTURE_A_PACKET:
        return None
    # Demuxing reads a two-hour film's times in seconds, decoding it would take minutes.
    packets: list[tuple[int, bool, int]] = []  # pts, decoding can start here, duration in ticks
    with open_clip(info.path) as container:
        stream = video_stream(container, info.path)
        for packet in packets_of(container, stream):
            if isinstance(packet, FFmpegError) or not packet.size or packet.is_discard:
                continue
            if packet.pts is None:
                return None
            packets.append((packet.pts, packet.is_keyframe, packet.duration or 0))
    # Packets lie in decoding order; sorted by time stamp they are in the order of presentation.
    packets.sort()
    stamps = tuple(pts for pts, _, _ in packets)
    if not stamps or len(set(stamps)) != len(stamps) or not first_pictures_agree(info, stamps):
        return None
    times = tuple((pts - stamps[0]) * info.time_base for pts in stamps)
    keyframes = tuple(position for position, (_, key, _) in enumerate(packets) if key)
    return FrameIndex(times, last_duration_of(info, times, packets[-1][2]), stamps, keyframes)


def first_pictures_agree(info: ClipInfo, stamps: tuple[int, ...]) -> bool:
    """Whether decoding starts with the pictures that the packets announce."""
    actual: list[int | None] = []
    with open_clip(info.path) as container:
        stream = video_stream(container, info.path)
        # A few pictures need no threads, and starting them costs more than decoding.
        stream.thread_count = 1
        for picture in decoded(container, stream):
            if isinstance(picture, FFmpegError):
                return False
            actual.append(picture.pts)
            if len(actual) == _PROBED_PICTURES:
                break
    return tuple(actual) == stamps[: len(actual)] and len(actual) == min(len(stamps), _PROBED_PICTURES)


def index_of_pictures(info: ClipInfo) -> FrameIndex:
    """The index by decoding the whole clip once."""
    clock = Clock(info)
    times: list[Fraction] = []
    stamps: list[int] = []
    keyframes: list[int] = []
    ticks = 0
    with open_clip(info.path) as container:
        stream = video_stream(container, info.path)
        stream.thread_type = "AUTO"
        for picture in decoded(container, stream):
            if isinstance(picture, FFmpegError):
                continue
            if picture.key_frame:
                keyframes.append(len(times))
            times.append(clock.time_of(picture.pts))
            stamps.append(picture.pts or 0)
            ticks = picture.duration
    if not times:
        raise NoVideoError(f"{info.path} has no frame that decodes", "the file may be damaged or empty")
    last_duration = last_duration_of(info, tuple(times), ticks)
    # Repaired times are not in the file, so no frame can be found by them.
    if clock.repaired:
        return FrameIndex(tuple(times), last_duration, None, ())
    return FrameIndex(tuple(times), last_duration, tuple(stamps), tuple(keyframes))


def last_duration_of(info: ClipInfo, times: tuple[Fraction, ...], ticks: int) -> Fraction:
    """The last frame's duration in seconds: what the container says, else that of the clip's typical frame."""
    if ticks > 0:
        return ticks * info.time_base
    # Not every container states a packet's duration.
    if len(times) > 1:
        return typical_step(times[:-1], times[-1] - times[-2])
    return nominal_ticks(info) * info.time_base


_TIME = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,2}):)?(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})")
_HINT = "give seconds, or HH:MM:SS.mmm, for example 12.5 or 00:01:02.500"


def parse_time(text: str, option: str) -> Fraction:
    """Seconds of what a user typed: ``12.5``, ``1:02.5`` or ``00:01:02.500``, exactly.

    Raises:
        UsageError: it is no time.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} {text!r} is no time", _HINT)
    hours, minutes, seconds = match.groups()
    # A fraction of the text itself: 0.1 s as a float is no whole number of any clock's ticks.
    rest = Fraction(seconds if not seconds.endswith(".") else seconds[:-1])
    if (minutes is not None and rest >= 60) or (hours is not None and int(minutes) >= 60):
        raise UsageError(f"{option} {text!r} has more than 59 minutes or seconds", _HINT)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + rest


def cut(index: FrameIndex, start: Fraction, end: Fraction | None) -> tuple[FrameIndex, str]:
    """The frames that begin at ``start`` or later and before ``end``.

    Where ``end`` lies within a frame, the frame keeps its full length, as a steady clip's last frame always does;
    one that stays longer than the clip's typical frame is cut at ``end``.

    Args:
        start, end: seconds from the clip's first frame; None for its end.

    Returns:
        The part, and a warning where ``end`` lies behind the clip's own (else empty).

    Raises:
        UsageError: negative, in the wrong order, behind the clip's end, or without a frame between them.
    """
    whole = index.duration
    if start < 0 or (end is not None and end < 0):
        raise UsageError("--start and --end cannot be negative", "count from the target's first frame, which is 0")
    if start >= whole:
        raise UsageError(f"--start {_seconds(start)} lies behind the end of the clip ({_seconds(whole)})", _HINT)
    if end is not None and end <= start:
        raise UsageError(f"--end {_seconds(end)} does not come after --start {_seconds(start)}", _HINT)
    # The whole clip stays the whole: copied sounds keep every packet then.
    if start == 0 and (end is None or end >= whole):
        return index, beyond_the_end(index, end)
    first = bisect_left(index.times, start)
    last = len(index.times) if end is None else bisect_left(index.times, end)
    if first >= last:
        stop = whole if end is None else end
        raise UsageError(
            f"no frame of the clip begins between {_seconds(start)} and {_seconds(stop)}", "choose a longer part"
        )
    # A frame that stays on the screen longer than usual is cut like a sound.
    step = typical_step(index.times, index.last_duration)
    natural = index.times[last] if last < len(index.times) else whole
    begins = index.times[last - 1]
    length = natural - begins
    if end is not None and natural - end > step:
        length = max(min(step, length), end - begins)
    return index.part(first, last, length), beyond_the_end(index, end)


def beyond_the_end(index: FrameIndex, end: Fraction | None) -> str:
    """A warning for an ``--end`` more than one frame behind the clip's; else empty."""
    step = typical_step(index.times, index.last_duration)
    if end is None or end <= index.duration + step:
        return ""
    return f"--end {_seconds(end)} lies behind the end of the clip, which ends at {_seconds(index.duration)}"


def _seconds(value: Fraction) -> str:
    return f"{float(value):.3f} s"
