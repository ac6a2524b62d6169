"""ID similarity and D_ID against torch's cosine similarity (1e-6)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.identity import identity_kept, identity_similarity, person_of
from talkswap.types import FloatArray


def people(count: int, seed: int, width: int = 12) -> FloatArray:
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_similarity_is_the_cosine_of_the_mean_person() -> None:
    frames, source = people(30, 0), people(1, 1)[0]
    frames[4] = np.nan
    mean = torch.from_numpy(np.delete(frames, 4, 0)).double().mean(0)
    wanted = float(torch.cosine_similarity(mean, torch.from_numpy(source).double(), dim=0))
    assert identity_similarity(frames, source) == pytest.approx(wanted, abs=1e-6)
    assert np.linalg.norm(person_of(frames)) == pytest.approx(1, abs=1e-6)


def test_noise_of_single_frames_is_averaged_away() -> None:
    """Closed form: a person plus opposite errors is that person."""
    source = np.eye(3, dtype=np.float32)[0]
    tilted = np.array([[0.6, 0.8, 0], [0.6, -0.8, 0]], np.float32)
    assert identity_similarity(tilted, source) == pytest.approx(1, abs=1e-6)
    assert identity_kept(tilted, np.stack([source, source])) == pytest.approx(0.6, abs=1e-6)


def test_kept_identity_is_the_mean_over_partner_frames() -> None:
    result, truth = people(20, 2), people(20, 3)
    result[3], truth[7] = np.nan, np.nan
    both = np.delete(np.arange(20), [3, 7])
    known = torch.cosine_similarity(torch.from_numpy(result[both]).double(), torch.from_numpy(truth[both]).double())
    assert identity_kept(result, truth) == pytest.approx(float(known.mean()), abs=1e-6)
    assert identity_kept(truth, truth) == pytest.approx(1, abs=1e-6)


def test_nobody_known_is_nan_and_other_shapes_are_refused() -> None:
    nobody = np.full((3, 12), np.nan, np.float32)
    assert np.isnan(identity_similarity(nobody, people(1, 0)[0])) and np.isnan(identity_kept(nobody, people(3, 0)))
    with pytest.raises(TrainingDataError):
        identity_kept(people(3, 0), people(4, 0))
    with pytest.raises(TrainingDataError):
        identity_similarity(people(3, 0), people(1, 0, 5)[0])
