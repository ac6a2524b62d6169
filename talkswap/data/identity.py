"""Labels for the identity network: a teacher's embedding of every prepared crop, and of new people mixed from two.

A teacher runs forward only and once per picture; its answers lie beside the cache as ``identity-NAME.npy``, so that a
training run reads them instead of paying 11 ms per picture again.
"""

import json
from pathlib import Path

import cv2
import numpy as np

from talkswap.engine.onnx import OnnxNetwork
from talkswap.errors import TrainingDataError
from talkswap.faces.geometry import five_points, similarity_affine
from talkswap.types import FloatArray, UInt8Image

TEACHER_FILE = "identity_reid.onnx"
TEACHER_SIZE = 128  # px
TEACHER_POINTS = np.array(
    [[0.3156, 0.4616], [0.6827, 0.4616], [0.5003, 0.6405], [0.3495, 0.8247], [0.6534, 0.8233]], np.float32
)  # eyes, nose tip, mouth corners, as parts of the teacher's square


def mirrored(rgb: UInt8Image, landmarks: FloatArray) -> tuple[UInt8Image, FloatArray]:
    """The picture and its five points flipped left to right; the points keep the order "left in the picture first"."""
    points = five_points(landmarks)[[1, 0, 2, 4, 3]]
    points[:, 0] = rgb.shape[1] - 1 - points[:, 0]
    return np.ascontiguousarray(rgb[:, ::-1]), points


class IdentityTeacher:
    """A face recognition network in ONNX form, run forward only.

    Args:
        points: 5 x 2, where eyes, nose tip and mouth corners must lie, px of the network's square.
        size: side of that square, px.

    Raises:
        WeightsMissingError, WeightsCorruptError, DependencyError: see :class:`~talkswap.engine.onnx.OnnxNetwork`.
    """

    def __init__(
        self, path: Path, points: FloatArray = TEACHER_POINTS * TEACHER_SIZE, size: int = TEACHER_SIZE, threads: int = 1
    ) -> None:
        hint = "point `teachers` at the folder that holds the identity teacher"
        self._network = OnnxNetwork(path, {"": (None, 3, size, size)}, threads, hint)
        self.points, self.size = points, size

    def cut(self, rgb: UInt8Image, points: FloatArray) -> UInt8Image:
        """The teacher's square of a picture whose five points are given in px."""
        affine = similarity_affine(points, self.points).astype(np.float64)
        square = (self.size, self.size)
        cut = cv2.warpAffine(rgb, affine, square, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(cut, np.uint8)

    def __call__(self, squares: np.ndarray) -> FloatArray:
        """Unit-length embeddings (N D) of N S S 3 uint8 squares."""
        tensor = np.ascontiguousarray(squares.transpose(0, 3, 1, 2)).astype(np.float32) / 127.5 - 1
        embedding = self._network(tensor).reshape(len(squares), -1)
        return (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32)


def blend_people(first: UInt8Image, second: UInt8Image, generator: np.random.Generator) -> UInt8Image:
    """A person who does not exist: parts of two aligned crops joined over a soft, randomly turned line or mixed evenly.

    Both crops are FFHQ-aligned, so eyes meet eyes and mouth meets mouth.
    """
    size = first.shape[0]
    if generator.random() < 0.3:
        weight = np.full((size, size, 1), generator.uniform(0.3, 0.7), np.float32)
    else:
        angle = generator.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
        line = np.cos(angle) * x + np.sin(angle) * (y - 0.05) - generator.uniform(-0.1, 0.1)
        weight = (1 / (1 + np.exp(-line / generator.uniform(0.02, 0.08))))[..., None]
    # Light is brought together at least half-way: a seam in brightness would give the blend away.
    mean_first, mean_second = first.mean((0, 1)), second.mean((0, 1))
    adapted = np.clip(second.astype(np.float32) + (mean_first - mean_second) * generator.uniform(0.5, 1), 0, 255)
    return np.round(first * (1 - weight) + adapted * weight).astype(np.uint8)


def label_folder(folder: Path, teacher_path: Path, out: Path, batch: int = 32) -> FloatArray:
    """Teacher embeddings (N 2 D: as it is, flipped) of a prepared folder's crops, read from ``out`` when they are
    there.

    Raises:
        TrainingDataError: no crops at ``folder``, or ``out`` belongs to other crops.
        WeightsMissingError: labels are to be made and there is no teacher.
    """
    if not (folder / "crops.npy").is_file():
        raise TrainingDataError(f"no prepared crops at {folder}", "run `talkswap data prepare` first")
    crops = np.load(folder / "crops.npy", mmap_mode="r")
    # An embedding costs 11 ms and never changes.
    if out.is_file():
        labels = np.load(out)
        if len(labels) != len(crops):
            raise TrainingDataError(f"{out} has {len(labels)} labels for {len(crops)} crops", "delete it to label anew")
        return np.asarray(labels, np.float32)
    landmarks = np.load(folder / "landmarks.npy")
    teacher = IdentityTeacher(teacher_path)
    pieces = []
    for start in range(0, len(crops), batch):
        squares = []
        for crop, points in zip(crops[start : start + batch], landmarks[start : start + batch], strict=True):
            squares.append(teacher.cut(crop, five_points(points)))
            squares.append(teacher.cut(*mirrored(crop, points)))
        vectors = teacher(np.stack(squares))  # 2B D
        pieces.append(vectors.reshape(-1, 2, vectors.shape[1]))
    labels = np.concatenate(pieces)  # N 2 D
    np.save(out, labels)
    return labels


def label_blends(folder: Path, teacher_path: Path, out: Path, count: int, size: int, seed: int) -> None:
    """Mix ``count`` people from pairs of a folder's crops; writes OUT-crops.npy (N size size 3) and OUT.npy (N 2 D).

    Raises:
        TrainingDataError: fewer than two crops to mix.
        InputMissingError: no teacher at ``teacher_path``.
    """
    teacher = IdentityTeacher(teacher_path)
    crops = np.load(folder / "crops.npy", mmap_mode="r")
    landmarks = np.load(folder / "landmarks.npy")
    if len(crops) < 2:
        raise TrainingDataError(f"{folder} holds {len(crops)} crops, too few to mix", "prepare more portraits")
    generator = np.random.default_rng(seed)
    pictures, labels = [], []
    for _ in range(count):
        a, b = generator.choice(len(crops), 2, replace=False)
        picture = blend_people(crops[a], crops[b], generator)
        # Both crops are aligned, so the blend's points lie between the two.
        points = (landmarks[a] + landmarks[b]) / 2
        labels.append(
            teacher(np.stack([teacher.cut(picture, five_points(points)), teacher.cut(*mirrored(picture, points))]))
        )
        pictures.append(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA))
    np.save(out.with_name(out.stem + "-crops.npy"), np.stack(pictures))
    np.save(out, np.stack(labels))


def verification(embeddings: FloatArray, groups: list[str]) -> dict[str, float]:
    """How well cosine tells people apart.

    Args:
        embeddings: N D, unit length.
        groups: N names; equal name = same person.

    Returns:
        area under the ROC curve (``auc``), mean cosine of same and of different pairs.
    """
    cosine = embeddings @ embeddings.T  # N N
    upper = np.triu_indices(len(groups), 1)
    names = np.array(groups)
    same = (names[:, None] == names[None])[upper]
    values = cosine[upper]
    # The area under the curve is the share of pairs in the right order (Mann and Whitney), which ranks give.
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1)
    positives, negatives = int(same.sum()), int((~same).sum())
    if not positives or not negatives:
        raise TrainingDataError("verification needs same and different pairs", "label at least two people twice")
    auc = (ranks[same].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return {"auc": float(auc), "same": float(values[same].mean()), "different": float(values[~same].mean())}


def people(meta: Path) -> list[str]:
    """One name per crop of a prepared folder: the stated identity, else the clip, else the picture itself."""
    return [row.get("identity") or row["name"] for row in json.loads(meta.read_text())]
