"""The source photo, or several of one person: read it, find the face, cut it out, choose the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from talkswap.errors import InputMissingError, NoSourceFaceError, UnreadableMediaError
from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.geometry import align
from talkswap.faces.measures import sharpness, yaw_degrees
from talkswap.faces.people import SelectConfig
from talkswap.systems.contract import Source
from talkswap.types import AlignedFace, FloatArray, UInt8Image

MOST_BYTES = 512 * 2**20
MOST_SIDE = 2048  # px: larger photos are reduced before a face is looked for
ENOUGH_WIDTH = 256.0  # px: a wider face gives no more detail, the networks' crops being that small
WIDEST_YAW = 60.0  # degrees from which half of a face is out of sight
SMALL_FACE = 64.0  # px: below, a source photo or a target face gives a poor result, which a warning says


@dataclass(frozen=True)
class SourceFace:
    """The largest face of one photo."""

    path: Path
    face: AlignedFace
    width: float  # px in the photo
    identity: FloatArray  # unit length
    yaw: float  # degrees
    sharpness: float  # mean change from px to px of the crop at one size, in levels

    @property
    def quality(self) -> float:
        """How good the view is: sharpness, less where the head is turned or the face is small."""
        frontal = max(0.0, 1 - abs(self.yaw) / WIDEST_YAW)
        return frontal * min(1.0, self.width / ENOUGH_WIDTH) * self.sharpness


def read_photo(path: Path) -> UInt8Image:
    """A picture as H x W x 3 RGB, upright as its EXIF says.

    Raises:
        InputMissingError: missing, or a directory.
        UnreadableMediaError: not a picture, or damaged.
    """
    if path.is_dir():
        raise InputMissingError(f"{path} is a directory", "name a picture file")
    if not path.is_file():
        raise InputMissingError(f"there is no file {path}", "check the path")
    size = path.stat().st_size
    if not 0 < size <= MOST_BYTES:
        raise UnreadableMediaError(
            f"{path} is {'empty' if not size else 'too large'}", "give a PNG, JPEG or WebP photo"
        )
    try:
        bgr = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UnreadableMediaError(
            f"{path} is no picture that can be read", "give a PNG, JPEG or WebP photo"
        ) from error
    if bgr is None:
        raise UnreadableMediaError(f"{path} is no picture that can be read", "give a PNG, JPEG or WebP photo")
    scale = MOST_SIDE / max(bgr.shape[:2])
    if scale < 1:
        bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(bgr[:, :, ::-1])


def source_face(photo: UInt8Image, analyser: FaceAnalyser, size: int, path: Path) -> tuple[AlignedFace, float]:
    """The largest face of a photo in a crop of ``size`` px, and how wide it is in the photo (px).

    Raises:
        NoSourceFaceError: there is none.
    """
    faces = analyser.detect(photo)
    if not faces:
        raise NoSourceFaceError(f"no face was found in {path}", "choose a photo with one face seen from the front")
    face = max(faces, key=lambda f: float((f.box[2] - f.box[0]) * (f.box[3] - f.box[1])))
    return align(photo, face.landmarks, size), float(face.box[2] - face.box[0])


def read_source(photo: UInt8Image, analyser: FaceAnalyser, size: int, path: Path) -> SourceFace:
    """The largest face of a photo with all that tells how good it is.

    Raises:
        NoSourceFaceError: there is none.
    """
    face, width = source_face(photo, analyser, size, path)
    identity = analyser.embed(face.crop, face.landmarks)
    return SourceFace(path, face, width, identity, yaw_degrees(face.landmarks), sharpness(face.crop))


@dataclass(frozen=True)
class SourcePerson:
    """The person whose face is put in."""

    photos: tuple[Path, ...]  # the best first
    source: Source
    identity: FloatArray  # unit mean over all photos


class SourceEncoder:
    """Photos of one person as a system takes them, the best first; each set of photos is searched once.

    Args:
        photos: all pictures, by path.
        analyser: finds the faces.
        size: px of the system's crop.
    """

    def __init__(self, photos: Mapping[Path, UInt8Image], analyser: FaceAnalyser, size: int) -> None:
        self.photos, self.analyser, self.size = photos, analyser, size
        self.warnings: list[str] = []
        self._people: dict[tuple[Path, ...], SourcePerson] = {}

    def __call__(self, paths: Sequence[Path]) -> SourcePerson:
        """The person of some photos.

        Raises:
            NoSourceFaceError: a photo shows no face.
        """
        key = tuple(paths)
        if key not in self._people:
            faces = [read_source(self.photos[path], self.analyser, self.size, path) for path in key]
            place = max(range(len(faces)), key=lambda number: (faces[number].quality, -number))
            best, others = faces[place], [*faces[:place], *faces[place + 1 :]]
            self._warn(best, others)
            mean = np.mean([face.identity for face in faces], axis=0)
            self._people[key] = SourcePerson(
                (best.path, *(other.path for other in others)),
                Source(best.face, tuple(other.face for other in others)),
                np.asarray(mean / np.linalg.norm(mean), np.float32),
            )
        return self._people[key]

    def _warn(self, best: SourceFace, others: Sequence[SourceFace]) -> None:
        if best.width < SMALL_FACE:
            self.warnings.append(
                f"the face in {best.path} is only {best.width:.0f} px wide, the result will lack detail"
            )
        for other in others:
            if float(other.identity @ best.identity) < SelectConfig().release:
                self.warnings.append(f"{other.path} and {best.path} hardly look like the same person")
