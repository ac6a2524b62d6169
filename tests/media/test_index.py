"""``--start`` and ``--end``: the frames between them and no others, exactly, wherever decoding can start."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from talkswap.errors import UsageError
from talkswap.media.index import FrameIndex, cut, index_frames, parse_time
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import FITS, plan_timeline

MakeClip = Callable[..., Path]
ReadIndex = Callable[[np.ndarray], int]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", Fraction(0)),
        ("12", Fraction(12)),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("7.", Fraction(7)),
        ("75.25", Fraction(301, 4)),
        ("1:02.5", Fraction(125, 2)),
        ("00:01:02.500", Fraction(125, 2)),
        (" 01:00:00.001 ", 3600 + Fraction(1, 1000)),
        ("1.001", Fraction(1001, 1000)),
    ],
)
def test_times_are_read_exactly(text: str, seconds: Fraction) -> None:
    assert parse_time(text, "--start") == seconds


@pytest.mark.parametrize(
    "text", ["", "abc", "-1", "1:2:3:4", "1:60", "1:60:00", "1e5", "nan", "1/2", "1,5", "0x10", "1:"]
)
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--end") as caught:
        parse_time(text, "--end")
    assert caught.value.exit_code == 2


def steady(count: int, rate: Fraction = Fraction(25)) -> FrameIndex:
    return FrameIndex(tuple(n / rate for n in range(count)), 1 / rate, tuple(range(count)), tuple(range(0, count, 10)))


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("-1", None, "negative"),
        ("0", "-1", "negative"),
        ("2", None, "behind the end"),
        ("1", "1", "does not come after"),
        ("1", "0.5", "does not come after"),
        ("0", "0", "does not come after"),
        ("0.001", "0.002", "no frame"),
        ("1.99", None, "no frame"),
    ],
)
def test_parts_that_cannot_be_are_named(start: str, end: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cut(steady(50), Fraction(start), None if end is None else Fraction(end))


def test_an_end_behind_the_clip_is_a_warning() -> None:
    index, warning = cut(steady(50), Fraction(0), Fraction(10))
    assert index == steady(50) and "behind the end" in warning
    assert cut(steady(50), Fraction(0), Fraction(2))[1] == ""
    assert cut(steady(50), Fraction(1), None)[1] == ""


@settings(max_examples=60, deadline=None)
@given(
    steps=some.lists(some.integers(1, 400), min_size=1, max_size=40),
    bounds=some.tuples(some.integers(0, 4000), some.integers(1, 4000)),
    fit=some.sampled_from(FITS),
    voice=some.integers(1, 3000),
)
def test_a_part_is_what_a_cut_clip_would_be(steps: list[int], bounds: tuple[int, int], fit: str, voice: int) -> None:
    tick = Fraction(1, 600)
    times = tuple(sum(steps[:n]) * tick for n in range(len(steps)))
    index = FrameIndex(times, steps[-1] * tick, tuple(range(100, 100 + len(times))), (0,))
    start, end = bounds[0] * tick, (bounds[0] + bounds[1]) * tick
    inside = [n for n, time in enumerate(times) if start <= time < end]
    if not inside:
        with pytest.raises(UsageError):
            cut(index, start, end)
        return
    part, _ = cut(index, start, end)
    assert part.times == tuple(times[n] - times[inside[0]] for n in inside)
    assert part.stamps == tuple(100 + n for n in inside)
    assert (part.start, part.before) == (times[inside[0]], inside[0])
    whole = times[inside[-1]] + steps[inside[-1]] * tick
    assert 0 < part.last_duration <= steps[inside[-1]] * tick
    assert part.start + part.duration == whole or part.start + part.duration >= end
    timeline = plan_timeline(part.times, part.last_duration, voice * tick, fit)
    assert max(timeline.picture) < len(inside)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("clip.mp4", {"gop": 12}),
        ("clip.mp4", {"gop": 250}),  # one keyframe: everything before the part has to be decoded
        ("clip.mkv", {"gop": 12, "rate": Fraction(30000, 1001), "time_base": Fraction(1, 30000)}),
        ("clip.webm", {"gop": 12, "codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("clip.avi", {"gop": 12, "codec": "mpeg4", "options": {"b": "4000000", "qmax": "2"}}),
        ("clip.ts", {"gop": 12}),
    ],
)
@pytest.mark.parametrize(("first", "last"), [(0, 3), (1, 25), (12, 14), (13, 31), (23, 25), (30, 32)])
def test_the_reader_gives_the_parts_frames_and_no_others(
    make_clip: MakeClip, read_index: ReadIndex, name: str, how: dict[str, object], first: int, last: int
) -> None:
    info = probe(make_clip(name, count=32, **how))
    whole = index_frames(info)
    part, _ = cut(whole, whole.times[first], whole.times[last] if last < 32 else None)
    with ClipReader(info, part) as reader:
        frames = [(frame.time, frame.index, read_index(frame.rgb)) for frame in reader.frames()]
        to_and_fro = plan_timeline(part.times, part.last_duration, part.duration * 2, "bounce")
        again = [read_index(frame.rgb) for frame in reader.frames_for(to_and_fro)]
        assert reader.damaged == 0
    assert [shown for _, _, shown in frames] == list(range(first, last))
    assert [time for time, _, _ in frames] == [time - whole.times[first] for time in whole.times[first:last]]
    assert [number for _, number, _ in frames] == list(range(last - first))
    assert set(again) == set(range(first, last))


def test_a_part_deep_in_a_clip_is_found_by_its_keyframe(make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    info = probe(make_clip(count=120, gop=10))
    part, _ = cut(index_frames(info), Fraction(4), Fraction("4.2"))
    decoded = 0
    plain = ClipReader._decode_at

    def counting(self: ClipReader, *arguments: object) -> object:
        nonlocal decoded
        for placed in plain(self, *arguments):  # type: ignore[arg-type]
            decoded += 1
            yield placed

    monkeypatch.setattr(ClipReader, "_decode_at", counting)
    with ClipReader(info, part) as reader:
        assert [frame.source_index for frame in reader.frames()] == list(range(5))
    assert part.opening is not None and decoded == 5
