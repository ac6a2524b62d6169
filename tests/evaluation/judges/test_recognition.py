"""The judge of identity on small onnx networks of ArcFace's signature, made here.

One averages squares of 8 px, so that its vector is the aligned face itself: where every point of the picture goes, in
which order of colours and on which scale, is checked against closed forms (tolerances stated beside each).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from talkswap.checkpoints.manifest import write_manifest
from talkswap.errors import DependencyError, TrainingDataError, WeightsCorruptError, WeightsMissingError
from talkswap.evaluation.judges import recognition
from talkswap.evaluation.judges.recognition import (
    PUBLISHED,
    CompactIdentity,
    OnnxIdentity,
    embed_frames,
    load_identity_judge,
)
from talkswap.faces.analyse import CompactAnalyser
from talkswap.faces.geometry import ARCFACE_POINTS, align
from talkswap.faces.mesh import mean_face
from talkswap.types import FloatArray, UInt8Image


def write_network(path: Path, batch: int | str = "n", side: int | str = 112) -> Path:
    """Mean of squares of 8 px: 3 14 14, as one vector."""
    nodes = [
        helper.make_node("AveragePool", ["face"], ["means"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["means"], ["vector"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("face", TensorProto.FLOAT, [batch, 3, side, side])]
    outputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [batch, "d"])]
    model = helper.make_model(
        helper.make_graph(nodes, "squares", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("onnx") / "squares.onnx")


def turned_face(angle: float, scale: float, middle: float) -> tuple[FloatArray, FloatArray]:
    """478 points whose five lie exactly where ArcFace wants them, turned, and the square's middle moved to (middle, middle);
    and that affine, from ArcFace's square."""
    points = mean_face().points.copy()
    for group, place in zip(
        ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380)), ARCFACE_POINTS, strict=False
    ):
        points[list(group), :2] = place
    points[[1, 61, 291], :2] = ARCFACE_POINTS[2:]
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    affine = np.column_stack([turn, middle - turn @ [56, 56]])
    moved = points.copy()
    moved[:, :2] = points[:, :2] @ affine[:, :2].T + affine[:, 2]
    return moved.astype(np.float32), affine.astype(np.float32)


def pattern() -> UInt8Image:
    """A smooth picture of 112 px, another in each colour."""
    coarse = np.random.default_rng(1).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.4, 1.5), (-0.9, 3.1)])
def test_sees_the_face_where_arcface_wants_it(network: Path, angle: float, scale: float) -> None:
    """A picture that holds the pattern where the face lies gives the pattern back: cosine above 0.999."""
    landmarks, affine = turned_face(angle, scale, 320)
    picture = cv2.warpAffine(pattern(), affine.astype(np.float64), (640, 640), flags=cv2.INTER_CUBIC)
    found = OnnxIdentity(network)([picture], landmarks[None])[0]
    means = pattern().reshape(14, 8, 14, 8, 3).mean((1, 3)).transpose(2, 0, 1).reshape(-1) / 127.5 - 1
    assert float(found @ means / np.linalg.norm(means)) > 0.999
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("batch", ["n", 1])
def test_colours_are_red_first_and_from_minus_one_to_one(tmp_path: Path, batch: int | str) -> None:
    """An even picture, tolerance 1e-5; a network that takes one face at a time gets one at a time."""
    judge = OnnxIdentity(write_network(tmp_path / "one.onnx", batch))
    colours = np.array([[255, 0, 102], [51, 204, 153]], np.uint8)
    landmarks = np.repeat(turned_face(0, 1.2, 100)[0][None], 2, 0)
    found = judge([np.broadcast_to(colour, (200, 200, 3)).copy() for colour in colours], landmarks)
    for vector, colour in zip(found, colours, strict=True):
        wanted = np.repeat(colour / 127.5 - 1, 196)
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_frames_without_a_face_are_nan_and_only_every_fifth_is_looked_at(network: Path) -> None:
    judge = OnnxIdentity(network)
    crops = np.stack([np.full((320, 320, 3), 8 * k, np.uint8) for k in range(23)])
    landmarks = np.repeat(turned_face(0, 2, 160)[0][None], 23, 0)
    landmarks[7] = np.nan
    found = embed_frames(judge, crops, landmarks, batch=2)  # rows 2, 7, 12, 17, 22
    assert found.shape == (5, 588) and np.isnan(found[1]).all() and np.isfinite(np.delete(found, 1, 0)).all()
    np.testing.assert_allclose(found[3], judge([crops[17]], landmarks[17:18])[0], atol=1e-6)
    assert len(embed_frames(judge, crops, landmarks, every=1)) == 23
    with pytest.raises(TrainingDataError):
        embed_frames(judge, crops[:3], landmarks[:2])
    with pytest.raises(TrainingDataError):
        embed_frames(judge, crops, np.full_like(landmarks, np.nan))


def test_the_compact_stand_in_says_that_it_took_part_in_training(source_photo: Path) -> None:
    """Against the analyser's own embedding, cut at another size and once more from a crop: torch's cosine above 0.99."""
    rgb = cv2.imread(str(source_photo))[:, :, ::-1].copy()
    analyser = CompactAnalyser(Path(__file__).parents[3] / "weights" / "compact")
    face = analyser.detect(rgb)[0]
    judge = CompactIdentity()
    whole = judge([rgb], face.landmarks[None])[0]
    crop = align(rgb, face.landmarks, 320)
    again = judge([crop.crop], crop.landmarks[None])[0]
    wanted = torch.from_numpy(analyser.embed(rgb, face.landmarks))
    for vector in (whole, again):
        assert float(torch.cosine_similarity(torch.from_numpy(vector), wanted, dim=0)) > 0.99
    assert not judge.judge.comparable and "training" in judge.judge.note and len(judge.judge.sha256) == 64


def test_the_best_judge_at_hand_is_taken(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKSWAP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert isinstance(load_identity_judge(), CompactIdentity)
    named = load_identity_judge(network)
    assert named.judge.name == "squares" and not named.judge.comparable

    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    own = tmp_path / "home" / recognition.OWN
    own.parent.mkdir(parents=True)
    own.write_bytes(network.read_bytes())
    assert isinstance(load_identity_judge(), CompactIdentity)  # a file of that name, of another content
    monkeypatch.setattr(recognition, "published_hash", lambda: digest)
    assert load_identity_judge().judge.comparable
    own.unlink()

    file = tmp_path / "weights" / "paper" / PUBLISHED
    file.parent.mkdir(parents=True)
    file.write_bytes(network.read_bytes())
    write_manifest(tmp_path / "weights" / "paper")
    assert load_identity_judge().judge.comparable and load_identity_judge().judge.sha256 == digest


def test_the_published_file_is_the_catalogues() -> None:
    assert len(recognition.published_hash()) == 64


def test_other_files_are_refused(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsMissingError):
        OnnxIdentity(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(WeightsCorruptError):
        OnnxIdentity(tmp_path / "text.onnx")
    with pytest.raises(WeightsCorruptError):
        OnnxIdentity(write_network(tmp_path / "large.onnx", side=128))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError):
        OnnxIdentity(network)
