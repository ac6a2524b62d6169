"""The insightface analyser on small networks of buffalo_l's own signatures, and the 68 to 478 point fit.

The detector of these tests fires where a 32 px cell of its input is bright; the landmark network answers with the mean
face; the recognition network with the crop's colours.  So every coordinate on the way can be checked.  Where the
insightface package is installed the networks are onnx files that it really runs; a stand-in with the same
interface runs everywhere, since the package's own dependencies want libGL.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from talkswap.errors import DependencyError, DeviceError, UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.faces.analyse import load_analyser
from talkswap.faces.geometry import ffhq_quad
from talkswap.faces.insightface import (
    DETECTOR,
    LANDMARKS,
    MESH_OF_68,
    RECOGNITION,
    InsightFaceAnalyser,
    dense_landmarks,
)
from talkswap.faces.mesh import FACE_OVAL, INNER_LIPS, OUTER_LIPS, mean_face
from talkswap.types import FloatArray, UInt8Image

FACE = 96  # px: the detector's boxes on its input


PACKAGES = ["stand-in"] + (["insightface"] if find_spec("insightface") and find_spec("onnx") else [])
COLOURS = np.random.default_rng(0).normal(size=(512, 3)).astype(np.float32)  # mean colour -> embedding


def save(path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> None:
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes, path.stem, inputs, outputs, [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_detector(path: Path) -> None:
    """SCRFD's nine outputs: scores, boxes (distances in strides), five points, for strides 8, 16 and 32."""
    from onnx import TensorProto, helper

    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "h", "w"])
    nodes, scores, boxes, points = [], [], [], []
    constants: dict[str, np.ndarray] = {"columns1": np.array([-1, 1]), "columns4": np.array([-1, 4])}
    constants["columns10"] = np.array([-1, 10])
    for stride in (8, 16, 32):
        s = str(stride)
        # Two anchors a cell; the first answers only at stride 32: sigmoid(20 (brightness - 0.7)), grey in [-1, 1].
        weight = np.full((2, 3, 1, 1), 20 / 3, np.float32)
        bias = np.array([-14.0 if stride == 32 else -100.0, -100.0], np.float32)
        if stride != 32:
            weight[:] = 0
        else:
            weight[1] = 0
        constants |= {f"w{s}": weight, f"b{s}": bias}
        constants |= {f"bw{s}": np.zeros((8, 3, 1, 1), np.float32), f"pw{s}": np.zeros((20, 3, 1, 1), np.float32)}
        constants |= {f"bb{s}": np.full(8, FACE / 2 / stride, np.float32), f"pb{s}": np.zeros(20, np.float32)}
        nodes.append(
            helper.make_node("AveragePool", ["input.1"], [f"p{s}"], kernel_shape=[stride] * 2, strides=[stride] * 2)
        )
        for kind, w, b, columns in (("score", "w", "b", 1), ("bbox", "bw", "bb", 4), ("kps", "pw", "pb", 10)):
            name = f"{kind}_{s}"
            nodes.append(helper.make_node("Conv", [f"p{s}", f"{w}{s}", f"{b}{s}"], [f"{name}_c"]))
            nodes.append(helper.make_node("Transpose", [f"{name}_c"], [f"{name}_t"], perm=[0, 2, 3, 1]))
            last = f"{name}_r" if kind == "score" else name
            nodes.append(helper.make_node("Reshape", [f"{name}_t", f"columns{columns}"], [last]))
        nodes.append(helper.make_node("Sigmoid", [f"score_{s}_r"], [f"score_{s}"]))
        scores.append(helper.make_tensor_value_info(f"score_{s}", TensorProto.FLOAT, ["n" + s, 1]))
        boxes.append(helper.make_tensor_value_info(f"bbox_{s}", TensorProto.FLOAT, ["n" + s, 4]))
        points.append(helper.make_tensor_value_info(f"kps_{s}", TensorProto.FLOAT, ["n" + s, 10]))
    save(path, nodes, [picture], scores + boxes + points, constants)


def write_landmarks(path: Path) -> None:
    """1 x 3309: 1103 points in [-1, 1], of which the last 68 count; depth grows toward the viewer."""
    from onnx import TensorProto, helper

    picture = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, 192, 192])
    answer = np.zeros((1103, 3), np.float32)
    answer[-68:] = mean_face().points[list(MESH_OF_68)] * np.array([0.25, 0.25, -0.25], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Conv", ["mean", "w", "answer"], ["wide"]),
        helper.make_node("Flatten", ["wide"], ["fc1"]),
    ]
    out = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, 3309])
    save(path, nodes, [picture], [out], {"w": np.zeros((3309, 3, 1, 1), np.float32), "answer": answer.reshape(-1)})


def write_recognition(path: Path) -> None:
    """1 x 512 from a 112 px crop: a fixed projection of its mean colour."""
    from onnx import TensorProto, helper

    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["n", 3, 112, 112])
    weight = COLOURS[:, :, None, None]
    nodes = [
        helper.make_node("GlobalAveragePool", ["input.1"], ["mean"]),
        helper.make_node("Conv", ["mean", "w"], ["wide"]),
        helper.make_node("Flatten", ["wide"], ["683"]),
    ]
    save(path, nodes, [picture], [helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, 512])], {"w": weight})


class Found(dict):
    """insightface's face: a dictionary whose keys are attributes."""

    __getattr__ = dict.get


class StandInDetector:
    taskname = "detection"

    def prepare(self, ctx_id: int, input_size: tuple[int, int], det_thresh: float) -> None:
        self.size, self.threshold = input_size, det_thresh

    def detect(self, bgr: UInt8Image, input_size: tuple[int, int] | None = None) -> tuple[FloatArray, None]:
        side = (input_size or self.size)[0]
        scale = side / max(bgr.shape[:2])
        seen = np.zeros((side, side), np.float32)
        small = cv2.resize(bgr, None, fx=scale, fy=scale).mean(2)
        seen[: small.shape[0], : small.shape[1]] = small / 127.5 - 1
        cells = seen[: side // 32 * 32, : side // 32 * 32].reshape(side // 32, 32, side // 32, 32).mean((1, 3))
        scores = 1 / (1 + np.exp(-20 * (cells - 0.7)))
        rows, columns = np.nonzero(scores >= self.threshold)
        centres = np.stack([columns, rows], 1) * 32
        boxes = np.concatenate([centres - FACE / 2, centres + FACE / 2], 1) / scale
        return np.concatenate([boxes, scores[rows, columns][:, None]], 1).astype(np.float32), None


class StandInLandmarks:
    taskname = "landmark_3d_68"

    def get(self, bgr: UInt8Image, face: Found) -> FloatArray:
        box = np.asarray(face["bbox"])
        unit = (box[2:] - box[:2]).max() * 1.5 / 2 * 0.25
        points = mean_face().points[list(MESH_OF_68)] * np.array([unit, unit, -unit])
        points[:, :2] += (box[:2] + box[2:]) / 2
        return points.astype(np.float32)


class StandInRecognition:
    taskname = "recognition"

    def get_feat(self, bgr: UInt8Image) -> FloatArray:
        return np.asarray((COLOURS @ (bgr[:, :, ::-1].mean((0, 1)) / 127.5 - 1))[None], np.float32)


STAND_INS: dict[str, type] = {one.taskname: one for one in (StandInDetector, StandInLandmarks, StandInRecognition)}


def stand_in_model(path: str, providers: list[str]) -> Any:
    content = Path(path).read_text()
    if content not in STAND_INS:
        raise RuntimeError("no such network")
    return STAND_INS[content]()


def stand_in_package() -> dict[str, ModuleType]:
    modules = {
        name: ModuleType(name)
        for name in ("insightface", "insightface.model_zoo", "insightface.app", "insightface.app.common")
    }
    modules["insightface.model_zoo"].get_model = stand_in_model  # type: ignore[attr-defined]
    modules["insightface.app.common"].Face = Found  # type: ignore[attr-defined]
    return modules


@pytest.fixture(scope="module", params=PACKAGES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("buffalo_l")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "stand-in":
            for name, module in stand_in_package().items():
                patch.setitem(sys.modules, name, module)
            for name, one in zip((DETECTOR, LANDMARKS, RECOGNITION), STAND_INS, strict=True):
                (place / name).write_text(one)
        else:
            write_detector(place / DETECTOR)
            write_landmarks(place / LANDMARKS)
            write_recognition(place / RECOGNITION)
        yield place


@pytest.fixture(scope="module")
def analyser(folder: Path) -> InsightFaceAnalyser:
    return InsightFaceAnalyser(folder)


def spots(*places: tuple[int, int], side: int = 640) -> UInt8Image:
    """A dark square picture with bright 32 px cells at (column, row) of the detector's coarsest grid."""
    rgb = np.zeros((side, side, 3), np.uint8)
    for column, row in places:
        rgb[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = 250
    return rgb


def test_detects_every_face_where_it_is(analyser: InsightFaceAnalyser) -> None:
    rgb = spots((5, 6), (14, 10))
    faces = analyser.detect(rgb)
    assert len(faces) == 2 and faces[0].score >= faces[1].score > 0.9
    assert analyser.detect(spots()) == []
    for face, corner in zip(sorted(faces, key=lambda f: float(f.box[0])), ((5, 6), (14, 10)), strict=True):
        centre = np.array(corner) * 32
        np.testing.assert_allclose(face.box, [*(centre - FACE / 2), *(centre + FACE / 2)], atol=1)
        assert face.landmarks.shape == (478, 3) and face.landmarks.dtype == np.float32
        # The network looks at 1.5 boxes and answers in halves of that: the mean face at a quarter of its unit.
        expected = mean_face().points * 0.25 * FACE * 1.5 / 2
        seen = list(MESH_OF_68)
        np.testing.assert_allclose(face.landmarks[seen, :2], expected[seen, :2] + centre, atol=0.6)
        np.testing.assert_allclose(face.landmarks[:, :2], expected[:, :2] + centre, atol=1.5)
        assert face.landmarks[1, 2] < face.landmarks[234, 2]  # the nose is nearer: depth is ours, not the network's


def test_follows_within_the_neighbourhood_and_loses_what_is_gone(analyser: InsightFaceAnalyser) -> None:
    first = analyser.detect(spots((8, 8)))[0]
    big = first.landmarks.copy()
    big[:, :2] = (big[:, :2] - big[:, :2].mean(0)) * 3.2 + 300
    rgb = np.zeros((640, 640, 3), np.uint8)
    rgb[235:365, 235:365] = 255
    followed = analyser.follow(rgb, big)
    assert followed is not None and followed.score > 0.5
    assert np.hypot(*(followed.landmarks[:, :2].mean(0) - 300)) < 80  # the detector's cells are 51 px here
    assert (followed.box[:2] < 300).all() and (followed.box[2:] > 300).all()
    assert analyser.follow(np.zeros((640, 640, 3), np.uint8), big) is None
    assert analyser.follow(rgb, big + np.array([5000, 0, 0], np.float32)) is None


def test_embedding_is_of_unit_length_and_sees_the_face_only(analyser: InsightFaceAnalyser) -> None:
    landmarks = analyser.detect(spots((8, 8)))[0].landmarks
    rgb = np.zeros((640, 640, 3), np.uint8)
    rgb[200:312, 200:312] = (200, 80, 20)
    one = analyser.embed(rgb, landmarks)
    assert one.shape == (512,) and np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    elsewhere = rgb.copy()
    elsewhere[450:] = 255
    np.testing.assert_allclose(analyser.embed(elsewhere, landmarks), one, atol=1e-5)
    other = rgb.copy()
    other[200:312, 200:312] = (20, 80, 200)
    assert float(one @ analyser.embed(other, landmarks)) < 0.9


def test_loads_by_name(folder: Path) -> None:
    assert load_analyser("insightface", folder).name == "insightface"
    with pytest.raises(UsageError, match="dlib"):
        load_analyser("dlib", folder)


def test_missing_files_are_named_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="det_10g.onnx, 1k3d68.onnx, w600k_r50.onnx") as caught:
        InsightFaceAnalyser(tmp_path)
    assert "talkswap download" in caught.value.hint
    (tmp_path / DETECTOR).write_bytes(b"x")
    with pytest.raises(WeightsMissingError) as caught:
        InsightFaceAnalyser(tmp_path)
    assert DETECTOR not in caught.value.message


def test_damaged_and_exchanged_files_are_named(folder: Path, tmp_path: Path) -> None:
    for name in (DETECTOR, LANDMARKS, RECOGNITION):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / LANDMARKS).write_bytes(b"no onnx at all")
    with pytest.raises(WeightsCorruptError, match=LANDMARKS):
        InsightFaceAnalyser(tmp_path)
    (tmp_path / LANDMARKS).write_bytes((folder / RECOGNITION).read_bytes())
    with pytest.raises(WeightsCorruptError, match="landmark_3d_68"):
        InsightFaceAnalyser(tmp_path)


def test_cuda_without_cuda_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="CUDA"):
        InsightFaceAnalyser(folder, "cuda")


def posed(coefficients: FloatArray, yaw: float, size: float = 70.0) -> FloatArray:
    """A face of our own shape statistics, turned and placed in a picture."""
    mean = mean_face()
    shape = mean.points + np.tensordot(coefficients, mean.components[: len(coefficients)], 1)
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    return (shape @ turn.T * size + np.array([300, 200, 0])).astype(np.float32)


@pytest.mark.parametrize("yaw", [-35.0, 0.0, 35.0])
@pytest.mark.parametrize("depth", [-1.3, 1.0])
def test_dense_landmarks_come_back_from_68_points(yaw: float, depth: float) -> None:
    generator = np.random.default_rng(int(yaw) + 40)
    for _ in range(3):
        true = posed(generator.normal(size=12) * mean_face().deviations[:12], yaw)
        points = true[list(MESH_OF_68)] * np.array([1, 1, depth], np.float32) + np.array([0, 0, 40], np.float32)
        dense = dense_landmarks(points + generator.normal(size=(68, 3)).astype(np.float32) * 0.5)
        error = np.linalg.norm((dense - true)[:, :2], axis=1) / 70
        assert error.mean() < 0.035
        assert error[list(INNER_LIPS) + list(OUTER_LIPS)].mean() < 0.02
        assert error[list(FACE_OVAL)].mean() < 0.10
        quad, true_quad = ffhq_quad(dense), ffhq_quad(true)
        assert np.hypot(*(quad[0] - true_quad[0])) < 0.03 * np.hypot(*true_quad[1])


def test_an_open_mouth_stays_open() -> None:
    true = posed(np.zeros(1, np.float32), 0).copy()
    points = true[list(MESH_OF_68)]
    points[[57, 56, 58, 55, 59, 65, 66, 67], 1] += 14
    dense = dense_landmarks(points)
    gap = dense[14, 1] - dense[13, 1]
    assert gap == pytest.approx(true[14, 1] - true[13, 1] + 14, abs=3)


def test_without_the_package_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "insightface.model_zoo", None)
    with pytest.raises(DependencyError) as caught:
        InsightFaceAnalyser(folder)
    assert "talkswap[paper]" in caught.value.hint
