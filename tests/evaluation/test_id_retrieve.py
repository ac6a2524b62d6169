"""ID Retrieve against a search by Euclidean distance, torch's cdist: for unit vectors the nearest is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.identity import id_retrieve
from talkswap.types import FloatArray


def unit(vectors: np.ndarray) -> FloatArray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_equals_a_search_by_distance() -> None:
    random = np.random.default_rng(0)
    sources = unit(random.normal(size=(15, 8)))
    speakers = [f"person {k % 12}" for k in range(15)]  # three of them twice
    shares = []
    for person in range(12):
        frames = unit(sources[person] + random.normal(0, 0.5, (40, 8)))
        nearest = torch.cdist(torch.from_numpy(frames), torch.from_numpy(sources)).argmin(1)
        wanted = 100 * np.mean([speakers[k] == f"person {person}" for k in nearest.tolist()])
        shares.append(id_retrieve(frames, sources, speakers, f"person {person}"))
        assert shares[-1] == pytest.approx(wanted)
    assert 10 < np.mean(shares) < 99  # neither trivial nor impossible


def test_another_photo_of_the_right_person_is_right() -> None:
    sources = np.eye(3, dtype=np.float32)
    frames = np.array([[0, 1, 0], [0, 0.9, 0.4], [0, 0, 1], [np.nan] * 3], np.float32)
    assert id_retrieve(frames, sources, ["ann", "ann", "bob"], "ann") == pytest.approx(200 / 3)
    assert id_retrieve(frames, sources, ["bob", "ann", "ann"], "ann") == 100
    assert np.isnan(id_retrieve(frames[3:], sources, ["ann", "ann", "bob"], "ann"))


def test_who_is_not_there_cannot_be_found() -> None:
    sources = np.eye(3, dtype=np.float32)
    with pytest.raises(TrainingDataError):
        id_retrieve(sources, sources, ["ann", "bob", "cleo"], "dora")
    with pytest.raises(TrainingDataError):
        id_retrieve(sources[:, :2], sources, ["ann", "bob", "cleo"], "ann")
