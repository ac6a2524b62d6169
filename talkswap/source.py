"""The source photo: read, find the face, cut it out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from talkswap.errors import InputMissingError, NoSourceFaceError, UnreadableMediaError
from talkswap.faces.align import align
from talkswap.faces.analyze import FaceAnalyser
from talkswap.types import AlignedFace, UInt8Image

MOST_BYTES = 512 * 2**20
MOST_SIDE = 2048  # px: larger photos are reduced before a face is looked for


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
