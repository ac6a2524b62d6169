"""Measuring the mean face from landmark sets on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes.mean_face import MeanFaceConfig, lay_triangles, measure, mirror_pairs
from talkswap.errors import TrainingDataError
from talkswap.faces.mesh import INNER_LIPS, SKIN_POINTS, mean_face


def test_measuring_faces_of_known_statistics_gives_them_back(tmp_path: Path) -> None:
    mean, generator = mean_face(), np.random.default_rng(0)
    shapes = []
    for _ in range(160):
        weights = generator.normal(size=6) * mean.deviations[:6]
        shape = mean.points + np.tensordot(weights, mean.components[:6], 1)
        angle = generator.uniform(-0.3, 0.3)
        turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
        shapes.append(shape @ turn.T * generator.uniform(60, 90) + generator.uniform(100, 200, 3))
    np.save(tmp_path / "landmarks.npy", np.array(shapes, np.float32))
    found = measure(MeanFaceConfig((tmp_path,), components=8, rounds=3, open_mouth=0.05))
    assert np.abs(found["points"] - mean.points)[:, :2].max() < 0.05
    assert (found["mirror"] == mean.mirror).mean() > 0.97
    assert found["components"].shape == (8, 478, 3) and found["components"].dtype == np.float16
    first = np.abs(np.sum(found["components"][0].astype(float) * mean.components[0]))
    assert first > 0.8  # the strongest direction of variation is the one that was put in
    assert found["deviations"][0] == pytest.approx(mean.deviations[0], rel=0.3)
    assert found["triangles"].max() == 467


def test_a_folder_without_landmarks_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="landmarks.npy"):
        measure(MeanFaceConfig((tmp_path,)))


def test_measuring_again_gives_the_stored_topology() -> None:
    mean = mean_face()
    assert (mirror_pairs(mean.points.astype(np.float64)) == mean.mirror).mean() > 0.99
    opened = mean.points.astype(np.float64)
    opened[list(INNER_LIPS[11:]), 1] += 0.2  # eye distances: the lower lip
    laid = lay_triangles(opened * 160 + 320)
    assert set(laid.ravel()) == set(range(SKIN_POINTS))
    assert abs(len(laid) - len(mean.triangles)) <= 12  # both fill one hull with the same points
