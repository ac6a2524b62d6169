"""The stand-in for Inception: its distance grows with blur, noise, compression and exchanged faces on real frames, and
its features equal the detector's own forward pass, hooked (1e-6).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from talkswap.errors import WeightsMissingError
from talkswap.evaluation.metrics.frechet import (
    DetectorFeatures,
    FeatureStatistics,
    frechet_distance,
    gather,
    load_compact_features,
)
from talkswap.faces.mesh import FACE_OVAL, MeshTexture, ring_mask

COMPACT = Path(__file__).parents[2] / "weights" / "compact"
EXAMPLES = Path(__file__).parents[2] / "examples"
Faces = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def features() -> DetectorFeatures:
    return load_compact_features(COMPACT)


def distance(features: DetectorFeatures, crops: np.ndarray, others: np.ndarray) -> float:
    seen = [FeatureStatistics.empty(features.dimension) for _ in range(2)]
    for part, into in zip((crops, others), seen, strict=True):
        gather(features, part, into, every=1)
    return frechet_distance(*seen)


def blurred(crops: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(crop, (0, 0), sigma) for crop in crops])


def noisy(crops: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(2).normal(0, sigma, crops.shape)
    return np.clip(np.rint(crops + noise), 0, 255).astype(np.uint8)


def compressed(crops: np.ndarray, quality: float) -> np.ndarray:
    files = [cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1] for crop in crops]
    return np.stack([cv2.imdecode(file, cv2.IMREAD_COLOR) for file in files])


@pytest.mark.parametrize(
    ("damage", "amounts"), [(blurred, (0.7, 1.2, 2.5)), (noisy, (4, 8, 20)), (compressed, (80, 40, 15))]
)
def test_more_damage_is_further_away(features: DetectorFeatures, face_crops: Faces, damage, amounts) -> None:  # type: ignore[no-untyped-def]
    crops = face_crops[0][::2]
    order = [distance(features, crops, damage(crops, amount)) for amount in amounts]
    assert 0 < order[0] < order[1] / 1.5 < order[2] / 3


def test_more_exchanged_faces_are_further_away(features: DetectorFeatures, face_crops: Faces) -> None:
    crops, landmarks = face_crops[0][::2], face_crops[1][::2]
    # another face: the same skin turned upside down in brightness around its middle tones
    texture = MeshTexture(255 - crops[0] // 2, landmarks[0])
    changed = crops.copy()
    order = []
    for count in (0, 2, 4, 6):
        for index in range(count):
            skin, valid = texture.warp(landmarks[index], 320)
            mask = (ring_mask(landmarks[index], (FACE_OVAL,), 320, 4.0) * valid)[..., None]
            changed[index] = np.rint(crops[index] * (1 - mask) + skin * mask)
        order.append(distance(features, crops, changed))
    assert order[0] < 1e-6
    assert order == sorted(order)
    assert order[1] > 0.01


def test_features_are_the_detectors_coarse_maps(features: DetectorFeatures, face_crops: Faces) -> None:
    kept: list[torch.Tensor] = []
    hook = features.network.coarse.register_forward_hook(lambda module, given, made: kept.append(made))
    try:
        with torch.inference_mode():
            features.network(torch.from_numpy(face_crops[0][:1]).permute(0, 3, 1, 2) / 127.5 - 1)
    finally:
        hook.remove()
    cells = kept[0][0].flatten(1).double().numpy()
    wanted = np.concatenate([cells.mean(1), cells.std(1, ddof=1)])
    np.testing.assert_allclose(features(face_crops[0][:1])[0], wanted, atol=1e-5)


def test_other_sizes_are_brought_to_one(features: DetectorFeatures, face_crops: Faces) -> None:
    large = np.stack([cv2.resize(crop, (640, 640), interpolation=cv2.INTER_NEAREST) for crop in face_crops[0][:2]])
    np.testing.assert_allclose(features(large), features(face_crops[0][:2]), atol=1e-4)
    assert features(large[:0]).shape == (0, features.dimension)


def test_it_says_that_it_is_not_comparable(features: DetectorFeatures, tmp_path: Path) -> None:
    assert not features.judge.comparable
    assert len(features.judge.sha256) == 64
    assert features.judge.kind == "inception"
    with pytest.raises(WeightsMissingError):
        load_compact_features(tmp_path)
