"""Find, follow and recognise faces: one protocol, our own compact networks behind it, and a choice by name.

The compact analyser puts three small networks together.  The detector says roughly where faces are, the landmark
network draws each one's mesh, and the identity network says who it is.  Following a face needs the second alone.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from talkswap.checkpoints.preset_folder import PresetFolder, network_folder, verified_folder
from talkswap.errors import DeviceError, UsageError
from talkswap.faces.detector import Detection, FaceDetector, load_detector
from talkswap.faces.geometry import box_around, ffhq_affine, warp_crop
from talkswap.faces.identity import load_identity
from talkswap.faces.landmarks import LandmarkReader, affine_from_landmarks, load_landmarks, square_affine
from talkswap.types import Face, FloatArray, UInt8Image

ANALYSERS = ("compact", "insightface")
BUFFALO = "insightface/models/buffalo_l"  # inside a preset folder
IDENTITY_CROP = 192  # px: FFHQ crop that the identity network cuts its own, smaller square from


class FaceAnalyser(Protocol):
    """Finds faces and their 478 landmarks."""

    name: str

    def detect(self, rgb: UInt8Image) -> list[Face]:
        """All faces of a picture (H W 3 uint8), best score first, each with 478 landmarks in px of the picture."""

    def follow(self, rgb: UInt8Image, landmarks: FloatArray) -> Face | None:
        """The face again, starting from where its landmarks (478 3) were one frame before; no detector runs.

        Returns None where there is no face any more.
        """

    def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
        """Who the face with these landmarks (478 3, px of ``rgb``) is: a vector of unit length."""


class CompactAnalyser:
    """Finds, follows and recognises faces with the compact weights.

    Args:
        folder: where detector, landmarks and identity lie (``*.safetensors`` with ``*.json`` beside each), themselves or
            in its folder ``faces``; or a function that gives the folder of each ``faces/NAME``.
        device: a torch device; the caller chooses how many threads a CPU uses (``torch.set_num_threads``).
        threshold: lowest score of a detection.
        presence: lowest presence, as the landmark network sees it, of a face.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: a file does not fit its network.
        DeviceError: the device is not available.
    """

    name = "compact"

    def __init__(
        self,
        folder: Path | Callable[[str], Path],
        device: str = "cpu",
        threshold: float = 0.5,
        presence: float = 0.5,
    ) -> None:
        place = folder if callable(folder) else lambda network: folder
        detector, landmarks = load_detector(place("faces/detector")), load_landmarks(place("faces/landmarks"))
        self._identity = load_identity(place("faces/identity"))
        try:
            for network in (detector, landmarks, self._identity):
                fold_normalisation(network).to(torch.device(device)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"the device {device} is not available", "use --device cpu") from error
        self._detector = FaceDetector(detector, threshold)
        self._reader = LandmarkReader(landmarks)
        self._presence = presence

    def detect(self, rgb: UInt8Image) -> list[Face]:
        """All faces of a picture (H W 3), best score first; without embeddings."""
        faces = [face for detection in self._detector(rgb) if (face := self._read(rgb, detection)) is not None]
        return sorted(faces, key=lambda face: -face.score)

    def _read(self, rgb: UInt8Image, detection: Detection) -> Face | None:
        """Dense landmarks of a detection: once from its points, once more from the square of the first answer."""
        left, right, _, mouth = detection.points
        rough, presence = self._reader(rgb, square_affine(left, right, mouth, self._reader.size))
        # "not >=" and isfinite: a network may answer with nan, which fails every comparison.
        if not (presence >= self._presence and np.isfinite(rough).all()):
            return None
        face = self.follow(rgb, rough)
        return None if face is None else Face(face.box, min(detection.score, face.score), face.landmarks)

    def follow(self, rgb: UInt8Image, landmarks: FloatArray) -> Face | None:
        """The same face in the next frame.

        Args:
            rgb: H W 3.
            landmarks: 478 3 px, where the face was one frame before.

        Returns:
            The face, its score being the network's presence; None when it is no longer there.
        """
        points, presence = self._reader(rgb, affine_from_landmarks(landmarks, self._reader.size))
        if not (presence >= self._presence and np.isfinite(points).all()):
            return None
        height, width = rgb.shape[:2]
        x, y = points[:, :2].mean(0)
        if not (0 <= x < width and 0 <= y < height):
            return None
        return Face(box_around(points), presence, points)

    @torch.inference_mode()
    def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
        """Identity (256, unit length) of the face with these landmarks (478 3, px of ``rgb``)."""
        crop = warp_crop(rgb, ffhq_affine(landmarks, IDENTITY_CROP), IDENTITY_CROP)
        parameter = next(self._identity.parameters())
        tensor = torch.from_numpy(crop).to(parameter.device).permute(2, 0, 1)[None].float() / 127.5 - 1  # 1 3 S S
        return np.asarray(self._identity(tensor)[0].float().cpu().numpy(), np.float32)


def fold_normalisation(module: nn.Module) -> nn.Module:
    """Merge every batch normalisation into the convolution before it, in place; the module must be in evaluation mode.

    Saves a pass over memory per layer: a third of the time of the landmark network on a CPU.
    """
    names = list(module._modules)
    for name, following in zip(names, names[1:], strict=False):
        convolution, norm = module._modules[name], module._modules[following]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module._modules[name] = fuse_conv_bn_eval(convolution, norm)
            module._modules[following] = nn.Identity()
    for child in module.children():
        fold_normalisation(child)
    return module


def load_analyser(name: str, weights: PresetFolder | Path, device: str = "cpu") -> FaceAnalyser:
    """The analyser called ``name``.

    Args:
        name: one of :data:`ANALYSERS`.
        weights: a preset, whose folders are all searched and whose files are verified; or one plain folder that holds
            the files themselves, loaded as they are.
        device: a torch device.

    Raises:
        UsageError: no analyser has that name.
        WeightsMissingError: a file is nowhere.
        WeightsCorruptError: a file is not what its manifest states.
    """
    if name == "compact":
        return CompactAnalyser(
            partial(network_folder, weights) if isinstance(weights, PresetFolder) else weights, device
        )
    if name == "insightface":
        from talkswap.faces.insightface import DETECTOR, LANDMARKS, RECOGNITION, InsightFaceAnalyser

        if isinstance(weights, PresetFolder):
            weights = verified_folder(weights, [f"{BUFFALO}/{file}" for file in (DETECTOR, LANDMARKS, RECOGNITION)])
        return InsightFaceAnalyser(weights, device)
    raise UsageError(f"no face analyser is called {name!r}", f"choose one of: {', '.join(ANALYSERS)}")
