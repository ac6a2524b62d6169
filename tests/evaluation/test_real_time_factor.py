"""The factor against its definition."""

from __future__ import annotations

import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import real_time_factor


def test_seconds_of_work_for_a_second_of_video() -> None:
    assert real_time_factor(5.0, 10.0) == 0.5
    with pytest.raises(TrainingDataError):
        real_time_factor(5.0, 0.0)
