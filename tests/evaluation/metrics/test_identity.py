"""Consistency, ID similarity and D_ID against torch's cosine similarity, ID Retrieve against a search by Euclidean distance,
torch's cdist: for unit vectors the nearest is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.identity import consistency, id_retrieve, identity_kept, identity_similarity, person_of
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


def persons(count: int, seed: int, width: int = 12) -> FloatArray:
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_similarity_is_the_cosine_of_the_mean_person() -> None:
    frames, source = persons(30, 0), persons(1, 1)[0]
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
    result, truth = persons(20, 2), persons(20, 3)
    result[3], truth[7] = np.nan, np.nan
    both = np.delete(np.arange(20), [3, 7])
    known = torch.cosine_similarity(torch.from_numpy(result[both]).double(), torch.from_numpy(truth[both]).double())
    assert identity_kept(result, truth) == pytest.approx(float(known.mean()), abs=1e-6)
    assert identity_kept(truth, truth) == pytest.approx(1, abs=1e-6)


def test_nobody_known_is_nan_and_other_shapes_are_refused() -> None:
    nobody = np.full((3, 12), np.nan, np.float32)
    assert np.isnan(identity_similarity(nobody, persons(1, 0)[0])) and np.isnan(identity_kept(nobody, persons(3, 0)))
    with pytest.raises(TrainingDataError):
        identity_kept(persons(3, 0), persons(4, 0))
    with pytest.raises(TrainingDataError):
        identity_similarity(persons(3, 0), persons(1, 0, 5)[0])


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
