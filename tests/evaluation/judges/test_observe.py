"""Which frame of the truth each frame of a result is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.evaluation.judges.observe import matching_rows


@pytest.mark.parametrize(
    ("times", "truth", "rows_wanted"),
    [
        ([0.0, 0.04, 0.08], [0.0, 0.04, 0.08], [0, 1, 2]),
        ([0.0, 0.04], [0.0, 0.04, 0.08], [0, 1]),
        ([0.0, 0.02, 0.04, 0.06], [0.0, 0.04], [0, 0, 1, 1]),
        ([0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0, 1, 2]),  # what lies beyond the truth's end has none
        ([0.0, 0.5], [0.0], [0, 0]),
    ],
)
def test_frames_go_with_the_nearest(times: list[float], truth: list[float], rows_wanted: list[int]) -> None:
    assert matching_rows(np.array(times), np.array(truth)).tolist() == rows_wanted
