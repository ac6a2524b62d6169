"""Proxy face swaps: teachers that turn a source and a target into Res, what the swap module learns from (eq. 8).

``mesh`` is ours and needs no weights; ``inswapper`` runs the network that the paper's authors used through Roop, where
its file is present.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from talkswap.data.identity import five_points, similarity
from talkswap.data.onnx_file import last_initialiser
from talkswap.errors import DependencyError, InputMissingError, UsageError, WeightsCorruptError
from talkswap.faces.guide import FaceGuide, GuideConfig, fit_pose
from talkswap.faces.mask import face_mask
from talkswap.types import AlignedFace, FloatArray, UInt8Image

ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)  # eyes, nose tip and mouth corners in ArcFace's 112 px square


class Proxy(Protocol):
    """A face swap that needs no training of ours."""

    name: str

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        """The target's crop (S S 3 uint8) with the source's face."""
        ...


class MeshProxy:
    """Dense-landmark texture warp with the source's proportions and the target's light
    (:mod:`talkswap.faces.guide`).
    """

    name = "mesh"

    def __init__(self, config: GuideConfig | None = None) -> None:
        self.config = config or GuideConfig()

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        return FaceGuide(source.crop, source.landmarks, self.config).lay(target.crop, target.landmarks).crop


class InswapperProxy:
    """An inswapper network in ONNX form.

    Its two inputs are ``target`` (1 3 128 128, RGB in [0, 1], ArcFace alignment) and ``source`` (1 512, an ArcFace
    embedding times the square matrix stored as the graph's last initialiser, then of unit length); it answers with the
    swapped square.

    Args:
        path: the network's ``.onnx`` file.
        embedder: an ArcFace network (``.onnx``) of 512 numbers for 112 px squares, RGB in [-1, 1].
        threads: CPU threads.

    Raises:
        InputMissingError: a file is not there.
        DependencyError: onnxruntime is not installed.
        WeightsCorruptError: the graph has other inputs, or no matrix of the embedding's size.
    """

    name = "inswapper"
    size = 128

    def __init__(self, path: Path, embedder: Path, threads: int = 1) -> None:
        for file in (path, embedder):
            if not file.is_file():
                raise InputMissingError(f"no proxy network at {file}", "use --proxy mesh, which needs no file")
        try:
            import onnxruntime
        except ImportError as error:
            raise DependencyError("the inswapper proxy needs onnxruntime", "pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._embedder: Any = onnxruntime.InferenceSession(str(embedder), options, providers=providers)
        names = {entry.name for entry in self._session.get_inputs()}
        matrix = last_initialiser(path)
        if names != {"target", "source"} or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise WeightsCorruptError(f"{path.name} is not an inswapper network", "fetch the file again")
        self._matrix = matrix

    def embed(self, face: AlignedFace) -> FloatArray:
        """The source as the network wants it (1 512)."""
        affine = similarity(five_points(face.landmarks), ARCFACE_POINTS).astype(np.float64)
        square = cv2.warpAffine(face.crop, affine, (112, 112), flags=cv2.INTER_LINEAR)
        tensor = square.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
        name = self._embedder.get_inputs()[0].name
        vector = self._embedder.run(None, {name: tensor})[0].reshape(1, -1) @ self._matrix
        return np.asarray(vector / np.linalg.norm(vector), np.float32)

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        # The network's square is ArcFace's 112 px one enlarged, with the eight px that remain on both sides.
        scale = self.size / 128
        points = (ARCFACE_POINTS + np.array([8.0, 0.0], np.float32)) * scale
        affine = similarity(five_points(target.landmarks), points).astype(np.float64)
        square = cv2.warpAffine(target.crop, affine, (self.size, self.size), flags=cv2.INTER_AREA)
        tensor = square.transpose(2, 0, 1)[None].astype(np.float32) / 255
        made = self._session.run(None, {"target": tensor, "source": self.embed(source)})[0][0]
        picture = np.clip(made.transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
        side = target.crop.shape[0]
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        back = cv2.warpAffine(picture, affine, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        inside = cv2.warpAffine(
            np.ones((self.size, self.size), np.float32),
            affine,
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        mask = np.ascontiguousarray(face_mask(target.landmarks, side) * inside)
        return np.asarray(cv2.blendLinear(np.asarray(back, np.uint8), target.crop, mask, 1 - mask), np.uint8)


def load_proxy(name: str, inswapper: Path | None = None, embedder: Path | None = None) -> Proxy:
    """``mesh`` or ``inswapper``; the latter wants both files.

    Raises:
        UsageError: no such proxy, or its files were not given.
    """
    if name == "mesh":
        return MeshProxy()
    if name != "inswapper":
        raise UsageError(f"no proxy named {name!r}", "proxies are mesh and inswapper")
    if inswapper is None or embedder is None:
        raise UsageError(
            "the inswapper proxy needs two files", "give the inswapper and the ArcFace file, or use --proxy mesh"
        )
    return InswapperProxy(inswapper, embedder)


def yaw(landmarks: FloatArray) -> float:
    """How far a head is turned, degrees, positive toward the right of the picture."""
    turn = fit_pose(landmarks).turn
    return float(-np.degrees(np.arctan2(turn[0, 2], turn[2, 2])))


def compatible(
    source_yaw: float, target_yaw: float, source_limit: float = 35.0, target_limit: float = 55.0, between: float = 50.0
) -> bool:
    """Whether the mesh proxy can make this pair: it cannot show skin that the source photo does not (angles in
    degrees).
    """
    return (
        abs(source_yaw) <= source_limit and abs(target_yaw) <= target_limit and abs(source_yaw - target_yaw) <= between
    )
