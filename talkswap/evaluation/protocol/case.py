"""One result as the metrics see it: beside the truth, the clip that the voice came from, and the face that was put in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from talkswap.errors import NoSourceFaceError, UnreadableMediaError
from talkswap.evaluation.judges.observe import Observation
from talkswap.evaluation.protocol.pairs import EvaluationClip
from talkswap.evaluation.report.plots import SheetMaker
from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.geometry import align
from talkswap.files import write_atomically
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.render.source import read_photo
from talkswap.types import FloatArray, UInt8Image


@dataclass(frozen=True)
class Photo:
    """A face as it was given."""

    name: str  # of the clip or file that it shows
    speaker: str
    path: Path
    crop: UInt8Image  # S S 3, FFHQ
    landmarks: FloatArray  # 478 3 in px of the crop


@dataclass(frozen=True)
class Gallery:
    """All faces that were given in an evaluation, for telling whom a result shows."""

    names: tuple[str, ...]
    speakers: tuple[str, ...]
    persons: FloatArray  # N D, unit length


@dataclass(frozen=True)
class Case:
    """One method's result on one pair.

    Frames of result and truth are the same moments, row for row.
    """

    setting: str  # "self" or "cross"
    result: Observation
    truth: Observation  # the target clip as it is
    voiced: Observation | None  # the clip that the driving voice came from, with all its frames; None: not known
    photo: Photo | None  # None where no face was put in
    changed: bool  # False for the ground truth
    render_seconds: float  # 0 where somebody else made the clip
    video_seconds: float
    gallery: Gallery | None = None  # None: of a single clip nobody else's face is known


def open_photo(name: str, speaker: str, path: Path, analyser: FaceAnalyser, size: int) -> Photo:
    """Read a photo and cut its largest face out.

    Raises:
        NoSourceFaceError: there is none.
        InputMissingError, UnreadableMediaError.
    """
    picture = read_photo(path)
    faces = analyser.detect(picture)
    if not faces:
        raise NoSourceFaceError(f"no face was found in {path}", "choose a photo with one face seen from the front")
    face = max(faces, key=lambda f: float((f.box[2] - f.box[0]) * (f.box[3] - f.box[1])))
    aligned = align(picture, face.landmarks, size)
    return Photo(name, speaker, path, aligned.crop, aligned.landmarks)


def photo_of_clip(clip: EvaluationClip, path: Path) -> Path:
    """The frame of a clip in which the head is turned least, as a PNG file, made if it is not there.

    Raises:
        UnreadableMediaError: that frame does not decode.
        OutputUnwritableError.
    """
    if path.is_file():
        return path
    with ClipReader(probe(clip.video)) as reader:
        for frame in reader.frames():
            if frame.index == clip.portrait:
                _, data = cv2.imencode(".png", np.ascontiguousarray(frame.rgb[:, :, ::-1]))
                write_atomically(path, data.tobytes(), parents=True)
                return path
    raise UnreadableMediaError(f"{clip.video} has no frame {clip.portrait} that decodes", "prepare the data set again")


def draw_sheets(observation: Observation, folder: Path, stem: str) -> tuple[Path, Path]:
    """A row of faces and a row of mouths of a clip, as JPEG files.

    Raises:
        OutputUnwritableError.
    """
    sheets, places = SheetMaker(len(observation.times)), observation.unaligned
    for row, rgb in enumerate(pictures_of(observation)):
        sheets.add(row, rgb, places[row] if np.isfinite(places[row, 0, 0]) else None)
    return sheets.write(folder, stem)


def pictures_of(observation: Observation) -> Iterator[UInt8Image]:
    """The whole pictures (H W 3) of an observation's frames, decoded anew."""
    count = len(observation.times)
    with ClipReader(probe(observation.video)) as reader:
        for frame in reader.frames():
            if frame.index >= count:
                return
            yield frame.rgb
