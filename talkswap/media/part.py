"""``--start`` and ``--end``: which of the target's frames are dubbed, as arithmetic on fractions.

A part is a :class:`talkswap.media.index.FrameIndex` of its own whose first frame is at 0, so that timeline, reader
and search for people need no special case.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from fractions import Fraction

from talkswap.errors import UsageError
from talkswap.media.index import FrameIndex
from talkswap.media.timeline import typical_step

_TIME = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,2}):)?(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})")
_HINT = "give seconds, or HH:MM:SS.mmm, for example 12.5 or 00:01:02.500"


def parse_time(text: str, option: str) -> Fraction:
    """Seconds of what a user typed: ``12.5``, ``1:02.5`` or ``00:01:02.500``, exactly.

    Args:
        text: what was typed.
        option: its name, for the message.

    Raises:
        UsageError: it is no time.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option} {text!r} is no time", _HINT)
    hours, minutes, seconds = found.groups()
    rest = Fraction(seconds if not seconds.endswith(".") else seconds[:-1])
    if (minutes is not None and rest >= 60) or (hours is not None and int(minutes) >= 60):
        raise UsageError(f"{option} {text!r} has more than 59 minutes or seconds", _HINT)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + rest


def cut(index: FrameIndex, start: Fraction, end: Fraction | None) -> tuple[FrameIndex, str]:
    """The frames that begin at ``start`` or later and before ``end``.

    Where ``end`` lies within a frame, the frame keeps its full length, as a steady clip's last frame always does;
    one that stays longer than the clip's typical frame is cut at ``end``.

    Args:
        index: of the whole clip.
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
    if start == 0 and (end is None or end >= whole):
        return index, _beyond(index, end)
    first = bisect_left(index.times, start)
    last = len(index.times) if end is None else bisect_left(index.times, end)
    if first >= last:
        stop = whole if end is None else end
        raise UsageError(
            f"no frame of the clip begins between {_seconds(start)} and {_seconds(stop)}", "choose a longer part"
        )
    step = typical_step(index.times, index.last_duration)
    natural = index.times[last] if last < len(index.times) else whole
    begins = index.times[last - 1]
    shown = natural - begins
    if end is not None and natural - end > step:
        shown = max(min(step, shown), end - begins)
    return index.part(first, last, shown), _beyond(index, end)


def _beyond(index: FrameIndex, end: Fraction | None) -> str:
    step = typical_step(index.times, index.last_duration)
    if end is None or end <= index.duration + step:
        return ""
    return f"--end {_seconds(end)} lies behind the end of the clip, which ends at {_seconds(index.duration)}"


def _seconds(value: Fraction) -> str:
    return f"{float(value):.3f} s"
