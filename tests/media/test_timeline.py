"""The arithmetic of --fit by example and by property, at every rate, and no float on a time's way."""

from __future__ import annotations

import ast
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkswap.errors import UsageError
from talkswap.media import index, output, reader, timeline, writer
from talkswap.media import writer as join
from talkswap.media.index import FrameIndex, cut
from talkswap.media.timeline import FITS, Timeline, frame_durations, plan_timeline, typical_step

TICK = Fraction(1, 90000)

# No deadline: the machine may be busy.
quiet = settings(deadline=None, max_examples=60)

durations_in_ticks = st.lists(st.integers(900, 9000), min_size=1, max_size=40)
voice_lengths = st.fractions(min_value=0, max_value=8, max_denominator=16000)


def clip_of(ticks: list[int]) -> tuple[list[Fraction], Fraction]:
    """Times and last duration of a clip whose frames last so many ticks."""
    times, now = [], 0
    for length in ticks:
        times.append(now * TICK)
        now += length
    return times, ticks[-1] * TICK


def steady(count: int, rate: Fraction = Fraction(25)) -> tuple[list[Fraction], Fraction]:
    return [index / rate for index in range(count)], 1 / rate


@quiet
@given(durations_in_ticks, voice_lengths, st.sampled_from(FITS))
def test_every_timeline_starts_at_zero_and_increases(ticks: list[int], voice: Fraction, fit: str) -> None:
    times, last = clip_of(ticks)
    timeline = plan_timeline(times, last, voice, fit)
    assert len(timeline.picture) == len(timeline.times) == len(timeline) > 0
    assert timeline.times[0] == 0
    assert all(after > before for before, after in zip(timeline.times, timeline.times[1:], strict=False))
    assert timeline.duration > timeline.times[-1]
    assert all(0 <= index < len(times) for index in timeline.picture)


@quiet
@given(durations_in_ticks, voice_lengths, st.sampled_from(FITS))
def test_every_time_is_whole_ticks_of_the_clip(ticks: list[int], voice: Fraction, fit: str) -> None:
    times, last = clip_of(ticks)
    timeline = plan_timeline(times, last, voice, fit)
    assert all((time / TICK).denominator == 1 for time in timeline.times)


@quiet
@given(durations_in_ticks, voice_lengths)
def test_clip_is_the_clip_whatever_the_voice(ticks: list[int], voice: Fraction) -> None:
    times, last = clip_of(ticks)
    timeline = plan_timeline(times, last, voice, "clip")
    assert timeline.picture == tuple(range(len(times)))
    assert timeline.times == tuple(times)
    assert timeline.duration == times[-1] + last
    assert bool(timeline.warnings) == (voice - timeline.duration > typical_step(times, last))


@quiet
@given(durations_in_ticks, voice_lengths, st.sampled_from(["loop", "bounce", "freeze"]))
def test_stretched_clips_last_as_long_as_a_longer_voice(ticks: list[int], voice: Fraction, fit: str) -> None:
    times, last = clip_of(ticks)
    step = typical_step(times, last)
    timeline = plan_timeline(times, last, voice, fit)
    clip_seconds = times[-1] + last
    if voice - clip_seconds > step:
        assert voice <= timeline.duration <= voice + step
        assert timeline.times[-1] < voice
    else:
        assert timeline.duration == clip_seconds
    assert timeline.picture[: len(times)] == tuple(range(len(times)))
    assert not timeline.warnings


@quiet
@given(durations_in_ticks, voice_lengths)
def test_voice_ends_with_a_shorter_voice(ticks: list[int], voice: Fraction) -> None:
    times, last = clip_of(ticks)
    step = typical_step(times, last)
    clip_seconds = times[-1] + last
    timeline = plan_timeline(times, last, voice, "voice")
    if clip_seconds - voice > step:
        assert timeline.picture == tuple(index for index, time in enumerate(times) if time < voice or index == 0)
        assert timeline.duration <= max(voice, Fraction(0)) + step
        assert timeline.duration >= voice
    else:
        assert timeline.picture == tuple(range(len(times)))


@quiet
@given(durations_in_ticks, voice_lengths)
def test_bounce_moves_by_one_picture_and_keeps_each_ones_duration(ticks: list[int], voice: Fraction) -> None:
    times, last = clip_of(ticks)
    timeline = plan_timeline(times, last, voice, "bounce")
    own = frame_durations(times, last)
    assert all(
        abs(after - before) == 1 or len(times) == 1
        for before, after in zip(timeline.picture, timeline.picture[1:], strict=False)
    )
    shown = frame_durations(timeline.times, timeline.duration - timeline.times[-1])
    assert all(seconds == own[index] for index, seconds in zip(timeline.picture[:-1], shown[:-1], strict=True))


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, Fraction(60000, 1001), 60]
)
def test_loops_do_not_drift(rate: Fraction) -> None:
    times, last = steady(37, Fraction(rate))
    timeline = plan_timeline(times, last, Fraction(60), "loop")
    assert timeline.times == tuple(index / Fraction(rate) for index in range(len(timeline)))
    assert timeline.picture == tuple(index % 37 for index in range(len(timeline)))


def test_bounce_does_not_show_the_turning_points_twice() -> None:
    times, last = steady(4)
    timeline = plan_timeline(times, last, Fraction(14, 25), "bounce")
    assert timeline.picture == (0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1)


def test_freeze_holds_the_last_picture_at_the_clips_rate() -> None:
    times, last = steady(3)
    timeline = plan_timeline(times, last, Fraction(6, 25), "freeze")
    assert timeline.picture == (0, 1, 2, 2, 2, 2)
    assert timeline.times[-1] == Fraction(5, 25)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("off", [Fraction(-1, 25), Fraction(0), Fraction(1, 25)])
def test_one_frame_of_difference_counts_as_equal(fit: str, off: Fraction) -> None:
    times, last = steady(50)
    timeline = plan_timeline(times, last, 2 + off, fit)
    assert timeline.picture == tuple(range(50))
    assert timeline.duration == 2
    assert not timeline.warnings and not timeline.note


def test_a_cut_voice_is_a_warning_that_names_the_seconds() -> None:
    times, last = steady(50)
    (warning,) = plan_timeline(times, last, Fraction(521, 100), "clip").warnings
    assert "3.21 s" in warning and "2.00 s" in warning
    assert not plan_timeline(times, last, Fraction(1), "clip").warnings
    assert "1.00 s" in plan_timeline(times, last, Fraction(1), "clip").note


def test_unknown_fit_and_impossible_times_are_refused() -> None:
    with pytest.raises(UsageError, match="stretch"):
        plan_timeline([Fraction(0)], Fraction(1), Fraction(1), "stretch")
    for times in ([], [Fraction(1)], [Fraction(0), Fraction(0)]):
        with pytest.raises(ValueError):
            plan_timeline(times, Fraction(1), Fraction(1))


RATES = (
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
)
CLOCKS = (Fraction(1, 90000), Fraction(1, 600), Fraction(1, 1000), Fraction(1001, 30000))
LENGTHS = ("much shorter", "shorter", "a little shorter", "equal", "a little longer", "longer", "much longer")


@st.composite
def clips(draw: st.DrawFn) -> FrameIndex:
    """Frames at one of the usual rates, or each with a duration of its own in ticks of some container's clock."""
    rate = draw(st.sampled_from([*RATES, None]))
    if rate is not None:
        count = draw(st.integers(1, 90))
        return FrameIndex(tuple(k / rate for k in range(count)), 1 / rate, tuple(range(count)), (0,))
    clock = draw(st.sampled_from(CLOCKS))
    ticks = draw(st.lists(st.integers(1, 400), min_size=1, max_size=60))
    stamps = tuple(sum(ticks[:k]) for k in range(len(ticks)))
    return FrameIndex(tuple(pts * clock for pts in stamps), ticks[-1] * clock, stamps, (0,))


@st.composite
def parts(draw: st.DrawFn) -> FrameIndex:
    """A clip, or what ``--start`` and ``--end`` leave of it."""
    whole = draw(clips())
    first = draw(st.integers(0, len(whole.times) - 1))
    start = whole.times[first]
    last = draw(st.none() | st.integers(first + 1, len(whole.times)))
    end = None if last is None else (*whole.times, whole.duration)[last]
    return cut(whole, start, end)[0]


@st.composite
def voices(draw: st.DrawFn, clip: FrameIndex) -> tuple[str, Fraction]:
    """How a voice's length compares with a clip's, and its seconds: a whole number of some sampling rate's samples."""
    step, whole = typical_step(clip.times, clip.last_duration), clip.duration
    how = draw(st.sampled_from(LENGTHS))
    bounds = {
        "much shorter": (Fraction(0), Fraction(0)),
        "shorter": (Fraction(0), max(Fraction(0), whole - step)),
        "a little shorter": (max(Fraction(0), whole - step), whole),
        "equal": (whole, whole),
        "a little longer": (whole, whole + step),
        "longer": (whole + step, 2 * whole + step),
        "much longer": (2 * whole + step, 5 * whole + step),
    }[how]
    return how, draw(st.fractions(*bounds)) if bounds[0] < bounds[1] else bounds[0]


def order_of(fit: str, count: int, frames: int) -> list[int]:
    """Pictures that README promises for a stretched clip, or for the beginning of a clip."""
    forward = list(range(count))
    if fit == "freeze":
        return (forward + [count - 1] * frames)[:frames]
    turn = forward + forward[-2:0:-1] if fit == "bounce" else forward
    return (turn * (frames // len(turn) + 1))[:frames]


@quiet
@given(st.data(), parts(), st.sampled_from(FITS))
def test_every_fit_keeps_its_promise_for_every_voice(data: st.DataObject, clip: FrameIndex, fit: str) -> None:
    _, seconds = data.draw(voices(clip))
    step, whole, count = typical_step(clip.times, clip.last_duration), clip.duration, len(clip.times)
    planned = plan_timeline(clip.times, clip.last_duration, seconds, fit)
    frames = len(planned)

    assert len(planned.picture) == len(planned.times) == frames
    assert planned.times[0] == 0 and planned.duration > planned.times[-1]
    assert all(after > before for before, after in zip(planned.times, planned.times[1:], strict=False))
    longer, shorter = seconds - whole > step, whole - seconds > step
    if longer and fit in ("loop", "bounce", "freeze"):
        assert list(planned.picture) == order_of(fit, count, frames)
        assert planned.times[-1] < seconds <= planned.duration <= seconds + step
    elif shorter and fit == "voice":
        assert frames == max(1, sum(time < seconds for time in clip.times))
        assert list(planned.picture) == list(range(frames)) and planned.times == clip.times[:frames]
        assert seconds <= planned.duration <= max(seconds, Fraction(0)) + step
        assert planned.duration < whole
    else:
        assert list(planned.picture) == list(range(count))
        assert (planned.times, planned.duration) == (clip.times, whole)
    # Each picture but the last is on the screen for exactly as long as in the target; a frozen one for one step.
    own, shown = frame_durations(clip.times, clip.last_duration), frame_durations(planned.times, step)
    for place, (number, length) in enumerate(zip(planned.picture[:-1], shown[:-1], strict=True)):
        assert length == (step if fit == "freeze" and place >= count else own[number])


@quiet
@given(st.data(), parts(), st.sampled_from(FITS))
def test_the_plan_says_what_happens_to_voice_and_clip(data: st.DataObject, clip: FrameIndex, fit: str) -> None:
    _, seconds = data.draw(voices(clip))
    step, excess = typical_step(clip.times, clip.last_duration), seconds - clip.duration
    planned = plan_timeline(clip.times, clip.last_duration, seconds, fit)
    if excess == 0:
        said = "equal lengths"
    elif abs(excess) <= step:
        said = f"within one frame: the voice is {float(abs(excess)):.4f} s {'longer' if excess > 0 else 'shorter'}"
    elif excess > step:
        cut_short = f"is cut at {float(clip.duration):.2f} s; loop, bounce or freeze would keep it"
        said = {
            "clip": cut_short,
            "voice": cut_short,
            "loop": "starts again until the voice ends",
            "bounce": "plays back and forth until the voice ends",
            "freeze": "holds its last picture until the voice ends",
        }[fit]
    elif fit == "voice":
        said = f"the clip ends with the voice, its last {float(clip.duration - planned.duration):.2f} s are left out"
    else:
        said = f"the voice ends {float(-excess):.2f} s before the clip, silence follows it"
    assert said in planned.description
    assert bool(planned.warnings) == (excess > step and fit in ("clip", "voice")), "a warning is what the user loses"


@quiet
@given(st.data(), clips(), st.sampled_from(FITS))
def test_the_targets_own_sound_is_never_said_to_be_cut(data: st.DataObject, clip: FrameIndex, fit: str) -> None:
    _, seconds = data.draw(voices(clip))
    voice = plan_timeline(clip.times, clip.last_duration, seconds, fit)
    own = plan_timeline(clip.times, clip.last_duration, seconds, fit, own_sound=True)
    assert (own.picture, own.times, own.duration) == (voice.picture, voice.times, voice.duration)
    assert not own.warnings
    assert not voice.warnings or "goes on" in own.description


@quiet
@given(st.data(), clips())
def test_a_part_keeps_every_frames_time(data: st.DataObject, clip: FrameIndex) -> None:
    start = data.draw(st.fractions(0, clip.times[-1]))
    end = data.draw(st.none() | st.fractions(start, 2 * clip.duration))
    wanted = [time for time in clip.times if start <= time and (end is None or time < end)]
    if not wanted or (end is not None and end <= start):
        return
    found, _ = cut(clip, start, end)
    assert [found.start + time for time in found.times] == wanted
    assert found.times[0] == 0 and found.start == wanted[0]
    assert found.stamps == clip.stamps[found.before : found.before + len(wanted)] if clip.stamps else True
    assert found.last_duration > 0 and found.start + found.duration <= clip.duration
    step = typical_step(clip.times, clip.last_duration)
    assert end is None or found.start + found.duration <= max(end, wanted[-1]) + step


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("fit", ["loop", "bounce", "freeze"])
def test_ten_minutes_of_a_steady_rate_do_not_drift(rate: Fraction, fit: str) -> None:
    clip = [k / rate for k in range(int(rate * 2))]
    planned = plan_timeline(clip, 1 / rate, Fraction(600), fit)
    assert planned.times[-1] == (len(planned) - 1) / rate
    assert len(planned) == -(-600 * rate.numerator // rate.denominator)


TIME_ROOMS = (timeline, index, reader, writer, join, output)


def floats_in(source: str) -> list[int]:
    """Lines with ``float`` or ``int`` of anything that is not put into a message."""
    found: list[int] = []

    def look(node: ast.AST, telling: bool) -> None:
        telling = telling or isinstance(node, ast.JoinedStr)
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if not telling and called in ("float", "int"):
            found.append(node.lineno)  # type: ignore[attr-defined]
        for child in ast.iter_child_nodes(node):
            look(child, telling)

    look(ast.parse(source), False)
    return found


@pytest.mark.parametrize("room", TIME_ROOMS, ids=lambda room: room.__name__.rpartition(".")[2])
def test_no_time_becomes_a_float_on_its_way(room: object) -> None:
    source = Path(str(room.__file__)).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    typed = [
        number
        for number, line in enumerate(source.splitlines(), 1)
        if "int(hours or 0)" in line or "int(minutes)" in line
    ]
    assert [line for line in floats_in(source) if line not in typed] == []
    assert floats_in("rate = float(info.rate)") == [1] and floats_in("f'{float(rate):.2f}'") == []


def test_a_timeline_without_a_note_says_equal_lengths() -> None:
    assert Timeline((0,), (Fraction(0),), Fraction(1)).description == "equal lengths"
