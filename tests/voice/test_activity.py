"""The speech gate, on sounds whose speech-like parts are known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkswap.voice.activity import SpeechGate, active_steps, ease, voice_activity

FRAMES = [Fraction(index, 25) for index in range(25 * 8)]
SPOKEN = [(1.0, 2.5), (3.5, 4.2), (5.5, 7.0)]


def syllables(seconds: float, seed: int = 0) -> np.ndarray:
    """A buzz at a wandering pitch through two wandering resonances, four syllables a second."""
    generator = np.random.default_rng(seed)
    clock = np.arange(round(seconds * 16000)) / 16000
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * clock + generator.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    first = 500 + 200 * np.sin(2 * np.pi * 1.9 * clock + generator.uniform(0, 6))
    second = 1600 + 500 * np.sin(2 * np.pi * 1.3 * clock + generator.uniform(0, 6))
    sound = np.zeros(len(clock))
    for harmonic in range(1, 30):
        hz = harmonic * pitch
        level = np.exp(-(((hz - first) / 200) ** 2)) + 0.5 * np.exp(-(((hz - second) / 300) ** 2)) + 0.02
        sound += level * np.sin(harmonic * phase)
    swell = 0.25 + 0.75 * np.abs(np.sin(2 * np.pi * 2 * clock))
    sound *= swell
    return 0.1 * sound / np.sqrt(np.mean(sound**2))


def sentence() -> tuple[np.ndarray, np.ndarray]:
    """Eight seconds, and which of the 25 frames a second are spoken; None of the frames lies on an edge."""
    samples = np.zeros(8 * 16000)
    spoken = np.zeros(len(FRAMES), bool)
    for seed, (first, last) in enumerate(SPOKEN):
        samples[round(first * 16000) : round(last * 16000)] = syllables(last - first, seed)
        spoken |= np.array([first <= frame < last for frame in FRAMES])
    return samples.astype(np.float32), spoken


def noise(count: int, level: float, pink: bool = False, seed: int = 9) -> np.ndarray:
    white = np.random.default_rng(seed).normal(size=count)
    if not pink:
        return (level * white).astype(np.float32)
    spectrum = np.fft.rfft(white) / np.sqrt(np.maximum(np.arange(count // 2 + 1), 1))
    coloured = np.fft.irfft(spectrum, count)
    return (level * coloured / coloured.std()).astype(np.float32)


def away_from_edges(margin: float = 0.2) -> np.ndarray:
    edges = [edge for pair in SPOKEN for edge in pair]
    return np.array([min(abs(float(frame) - edge) for edge in edges) > margin for frame in FRAMES])


@pytest.mark.parametrize("gain", [1.0, 3.0, 0.1, 0.03])
def test_finds_the_spoken_frames_at_any_loudness(gain: float) -> None:
    samples, spoken = sentence()
    active = voice_activity(np.clip(samples * gain, -1, 1), FRAMES)
    clear = away_from_edges()
    np.testing.assert_array_equal(active[clear], spoken[clear])


@pytest.mark.parametrize("pink", [False, True])
@pytest.mark.parametrize("below", [30, 20, 12])
def test_finds_the_spoken_frames_in_noise(pink: bool, below: float) -> None:
    samples, spoken = sentence()
    samples = samples + noise(len(samples), 0.1 * 10 ** (-below / 20), pink)
    active = voice_activity(samples, FRAMES)
    clear = away_from_edges()
    assert (active[clear] == spoken[clear]).mean() > 0.95


def test_a_word_is_held_by_its_hangover_only() -> None:
    samples, spoken = sentence()
    active = voice_activity(samples, FRAMES)
    late = np.array([any(last + 0.2 < frame < last + 0.9 for _, last in SPOKEN) for frame in FRAMES])
    assert not active[late].any()
    assert not active[~spoken & np.array([frame < 0.9 for frame in FRAMES])].any()


@pytest.mark.parametrize("pink", [False, True])
@pytest.mark.parametrize("level", [0.3, 0.03, 0.001])
def test_steady_noise_is_no_speech(pink: bool, level: float) -> None:
    assert voice_activity(noise(8 * 16000, level, pink), FRAMES).mean() < 0.02


def test_hum_is_no_speech() -> None:
    clock = np.arange(8 * 16000) / 16000
    hum = (0.1 * np.sin(2 * np.pi * 50 * clock) + 0.03 * np.sin(2 * np.pi * 100 * clock)).astype(np.float32)
    assert not voice_activity(hum, FRAMES)[5:-5].any()


def test_a_click_is_no_speech() -> None:
    samples = noise(8 * 16000, 0.001)
    samples[64000:64016] = 0.9
    active = voice_activity(samples, FRAMES)
    assert not active.any()


@given(
    first=st.integers(0, 60000),
    length=st.integers(1, 64000),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=25)
def test_digital_silence_is_never_active(first: int, length: int, seed: int) -> None:
    samples = (syllables(4, seed) + noise(64000, 0.005, seed=seed)).astype(np.float32)
    samples[first : first + length] = 0
    times = [Fraction(index, 100) for index in range(400)]
    active = voice_activity(samples, times)
    half = 256  # samples: the analysis window reaches this far
    dead = np.array(
        [first <= index * 160 - half and index * 160 + half <= min(first + length, 64000) for index in range(400)]
    )
    assert not active[dead].any()


def test_silence_alone_and_nothing_at_all() -> None:
    assert not voice_activity(np.zeros(16000, np.float32), FRAMES).any()
    assert not voice_activity(np.zeros(0, np.float32), FRAMES).any()
    assert voice_activity(np.zeros(16000, np.float32), []).shape == (0,)
    assert active_steps(np.zeros(0, np.float32)).shape == (0,)


@pytest.mark.parametrize("count", [1, 100, 500, 1600])
def test_the_shortest_voices_give_an_answer(count: int) -> None:
    assert len(active_steps(noise(count, 0.1))) == count // 160 + 1


def test_outside_the_voice_there_is_silence() -> None:
    samples = syllables(2).astype(np.float32)
    times = [Fraction(-1), Fraction(-1, 50), Fraction(1), Fraction(3), Fraction(10**6)]
    assert voice_activity(samples, times).tolist() == [False, False, True, False, False]


def test_any_clock_asks_the_same_steps() -> None:
    samples, _ = sentence()
    steps = active_steps(samples)
    times = [Fraction(1001 * index, 24000) for index in range(180)]
    expected = [steps[round(time * 100)] for time in times]
    np.testing.assert_array_equal(voice_activity(samples, times), expected)


activities = st.lists(st.booleans(), min_size=1, max_size=80).map(np.array)


@given(active=activities, attack=st.floats(0.01, 0.3), release=st.floats(0.01, 0.3))
@settings(deadline=None)
def test_ease_is_open_where_active_and_shut_where_far(active: np.ndarray, attack: float, release: float) -> None:
    times = [Fraction(index, 25) for index in range(len(active))]
    gate = ease(active, times, attack, release)
    assert gate.dtype == np.float32 and gate.min() >= 0 and gate.max() <= 1
    assert (gate[active] == 1).all()
    seconds = np.array([float(time) for time in times])
    for index in np.flatnonzero(~active):
        before = seconds[index] - seconds[active & (seconds < seconds[index])]
        after = seconds[active & (seconds > seconds[index])] - seconds[index]
        if min(before, default=9) >= release and min(after, default=9) >= attack:
            assert gate[index] == 0


@given(active=activities, length=st.floats(0.05, 0.3))
@settings(deadline=None)
def test_ease_never_jumps(active: np.ndarray, length: float) -> None:
    """Half a cosine over ``length`` has the slope pi / 2 / length at most."""
    times = [Fraction(index, 100) for index in range(len(active))]
    gate = ease(active, times, length, length)
    assert np.abs(np.diff(gate)).max(initial=0) <= np.pi / 2 / length * 0.01 + 1e-5


def test_ease_rises_before_and_falls_after() -> None:
    times = [Fraction(index, 100) for index in range(100)]
    active = np.zeros(100, bool)
    active[40:60] = True
    gate = ease(active, times, attack=0.08, release=0.16)
    assert gate[32] == 0 and gate[36] == pytest.approx(0.5, abs=1e-5) and gate[40] == 1
    assert gate[59] == 1 and gate[67] == pytest.approx(0.5, abs=1e-5) and gate[75] == pytest.approx(0, abs=1e-6)
    assert (np.diff(gate[:41]) >= 0).all() and (np.diff(gate[59:]) <= 0).all()


def test_ease_without_time_is_the_activity_itself() -> None:
    active = np.array([False, True, True, False, True])
    times = [Fraction(index, 25) for index in range(5)]
    np.testing.assert_array_equal(ease(active, times, 0, 0), active.astype(np.float32))


def test_ease_follows_a_variable_rate() -> None:
    times = [Fraction(0), Fraction(1, 10), Fraction(1, 2), Fraction(52, 100), Fraction(2)]
    gate = ease(np.array([False, False, False, True, False]), times, 0.08, 0.16)
    np.testing.assert_allclose(gate, [0, 0, 0.5 + 0.5 * np.cos(np.pi * 0.25), 1, 0], atol=1e-6)


def test_ease_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="2 activities for 1 times"):
        ease(np.array([True, False]), [Fraction(0)])
    with pytest.raises(ValueError, match="durations"):
        ease(np.array([True]), [Fraction(0)], -1)


def test_the_gate_is_open_where_somebody_speaks_and_shut_in_long_silence() -> None:
    samples, spoken = sentence()
    gate = SpeechGate(samples, attack=0.08, release=0.16).at(FRAMES)
    inner = spoken & away_from_edges(0.1)
    assert (gate[inner] > 0.99).all()
    assert (gate[~spoken & away_from_edges(0.3)] == 0).all()
    assert np.abs(np.diff(gate)).max() < 0.8  # eased over more than one frame
    assert (SpeechGate(samples).at([Fraction(-5), Fraction(60)]) == 0).all()


def test_the_gate_is_on_time() -> None:
    """Half open within one frame of where speech begins, half shut within two of where it ends: it hangs over by half
    its release."""
    samples = np.zeros(64000, np.float32)
    samples[24000:40000] = syllables(1.0)  # 1.5 to 2.5 s
    times = [Fraction(k, 100) for k in range(400)]
    gate = SpeechGate(samples).at(times)
    halves = np.flatnonzero(gate > 0.5) / 100
    assert abs(halves[0] - 1.5) <= 0.04
    assert -0.04 <= halves[-1] - 2.5 <= 0.16


def test_the_gate_bridges_a_breath_and_no_more() -> None:
    samples = np.zeros(5 * 16000, np.float32)
    for first, last in ((0.5, 1.5), (1.8, 2.5), (3.6, 4.5)):
        samples[round(first * 16000) : round(last * 16000)] = syllables(last - first)
    gate = SpeechGate(samples, bridge=0.5)
    assert gate.at([Fraction(33, 20)])[0] == 1  # 1.65 s
    assert gate.at([Fraction(61, 20)])[0] == 0  # 3.05 s
    assert SpeechGate(samples, release=0.08, bridge=0).at([Fraction(17, 10)])[0] < 0.5


def test_a_voice_without_speech_never_opens_the_gate() -> None:
    assert (SpeechGate(np.zeros(16000, np.float32)).at(FRAMES) == 0).all()
    assert (SpeechGate(np.zeros(0, np.float32)).at(FRAMES) == 0).all()
