"""The report's pictures: a row of faces and a row of mouths over time, cut out while a clip's frames go by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from talkswap.evaluation.judges.observe import Observation
from talkswap.faces.mesh import OUTER_LIPS
from talkswap.files import write_atomically
from talkswap.types import FloatArray, UInt8Image

EYE_CORNERS = (33, 263)  # outer corners in the dense mesh
GREY = 128  # of a tile without a face


@dataclass(frozen=True)
class SheetConfig:
    """How many pictures, and how large: two settings of twelve pairs and five methods stay under 6 MB in one page."""

    faces: int = 5  # moments in the row of faces
    mouths: int = 20  # moments in the row of mouths
    face_side: int = 112  # px of a tile
    mouth_width: int = 64
    mouth_height: int = 44
    face_eyes: float = 2.8  # side of the cut in outer eye distances: hair and collar show how well the paste fits
    mouth_eyes: float = 1.0  # width of the cut in outer eye distances
    quality: int = 78  # of JPEG


def moments(frames: int, count: int) -> tuple[int, ...]:
    """The middles of ``count`` equal parts of a clip, as frame numbers; fewer where the clip has fewer frames."""
    count = min(count, frames)
    return tuple(int((part + 0.5) * frames / count) for part in range(count))


class SheetMaker:
    """Cuts tiles out of a clip's frames as they go by, and keeps nothing else.

    Args:
        frames: number of frames in the clip.
        config: number and size of the tiles.
    """

    def __init__(self, frames: int, config: SheetConfig | None = None) -> None:
        self._config = config or SheetConfig()
        self._face_moments = frozenset(moments(frames, self._config.faces))
        self._mouth_moments = frozenset(moments(frames, self._config.mouths))
        self._faces: list[UInt8Image] = []
        self._mouths: list[UInt8Image] = []
        self._last: FloatArray | None = None

    def add(self, number: int, rgb: UInt8Image, landmarks: FloatArray | None) -> None:
        """Add one frame.

        Args:
            number: of the frame, from 0.
            rgb: H W 3.
            landmarks: 478 2 or 478 3 in px of the frame; without a face None or nan: the face's tile then shows the
                place of the last one, and the mouth's tile is grey.
        """
        config = self._config
        if landmarks is not None and not np.isfinite(landmarks[:, :2]).all():
            landmarks = None
        if landmarks is not None:
            self._last = landmarks
        if number in self._face_moments:
            self._faces.append(face_tile(rgb, self._last, config))
        if number in self._mouth_moments:
            self._mouths.append(mouth_tile(rgb, landmarks, config))

    def write(self, folder: Path, stem: str) -> tuple[Path, Path]:
        """Write ``STEM-faces.jpg`` and ``STEM-mouths.jpg``.

        Raises:
            OutputUnwritableError: the folder is read-only or the disk full.
        """
        config = self._config
        faces = self._faces or [face_tile(None, None, config)]
        mouths = self._mouths or [mouth_tile(None, None, config)]
        return (
            write_jpeg(folder / f"{stem}-faces.jpg", np.concatenate(faces, axis=1), config.quality),
            write_jpeg(folder / f"{stem}-mouths.jpg", np.concatenate(mouths, axis=1), config.quality),
        )


def face_tile(rgb: UInt8Image | None, landmarks: FloatArray | None, config: SheetConfig) -> UInt8Image:
    """A square around the face, ``config.face_side`` px; the middle of the picture if there is no face."""
    size = (config.face_side, config.face_side)
    if rgb is None:
        return np.full((*size, 3), GREY, np.uint8)
    if landmarks is None:
        side = float(min(rgb.shape[:2]))
        return cut_box(rgb, (rgb.shape[1] / 2, rgb.shape[0] / 2), side, size)
    points = np.asarray(landmarks)[:, :2]
    middle = (points.min(0) + points.max(0)) / 2
    return cut_box(rgb, (float(middle[0]), float(middle[1])), config.face_eyes * eye_distance(points), size)


def mouth_tile(rgb: UInt8Image | None, landmarks: FloatArray | None, config: SheetConfig) -> UInt8Image:
    """The mouth, at a scale that doesn't follow its opening; grey if there is no face."""
    size = (config.mouth_width, config.mouth_height)
    if rgb is None or landmarks is None:
        return np.full((config.mouth_height, config.mouth_width, 3), GREY, np.uint8)
    points = np.asarray(landmarks)[:, :2]
    # Scaled by the eyes: an open mouth must look larger than a closed one.
    middle = points[list(OUTER_LIPS)].mean(0)
    return cut_box(rgb, (float(middle[0]), float(middle[1])), config.mouth_eyes * eye_distance(points), size)


def write_photo(path: Path, rgb: UInt8Image, landmarks: FloatArray | None, config: SheetConfig | None = None) -> Path:
    """The source photo as one tile.

    Raises:
        OutputUnwritableError.
    """
    config = config or SheetConfig()
    return write_jpeg(path, face_tile(rgb, landmarks, config), config.quality)


def write_jpeg(path: Path, rgb: UInt8Image, quality: int) -> Path:
    """Write a picture in one move.

    Raises:
        OutputUnwritableError.
    """
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    write_atomically(path, data.tobytes())
    return path


def eye_distance(points: FloatArray) -> float:
    return max(1.0, float(np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]])))


def cut_box(rgb: UInt8Image, middle: Sequence[float], width: float, size: tuple[int, int]) -> UInt8Image:
    """A box of the picture at ``size`` (width, height) px; beyond the picture its edge is repeated."""
    height = width * size[1] / size[0]
    left, top = round(middle[0] - width / 2), round(middle[1] - height / 2)
    right, bottom = left + max(1, round(width)), top + max(1, round(height))
    # Clipped indices repeat the edge where the box leaves the picture.
    rows = np.clip(np.arange(top, bottom), 0, rgb.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, rgb.shape[1] - 1)
    box = np.ascontiguousarray(rgb[rows[:, None], columns])
    # INTER_AREA averages when it shrinks, so that thin edges don't flicker along the row.
    way = cv2.INTER_AREA if box.shape[1] > size[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(box, size, interpolation=way), np.uint8)


def draw_sheets(observation: Observation, folder: Path, stem: str) -> tuple[Path, Path]:
    """A row of faces and a row of mouths of a clip, as JPEG files.

    Raises:
        OutputUnwritableError.
    """
    sheets = SheetMaker(len(observation.times))
    pictures = zip(observation.pictures(), observation.picture_landmarks, strict=False)
    for row, (rgb, landmarks) in enumerate(pictures):
        sheets.add(row, rgb, landmarks)
    return sheets.write(folder, stem)
