"""Scores of the face chain on the example clip, against labels whose distance is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.evaluation.protocol.faces import FaceScorer, score_faces
from talkswap.faces.analyse import CompactAnalyser
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.types import FloatArray, UInt8Image

from ..small_set import command

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def analyser() -> CompactAnalyser:
    return CompactAnalyser(ROOT / "weights" / "compact")


@pytest.fixture(scope="module")
def frames() -> list[UInt8Image]:
    with ClipReader(probe(ROOT / "examples" / "target.mp4")) as reader:
        return [frame.rgb for frame, _ in zip(reader.frames(), range(12), strict=False)]


@pytest.fixture(scope="module")
def labels(analyser: CompactAnalyser, frames: list[UInt8Image]) -> FloatArray:
    """What the chain itself answers."""
    points = [analyser.detect(frames[0])[0].landmarks]
    for rgb in frames[1:]:
        face = analyser.follow(rgb, points[-1])
        assert face is not None
        points.append(face.landmarks)
    return np.stack(points)


def test_own_answers_have_no_error(analyser: CompactAnalyser, frames: list[UInt8Image], labels: FloatArray) -> None:
    scorer = FaceScorer(analyser)
    scorer.add(frames, labels)
    scores = scorer.scores()
    assert scores.frames == 12 and scores.found == 1 and scores.searches == 1
    assert scores.error == pytest.approx(0, abs=1e-5) and scores.error_lips == pytest.approx(0, abs=1e-5)


def test_error_is_in_parts_of_the_eye_distance(
    analyser: CompactAnalyser, frames: list[UInt8Image], labels: FloatArray
) -> None:
    """Labels moved by 5% of each frame's eye distance; frames without a label do not count."""
    eyes = np.linalg.norm(labels[:, 33, :2] - labels[:, 263, :2], axis=1)
    moved = labels.copy()
    moved[:, :, 0] += 0.05 * eyes[:, None]
    moved[3:5] = np.nan
    scorer = FaceScorer(analyser)
    scorer.add(frames, moved)
    scores = scorer.scores()
    assert scores.frames == 10
    assert scores.error == pytest.approx(0.05, abs=1e-3) and scores.error_worst == pytest.approx(0.05, abs=1e-3)


def test_lost_frames_lower_the_share(analyser: CompactAnalyser, frames: list[UInt8Image], labels: FloatArray) -> None:
    dark = [np.zeros_like(rgb) if 4 <= index < 7 else rgb for index, rgb in enumerate(frames)]
    scorer = FaceScorer(analyser)
    scorer.add(dark, labels)
    scores = scorer.scores()
    assert scores.found == pytest.approx(9 / 12)
    assert scores.searches == 1 + 4  # three in the dark, one after it


def test_a_folder_is_read_by_name(analyser: CompactAnalyser, labels: FloatArray, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError):
        score_faces(analyser, ROOT / "examples", tmp_path)
    np.savez(tmp_path / "target.npz", landmarks=labels)
    np.savez(tmp_path / "absent.npz", landmarks=labels)
    scores = score_faces(analyser, ROOT / "examples", tmp_path)
    assert scores.frames == 12 and scores.found == 1
    with pytest.raises(InputMissingError):
        score_faces(analyser, ROOT / "nowhere", tmp_path)


def test_the_command_prints_the_scores(labels: FloatArray, tmp_path: Path) -> None:
    np.savez(tmp_path / "target.npz", landmarks=labels)
    said = command("eval", "faces", ROOT / "examples", tmp_path, "--preset", "compact", "--device", "cpu")
    assert said.code == 0, said.err
    assert said.data["frames"] == 12 and said.data["found"] == 1 and said.data["error"] < 1e-5
    assert command("eval", "faces", ROOT / "examples", tmp_path / "nowhere", "--preset", "compact").code == 3
