"""The judge of identity: a face recognition network that turns pictures of faces into unit vectors.

Any network of ArcFace's signature will do: an onnx file, RGB 1x3x112x112 as x / 127.5 - 1, eyes, nose tip and mouth
corners at ArcFace's five places, one vector per face.  The first of these at hand judges: the file that the user names;
buffalo_l's ``w600k_r50.onnx``, downloaded by us or by insightface; our own compact identity network.

Equation 17 of the SwapTalk paper wants a network that took no part in training.  The compact network was the identity
loss of all compact networks and breaks that condition: its figures are marked and prove no likeness.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from talkswap.checkpoints.manifest import read_catalogue
from talkswap.checkpoints.preset_folder import has, network_folder, verify, weight_hashes
from talkswap.checkpoints.presets import find_preset, preset_state
from talkswap.engine.onnx import OnnxNetwork
from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.identity import EVERY
from talkswap.evaluation.metrics.metric import Crops, Judge, check_crops, check_landmarks, has_face, sampled
from talkswap.faces.geometry import ARCFACE_POINTS, ARCFACE_SIZE, ffhq_affine, five_points, similarity_affine, warp_crop
from talkswap.faces.identity import load_identity
from talkswap.faces.insightface import RECOGNITION
from talkswap.files import file_sha256
from talkswap.types import FloatArray, UInt8Image

CROP = 320  # px of the FFHQ crop that the compact network is given
PUBLISHED = f"insightface/models/buffalo_l/{RECOGNITION}"  # in the paper preset's folder
OWN = Path(".insightface/models/buffalo_l") / RECOGNITION  # below the home folder, where insightface downloads to


class IdentityJudge(Protocol):
    """A network that tells who is in a picture."""

    judge: Judge

    def __call__(self, pictures: list[UInt8Image], landmarks: FloatArray) -> FloatArray:
        """Unit vectors (N D) of N pictures with one face each.

        Args:
            pictures: H W 3.
            landmarks: N 478 3 in px of the pictures.
        """
        ...


class OnnxIdentity:
    """A recognition network of ArcFace's signature, run on the CPU.

    Args:
        path: the onnx file.
        threads: of onnxruntime.

    Raises:
        WeightsMissingError: there is no such file.
        WeightsCorruptError: it is no onnx network of that signature.
        DependencyError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        hint = "give a network that takes RGB faces as 1 3 112 112 and returns one vector each, as ArcFace does"
        self._network = OnnxNetwork(path, {"": (None, 3, ARCFACE_SIZE, ARCFACE_SIZE)}, threads, hint)
        # Some published files have a fixed batch of one.
        self._one_by_one = self._network.shapes[0][0] == 1
        digest = file_sha256(path)
        published = digest == published_hash()
        note = "" if published else "Only its user can know whether the judging network took part in training"
        self.judge = Judge("identity", "ArcFace w600k_r50" if published else path.stem, published, digest, note)

    def __call__(self, pictures: list[UInt8Image], landmarks: FloatArray) -> FloatArray:
        faces = np.stack([aligned_face(rgb, points) for rgb, points in zip(pictures, landmarks, strict=True)])
        # ArcFace's input: RGB, channels first, -1 to 1.
        tensor = np.ascontiguousarray(faces.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - 1
        batches = [tensor[k : k + 1] for k in range(len(tensor))] if self._one_by_one else [tensor]
        vectors = np.concatenate([self._network(batch).reshape(len(batch), -1) for batch in batches])
        return unit(vectors)


class CompactIdentity:
    """The compact preset's own identity network, if no other is at hand.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """

    def __init__(self) -> None:
        preset = find_preset("compact")
        self._network = load_identity(network_folder(preset, "faces/identity"))
        self.judge = Judge(
            kind="identity",
            name="compact identity network",
            comparable=False,
            sha256=weight_hashes(preset).get("faces/identity.safetensors", ""),
            note="It took part in training, which breaks equation 17's condition: give --identity-network",
        )

    @torch.inference_mode()
    def __call__(self, pictures: list[UInt8Image], landmarks: FloatArray) -> FloatArray:
        crops = [
            warp_crop(rgb, ffhq_affine(points, CROP), CROP) for rgb, points in zip(pictures, landmarks, strict=True)
        ]
        tensor = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return np.asarray(self._network(tensor).numpy(), np.float32)


def aligned_face(rgb: UInt8Image, landmarks: FloatArray) -> UInt8Image:
    """ArcFace's crop (112 112 3) of the face with these landmarks (478 3, px of the picture)."""
    return warp_crop(rgb, similarity_affine(five_points(landmarks), ARCFACE_POINTS), ARCFACE_SIZE)


def unit(vectors: FloatArray) -> FloatArray:
    """Vectors (N D) scaled to length one."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def published_hash() -> str:
    """sha256 of buffalo_l's recognition network, as the catalogue states it."""
    members = (member for entry in read_catalogue() for member in entry.members)
    return next((member.record.sha256 for member in members if member.record.file == PUBLISHED), "")


def load_identity_judge(file: Path | None = None) -> IdentityJudge:
    """The best judge on this machine; its :class:`Judge` says whether its figures are comparable with published ones.

    Args:
        file: an onnx file that the user names.

    Raises:
        WeightsMissingError, WeightsCorruptError, DependencyError: a file is missing or damaged, or needs onnxruntime,
            which isn't installed.
    """
    if file is not None:
        return OnnxIdentity(file)
    paper = preset_state("paper")
    if any(has(folder, PUBLISHED) for folder in paper.folders):
        return OnnxIdentity(verify(paper, PUBLISHED))
    own = Path.home() / OWN
    if own.is_file() and file_sha256(own) == published_hash():
        return OnnxIdentity(own)
    return CompactIdentity()


def embed_frames(
    judge: IdentityJudge, crops: Crops, landmarks: FloatArray, every: int = EVERY, batch: int = 16
) -> FloatArray:
    """The persons in a clip's frames.

    Args:
        crops: N S S 3.
        landmarks: N 478 3 in px of the crops, nan where no face is; they align the face for the network.
        every: stride in frames.

    Returns:
        float32 M D, unit length, of each ``every``-th frame; nan where it has no face.

    Raises:
        TrainingDataError: none of them has one, or the shapes do not fit.
    """
    check_crops(crops)
    check_landmarks(landmarks)
    if len(crops) != len(landmarks):
        raise TrainingDataError(f"{len(crops)} crops with {len(landmarks)} landmarks", "give one each")
    rows = sampled(len(crops), every)
    faces = np.flatnonzero(has_face(landmarks[rows]))
    if len(faces) == 0:
        raise TrainingDataError("no frame shows a face", "check the clip")
    # Small batches keep memory even; a recognition network gains nothing from large ones on a CPU.
    batches = [rows[faces[k : k + batch]] for k in range(0, len(faces), batch)]
    vectors = np.concatenate([judge([np.asarray(crops[row]) for row in part], landmarks[part]) for part in batches])
    persons = np.full((len(rows), vectors.shape[1]), np.nan, np.float32)
    persons[faces] = vectors
    return persons
