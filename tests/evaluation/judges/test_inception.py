"""Inception-v3 against torch-fidelity 0.4.0's class with the same random weights: 2048 features to 1e-4.

torch-fidelity cannot stand beside the CPU build of torch (its torchvision does not load), so its answers were taken once
and are kept here; the weights and the picture are made anew from numpy's frozen generator.

The stand-in for Inception: its distance grows with blur, noise, compression and exchanged faces on real frames, and
its features equal the detector's own forward pass, hooked (1e-6).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.evaluation.judges.inception import (
    DetectorFeatures,
    InceptionFeatures,
    InceptionNetwork,
    load_compact_features,
    load_inception,
    resize_as_tensorflow,
)
from talkswap.evaluation.metrics.frechet import FeatureStatistics, frechet_distance
from talkswap.faces.mesh import FACE_OVAL, MeshTexture, ring_mask

# Of torch-fidelity's 2048 features: the first eight, every 256th, and mean and deviation of all.
FIRST = (1.089228, 0.278942, 0.000000, 0.000000, 0.317735, 1.430695, 0.228986, 1.758510)
EVERY_256TH = (1.089228, 0.001044, 0.099089, 0.580603, 0.000000, 0.599479, 0.809768, 0.008851)
MEAN, DEVIATION = 1.5572387, 2.0998501


def random_tensors() -> dict[str, torch.Tensor]:
    """Weights by name, in the order of the names; without the counters, as in the published file, and with classes."""
    generator = np.random.RandomState(7)
    tensors = {}
    for name, tensor in sorted(InceptionNetwork().state_dict().items()):
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            values = generator.uniform(0.5, 1.5, shape)
        elif name.endswith("bn.weight"):
            values = generator.uniform(0.8, 1.2, shape)
        elif name.endswith(("bias", "running_mean")):
            values = generator.normal(0, 0.1, shape)
        else:
            values = generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        tensors[name] = torch.from_numpy(np.asarray(values, np.float32))
    return tensors | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


def picture() -> np.ndarray:
    """1 100 100 3: a pattern of all levels."""
    y, x, channel = np.mgrid[:100, :100, :3]
    return ((7 * x + 13 * y + 50 * channel + x * y % 31) % 256).astype(np.uint8)[None]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return random_tensors()


@pytest.fixture(scope="module")
def published_shape(tensors: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def network(published_shape: Path) -> InceptionFeatures:
    return load_inception(published_shape)


def test_features_equal_torch_fidelitys(network: InceptionFeatures) -> None:
    features = network(picture())[0].astype(np.float64)
    assert features.shape == (2048,)
    np.testing.assert_allclose(features[:8], FIRST, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features[::256], EVERY_256TH, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose([features.mean(), features.std()], [MEAN, DEVIATION], rtol=1e-5)


def test_the_published_files_signature_fits(tensors: dict[str, torch.Tensor]) -> None:
    # torch-fidelity's class has this many parameters with its classifier
    assert sum(t.numel() for n, t in tensors.items() if not n.endswith(("mean", "var"))) == 23_850_960


def test_no_crops_give_no_features(network: InceptionFeatures) -> None:
    assert network(np.zeros((0, 320, 320, 3), np.uint8)).shape == (0, 2048)


def test_random_weights_are_not_taken_for_the_published_ones(
    network: InceptionFeatures, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert not network.judge.comparable
    assert len(network.judge.sha256) == 64
    path = tmp_path / "inception.safetensors"
    save_file(tensors, path)
    assert not load_inception(path).judge.comparable
    assert load_inception(path, published=True).judge.comparable


def test_tensorflows_sampling_has_no_half_pixel() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    wanted = torch.tensor([0, 2 / 3, 4 / 3, 2, 8 / 3, 3])  # n times 4 / 6, held at the last px
    torch.testing.assert_close(resize_as_tensorflow(ramp, 6)[0, 0, 5], wanted)
    same = torch.rand(1, 3, 5, 5)
    torch.testing.assert_close(resize_as_tensorflow(same, 5), same)


def test_bad_files_are_named(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError):
        load_inception(tmp_path / "none.pth")
    for name, content in (("text.pth", b"not weights"), ("text.safetensors", b"not weights"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsCorruptError):
            load_inception(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsCorruptError):
        load_inception(tmp_path / "list.pth")
    torch.save({"Conv2d_1a_3x3.conv.weight": tensors["Conv2d_1a_3x3.conv.weight"]}, tmp_path / "part.pth")
    with pytest.raises(WeightsCorruptError):
        load_inception(tmp_path / "part.pth")


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"weight": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(WeightsCorruptError):
        load_inception(tmp_path / "harm.pth")
    assert not (tmp_path / "ran").exists()


COMPACT = Path(__file__).parents[3] / "weights" / "compact"
EXAMPLES = Path(__file__).parents[3] / "examples"
Faces = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def features() -> DetectorFeatures:
    return load_compact_features(COMPACT)


def distance(features: DetectorFeatures, crops: np.ndarray, others: np.ndarray) -> float:
    seen = [FeatureStatistics.empty(features.dimension) for _ in range(2)]
    for part, into in zip((crops, others), seen, strict=True):
        into.add(features(part))
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
