"""Frechet distance against torchmetrics' FrechetInceptionDistance with the same features (1e-4 of the value), against a
closed form of the normal distribution (1e-9), and against SciPy's root of the product (1e-6).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.frechet import FeatureStatistics, frechet_distance
from talkswap.evaluation.metrics.metric import Judge
from talkswap.evaluation.protocol.measure import features

GENERATOR = np.random.default_rng(5)


class Squares(nn.Module):
    """Twelve features: the mean of each channel in each quarter of a picture."""

    judge = Judge("inception", "means of quarters", False)
    dimension = num_features = 12

    def forward(self, pictures: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(pictures.double(), 2).flatten(1)


class SquaresOfCrops(Squares):
    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return np.asarray(super().__call__(torch.from_numpy(crops).permute(0, 3, 1, 2)))


def statistics(features: np.ndarray) -> FeatureStatistics:
    made = FeatureStatistics.empty(features.shape[1])
    made.add(features)
    return made


def with_moments(mean: np.ndarray, deviations: np.ndarray) -> FeatureStatistics:
    return FeatureStatistics(mean.copy(), np.diag(deviations**2) * 99, 100)


def test_it_equals_torchmetrics() -> None:
    sets = [GENERATOR.integers(low, high, (60, 16, 16, 3)).astype(np.uint8) for low, high in ((0, 200), (40, 256))]
    judge = FrechetInceptionDistance(Squares()).set_dtype(torch.float64)
    mine = []
    for crops, real in zip(sets, (True, False), strict=True):
        judge.update(torch.from_numpy(crops).permute(0, 3, 1, 2), real=real)
        mine.append(FeatureStatistics.empty(12))
        for start in range(0, 60, 7):  # clip by clip
            mine[-1].add(SquaresOfCrops()(crops[start : start + 7]))
    np.testing.assert_allclose(frechet_distance(*mine), float(judge.compute()), rtol=1e-4)


def test_independent_normal_features_have_a_closed_form() -> None:
    means = GENERATOR.normal(0, 1, (2, 30))
    deviations = GENERATOR.uniform(0.1, 2, (2, 30))
    wanted = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    found = frechet_distance(with_moments(means[0], deviations[0]), with_moments(means[1], deviations[1]))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_it_equals_the_root_of_the_product() -> None:
    mixes = GENERATOR.normal(0, 1, (2, 20, 20))
    first, second = (GENERATOR.normal(shift, 1, (200, 20)) @ mix for shift, mix in zip((0, 0.3), mixes, strict=True))
    a, b = np.cov(first.T), np.cov(second.T)
    root = np.real(scipy.linalg.sqrtm(a @ b))
    wanted = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    np.testing.assert_allclose(frechet_distance(statistics(first), statistics(second)), wanted, rtol=1e-6)


def test_fewer_pictures_than_features() -> None:
    # both covariances singular, and known: features along one axis only
    first, second = np.zeros((2, 50)), np.zeros((2, 50))
    first[:, 3] = [-1, 1]  # variance 2
    second[:, 3] = [-3, 3]  # variance 18
    np.testing.assert_allclose(frechet_distance(statistics(first), statistics(second)), 2 + 18 - 2 * 6, rtol=1e-9)


@pytest.mark.parametrize("count", [5, 300])
def test_a_set_is_at_no_distance_from_itself(count: int) -> None:
    features = GENERATOR.normal(100, 3, (count, 64))
    shuffled = features[GENERATOR.permutation(count)]
    assert frechet_distance(statistics(features), statistics(shuffled)) < 1e-7


def test_parts_add_up_to_the_whole_even_far_from_zero() -> None:
    features = GENERATOR.normal(0, 1, (101, 8)) + 1e6
    parts, other = FeatureStatistics.empty(8), FeatureStatistics.empty(8)
    for start in range(0, 60, 13):
        parts.add(features[start : min(start + 13, 60)])
    parts.add(features[:0])
    other.add(features[60:])
    parts.merge(other)
    assert parts.count == 101
    np.testing.assert_allclose(parts.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts.covariance(), np.cov(features.T), atol=1e-7)


def test_it_looks_at_every_fifth_frame() -> None:
    clip, judges = (
        SimpleNamespace(crops=np.zeros((12, 16, 16, 3), np.uint8)),
        SimpleNamespace(features=SquaresOfCrops()),
    )
    assert len(features(clip, judges)) == 2  # type: ignore[arg-type]


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(TrainingDataError):
        statistics(np.ones((4, 3))).add(np.ones((4, 5)))
    with pytest.raises(TrainingDataError):
        statistics(np.ones((4, 3))).merge(FeatureStatistics.empty(2))
    with pytest.raises(TrainingDataError):
        statistics(np.full((4, 3), np.nan))
    with pytest.raises(TrainingDataError):
        frechet_distance(statistics(np.ones((1, 3))), statistics(np.ones((4, 3))))
    with pytest.raises(TrainingDataError):
        frechet_distance(statistics(np.ones((4, 2))), statistics(np.ones((4, 3))))
