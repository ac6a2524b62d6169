"""inswapper: the face swap that Roop runs, one 128 px square at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from talkswap.errors import WeightsCorruptError
from talkswap.faces.arcface import ARCFACE_POINTS, ARCFACE_SIZE, five_points, similarity
from talkswap.systems.cascade.onnx_file import last_initialiser
from talkswap.systems.cascade.parts import OnnxNetwork
from talkswap.types import AlignedFace, FloatArray, UInt8Image

SIZE = 128  # px
# The network's square is ArcFace's 112 px one enlarged, with the eight px that remain on both sides.
SQUARE_POINTS = ARCFACE_POINTS + np.array([8.0, 0.0], np.float32)


class Inswapper:
    """An inswapper network in ONNX form with the ArcFace network that it listens to.

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

    def __init__(self, path: Path, embedder: Path, threads: int = 1) -> None:
        self._network = OnnxNetwork(path, {"target": (1, 3, SIZE, SIZE), "source": (1, 512)}, threads)
        self._embedder = OnnxNetwork(embedder, {"": (None, 3, ARCFACE_SIZE, ARCFACE_SIZE)}, threads)
        self._matrix = last_initialiser(path)
        if self._matrix.ndim != 2 or self._matrix.shape[0] != self._matrix.shape[1]:
            raise WeightsCorruptError(f"{path.name} is not an inswapper network", "fetch the file again")

    def recognise(self, crop: UInt8Image, landmarks: FloatArray) -> FloatArray:
        """ArcFace's vector (512, unit length) of a face in a crop (S S 3; landmarks 478 3 px)."""
        affine = similarity(five_points(landmarks), ARCFACE_POINTS).astype(np.float64)
        square = cv2.warpAffine(crop, affine, (ARCFACE_SIZE, ARCFACE_SIZE), flags=cv2.INTER_LINEAR)
        vector = self._embedder(square.transpose(2, 0, 1)[None] / 127.5 - 1).reshape(-1)
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)

    def embed(self, faces: Sequence[AlignedFace]) -> FloatArray:
        """The source as the network wants it (1 512): the mean of one or more photos of a person."""
        mean = np.mean([self.recognise(face.crop, face.landmarks) for face in faces], axis=0)
        vector = mean[None] @ self._matrix
        return np.asarray(vector / np.linalg.norm(vector), np.float32)

    def swap(self, source: FloatArray, crop: UInt8Image, landmarks: FloatArray) -> tuple[UInt8Image, FloatArray]:
        """A crop's face in the source's likeness.

        Args:
            source: 1 512, from :meth:`embed`.
            crop: S S 3.
            landmarks: 478 3, px of the crop.

        Returns:
            (the square's answer in the crop's place, S S 3; how much of each px the square covers, S S in [0, 1]).
        """
        affine = similarity(five_points(landmarks), SQUARE_POINTS).astype(np.float64)
        square = cv2.warpAffine(crop, affine, (SIZE, SIZE), flags=cv2.INTER_AREA)
        made = self._network(square.transpose(2, 0, 1)[None] / np.float32(255), source)[0]
        picture = np.clip(made.transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
        return lay_back(picture, affine, crop.shape[0])


def lay_back(square: UInt8Image, affine: np.ndarray, side: int) -> tuple[UInt8Image, FloatArray]:
    """A square in its place of the crop that it was cut from, and its cover.

    Args:
        square: A A 3.
        affine: 2 3, crop px -> square px.
        side: px of the crop.
    """
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    back = cv2.warpAffine(square, affine, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(
        np.ones(square.shape[:2], np.float32), affine, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return np.asarray(back, np.uint8), np.asarray(cover, np.float32)
