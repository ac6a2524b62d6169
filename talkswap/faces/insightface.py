"""The insightface analyser: buffalo_l's detector, 68 three-dimensional landmarks and recognition network.

buffalo_l knows 68 points and talkswap works with 478, so our own shape statistics fill in.  The mean face and its
components (``recipes/mean_face.py``) are fitted through the 68 points as a Gaussian model is conditioned on an
observation, and what still differs at eyes, brows, nose and lips is spread over their neighbours.  Following runs the
detector at a small size in the face's own neighbourhood only.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkswap.engine.onnx import onnx_errors
from talkswap.errors import DependencyError, DeviceError, WeightsCorruptError, WeightsMissingError
from talkswap.faces.geometry import (
    ARCFACE_POINTS,
    ARCFACE_SIZE,
    five_points,
    similarity_affine,
    spatial_similarity,
    warp_crop,
)
from talkswap.faces.mesh import mean_face
from talkswap.types import Face, FloatArray, UInt8Image

DETECTOR, LANDMARKS, RECOGNITION = "det_10g.onnx", "1k3d68.onnx", "w600k_r50.onnx"

# The mesh point under each of the 68: jaw from left to right in the picture, brows, nose, eyes, outer and inner lips.
MESH_OF_68 = (
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 81, 13, 311, 308, 402, 14, 178,
)  # fmt: skip
JAW = 17  # the first points lie on the outline, which slides over the skin as the head turns
NOSE_TIP = 30


@lru_cache(maxsize=1)
def _observation() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(mean 68 3, components 68*3 K, trust 68 3 = 1 / variance in squared eye distances)."""
    mean, observed = mean_face(), list(MESH_OF_68)
    basis = mean.components[:, observed].reshape(len(mean.components), -1).T.astype(np.float64)
    deviation = np.full((68, 3), 0.02)
    deviation[:JAW] = 0.08
    deviation[:, 2] = 0.12  # depth is each network's own guess
    return mean.points[observed].astype(np.float64), basis, deviation**-2.0


@lru_cache(maxsize=1)
def _spread() -> NDArray[np.float64]:
    """478 51: how much of the features' remaining error each mesh point takes over; rows sum to at most one."""
    points = mean_face().points.astype(np.float64)
    anchors = points[list(MESH_OF_68[JAW:])]
    squared = ((points[:, None] - anchors[None]) ** 2).sum(2)
    weights = np.exp(-squared / (2 * 0.1**2))
    return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), 0.6))


def dense_landmarks(points: FloatArray) -> FloatArray:
    """The 478 mesh points that belong to 68 three-dimensional ones.

    Args:
        points: 68 3 in px; depth may count toward the viewer or away.

    Returns:
        478 3 in px, depth toward the viewer negative.
    """
    observed = np.asarray(points, np.float64).copy()
    if observed[[0, 16], 2].mean() < observed[NOSE_TIP, 2]:
        observed[:, 2] *= -1  # the nose is nearer than the ears
    observed[:, 2] -= observed[:, 2].mean()
    mean = mean_face()
    middle, basis, trust = _observation()
    flat_trust = trust.reshape(-1)
    prior = np.diag(1 / mean.deviations.astype(np.float64) ** 2)
    gain = np.linalg.solve(basis.T @ (flat_trust[:, None] * basis) + prior, basis.T * flat_trust)  # K 68*3
    shape, coefficients = middle, np.zeros(len(mean.deviations))
    for _ in range(4):  # pose given shape, shape given pose
        scale, rotation, shift = spatial_similarity(shape, observed, trust[:, 0])
        upright = (observed - shift) @ rotation / scale
        coefficients = gain @ (upright - middle).reshape(-1)
        shape = middle + (basis @ coefficients).reshape(-1, 3)
    dense = mean.points.astype(np.float64) + np.tensordot(coefficients, mean.components.astype(np.float64), 1)
    # The shape space is smoother than real lips and lids: hand what it can't express to the points around.
    rest = (upright - shape)[JAW:]
    rest[:, 2] = 0
    dense += _spread() @ rest
    return np.asarray(scale * dense @ rotation.T + shift, np.float32)


class InsightFaceAnalyser:
    """Finds, follows and recognises faces with buffalo_l.

    Args:
        folder: where buffalo_l's onnx files lie.
        device: ``cpu`` or ``cuda``.
        threshold: lowest score of a face.
        side: px of the square that the detector sees.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: a file cannot be read as that network.
        DependencyError: the insightface package is not installed.
        DeviceError: the device is not one that onnxruntime has here.
    """

    name = "insightface"

    def __init__(self, folder: Path, device: str = "cpu", threshold: float = 0.5, side: int = 640) -> None:
        missing = [name for name in (DETECTOR, LANDMARKS, RECOGNITION) if not (folder / name).is_file()]
        if missing:
            raise WeightsMissingError(f"{', '.join(missing)} not found in {folder}", "run `talkswap download`")
        self._threshold, self._side = threshold, side
        self._detector = self._load(folder / DETECTOR, device, "detection")
        self._detector.prepare(-1 if device == "cpu" else 0, input_size=(side, side), det_thresh=threshold)
        self._landmarks = self._load(folder / LANDMARKS, device, "landmark_3d_68")
        self._recognition = self._load(folder / RECOGNITION, device, "recognition")

    @staticmethod
    def _load(path: Path, device: str, task: str) -> Any:
        try:
            import onnxruntime
            from insightface.model_zoo import get_model
        except ImportError as error:
            raise DependencyError(
                "the insightface package is not installed",
                'run `pip install "talkswap[paper]"`, or use --preset compact',
            ) from error
        providers = ["CPUExecutionProvider"]
        if device.startswith("cuda"):
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise DeviceError(
                    "onnxruntime has no CUDA on this machine",
                    "install onnxruntime-gpu in place of onnxruntime, or use --device cpu",
                )
            providers.insert(0, "CUDAExecutionProvider")
        onnxruntime.set_default_logger_severity(3)
        hint = "delete it and run `talkswap download`"
        damaged: tuple[type[BaseException], ...] = (RuntimeError, ValueError, AssertionError, *onnx_errors())
        try:
            model = get_model(str(path), providers=providers)
        except damaged as error:
            raise WeightsCorruptError(f"{path} cannot be read as an onnx network", hint) from error
        if getattr(model, "taskname", None) != task:
            raise WeightsCorruptError(f"{path} is not buffalo_l's {task} network", hint)
        return model

    def detect(self, rgb: UInt8Image) -> list[Face]:
        """All faces of a picture (H W 3), best score first; without embeddings."""
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        boxes, _ = self._detector.detect(bgr)
        faces = [self._read(bgr, box) for box in boxes if box[4] >= self._threshold]
        return sorted(faces, key=lambda face: -face.score)

    def _read(self, bgr: UInt8Image, box: FloatArray) -> Face:
        from insightface.app.common import Face as InsightFace

        points = self._landmarks.get(bgr, InsightFace(bbox=np.asarray(box[:4], np.float32)))
        return Face(np.asarray(box[:4], np.float32), float(box[4]), dense_landmarks(points))

    def follow(self, rgb: UInt8Image, landmarks: FloatArray) -> Face | None:
        """The same face in the next frame, searched within one face's size around its last place.

        Args:
            rgb: H W 3.
            landmarks: 478 3 px, where the face was one frame before.

        Returns:
            The face, or None when it is no longer there.
        """
        low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
        reach = float((high - low).max())
        middle = (low + high) / 2
        x0, y0 = np.maximum(np.floor(middle - reach), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(middle + reach), [rgb.shape[1], rgb.shape[0]]).astype(int)
        if x1 - x0 < 8 or y1 - y0 < 8:
            return None
        cut = np.ascontiguousarray(rgb[y0:y1, x0:x1, ::-1])
        small = (min(self._side, 192),) * 2
        boxes, _ = self._detector.detect(cut, input_size=small)
        start = np.array([x0, y0], np.float32)
        # Another face may be in the cut: only one whose middle stays close is the same.
        near = [
            b for b in boxes if b[4] >= self._threshold and np.hypot(*(b[:2] + b[2:4]) / 2 + start - middle) < reach / 2
        ]
        if not near:
            return None
        face = self._read(cut, max(near, key=lambda box: float(box[4])))
        moved = np.array([x0, y0, 0], np.float32)
        return Face(face.box + np.tile(start, 2), face.score, face.landmarks + moved)

    def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
        """ArcFace vector (512, unit length) of the face with these landmarks (478 3, px of ``rgb``)."""
        affine = similarity_affine(five_points(landmarks), ARCFACE_POINTS)
        crop = warp_crop(rgb, affine, ARCFACE_SIZE)
        vector = self._recognition.get_feat(np.ascontiguousarray(crop[:, :, ::-1]))[0]
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)
