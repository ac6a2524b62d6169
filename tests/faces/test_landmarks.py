"""The landmark network and the square that it looks at."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.faces.geometry import invert_affine, transform_points
from talkswap.faces.landmarks import (
    LandmarkConfig,
    LandmarkNetwork,
    LandmarkReader,
    affine_from_landmarks,
    cut_square,
    load_landmarks,
    save_landmarks,
)
from talkswap.faces.mesh import mean_face
from talkswap.types import FloatArray

SMALL = LandmarkConfig(size=64, widths=(8, 12, 16, 16), blocks=(1, 1, 1, 1), hidden=24, coefficients=6)


def face(x: float = 200, y: float = 150, scale: float = 60, roll: float = 0) -> FloatArray:
    """The mean face with the eyes' middle at (x, y), ``scale`` px between the eyes, turned by ``roll`` degrees."""
    turn = cv2.getRotationMatrix2D((0, 0), -roll, scale)
    turn[:, 2] = (x, y)
    return transform_points(turn.astype(np.float32), mean_face().points)


def mean_in_square() -> FloatArray:
    return transform_points(affine_from_landmarks(face(), 1), face())


def network(seed: int = 0) -> LandmarkNetwork:
    torch.manual_seed(seed)
    net = LandmarkNetwork(SMALL)
    basis = np.random.default_rng(0).normal(0, 0.01, (478, 3, 6)).astype(np.float32)
    net.set_basis(mean_in_square(), basis)
    return net.eval()


def test_untrained_network_answers_the_mean_face() -> None:
    """So training starts with errors of a face's variation, not of its size."""
    with torch.no_grad():
        points, presence = network()(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert points.shape == (2, 478, 3) and presence.shape == (2,)
    expected = mean_in_square() * 64 + [31.5, 31.5, 0]
    assert np.abs(points.numpy() - expected).max() < 1.0


def test_similarity_of_the_head_moves_the_shape() -> None:
    """Answers a, b, x, y turn, scale and shift the mesh; depth grows with the scale."""
    net = network()
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.zero_()
        angle, scale = np.radians(20), 1.2
        net.head.bias[6:10] = torch.tensor([scale * np.cos(angle) - 1, scale * np.sin(angle), 0.1, -0.05])
        points, _ = net(torch.zeros(1, 3, 64, 64))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = mean_in_square()
    expected = np.column_stack([shape[:, :2] @ turn.T + [0.1, -0.05], shape[:, 2] * scale]) * 64 + [31.5, 31.5, 0]
    assert np.abs(points[0].numpy() - expected).max() < 1e-2


@pytest.mark.parametrize("roll", [-40, 0, 25])
def test_square_is_upright_and_holds_the_face(roll: float) -> None:
    points = face(roll=roll)
    inside = transform_points(affine_from_landmarks(points, 128), points)
    eyes = inside[473] - inside[468]
    assert abs(np.degrees(np.arctan2(eyes[1], eyes[0]))) < 3
    assert inside[:, :2].min() > 4 and inside[:, :2].max() < 123
    assert (
        abs(
            float(np.linalg.norm(eyes[:2]))
            - np.linalg.norm(mean_in_square()[468, :2] - mean_in_square()[473, :2]) * 128
        )
        < 1
    )


def test_cut_reads_only_the_face_and_keeps_places() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    affine = affine_from_landmarks(face(scale=20), 128)  # enlarges: no averaging
    expected = cv2.warpAffine(rgb, affine.astype(np.float64), (128, 128), flags=cv2.INTER_LINEAR)
    difference = np.abs(cut_square(rgb, affine, 128).astype(int) - expected)
    assert np.percentile(difference, 99.9) <= 8  # cv2 rounds places to 1/32 px, from another origin here
    far = rgb.copy()
    far[:, :60] = 0
    assert np.array_equal(cut_square(far, affine, 128), cut_square(rgb, affine, 128))


def test_a_large_face_is_averaged_not_sampled() -> None:
    """A checkerboard of single px becomes grey, and edges stay where they are."""
    board = (np.indices((1200, 1200)).sum(0) % 2 * 255).astype(np.uint8)
    affine = affine_from_landmarks(face(600, 500, 220), 64)
    grey = cut_square(np.repeat(board[:, :, None], 3, 2), affine, 64)
    assert np.abs(grey[8:56, 8:56].astype(int) - 127).max() < 24
    edge = np.zeros((1200, 1200, 3), np.uint8)
    edge[:, 600:] = 255
    cut = cut_square(edge, affine, 64)
    x = transform_points(affine, np.array([[599.5, 500]], np.float32))[0, 0]
    row = cut[32, :, 0].astype(float)
    assert abs(np.interp(127.5, row, np.arange(64)) - x) < 0.5


def test_a_square_beside_the_picture_is_black() -> None:
    rgb = np.full((100, 100, 3), 200, np.uint8)
    assert cut_square(rgb, affine_from_landmarks(face(900, 900, 20), 64), 64).max() == 0


def test_reader_answers_in_picture_px() -> None:
    """The same network, two squares: the answer is the mean face where each square lies."""
    reader = LandmarkReader(network())
    rgb = np.full((300, 400, 3), 90, np.uint8)
    for where in (face(), face(120, 160, 35, 30)):
        points, presence = reader(rgb, affine_from_landmarks(where, reader.size))
        assert 0 <= presence <= 1
        assert points.shape == (478, 3) and np.abs(points - where).max() < 0.05 * np.ptp(where[:, 0])


def test_inverse_of_the_square_returns() -> None:
    points = face(roll=33)
    affine = affine_from_landmarks(points, 128)
    back = transform_points(invert_affine(affine), transform_points(affine, points))
    assert np.abs(back - points).max() < 1e-2


def test_stored_weights_answer_alike(tmp_path: Path) -> None:
    net, picture = network(), torch.rand(1, 3, 64, 64) * 2 - 1
    save_landmarks(net, tmp_path)
    loaded = load_landmarks(tmp_path)
    assert (net(picture)[0] - loaded(picture)[0]).abs().max() < 0.1


def test_missing_and_damaged_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="landmark"):
        load_landmarks(tmp_path)
    save_landmarks(network(), tmp_path)
    settings = json.loads((tmp_path / "landmarks.json").read_text())
    (tmp_path / "landmarks.json").write_text(json.dumps(settings | {"depth": 3}))
    with pytest.raises(WeightsCorruptError):
        load_landmarks(tmp_path)


def test_published_size_is_small() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = LandmarkNetwork(LandmarkConfig.named("compact")).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 128, 128))
    assert sum(p.numel() for p in net.parameters()) < 2.1e6
    assert counter.get_total_flops() < 0.2e9
