"""Equation 17 against torch's cosine similarity (1e-4 percent), and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.identity import consistency
from talkswap.types import FloatArray


def people(count: int, width: int = 16, seed: int = 0) -> FloatArray:
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_equals_torchs_cosines() -> None:
    frames, source = people(40), people(1, seed=1)[0]
    known = torch.cosine_similarity(torch.from_numpy(frames).double(), torch.from_numpy(source)[None].double())
    mean, deviation = consistency(frames, source)
    assert mean == pytest.approx(100 * float(known.mean()), abs=1e-4)
    assert deviation == pytest.approx(100 * float(known.std(correction=0)), abs=1e-4)


def test_the_source_itself_is_a_hundred_and_a_right_angle_nothing() -> None:
    source = np.eye(4, dtype=np.float32)[0]
    assert consistency(np.repeat(source[None], 5, 0), source) == (100, 0)
    half = np.eye(4, dtype=np.float32)[[0, 1, 0, 1]]
    assert consistency(half, source) == (50, 50)


def test_frames_without_a_face_do_not_count() -> None:
    source = np.eye(4, dtype=np.float32)[0]
    frames = np.stack([source, np.full(4, np.nan, np.float32), source])
    assert consistency(frames, source) == (100, 0)
    assert np.isnan(consistency(frames[1:2], source)).all()


def test_vectors_of_two_networks_are_refused() -> None:
    with pytest.raises(TrainingDataError):
        consistency(people(3), people(1, 8)[0])
