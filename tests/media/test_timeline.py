"""The arithmetic of --fit, by example and by property."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkswap.errors import UsageError
from talkswap.media.timeline import FITS, frame_durations, plan_timeline, typical_step

TICK = Fraction(1, 90000)

# No deadline: the machine may be busy.
quiet = settings(deadline=None, max_examples=60)

durations_in_ticks = st.lists(st.integers(900, 9000), min_size=1, max_size=40)
voices = st.fractions(min_value=0, max_value=8, max_denominator=16000)


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
@given(durations_in_ticks, voices, st.sampled_from(FITS))
def test_every_timeline_starts_at_zero_and_increases(ticks: list[int], voice: Fraction, fit: str) -> None:
    times, last = clip_of(ticks)
    timeline = plan_timeline(times, last, voice, fit)
    assert len(timeline.picture) == len(timeline.times) == len(timeline) > 0
    assert timeline.times[0] == 0
    assert all(after > before for before, after in zip(timeline.times, timeline.times[1:], strict=False))
    assert timeline.duration > timeline.times[-1]
    assert all(0 <= index < len(times) for index in timeline.picture)


@quiet
@given(durations_in_ticks, voices, st.sampled_from(FITS))
def test_every_time_is_whole_ticks_of_the_clip(ticks: list[int], voice: Fraction, fit: str) -> None:
    times, last = clip_of(ticks)
    timeline = plan_timeline(times, last, voice, fit)
    assert all((time / TICK).denominator == 1 for time in timeline.times)


@quiet
@given(durations_in_ticks, voices)
def test_clip_is_the_clip_whatever_the_voice(ticks: list[int], voice: Fraction) -> None:
    times, last = clip_of(ticks)
    timeline = plan_timeline(times, last, voice, "clip")
    assert timeline.picture == tuple(range(len(times)))
    assert timeline.times == tuple(times)
    assert timeline.duration == times[-1] + last
    assert bool(timeline.warnings) == (voice - timeline.duration > typical_step(times, last))


@quiet
@given(durations_in_ticks, voices, st.sampled_from(["loop", "bounce", "freeze"]))
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
@given(durations_in_ticks, voices)
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
@given(durations_in_ticks, voices)
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
