"""The source photo, or several of one person: read it, find the face, cut it out, choose the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from talkswap.errors import InputMissingError, NoSourceFaceError, UnreadableMediaError
from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.geometry import align, invert_affine, transform_points
from talkswap.faces.glasses import without_glasses
from talkswap.faces.guide import FaceGuide, filled
from talkswap.faces.measures import blur, sharpness, yaw_degrees
from talkswap.faces.mesh import FACE_OVAL
from talkswap.faces.occlusion import OcclusionReader
from talkswap.faces.people import SelectConfig
from talkswap.faces.skin_fill import bare_face
from talkswap.systems.contract import Source
from talkswap.types import AlignedFace, FloatArray, UInt8Image

GRID = 64  # cells along a crop's side on which its light is judged
MOST_BYTES = 512 * 2**20
MOST_SIDE = 2048  # px: larger photos are reduced before a face is looked for
ENOUGH_WIDTH = 256.0  # px: a wider face gives no more detail, the networks' crops being that small
WIDEST_YAW = 60.0  # degrees from which half of a face is out of sight
DETAIL_SIZE = 1024  # px: most of the crop that keeps the photo's own detail
BLURRED = 0.48  # blur from which a photo is named: 100 clean portraits have 0.40 at most, blurred 0.55 at least
TURNED = 32.0  # degrees from which a photo is named: one cheek is then the other's mirror image
GLARE = 0.05  # share of the face that is burnt out, from which it's named
BURNT = 250  # level that a burnt-out spot has in all channels
COVERED = 0.3  # share of the face under hair or a hand, from which it's named
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
    detail: AlignedFace  # at the photo's own resolution

    @property
    def quality(self) -> float:
        """How good the view is: sharpness, less where the head is turned or the face is small."""
        frontal = max(0.0, 1 - abs(self.yaw) / WIDEST_YAW)
        return frontal * min(1.0, self.width / ENOUGH_WIDTH) * self.sharpness

    def shortcomings(self, covered: float, glasses: bool) -> str | None:
        """What makes the photo a poor one and what would help, in one sentence; None where nothing does.

        Args:
            covered: share of the face that isn't seen.
            glasses: whether it wears some.
        """
        face = cv2.erode(
            filled(self.face.landmarks, (FACE_OVAL,), GRID, GRID / self.face.crop.shape[0]), np.ones((3, 3))
        )
        small = cv2.resize(self.face.crop, (GRID, GRID), interpolation=cv2.INTER_AREA)
        burnt = float((small.min(2)[face > 0.5] >= BURNT).mean()) if (face > 0.5).any() else 0.0
        faults = {
            f"only {self.width:.0f} px wide": ("a larger one", self.width < SMALL_FACE),
            "blurred": ("a sharp one", blur(self.detail.crop) > BLURRED and self.width >= SMALL_FACE),
            f"turned {abs(self.yaw):.0f} degrees to the side": ("one seen from the front", abs(self.yaw) > TURNED),
            "burnt out in places": ("one in softer light", burnt > GLARE),
            "behind glasses": ("one without them", glasses),
            "partly covered": ("one without hair or hands before the face", covered > COVERED),
        }
        lines = [(fault, help) for fault, (help, present) in faults.items() if present]
        if not lines:
            return None
        return f"the face in {self.path} is {' and '.join(f for f, _ in lines)}: {lines[0][1]} gives a better result"


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
    # As many px as the photo has: more would cost time and show nothing.
    points = transform_points(invert_affine(face.affine), face.landmarks)
    native = size / float(np.hypot(*face.affine[0, :2].astype(np.float64)))
    detail = align(photo, points, int(np.clip(round(native), min(size, DETAIL_SIZE), DETAIL_SIZE)))
    return SourceFace(path, face, width, identity, yaw_degrees(face.landmarks), sharpness(face.crop), detail)


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
        occlusion: finds hair and hands in a photo; None = hair by its colour alone.
    """

    def __init__(
        self,
        photos: Mapping[Path, UInt8Image],
        analyser: FaceAnalyser,
        size: int,
        occlusion: OcclusionReader | None = None,
    ) -> None:
        self.photos, self.analyser, self.size, self.occlusion = photos, analyser, size, occlusion
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
            detail = best.detail
            covered = None if self.occlusion is None else self.occlusion(detail.crop)
            bare, glasses = without_glasses(detail.crop, detail.landmarks)
            fill = bare_face(bare, detail.landmarks, covered=covered)
            self._warn(best, others, fill.share, glasses)
            mean = np.mean([face.identity for face in faces], axis=0)
            self._people[key] = SourcePerson(
                (best.path, *(other.path for other in others)),
                Source(
                    best.face,
                    tuple(other.face for other in others),
                    replace(detail, crop=fill.rgb),
                    fill.cover if fill.share > 0 else None,
                ),
                np.asarray(mean / np.linalg.norm(mean), np.float32),
            )
        return self._people[key]

    def _warn(self, best: SourceFace, others: Sequence[SourceFace], covered: float, glasses: bool) -> None:
        line = best.shortcomings(covered, glasses)
        if line is not None:
            self.warnings.append(line)
        for other in others:
            if float(other.identity @ best.identity) < SelectConfig().release:
                self.warnings.append(f"{other.path} and {best.path} hardly look like the same person")


def guide_of(source: Source) -> FaceGuide:
    """The photo's skin at its own resolution, ready to be laid on a face."""
    detail = source.detail or source.face
    return FaceGuide(detail.crop, detail.landmarks, cover=source.cover)
