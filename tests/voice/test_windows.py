"""Windows at each frame's own time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkswap.voice.features import SpeechTrack, cut_windows
from talkswap.voice.mel import SILENCE, log_mel

RATE = Fraction(80)


def features_of(count: int, dimension: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def times_strategy(largest: int = 4) -> st.SearchStrategy[list[Fraction]]:
    time = st.fractions(min_value=-1, max_value=largest, max_denominator=90000)
    return st.lists(time, min_size=1, max_size=12)


@given(
    times=times_strategy(),
    length=st.integers(1, 17),
    rate=st.sampled_from([Fraction(80), Fraction(50), Fraction(16000, 201)]),
    start=st.sampled_from([Fraction(0), Fraction(399, 32000)]),
)
@settings(deadline=None, max_examples=60)
def test_one_step_later_is_one_element_on(times: list[Fraction], length: int, rate: Fraction, start: Fraction) -> None:
    features = features_of(200)
    now = cut_windows(features, rate, times, length, SILENCE, start)
    later = cut_windows(features, rate, [time + 1 / rate for time in times], length, SILENCE, start)
    assert now.shape == (len(times), length, 3) and now.dtype == np.float32
    np.testing.assert_array_equal(later[:, :-1], now[:, 1:])


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)])
def test_element_lies_at_its_time_for_any_frame_rate(fps: Fraction) -> None:
    """Features that are their own time make the window print its own clock."""
    clock = (np.arange(800) / 80).astype(np.float32)[:, None]
    times = [index / fps for index in range(int(8 * fps))][12:]
    windows = cut_windows(clock, RATE, times, 16)
    expected = np.array([[float(time) + (i - 7.5) / 80 for i in range(16)] for time in times])
    np.testing.assert_allclose(windows[:, :, 0], expected, atol=2e-6)


def test_start_moves_the_clock() -> None:
    start = Fraction(399, 32000)
    clock = (np.arange(100) / 50 + float(start)).astype(np.float32)[:, None]
    windows = cut_windows(clock, Fraction(50), [Fraction(1)], 5, start=start)
    np.testing.assert_allclose(windows[0, :, 0], 1 + (np.arange(5) - 2) / 50, atol=1e-6)


def test_times_on_features_copy_them() -> None:
    features = features_of(50)
    windows = cut_windows(features, RATE, [Fraction(20, 80)], 5)
    np.testing.assert_array_equal(windows[0], features[18:23])


def test_edges_are_silence() -> None:
    features = features_of(10)
    pad = np.array([-1, -2, -3], np.float32)
    windows = cut_windows(features, RATE, [Fraction(0), Fraction(9, 80), Fraction(-50), Fraction(10**9)], 5, pad)
    np.testing.assert_array_equal(windows[0, :2], np.tile(pad, (2, 1)))
    np.testing.assert_array_equal(windows[0, 2:], features[:3])
    np.testing.assert_array_equal(windows[1, :3], features[7:])
    np.testing.assert_array_equal(windows[1, 3:], np.tile(pad, (2, 1)))
    np.testing.assert_array_equal(windows[2:], np.tile(pad, (2, 5, 1)))


def test_no_features_is_silence_everywhere() -> None:
    windows = cut_windows(np.zeros((0, 80), np.float32), RATE, [Fraction(0), Fraction(1, 2)], 16, SILENCE)
    assert windows.shape == (2, 16, 80) and (windows == SILENCE).all()


def test_no_times_is_no_window() -> None:
    assert cut_windows(features_of(10), RATE, [], 16).shape == (0, 16, 3)


def test_padding_equals_silence_in_the_voice() -> None:
    """A voice with silence around it gives the windows of the voice without, at the moved time."""
    voice = (0.1 * np.random.default_rng(1).normal(size=16000)).astype(np.float32)
    longer = np.concatenate([np.zeros(8000, np.float32), voice, np.zeros(8000, np.float32)])
    times = [Fraction(index, 25) for index in range(25)]
    short = cut_windows(log_mel(voice), RATE, times, 16, SILENCE)
    long = cut_windows(log_mel(longer), RATE, [time + Fraction(1, 2) for time in times], 16, SILENCE)
    inside = slice(6, 19)  # windows that stay off the half-covered frames at the two ends
    np.testing.assert_allclose(short[inside], long[inside], atol=1e-5)


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="T x D"):
        SpeechTrack(np.zeros(5, np.float32), RATE, 3)
    with pytest.raises(ValueError, match="positive"):
        SpeechTrack(np.zeros((5, 2), np.float32), RATE, 0)
    with pytest.raises(ValueError, match="positive"):
        SpeechTrack(np.zeros((5, 2), np.float32), Fraction(0), 3)
