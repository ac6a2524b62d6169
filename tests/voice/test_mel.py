"""Mel features against closed forms."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkswap.voice import mel
from talkswap.voice.mel import SILENCE, MelConfig, hann, hz_to_mel, log_mel, mel_filters, mel_to_hz

PLAIN = MelConfig(pre_emphasis=0)


def tone(hz: float, amplitude: float = 0.1, seconds: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(16000 * seconds)) / 16000)).astype(np.float32)


def decibels(features: np.ndarray, config: MelConfig = PLAIN) -> np.ndarray:
    return (features + 1) / 2 * (config.top_db - config.floor_db) + config.floor_db


def noise(count: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).normal(size=count)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 199, 200, 201, 800, 16000, 16001])
def test_one_frame_per_hop_and_one_at_zero(count: int) -> None:
    features = log_mel(noise(count))
    assert features.shape == (count // 200 + 1, 80) and features.dtype == np.float32
    assert np.isfinite(features).all() and features.min() >= -1 and features.max() <= 1


def test_no_samples_give_no_frames() -> None:
    assert log_mel(np.zeros(0, np.float32)).shape == (0, 80)


def test_rate_is_exact() -> None:
    assert MelConfig().rate == Fraction(80)


def test_digital_silence_is_the_silence_value() -> None:
    assert (log_mel(np.zeros(4000, np.float32)) == SILENCE).all()


@pytest.mark.parametrize("hz", [120.0, 333.0, 1000.0, 2600.0, 5000.0, 7400.0])
@pytest.mark.parametrize("config", [PLAIN, MelConfig()])
def test_a_pure_tone_lands_in_its_band(hz: float, config: MelConfig) -> None:
    features = log_mel(tone(hz), config)[10:-10]
    edges = mel_to_hz(np.linspace(hz_to_mel(np.array(55.0)), hz_to_mel(np.array(7600.0)), 82))
    nearest = int(np.argmin(np.abs(edges[1:-1] - hz)))
    assert np.abs(features.argmax(1) - nearest).max() <= 1
    # Ten bands away the Hann window has fallen by far more than 30 dB at these widths, where bands are wide.
    if hz >= 1000:
        far = np.abs(np.arange(80) - nearest) > 10
        assert (decibels(features, config)[:, far] < decibels(features, config).max() - 30).all()


def test_level_of_a_tone_follows_its_closed_form() -> None:
    """A tone on an FFT bin puts A^2 into it and A^2 / 4 into both neighbours (Hann); a band weighs the three."""
    hz, amplitude = 2000.0, 0.05
    filters = mel_filters(PLAIN)
    bin_index = round(hz / 20)
    power = amplitude**2 * (filters[:, bin_index] + 0.25 * filters[:, bin_index - 1] + 0.25 * filters[:, bin_index + 1])
    band = int(power.argmax())
    measured = decibels(log_mel(tone(hz, amplitude), PLAIN))[5:-5, band]
    np.testing.assert_allclose(measured, 10 * np.log10(power[band]), atol=0.01)


def test_pre_emphasis_has_its_closed_form_gain() -> None:
    for hz in (200.0, 1000.0, 4000.0):
        gain = 20 * np.log10(abs(1 - 0.97 * np.exp(-2j * np.pi * hz / 16000)))
        plain = decibels(log_mel(tone(hz, 0.03), PLAIN))[5:-5].max(1)
        emphasised = decibels(log_mel(tone(hz, 0.03)))[5:-5].max(1)
        np.testing.assert_allclose(emphasised - plain, gain, atol=0.2)


def test_ten_times_louder_is_twenty_decibels() -> None:
    quiet, loud = decibels(log_mel(noise(8000, level=0.02))), decibels(log_mel(noise(8000, level=0.2)))
    np.testing.assert_allclose(loud - quiet, 20, atol=1e-3)


def test_parseval() -> None:
    """The power spectrum sums to the energy of the windowed samples."""
    samples = noise(2000).astype(np.float64)
    power = mel.power_spectra(samples.astype(np.float32), 5, 6, PLAIN)[0]
    window = hann(800)
    energy = np.square(samples.astype(np.float32)[600:1400] * window).sum() * (2 / window.sum()) ** 2
    two_sided = 2 * power.sum() - power[0] - power[-1]
    assert two_sided / 800 == pytest.approx(energy, rel=1e-9)


def test_white_noise_is_flat_over_the_bands() -> None:
    features = log_mel(noise(160000), PLAIN)
    power = 10 ** (decibels(features) / 10)
    per_band = 10 * np.log10(power.mean(0))
    assert np.ptp(per_band) < 1.0


def test_frame_is_centred_on_its_time() -> None:
    """A click at sample 200 k is seen alike by the frames at the same distance on both sides."""
    samples = np.zeros(8000, np.float32)
    samples[20 * 200] = 0.9
    features = log_mel(samples, PLAIN)
    active = np.flatnonzero(features.max(1) > SILENCE)
    assert active.tolist() == [19, 20, 21]  # half a window is two hops, and there the window is zero
    np.testing.assert_allclose(features[19], features[21], atol=1e-5)
    assert (features[20] > features[19]).all()


def test_filters_are_triangles_of_unit_sum_in_order() -> None:
    filters = mel_filters(MelConfig())
    assert filters.shape == (80, 401) and (filters >= 0).all()
    np.testing.assert_allclose(filters.sum(1), 1, atol=0.04)
    assert (np.diff(filters.argmax(1)) >= 0).all()
    frequency = np.arange(401) * 20
    assert (filters[:, (frequency < 55) | (frequency > 7600)] == 0).all()


@given(st.floats(0, 8000))
def test_mel_scale_round_trip(hz: float) -> None:
    assert float(mel_to_hz(hz_to_mel(np.array(hz)))) == pytest.approx(hz, abs=1e-6)


def test_mel_scale_known_points() -> None:
    """Slaney: 200/3 Hz a mel to 1 kHz = mel 15, 6.4 kHz = mel 42."""
    np.testing.assert_allclose(hz_to_mel(np.array([0.0, 200.0, 1000.0, 6400.0])), [0, 3, 15, 42], atol=1e-9)


@given(cut=st.integers(3, 37), overlap=st.integers(0, 5), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_seam_parts_equal_the_whole(cut: int, overlap: int, seed: int) -> None:
    """Two parts that overlap by three hops either side of a cut give the whole's features."""
    samples = noise(40 * 200, seed)
    whole = log_mel(samples)
    margin = 3 + overlap
    left = log_mel(samples[: (cut + margin) * 200])[: cut + 1]
    begin = max(cut + 1 - margin, 0)
    right = log_mel(samples[begin * 200 :])[cut + 1 - begin :]
    np.testing.assert_allclose(np.concatenate([left, right]), whole, atol=1e-5)


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(16000)
    whole = log_mel(samples)
    monkeypatch.setattr(mel, "BLOCK_FRAMES", 7)
    np.testing.assert_array_equal(log_mel(samples), whole)


def test_memory_is_bounded_by_the_block() -> None:
    """Ten minutes of voice need the features (15 MB) and one block, not all windows at once (307 MB)."""
    samples = np.zeros(16000 * 600, np.float32)
    tracemalloc.start()
    features = log_mel(samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < features.nbytes + 80e6
