"""How well an analyser finds and follows faces: measured along real clips against stored landmarks of a teacher.

The chain is the one that renders: detect, follow from frame to frame, detect again only where the face is lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.faces import analyse, geometry, measures, mesh
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.types import FloatArray, UInt8Image

LIPS = (*mesh.OUTER_LIPS, *mesh.INNER_LIPS)


@dataclass(frozen=True)
class FaceScores:
    """Figures of one or many clips; distances are in parts of the distance between the outer eye corners."""

    frames: int  # in which the teacher sees a face
    found: float  # share of them in which the analyser has one
    searches: int  # runs of the detector
    error: float  # mean distance of the 478 points, x and y
    error_lips: float
    error_worst: float  # 95th percentile of the frames' errors
    opening: float | None  # Pearson correlation of the mouth opening, averaged over clips; None: no mouth moves


class FaceScorer:
    """Collects the frames of many clips.

    Args:
        analyser: the one to measure.
    """

    def __init__(self, analyser: analyse.FaceAnalyser) -> None:
        self._analyser = analyser
        self._labelled = self._searches = 0
        self._errors: list[tuple[float, float]] = []  # of each frame: all points, lips
        self._openings: list[float] = []  # of each clip

    def add(self, frames: Iterable[UInt8Image], labels: FloatArray) -> None:
        """Measure one clip.

        Args:
            frames: H W 3 each, in order.
            labels: T 478 3 in px of the frames, nan where the teacher sees no face.
        """
        landmarks: FloatArray | None = None
        openings: list[tuple[float, float]] = []
        for rgb, label in zip(frames, labels, strict=False):
            # As in a render: following is cheap, and the detector runs only where the face is lost.
            face = None if landmarks is None else self._analyser.follow(rgb, landmarks)
            if face is None:
                self._searches += 1
                face = next(iter(self._analyser.detect(rgb)), None)
            landmarks = None if face is None else face.landmarks
            # Without a label nothing is measured, but the chain goes on.
            if not np.isfinite(label[0, 0]):
                continue
            self._labelled += 1
            if face is None:
                continue
            distance = np.linalg.norm(face.landmarks[:, :2] - label[:, :2], axis=1) / geometry.outer_eye_distance(
                label[:, :2]
            )
            self._errors.append((float(distance.mean()), float(distance[list(LIPS)].mean())))
            openings.append((float(measures.mouth_opening(face.landmarks)), float(measures.mouth_opening(label))))
        curves = np.array(openings)
        # A mouth that never moves has no correlation.
        if len(curves) > 2 and curves.std(0).min() > 1e-6:
            self._openings.append(measures.pearson(*curves.T))

    def scores(self) -> FaceScores:
        """The figures of all clips so far.

        Raises:
            TrainingDataError: there is no labelled frame in which the analyser sees a face.
        """
        if not self._errors:
            raise TrainingDataError("no labelled frame in which a face was found", "check the clips and their labels")
        errors = np.array(self._errors)
        return FaceScores(
            self._labelled,
            len(errors) / self._labelled,
            self._searches,
            float(errors[:, 0].mean()),
            float(errors[:, 1].mean()),
            float(np.percentile(errors[:, 0], 95)),
            float(np.mean(self._openings)) if self._openings else None,
        )


def score_faces(analyser: analyse.FaceAnalyser, clips: Path, labels: Path) -> FaceScores:
    """Measure all clips of a folder that have labels (``NAME.npz`` with ``landmarks``, as `talkswap data prepare` writes).

    Raises:
        InputMissingError: a folder isn't there.
        TrainingDataError: there is no labelled clip.
    """
    for folder in (clips, labels):
        if not folder.is_dir():
            raise InputMissingError(f"{folder} is no folder", "name the folders `videos` and `clips-val` of a data set")
    scorer = FaceScorer(analyser)
    for path in sorted(labels.glob("*.npz")):
        clip = clips / f"{path.stem}.mp4"
        if clip.is_file():
            with np.load(path) as stored, ClipReader(probe(clip)) as reader:
                scorer.add((frame.rgb for frame in reader.frames()), stored["landmarks"])
    return scorer.scores()
