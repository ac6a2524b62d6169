"""Training pictures for the detector: labelled photographs, and composites of aligned faces on photographs without any.

A label is four points (eyes, nose, middle of the mouth); centre and side of the face's square follow from them by one
rule, so both sources agree.  Faces that only one of two labellers saw count neither as face nor as background.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from talkswap.data.face_views import STORED, StoredFaces, degrade, random_square, relight
from talkswap.data.portraits import listed_pictures
from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.faces.detector import STRIDE, face_square
from talkswap.faces.geometry import NOSE_TIP, eyes_and_mouth
from talkswap.types import FloatArray, UInt8Image

HELD_SCENES = 46  # the last of scenes.tar, kept for scores
DETECTOR_TEACHER_FILE = "face_detector_yunet.onnx"
SURE = 0.6  # score at which the teacher's face is a label
DOUBTFUL = 0.25  # score from which it is at least not background


@dataclass(frozen=True)
class Scene:
    """A picture with its faces."""

    rgb: UInt8Image
    faces: FloatArray  # N 4 2: eyes, nose, mouth in px
    ignored: FloatArray = field(default_factory=lambda: np.zeros((0, 4), np.float32))  # M: x0 y0 x1 y1


@dataclass(frozen=True)
class SceneConfig:
    """How the detector's pictures are made."""

    size: int = 256  # px
    smallest: float = 18.0  # side of a face's square, px
    largest: float = 300.0
    photographs: float = 0.3  # share of labelled photographs
    empty: float = 0.12  # share without any face
    most: int = 4  # faces pasted into one composite


def four_points(landmarks: FloatArray) -> FloatArray:
    """Eyes, nose tip and middle of the mouth (4 x 2) of 478 mesh points."""
    left, right, mouth = eyes_and_mouth(landmarks)
    return np.stack([left, right, landmarks[NOSE_TIP, :2], mouth]).astype(np.float32)


class DetectorTeacher:
    """YuNet through OpenCV, run forward only.

    Raises:
        InputMissingError: no file at ``path``.
    """

    def __init__(self, path: Path, threshold: float = SURE) -> None:
        if not path.is_file():
            raise InputMissingError(f"no detector teacher at {path}", "point `teachers` at the folder that holds it")
        self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)

    def __call__(self, rgb: UInt8Image) -> list[tuple[float, FloatArray, FloatArray]]:
        """(score, box x0 y0 x1 y1, points 4 x 2) of each face."""
        self._detector.setInputSize((rgb.shape[1], rgb.shape[0]))
        _, rows = self._detector.detect(np.ascontiguousarray(rgb[:, :, ::-1]))
        faces = []
        for row in [] if rows is None else rows:
            box = np.array([row[0], row[1], row[0] + row[2], row[1] + row[3]], np.float32)
            five = row[4:14].reshape(5, 2)
            points = np.stack([five[0], five[1], five[2], (five[3] + five[4]) / 2])
            faces.append((float(row[14]), box, points.astype(np.float32)))
        return faces


def label_scene(rgb: UInt8Image, rows: list[dict[str, Any]], teacher: DetectorTeacher | None) -> Scene:
    """Faces that the teacher is sure of; listed ones (``box``, ``points``) that it does not confirm are ignored.

    Without a teacher the listed faces are the labels.
    """
    listed = [np.array(row["box"], np.float32) for row in rows]
    # A listed face with too few points is somewhere, but can't be learned.
    if teacher is None:
        listed_points = [row["points"][:4] for row in rows if len(row["points"]) >= 4]
        unclear = [row["box"] for row in rows if len(row["points"]) < 4]
        return Scene(
            rgb, np.array(listed_points, np.float32).reshape(-1, 4, 2), np.array(unclear, np.float32).reshape(-1, 4)
        )
    faces, ignored = [], []
    sure_boxes = []
    for score, box, points in teacher(rgb):
        if score >= SURE:
            faces.append(points)
            sure_boxes.append(box)
        else:
            ignored.append(box)
    # A face that only the list knows may be a poster or a back of a head: neither face nor background.
    for box in listed:
        middle = (box[:2] + box[2:]) / 2
        if not any((sure[:2] < middle).all() and (middle < sure[2:]).all() for sure in sure_boxes):
            ignored.append(box)
    return Scene(rgb, np.array(faces, np.float32).reshape(-1, 4, 2), np.array(ignored, np.float32).reshape(-1, 4))


def read_scenes(folder: Path, teacher: DetectorTeacher | None) -> list[Scene]:
    """The labelled photographs of ``scenes.tar``, their labels checked by ``teacher`` when there is one."""
    listing, archive = folder / "scenes.json", folder / "scenes.tar"
    if not listing.is_file() or not archive.is_file():
        raise TrainingDataError(f"no labelled photographs at {folder}", "point `scenes` at the folder of scenes.tar")
    rows: dict[str, Any] = {row["name"]: row for row in json.loads(listing.read_text())}
    pictures = listed_pictures(archive, rows)
    return [label_scene(rgb, row["faces"], teacher) for row, rgb in pictures]


def transformed(points: FloatArray, affine: np.ndarray) -> FloatArray:
    """N x 2 points under a 2 x 3 affine."""
    return (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)


def targets(faces: FloatArray, ignored: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
    """What the network should answer for a ``size`` px picture.

    Returns:
        (answer 13 h w: closeness to a face's centre in [0, 1] with 1 at the centre cell, then the eleven figures of
        :class:`~talkswap.faces.detector.DetectorNetwork`, then the weight of those figures; counted h w: 0 where
        neither face nor background is to be learnt).
    """
    cells = size // STRIDE
    answer = np.zeros((13, cells, cells), np.float32)  # 13 h w
    counted = np.ones((cells, cells), np.float32)  # h w
    # Centres of the cells in px.
    y, x = np.mgrid[0:cells, 0:cells].astype(np.float32) * STRIDE + (STRIDE - 1) / 2
    for box in ignored:
        inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
        counted[inside] = 0
    for points in sorted(faces, key=lambda p: -face_square(p)[1]):  # the smaller, nearer one has the last word
        centre, side = face_square(points)
        column, row = (int(np.floor(v / STRIDE)) for v in centre + 0.5)
        if not (0 <= column < cells and 0 <= row < cells):
            continue
        distance = np.hypot(x - centre[0], y - centre[1])  # h w, px
        closeness = np.exp(-((distance / (0.14 * side)) ** 2))
        # Rounding leaves no cell exactly at the centre, and the loss needs one that is certain.
        closeness[row, column] = 1
        answer[0] = np.maximum(answer[0], closeness)
        near = (distance < max(0.1 * side, 0.75 * STRIDE)) | (closeness == 1)
        counted[row, column] = 1
        answer[1, near] = ((centre[0] - x) / STRIDE)[near]
        answer[2, near] = ((centre[1] - y) / STRIDE)[near]
        answer[3, near] = np.log(side / 64)
        answer[4:12, near] = ((points - centre) / side).reshape(8, 1)
        # Small faces reach few cells and large ones many: each face counts the same.
        answer[12, near] = 1 / near.sum()
    return answer, counted


class ScenePainter:
    """Draws the detector's training pictures."""

    def __init__(
        self, config: SceneConfig, faces: StoredFaces, scenes: list[Scene], backgrounds: list[UInt8Image]
    ) -> None:
        self.config, self.faces, self.scenes, self.backgrounds = config, faces, scenes, backgrounds

    def _side(self, generator: np.random.Generator) -> float:
        # Even in the logarithm, so that small faces are as frequent as large ones.
        low, high = np.log(self.config.smallest), np.log(self.config.largest)
        return float(np.exp(generator.uniform(low, high)))

    def canvas(self, generator: np.random.Generator) -> UInt8Image:
        """A part of a background, sometimes flat or with a border as letterboxing leaves it."""
        size = self.config.size
        # Studio walls and blue screens are flat.
        if generator.random() < 0.08:
            return np.broadcast_to(generator.integers(0, 255, 3).astype(np.uint8), (size, size, 3)).copy()
        return random_square(self.backgrounds, 0.4, size, generator)

    def _photograph(self, generator: np.random.Generator) -> tuple[UInt8Image, FloatArray, FloatArray]:
        """A labelled photograph, turned and scaled around one of its faces."""
        size = self.config.size
        scene = self.scenes[int(generator.integers(len(self.scenes)))]
        height, width = scene.rgb.shape[:2]
        scale = size / max(height, width) * float(np.exp(generator.uniform(-0.8, 0.5)))
        focus = np.array([width, height]) / 2
        if len(scene.faces):
            face = scene.faces[int(generator.integers(len(scene.faces)))]
            centre, side = face_square(face)
            if generator.random() < 0.7:
                scale, focus = self._side(generator) / side, centre.astype(np.float64)
        scale = min(scale, 2.0)
        affine: np.ndarray = cv2.getRotationMatrix2D((0, 0), generator.uniform(-25, 25), scale)
        place = (0.5 + generator.uniform(-0.25, 0.25, 2)) * size
        affine[:, 2] = place - affine[:, :2] @ focus
        rgb = scene.rgb
        if scale < 0.6:  # average first: the warp alone would alias
            small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            ratio = np.array([width / small.shape[1], height / small.shape[0]])
            matrix = affine.copy()
            matrix[:, 2] += matrix[:, :2] @ (0.5 * ratio - 0.5)
            matrix[:, :2] *= ratio
        else:
            small, matrix = rgb, affine
        colour = [int(v) for v in generator.integers(0, 255, 3)]
        picture: np.ndarray = cv2.warpAffine(small, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=colour)
        faces = transformed(scene.faces.reshape(-1, 2), affine).reshape(-1, 4, 2)
        ignored = []
        for x0, y0, x1, y1 in scene.ignored:
            corners = transformed(np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]], np.float32), affine)
            ignored.append(np.concatenate([corners.min(0), corners.max(0)]))
        return picture, faces, np.array(ignored, np.float32).reshape(-1, 4)

    def paste(
        self,
        picture: UInt8Image,
        occupied: list[tuple[FloatArray, float]],
        generator: np.random.Generator,
        index: int | None = None,
    ) -> FloatArray | None:
        """Put one aligned face (a drawn one without ``index``) into the picture.

        Args:
            picture: S S 3, changed in place.
            occupied: centre and side of the faces already there; the new one is added.

        Returns:
            Its four points, or None where it would hide another.
        """
        size, crop_size = self.config.size, STORED
        index = self.faces.draw(generator) if index is None else index
        crop, points = self.faces.picture(index), four_points(self.faces.landmarks[index])
        centre, side = face_square(points)
        target_side = self._side(generator)
        margin = min(0.2 * target_side, 0.4 * size)
        place = generator.uniform(margin, size - margin, 2)
        # Faces may stand close together, but must not hide each other: hidden ones would be wrong labels.
        for other, extent in occupied:
            if float(np.hypot(*(place - other))) < 0.55 * (target_side + extent):
                return None
        scale = target_side / side
        affine: np.ndarray = cv2.getRotationMatrix2D((0, 0), generator.normal(0, 14), scale)
        affine[:, 2] = place - affine[:, :2] @ centre
        if scale < 0.6:
            # The warp takes one of many pixels; averaged first, the face has no jagged edges.
            factor = crop_size / max(8, round(crop_size * scale))
            small = cv2.resize(crop, (round(crop_size / factor),) * 2, interpolation=cv2.INTER_AREA)
            matrix = affine.copy()
            matrix[:, 2] += matrix[:, :2] @ np.full(2, 0.5 * factor - 0.5)
            matrix[:, :2] *= factor
        else:
            small, matrix = crop, affine
        n = small.shape[0]
        kind = generator.random()
        if kind < 0.4:  # the square as it is: clips cropped around a head look so
            mask = np.full((n, n), 255, np.uint8)  # n n
        else:
            mask = np.zeros((n, n), np.uint8)
            axes = (n * generator.uniform(0.36, 0.5), n * generator.uniform(0.44, 0.6))
            cv2.ellipse(mask, (n // 2, round(n * 0.53)), (round(axes[0]), round(axes[1])), 0, 0, 360, 255, -1)
            if kind < 0.8:
                mask = cv2.GaussianBlur(mask, (0, 0), max(0.3, 0.03 * n))
        layer = cv2.warpAffine(small, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        weight = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_LINEAR)[..., None].astype(np.uint16)
        picture[:] = ((layer * weight + picture * (255 - weight)) // 255).astype(np.uint8)
        occupied.append((place.astype(np.float32), target_side))
        return transformed(points, affine)

    def _distract(self, picture: UInt8Image, generator: np.random.Generator) -> None:
        """Paste a patch without a face, so that the edge of a pasted square is no sign of one."""
        size = self.config.size
        side = int(min(self._side(generator), 0.7 * size))
        x, y = (int(v) for v in generator.integers(0, size - side + 1, 2))
        patch = cv2.resize(self.canvas(generator), (side, side), interpolation=cv2.INTER_AREA)
        picture[y : y + side, x : x + side] = patch

    def draw(self, generator: np.random.Generator) -> tuple[UInt8Image, FloatArray, FloatArray]:
        """One picture (S S 3), its faces (N 4 2) and the boxes to ignore (M 4), in px."""
        config, kind = self.config, generator.random()
        ignored = np.zeros((0, 4), np.float32)
        if kind < config.photographs:
            picture, faces, ignored = self._photograph(generator)
        else:
            picture, painted = self.canvas(generator), []
            if generator.random() < 0.3:
                self._distract(picture, generator)
            if kind < 1 - config.empty:
                occupied: list[tuple[FloatArray, float]] = []
                for _ in range(int(generator.integers(1, config.most + 1))):
                    points = self.paste(picture, occupied, generator)
                    if points is not None:
                        painted.append(points)
            faces = np.array(painted, np.float32).reshape(-1, 4, 2)
        if generator.random() < 0.5:
            picture = np.ascontiguousarray(picture[:, ::-1])
            # In a mirror the left eye is on the right.
            faces = faces[:, [1, 0, 2, 3]]
            faces[..., 0] = config.size - 1 - faces[..., 0]
            ignored = ignored[:, [2, 1, 0, 3]]
            ignored[:, [0, 2]] = config.size - 1 - ignored[:, [0, 2]]
        if generator.random() < 0.5:
            picture = degrade(picture, generator)
        if generator.random() < 0.7:
            picture = relight(picture, generator)
        return picture, faces, ignored
