"""The detector: from the network's map to faces in px of any picture, and back through the training targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from talkswap.data.detection import targets
from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.faces.detector import (
    STRIDE,
    Detection,
    DetectorConfig,
    DetectorNetwork,
    FaceDetector,
    decode,
    face_square,
    load_detector,
    save_detector,
)
from talkswap.faces.geometry import box_overlap
from talkswap.types import FloatArray

SMALL = DetectorConfig(widths=(8, 12, 16), blocks=(1, 1, 1))


def face(x: float, y: float, eyes: float) -> FloatArray:
    """Four points of an upright face whose eyes are ``eyes`` px apart around (x, y)."""
    shape = np.array([[-0.5, 0], [0.5, 0], [0, 0.6], [0, 1.1]], np.float32)
    return shape * eyes + np.array([x, y], np.float32)


def as_answer(faces: list[FloatArray], size: int) -> FloatArray:
    """The map that a perfect network would give."""
    wanted, _ = targets(np.stack(faces), np.zeros((0, 4), np.float32), size)
    logit = np.log(np.clip(wanted[:1], 1e-4, 1 - 1e-4) / (1 - np.clip(wanted[:1], 1e-4, 1 - 1e-4)))
    return np.concatenate([logit, wanted[1:12]]).astype(np.float32)


def test_targets_decode_to_the_faces_they_came_from() -> None:
    faces = [face(60, 50, 20), face(180, 120, 55), face(40, 200, 9)]
    found = decode(as_answer(faces, 256), 0.5)
    assert len(found) == 3
    for points in faces:
        best = min(found, key=lambda f: float(np.abs(f.points - points).max()))
        centre, side = face_square(points)
        assert np.abs(best.points - points).max() < 1e-2
        assert np.abs(best.centre - centre).max() < 1e-2 and best.side == pytest.approx(side, rel=1e-4)


def test_a_face_seen_twice_counts_once() -> None:
    answer = as_answer([face(128, 120, 50)], 256)
    row, column = np.unravel_index(answer[0].argmax(), answer[0].shape)
    answer[:, row, column + 3] = answer[:, row, column]  # three cells aside, nearly as sure
    answer[0, row, column + 3] -= 0.5
    found = decode(answer, 0.5)
    assert len(found) == 1 and found[0].score > 0.99


def test_overlap_of_squares() -> None:
    a, b = (Detection(1.0, np.array([x, 0], np.float32), 10, np.zeros((4, 2), np.float32)) for x in (0, 5))
    far = Detection(1.0, np.array([30, 0], np.float32), 10, np.zeros((4, 2), np.float32))
    shares = [box_overlap(a.box, other.box) for other in (b, a, far)]
    assert shares == pytest.approx([50 / 150, 1, 0])


def test_doubtful_boxes_are_neither_face_nor_background() -> None:
    wanted, counted = targets(face(60, 50, 20)[None], np.array([[150, 150, 220, 220]], np.float32), 256)
    assert counted[23, 23] == 0 and counted[2, 2] == 1
    assert wanted[0].max() == 1 and wanted[12].sum() == pytest.approx(1)


class DiscNetwork(nn.Module):
    """Answers as a trained network would where faces are red discs: centre by first moments, side from the area."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[int, int]] = []

    def forward(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[2:]
        self.seen.append((height, width))
        red = ((picture[0, 0] > 0.5) & (picture[0, 1] < -0.5)).float()
        answer = torch.zeros(1, 12, height // STRIDE, width // STRIDE)
        answer[:, 0] = -9
        if red.sum() < 40:
            return answer
        y, x = (
            float((axis * red).sum() / red.sum())
            for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        )
        row, column = int((y + 0.5) // STRIDE), int((x + 0.5) // STRIDE)
        answer[0, 0, row, column] = 9
        answer[0, 1, row, column] = (x - column * STRIDE - 3.5) / STRIDE
        answer[0, 2, row, column] = (y - row * STRIDE - 3.5) / STRIDE
        answer[0, 3, row, column] = float(torch.log(torch.sqrt(red.sum()) * 2 / 64))
        return answer


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    rgb = np.full((height, width, 3), 120, np.uint8)
    rgb[np.hypot(columns - x, rows - y) < radius] = (255, 0, 0)
    return rgb


@pytest.mark.parametrize(("height", "width"), [(540, 960), (960, 540), (200, 180), (721, 723)])
def test_places_come_back_in_px_of_the_picture(height: int, width: int) -> None:
    x, y, radius = 0.3 * width, 0.6 * height, 0.1 * min(height, width)
    detector = FaceDetector(DiscNetwork())  # type: ignore[arg-type]
    (found,) = detector(disc(height, width, x, y, radius))
    assert np.abs(found.centre - [x, y]).max() < 0.02 * max(height, width)
    assert found.side == pytest.approx(2 * radius * np.sqrt(np.pi), rel=0.15)
    assert np.abs(found.points - found.centre).max() < 1e-3


def test_small_faces_get_a_second_look() -> None:
    network = DiscNetwork()
    detector = FaceDetector(network)  # type: ignore[arg-type]
    (found,) = detector(disc(720, 1280, 900, 300, 9))
    assert np.abs(found.centre - [900, 300]).max() < 4
    assert [max(shape) for shape in network.seen] == [320, 768]
    network.seen.clear()
    assert detector(np.full((100, 120, 3), 120, np.uint8)) == []
    assert len(network.seen) == 1  # enlarging it again would show nothing new


def test_network_map_has_one_answer_per_cell() -> None:
    torch.manual_seed(0)
    net = DetectorNetwork(SMALL).eval()
    with torch.no_grad():
        answer = net(torch.rand(2, 3, 96, 160) * 2 - 1)
    assert answer.shape == (2, 12, 12, 20)
    assert torch.sigmoid(answer[:, 0]).mean() < 0.1  # untrained: faces are rare


def test_stored_weights_answer_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = DetectorNetwork(SMALL).eval()
    save_detector(net, tmp_path)
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert (net(picture) - load_detector(tmp_path)(picture)).abs().max() < 0.05


def test_missing_and_damaged_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="detector"):
        load_detector(tmp_path)
    save_detector(DetectorNetwork(SMALL), tmp_path)
    (tmp_path / "detector.safetensors").write_bytes(b"not weights")
    with pytest.raises(WeightsCorruptError):
        load_detector(tmp_path)
