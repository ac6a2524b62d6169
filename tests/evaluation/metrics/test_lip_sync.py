"""Grid, offsets, LSE and ΔSync against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.lip_sync import SyncScore, delta_sync, grid_rows, offset_distances, score_of


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
