"""Analysers: choosing one by name, and the compact one, first with any weights, then with the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from talkswap.errors import DeviceError, UsageError, WeightsMissingError
from talkswap.faces.analyse import ANALYSERS, CompactAnalyser, fold_normalisation, load_analyser
from talkswap.faces.detector import DetectorConfig, DetectorNetwork, save_detector
from talkswap.faces.geometry import transform_points
from talkswap.faces.identity import IdentityConfig, IdentityNetwork, save_identity
from talkswap.faces.landmarks import LandmarkConfig, LandmarkNetwork, affine_from_landmarks, save_landmarks
from talkswap.faces.mesh import mean_face
from talkswap.types import Face, FloatArray, UInt8Image


@pytest.mark.parametrize("name", ANALYSERS)
def test_every_analyser_names_its_missing_weights(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError) as caught:
        load_analyser(name, tmp_path)
    assert str(tmp_path) in caught.value.message and caught.value.hint


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'dlib'") as caught:
        load_analyser("dlib", tmp_path)
    assert all(name in caught.value.hint for name in ANALYSERS)


def random_statistics(network: nn.Module) -> nn.Module:
    """Give every normalisation statistics as training would."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def some_face(scale: float = 50) -> FloatArray:
    return (mean_face().points * scale + np.array([160, 110, 0])).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as training would write them, of small untrained networks; the landmark network draws the mean face."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights")
    save_detector(DetectorNetwork(DetectorConfig(widths=(8, 12, 16))), path)
    landmarks = LandmarkNetwork(LandmarkConfig(size=64, widths=(8, 8, 12, 12), hidden=16, coefficients=4))
    mean = transform_points(affine_from_landmarks(some_face(), 1), some_face())
    landmarks.set_basis(mean, np.zeros((478, 3, 4), np.float32))
    with torch.no_grad():
        landmarks.head.weight.zero_()
        landmarks.head.bias.zero_()
        landmarks.head.bias[-1] = 3
    save_landmarks(landmarks, path)
    save_identity(IdentityNetwork(IdentityConfig(size=64, widths=(8, 12, 16), blocks=(1, 1, 1), dimension=24)), path)
    return path


@pytest.mark.parametrize("kind", ["detector", "landmarks", "identity"])
def test_folding_changes_no_answer(kind: str) -> None:
    torch.manual_seed(0)
    side = {"detector": 64, "landmarks": 64, "identity": 96}[kind]
    network: nn.Module
    if kind == "detector":
        network = DetectorNetwork(DetectorConfig(widths=(8, 12, 16)))
    elif kind == "landmarks":
        network = LandmarkNetwork(LandmarkConfig(size=64, widths=(8, 8, 12, 12), hidden=16, coefficients=4))
    else:
        network = IdentityNetwork(IdentityConfig(size=64, widths=(8, 12, 16), blocks=(1, 1, 1), dimension=24))
    random_statistics(network)
    picture = torch.rand(2, 3, side, side) * 2 - 1
    with torch.no_grad():
        before = network(picture)
        after = fold_normalisation(network)(picture)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (before, after)), strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def test_follow_stays_on_a_face_that_its_network_sees(folder: Path) -> None:
    analyser = CompactAnalyser(folder)
    rgb = np.full((240, 320, 3), 128, np.uint8)
    face = analyser.follow(rgb, some_face())
    assert face is not None and face.score > 0.9
    assert np.abs(face.landmarks - some_face()).max() < 0.5
    assert np.allclose(face.box, [*face.landmarks[:, :2].min(0), *face.landmarks[:, :2].max(0)])


def test_follow_lets_go_outside_the_picture(folder: Path) -> None:
    rgb = np.full((240, 320, 3), 128, np.uint8)
    away = some_face() + np.array([400, 0, 0], np.float32)
    assert CompactAnalyser(folder).follow(rgb, away) is None


def test_follow_lets_go_where_presence_is_low(folder: Path) -> None:
    rgb = np.full((240, 320, 3), 128, np.uint8)
    assert CompactAnalyser(folder, presence=0.99).follow(rgb, some_face()) is None


def test_embedding_has_unit_length_and_depends_on_the_face_only(folder: Path) -> None:
    analyser = CompactAnalyser(folder)
    rgb = np.random.default_rng(0).integers(0, 255, (300, 420, 3), np.uint8)
    vector = analyser.embed(rgb, some_face())
    assert vector.shape == (24,) and vector.dtype == np.float32
    assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5)
    moved = np.roll(rgb, (20, 30), (0, 1))
    again = analyser.embed(moved, some_face() + np.array([30, 20, 0], np.float32))
    assert float(vector @ again) > 0.999


def test_missing_weights_and_devices_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="detector"):
        CompactAnalyser(tmp_path)
    with pytest.raises(DeviceError, match="nowhere"):
        CompactAnalyser(folder, device="nowhere")


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published() -> CompactAnalyser:
    return CompactAnalyser(ROOT / "weights" / "compact")


@pytest.fixture(scope="module")
def portrait() -> UInt8Image:
    """The example's source photo: one face."""
    bgr = cv2.imread(str(ROOT / "examples" / "source.png"))
    assert bgr is not None
    return np.ascontiguousarray(bgr[:, :, ::-1])


def eye_distance(face: Face) -> float:
    return float(np.linalg.norm(face.landmarks[33, :2] - face.landmarks[263, :2]))


def only(faces: list[Face]) -> Face:
    assert len(faces) == 1
    return faces[0]


def test_published_weights_find_the_one_face(published: CompactAnalyser, portrait: UInt8Image) -> None:
    face = only(published.detect(portrait))
    height, width = portrait.shape[:2]
    points = face.landmarks
    assert face.score > 0.5 and points.shape == (478, 3)
    assert points[468, 0] < points[1, 0] < points[473, 0]  # pupils on both sides of the nose
    assert points[10, 1] < points[468, 1] < points[1, 1] < points[13, 1] < points[152, 1]  # brow to chin
    assert (points[:, 0] > 0).all() and (points[:, 0] < width).all() and (points[:, 1] < height).all()
    assert points[1, 2] < points[152, 2] < points[234, 2] + 0.3 * eye_distance(face)  # the nose is nearest


def test_published_weights_see_the_mirrored_face_mirrored(published: CompactAnalyser, portrait: UInt8Image) -> None:
    face = only(published.detect(portrait))
    other = only(published.detect(np.ascontiguousarray(portrait[:, ::-1])))
    back = other.landmarks[mean_face().mirror]
    back[:, 0] = portrait.shape[1] - 1 - back[:, 0]
    error = np.linalg.norm(back[:, :2] - face.landmarks[:, :2], axis=1).mean()
    assert error < 0.04 * eye_distance(face)


@pytest.mark.parametrize(("width", "height", "share"), [(1280, 720, 0.5), (1280, 720, 0.12), (480, 854, 0.4)])
def test_published_weights_find_the_face_anywhere(
    published: CompactAnalyser, portrait: UInt8Image, width: int, height: int, share: float
) -> None:
    """Photo pasted at any place and size: the landmarks are those of the photo, moved and scaled."""
    whole = only(published.detect(portrait))
    side = round(min(width, height) * share)
    scale = side / portrait.shape[0]
    x, y = round(0.6 * (width - side)), round(0.3 * (height - side))
    picture = np.full((height, width, 3), (70, 90, 80), np.uint8)
    picture[y : y + side, x : x + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    face = only(published.detect(picture))
    expected = (whole.landmarks[:, :2] + 0.5) * scale - 0.5 + [x, y]
    error = np.linalg.norm(face.landmarks[:, :2] - expected, axis=1).mean()
    assert error < 0.08 * eye_distance(face)


def test_published_weights_follow_a_moving_face(published: CompactAnalyser, portrait: UInt8Image) -> None:
    """Six frames of a face that moves and turns: followed without a detector, and where it is."""
    first = only(published.detect(portrait))
    landmarks, side = first.landmarks, portrait.shape[0]
    for frame in range(1, 7):
        motion = cv2.getRotationMatrix2D((side / 2, side / 2), 2.0 * frame, 1 - 0.02 * frame)
        motion[:, 2] += (0.01 * side * frame, -0.004 * side * frame)
        moved = cv2.warpAffine(portrait, motion, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        face = published.follow(np.asarray(moved, np.uint8), landmarks)
        assert face is not None
        landmarks = face.landmarks
        expected = transform_points(motion.astype(np.float32), first.landmarks)
        error = np.linalg.norm(landmarks[:, :2] - expected[:, :2], axis=1).mean()
        assert error < 0.06 * eye_distance(first)


def test_published_weights_see_no_face_in_empty_pictures(published: CompactAnalyser, portrait: UInt8Image) -> None:
    landmarks = only(published.detect(portrait)).landmarks
    noise = np.random.default_rng(0).integers(0, 255, (9, 16, 3), np.uint8)
    for empty in (np.zeros((360, 640, 3), np.uint8), cv2.resize(noise, (640, 360), interpolation=cv2.INTER_CUBIC)):
        assert published.detect(np.asarray(empty, np.uint8)) == []
        assert published.follow(np.asarray(empty, np.uint8), landmarks) is None


def test_published_identity_knows_the_face_again(published: CompactAnalyser, portrait: UInt8Image) -> None:
    """Smaller, darker, mirrored and compressed it is the same person; another drawn face is not."""
    vector = published.embed(portrait, only(published.detect(portrait)).landmarks)
    small = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    dark = (portrait[:, ::-1] * 0.7).astype(np.uint8)
    stored: Any = cv2.imdecode(cv2.imencode(".jpg", portrait, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    for picture in (small, dark, stored):
        picture = np.ascontiguousarray(picture, np.uint8)
        again = published.embed(picture, only(published.detect(picture)).landmarks)
        assert float(vector @ again) > 0.7
    drawn = np.full_like(portrait, 150)
    assert float(vector @ published.embed(drawn, only(published.detect(portrait)).landmarks)) < 0.4
