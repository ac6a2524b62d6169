"""Frames of a clip in memory that does not grow with it: once through, or along a timeline."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Generator, Iterator, Sequence
from types import TracebackType

from av import VideoFrame
from av.error import FFmpegError

from talkswap.errors import UnreadableMediaError
from talkswap.media.colour import PixelConverter
from talkswap.media.index import Clock, FrameIndex, decoded, index_frames
from talkswap.media.probe import open_clip, video_stream
from talkswap.media.timeline import Timeline
from talkswap.types import ClipInfo, Frame, Int8Image, UInt8Image

# Most memory that decoded pictures may take while a clip plays backwards.
BACKWARD_BYTES = 192 * 2**20

_Placed = Generator[tuple[int, VideoFrame], None, None]  # (position in the clip, its picture)


class ClipReader:
    """Reads a clip's pictures as RGB, upright, 8 bits (deeper pictures are rounded to 8).

    Colours follow the stream's matrix and range; an untagged stream is taken as players take it, BT.601
    below 720 lines and BT.709 above.  Use as a context manager; one iteration runs at a time, and starting
    another one ends the first.

    Args:
        info: the clip, from :func:`talkswap.media.probe.probe`.
        deep: whether frames of a clip of more than 8 bits bring along, as ``fine``, what rounding took.
        target_format: the pixel format in which a :class:`talkswap.media.writer.VideoWriter` will write them, so that what
            nobody touches comes back as it was.
    """

    def __init__(
        self, info: ClipInfo, index: FrameIndex | None = None, deep: bool = False, target_format: str = ""
    ) -> None:
        self.info = info
        self._deep = deep and info.bits > 8
        self._index = index
        self._converter = PixelConverter(info, target_format)
        self._damage: set[int] = set()
        self._running: Generator[Frame, None, None] | None = None

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End an iteration that was left half-way, and close its file."""
        if self._running is not None:
            self._running.close()
            self._running = None

    @property
    def damaged(self) -> int:
        """Frames of the clip that the last iteration found damaged: not decoded, or only in part."""
        return len(self._damage)

    @property
    def index(self) -> FrameIndex:
        """Every frame's time, read at first use."""
        if self._index is None:
            self._index = index_frames(self.info)
        return self._index

    def frames(self, needs: Container[int] | None = None) -> Iterator[Frame]:
        """Every picture that decodes, in presentation order, at its exact time from the first one.

        A missing time stamp, or one that does not increase, is replaced by the predecessor's plus one
        nominal frame.  A packet that does not decode is left out and counted in :attr:`damaged`.  Of a part of
        a clip these are the part's frames, its first at 0.

        Args:
            needs: positions whose pictures are used; None for all.  The others are decoded, but not converted to RGB,
                which takes longer, and not given.
        """
        # Frames around a part must not be shown, even if they decode.
        if self._index is not None and self._index.partial:
            index = self._index
            whole = Timeline(tuple(range(len(index.times))), index.times, index.duration)
            return self._start(self._along(whole, needs))
        return self._start(self._every_picture(needs))

    def frames_for(self, timeline: Timeline, needs: Container[int] | None = None) -> Iterator[Frame]:
        """The pictures of a timeline, one for each of its entries, whatever the file's damage.

        Where a planned picture does not decode, its predecessor is shown again and :attr:`damaged` counts
        it.  Backward stretches are decoded in pieces from the keyframe before them, at most
        :data:`BACKWARD_BYTES` at a time; so memory depends on neither clip nor timeline.

        Args:
            needs: see :meth:`frames`; of the clip's positions.

        Yields:
            Frames whose ``index`` and ``time`` are the output's and whose ``source_index`` is the clip's.

        Raises:
            UnreadableMediaError: nothing at all decodes where the timeline begins.
        """
        return self._start(self._along(timeline, needs))

    def _start(self, iteration: Generator[Frame, None, None]) -> Iterator[Frame]:
        self.close()
        self._damage.clear()
        self._running = iteration
        return iteration

    def _converted(self, picture: VideoFrame) -> tuple[UInt8Image, Int8Image | None]:
        return self._converter.to_deep_rgb(picture) if self._deep else (self._converter.to_rgb(picture), None)

    def _every_picture(self, needs: Container[int] | None) -> Generator[Frame, None, None]:
        clock = Clock(self.info)
        position = lost = 0
        with open_clip(self.info.path) as container:
            stream = video_stream(container, self.info.path)
            stream.thread_type = "AUTO"
            # Damage is counted and passed over: half a clip is worth more than none.
            for picture in decoded(container, stream):
                if isinstance(picture, FFmpegError):
                    lost += 1
                    self._damage.add(-lost)  # a lost packet has no position of its own
                    continue
                if picture.is_corrupt:
                    self._damage.add(position)
                time = clock.time_of(picture.pts)
                if needs is None or position in needs:
                    rgb, fine = self._converted(picture)
                    yield Frame(rgb, time, position, position, fine)
                position += 1

    def _along(self, timeline: Timeline, needs: Container[int] | None) -> Generator[Frame, None, None]:
        output = 0
        latest: tuple[int, VideoFrame] | None = None
        # A frozen picture is the same picture many times: it's decoded once and kept.
        for first, last in stretches(timeline.picture):
            if latest is not None and first == last == latest[0]:
                pictures: Iterator[tuple[int, VideoFrame]] = iter([latest])
            elif first <= last:
                pictures = self._forward(first, last, latest)
            else:
                pictures = self._backward(first, last, latest)
            for position, picture in pictures:
                latest = position, picture
                if picture.is_corrupt:
                    self._damage.add(position)
                # Converted anew even where it is shown again: a frame's pixels are its receiver's to draw on.
                if needs is None or position in needs:
                    rgb, fine = self._converted(picture)
                    yield Frame(rgb, timeline.times[output], output, position, fine)
                output += 1

    def _forward(self, first: int, last: int, latest: tuple[int, VideoFrame] | None) -> _Placed:
        """Pictures ``first`` to ``last``; what is missing is replaced by its predecessor."""
        # Plans promise a picture for every entry, so a damaged one shows its predecessor.
        previous = None if latest is None else latest[1]
        due = first
        for position, picture in self._from(first):
            while due < min(position, last + 1):
                self._damage.add(due)
                yield due, picture if previous is None else previous
                due += 1
            if position == due <= last:
                yield position, picture
                previous = picture
                due += 1
            if due > last:
                return
        while due <= last:
            if previous is None:
                raise UnreadableMediaError(
                    f"no frame of {self.info.path} decodes", "the file may be damaged; does it play elsewhere?"
                )
            self._damage.add(due)
            yield due, previous
            due += 1

    def _backward(self, first: int, last: int, latest: tuple[int, VideoFrame] | None) -> _Placed:
        """Pictures ``first`` down to ``last``, decoded forward in pieces that fit into memory."""
        # 4:2:0 takes one and a half bytes a pixel, twice that above 8 bits; 4:4:4 clips take twice the limit.
        bytes_a_picture = self.info.width * self.info.height * 3 // 2 * (2 if self.info.bits > 8 else 1)
        most = max(2, BACKWARD_BYTES // bytes_a_picture)
        high = first
        while high >= last:
            low = max(last, high - most + 1)
            piece = list(self._forward(low, high, latest))
            while piece:
                latest = piece.pop()
                yield latest
            high = low - 1

    def _from(self, first: int) -> _Placed:
        """The clip's pictures from position ``first`` on, each with its position; damaged ones are missing."""
        # Seeking goes to a keyframe at or before the frame; decoding on from there gives exact frames.
        if self.index.stamps is not None:
            keyframe = self._keyframe_before(first)
            pts = self.index.stamps[keyframe] if keyframe > 0 else self.index.opening
            if pts is not None:
                pictures = self._decode_at(pts, self.index.stamps)
                start = next(pictures, None)
                if start is not None and start[0] <= first:
                    yield from not_before(first, start, pictures)
                    return
                pictures.close()  # the container found a later keyframe; only the file's start is certain
        pictures = self._decode_at(None, self.index.stamps)
        start = next(pictures, None)
        if start is not None:
            yield from not_before(first, start, pictures)

    def _keyframe_before(self, position: int) -> int:
        place = bisect_right(self.index.keyframes, position) - 1
        return self.index.keyframes[place] if place >= 0 else 0

    def _decode_at(self, keyframe: int | None, stamps: Sequence[int] | None) -> _Placed:
        """Pictures decoded from the keyframe with this pts on, or from the file's start."""
        positions = None if stamps is None else {pts: position for position, pts in enumerate(stamps)}
        with open_clip(self.info.path) as container:
            stream = video_stream(container, self.info.path)
            stream.thread_type = "AUTO"
            if keyframe is not None:
                try:
                    container.seek(keyframe, stream=stream, backward=True)
                except (FFmpegError, OSError):
                    return  # a file that cannot seek is read from its start
            count = 0
            for picture in decoded(container, stream):
                if isinstance(picture, FFmpegError):
                    continue
                if positions is None:
                    # Repaired time stamps cannot be looked up; pictures are counted as the index counted them.
                    if count >= self.index.before:
                        yield count - self.index.before, picture
                    count += 1
                elif picture.pts in positions:
                    yield positions[picture.pts], picture


def not_before(first: int, start: tuple[int, VideoFrame], rest: _Placed) -> _Placed:
    """Pictures from position ``first`` on, beginning with one that was already read."""
    if start[0] >= first:
        yield start
    for pair in rest:
        if pair[0] >= first:
            yield pair


def stretches(picture: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut a timeline into stretches that go up by one, go down by one, or are a single picture."""
    start = 0
    while start < len(picture):
        end = start
        if start + 1 < len(picture) and abs(step := picture[start + 1] - picture[start]) == 1:
            while end + 1 < len(picture) and picture[end + 1] - picture[end] == step:
                end += 1
        yield picture[start], picture[end]
        start = end + 1
