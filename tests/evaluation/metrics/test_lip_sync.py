"""Grid, offsets, LSE and ΔSync against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.lip_sync import (
    SyncScore,
    delta_sync,
    grid_rows,
    offset_distances,
    opening_correlation,
    opening_curve,
    score_of,
    silence,
    silent_moments,
)
from talkswap.faces.measures import INNER_BOTTOM, INNER_TOP
from talkswap.media.sound import load_voice
from talkswap.types import FloatArray


@pytest.mark.parametrize("rate", [25.0, 24.0, 29.97, 12.5, 60.0])
def test_grid_takes_the_nearest_frame(rate: float) -> None:
    times = np.arange(80) / rate
    rows = grid_rows(times, 1.0)
    assert len(rows) == 25
    for k, row in enumerate(rows):
        assert abs(times[row] - k / 25) == pytest.approx(np.abs(times - k / 25).min())
    assert len(grid_rows(times[:10], 60.0)) == int(10 / rate * 25 + 1e-6)
    assert len(grid_rows(times[:0], 1.0)) == 0


@pytest.mark.parametrize("late", [-7, 0, 15])
def test_offset_says_which_comes_first(late: int) -> None:
    """Closed form: the same embeddings, the sound moved by whole frames."""
    random = np.random.default_rng(0)
    track = random.normal(size=(80, 8)).astype(np.float32)
    score = score_of(offset_distances(track[20:60], track[20 - late : 60 - late]), 40)
    assert score.offset == -late  # negative: the sound comes later than the picture
    assert score.confidence > 1 and score.distance < 2


def test_score_is_median_less_least() -> None:
    distances = np.linspace(9, 12, 31)
    distances[18] = 4.0  # from above the median: the one below it is the median now
    assert score_of(distances, 7) == SyncScore(pytest.approx(10.4 - 4.0), 4.0, -3, 7)
    with pytest.raises(TrainingDataError):
        offset_distances(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))


@pytest.mark.parametrize(("result", "truth", "wanted"), [(9.0, 7.5, 1.5), (7.5, 9.0, 1.5), (8.0, 8.0, 0.0)])
def test_delta_is_the_distance_of_confidences(result: float, truth: float, wanted: float) -> None:
    """Distances, offsets and lengths play no part."""
    assert delta_sync(SyncScore(result, 6.0, 0, 10), SyncScore(truth, 7.0, 1, 20)) == pytest.approx(wanted)


# --- Opening correlation against numpy's corrcoef on curves that are known in closed form (1e-4 where frames lie on the grid).


def mouths(openings: np.ndarray) -> FloatArray:
    """Landmarks whose eyes are 100 px apart and whose lips are so far, in parts of that."""
    landmarks = np.zeros((len(openings), 478, 3), np.float32)
    landmarks[:, 263, 0] = 100
    landmarks[:, list(INNER_TOP), 1] = 50
    landmarks[:, list(INNER_BOTTOM), 1] = 50 + 100 * openings[:, None]
    return landmarks


def speech(times: np.ndarray) -> np.ndarray:
    return 0.2 + 0.05 * np.sin(2 * np.pi * 1.3 * times) + 0.04 * np.sin(2 * np.pi * 2.9 * times + 1)


def test_equals_numpys_correlation_at_any_rate() -> None:
    """A slow curve sampled at 30 and at 24 frames/s is nearly the same curve on the grid, lines instead of arcs (0.03)."""
    first, second = np.arange(150) / 30, np.arange(120) / 24
    noise = 0.05 * np.sin(2 * np.pi * 0.7 * second)
    found = opening_correlation(mouths(speech(first)), first, mouths(speech(second) + noise), second)
    grid = np.arange(int(min(first[-1], second[-1]) * 25) + 1) / 25
    a, b = speech(grid), speech(grid) + 0.05 * np.sin(2 * np.pi * 0.7 * grid)
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], abs=0.03)
    assert found.shifted == pytest.approx(np.corrcoef(a[25:], b[:-25])[0, 1], abs=0.03)
    same = opening_correlation(mouths(a), grid, mouths(b), grid)
    assert same.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-4)
    assert same.shifted == pytest.approx(np.corrcoef(a[25:], b[:-25])[0, 1], abs=1e-4)


def test_the_shift_finds_a_mouth_that_is_a_second_late() -> None:
    times = np.arange(100) / 25
    found = opening_correlation(mouths(speech(times - 1)), times, mouths(speech(times)), times)
    assert found.shifted == pytest.approx(1, abs=1e-4) and found.correlation < 0.9


def test_a_lost_face_lies_between_its_neighbours() -> None:
    times = np.arange(50) / 25
    landmarks = mouths(np.linspace(0, 0.5, 50))
    landmarks[20:25] = np.nan
    assert opening_curve(landmarks, times, times) == pytest.approx(np.linspace(0, 0.5, 50), abs=1e-5)


def test_a_still_mouth_follows_nobody_and_short_clips_say_nothing() -> None:
    times = np.arange(50) / 25
    moving = mouths(speech(times))
    assert opening_correlation(mouths(np.full(50, 0.1)), times, moving, times).correlation == 0
    short = opening_correlation(moving[:8], times[:8], moving, times)
    assert np.isnan(short.correlation) and np.isnan(short.shifted)
    medium = opening_correlation(moving[:30], times[:30], moving, times)
    assert medium.correlation == pytest.approx(1) and np.isnan(medium.shifted)
    lost = opening_correlation(np.full_like(moving, np.nan), times, moving, times)
    assert np.isnan(lost.correlation)
    with pytest.raises(TrainingDataError):
        opening_correlation(moving, times[:-1], moving, times)


VOICE = Path(__file__).parents[3] / "examples" / "voice.wav"


def closed_mouths(openings: np.ndarray) -> FloatArray:
    landmarks = np.zeros((len(openings), 478, 3), np.float32)
    landmarks[:, 263, 0] = 100
    landmarks[:, list(INNER_BOTTOM), 1] = 100 * openings[:, None]
    return landmarks


@pytest.fixture(scope="module")
def voice() -> FloatArray:
    """1.5 s of speech without a pause, 2 s of nothing, the speech again."""
    spoken = load_voice(VOICE).samples[56000:80000]
    return np.concatenate([spoken, np.zeros(32000, np.float32), spoken])


def test_only_what_is_away_from_speech_is_silent(voice: FloatArray) -> None:
    quiet = np.flatnonzero(silent_moments(voice, 125)) / 25
    assert quiet.min() >= 1.5 and quiet.max() <= 3.5 and len(quiet) > 35


def test_excess_over_the_truth_counts_and_only_in_silence(voice: FloatArray) -> None:
    times, truth_times = np.arange(150) / 30, np.arange(125) / 25
    resting = closed_mouths(np.full(125, 0.02))
    speaking = (times < 1.4) | (times > 3.6)  # wide open there, which is no error
    for opening, wanted in ((0.10, 8.0), (0.02, 0.0), (0.0, 0.0)):
        result = closed_mouths(np.where(speaking, 0.4, opening))
        assert silence(result, times, resting, truth_times, voice) == pytest.approx(wanted, abs=1e-3)
    half = closed_mouths(np.where(speaking, 0.4, np.where(times < 2.5, 0.10, 0.0)))
    assert 3 < silence(half, times, resting, truth_times, voice) < 5


def test_without_silence_or_a_face_there_is_no_figure(voice: FloatArray) -> None:
    times = np.arange(30) / 25
    mouth = closed_mouths(np.full(30, 0.1))
    spoken = load_voice(VOICE).samples[16000:35000]
    assert silent_moments(spoken, 29).sum() < 5
    assert np.isnan(silence(mouth, times, mouth, times, spoken))
    nobody = np.full_like(mouth, np.nan)
    assert np.isnan(silence(nobody, times, mouth, times, np.zeros(32000, np.float32)))
    assert np.isnan(silence(mouth[:0], times[:0], mouth, times, voice))
