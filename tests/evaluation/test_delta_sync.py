"""Delta-Sync against its closed form: the distance of two confidences, whichever is larger."""

from __future__ import annotations

import pytest

from talkswap.evaluation.metrics.lip_sync import SyncScore, delta_sync


@pytest.mark.parametrize(("result", "truth", "wanted"), [(9.0, 7.5, 1.5), (7.5, 9.0, 1.5), (8.0, 8.0, 0.0)])
def test_delta_is_the_distance_of_confidences(result: float, truth: float, wanted: float) -> None:
    """Distances, offsets and lengths play no part."""
    assert delta_sync(SyncScore(result, 6.0, 0, 10), SyncScore(truth, 7.0, 1, 20)) == pytest.approx(wanted)
