"""How well an analyser finds and follows faces: measured along real clips against stored landmarks of a teacher.

The chain is the one that renders: search, follow from frame to frame, search anew only where the face is lost.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from talkswap.errors import TrainingDataError
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.faces.geometry import outer_eye_distance
from talkswap.faces.measures import mouth_opening, pearson
from talkswap.faces.mesh import INNER_LIPS, OUTER_LIPS
from talkswap.types import FloatArray, UInt8Image

LIPS = (*OUTER_LIPS, *INNER_LIPS)


@dataclass(frozen=True)
class FaceScores:
    """Figures of one or many clips; distances in parts of the distance between the outer eye corners."""

    frames: int  # in which the teacher sees a face
    found: float  # share of them in which the analyser has one
    searches: int  # runs of the detector
    error: float  # mean distance of the 478 points, x and y
    error_lips: float
    error_worst: float  # 95th percentile of the frames' errors
    opening: float  # Pearson correlation of the mouth opening, averaged over clips


class FaceScorer:
    """Collects frames of many clips.

    Args:
        analyser: what is measured.
    """

    def __init__(self, analyser: FaceAnalyser) -> None:
        self._analyser = analyser
        self._labelled = self._found = self._searches = 0
        self._errors: list[tuple[float, float]] = []
        self._openings: list[float] = []

    def add(self, frames: Iterable[UInt8Image], labels: FloatArray) -> None:
        """Measure one clip.

        Args:
            frames: H W 3 each, in order.
            labels: T 478 3 in px of the frames, nan where the teacher sees no face.
        """
        landmarks: FloatArray | None = None
        pairs: list[tuple[float, float]] = []
        for rgb, wanted in zip(frames, labels, strict=False):
            face = None if landmarks is None else self._analyser.follow(rgb, landmarks)
            if face is None:
                self._searches += 1
                face = next(iter(self._analyser.detect(rgb)), None)
            landmarks = None if face is None else face.landmarks
            if not np.isfinite(wanted[0, 0]):
                continue
            self._labelled += 1
            if face is None:
                continue
            self._found += 1
            eyes = outer_eye_distance(wanted[:, :2])
            distance = np.linalg.norm(face.landmarks[:, :2] - wanted[:, :2], axis=1) / eyes
            self._errors.append((float(distance.mean()), float(distance[list(LIPS)].mean())))
            pairs.append((float(mouth_opening(face.landmarks)), float(mouth_opening(wanted))))
        given = np.array(pairs)
        if len(given) > 2 and given.std(0).min() > 1e-6:
            self._openings.append(pearson(*given.T))

    def scores(self) -> FaceScores:
        """What was measured so far.

        Raises:
            TrainingDataError: no labelled frame was given, or no face was found in any.
        """
        if not self._errors:
            raise TrainingDataError("no labelled frame in which a face was found", "check the clips and their labels")
        errors = np.array(self._errors)
        return FaceScores(
            self._labelled,
            self._found / self._labelled,
            self._searches,
            float(errors[:, 0].mean()),
            float(errors[:, 1].mean()),
            float(np.percentile(errors[:, 0], 95)),
            float(np.mean(self._openings)) if self._openings else float("nan"),
        )


def score_faces(analyser: FaceAnalyser, clips: Path, labels: Path) -> FaceScores:
    """Measure all clips of a folder that have labels (``NAME.npz`` with ``landmarks``, as `talkswap data prepare` writes).

    Raises:
        TrainingDataError: there is no labelled clip.
    """
    from talkswap.media.probe import probe
    from talkswap.media.reader import ClipReader

    scorer = FaceScorer(analyser)
    for path in sorted(labels.glob("*.npz")):
        clip = clips / f"{path.stem}.mp4"
        if not clip.is_file():
            continue
        with np.load(path) as stored, ClipReader(probe(clip)) as reader:
            scorer.add((frame.rgb for frame in reader.frames()), stored["landmarks"])
    return scorer.scores()


def main() -> None:
    """Arguments: weights folder, folder of clips, folder of labels; prints JSON."""
    weights, clips, labels = (Path(name) for name in sys.argv[1:4])
    print(json.dumps(asdict(score_faces(load_analyser("compact", weights), clips, labels)), indent=1))


if __name__ == "__main__":
    main()
