"""What the metrics accept, how they sample and average, and the real-time factor; closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import (
    average,
    check_crops,
    check_landmarks,
    check_pair,
    has_face,
    real_time_factor,
    sampled,
)


def test_sampled_frames_lie_in_the_middle_of_their_stretches() -> None:
    assert sampled(12, 5).tolist() == [2, 7]
    assert sampled(3, 1).tolist() == [0, 1, 2]
    assert sampled(1, 5).tolist() == [0]
    assert sampled(0, 5).tolist() == []


def test_average_leaves_out_what_was_not_measured() -> None:
    assert average(np.array([1, np.nan, 3], np.float32)) == 2
    assert np.isnan(average(np.array([np.nan], np.float32)))
    assert np.isnan(average(np.zeros(0, np.float32)))


def test_a_frame_has_a_face_only_with_all_its_points() -> None:
    landmarks = np.zeros((3, 478, 3), np.float32)
    landmarks[1] = np.nan
    landmarks[2, 477, 2] = np.inf
    assert has_face(landmarks).tolist() == [True, False, False]


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 9, 3), (4, 8, 8, 4), (4, 0, 0, 3)])
def test_other_shapes_are_no_crops(shape: tuple[int, ...]) -> None:
    with pytest.raises(TrainingDataError):
        check_crops(np.zeros(shape, np.uint8))


def test_bad_input_is_named() -> None:
    with pytest.raises(TrainingDataError):
        check_crops(np.zeros((1, 8, 8, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(TrainingDataError):
        check_pair(np.zeros((4, 8, 8, 3)), np.zeros((5, 8, 8, 3)))
    with pytest.raises(TrainingDataError):
        check_landmarks(np.zeros((4, 468, 3), np.float32))
    with pytest.raises(TrainingDataError):
        sampled(5, 0)


def test_seconds_of_work_for_a_second_of_video() -> None:
    assert real_time_factor(5.0, 10.0) == 0.5
    with pytest.raises(TrainingDataError):
        real_time_factor(5.0, 0.0)
