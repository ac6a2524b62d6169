"""GFPGAN: a face restorer, the "Restore" of the paper's cascades (Wang et al., 2021)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from talkswap.faces.arcface import five_points, similarity
from talkswap.systems.cascade.inswapper import lay_back
from talkswap.systems.cascade.parts import OnnxNetwork
from talkswap.types import FloatArray, UInt8Image

SIZE = 512  # px
POINTS = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ],
    np.float32,
)  # where the restorer wants eyes, nose tip and mouth corners


class Restorer:
    """A GFPGAN network in ONNX form: one input (1 3 512 512, RGB in [-1, 1]), the restored square as answer.

    Args:
        path: the network's ``.onnx`` file.
        threads: CPU threads.

    Raises:
        InputMissingError, DependencyError, WeightsCorruptError: as :class:`~talkswap.systems.cascade.parts.OnnxNetwork`.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self._network = OnnxNetwork(path, {"": (1, 3, SIZE, SIZE)}, threads)

    def __call__(self, crop: UInt8Image, landmarks: FloatArray) -> UInt8Image:
        """A crop (S S 3; landmarks 478 3 px) with its face restored."""
        affine = similarity(five_points(landmarks), POINTS).astype(np.float64)
        square = cv2.warpAffine(crop, affine, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        made = self._network(square.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)[0]
        picture = ((np.clip(made, -1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)
        back, cover = lay_back(np.ascontiguousarray(picture), affine, crop.shape[0])
        return np.asarray(cv2.blendLinear(back, crop, cover, 1 - cover), np.uint8)
