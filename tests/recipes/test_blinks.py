"""Blink frames of a labelled, really encoded clip: the right ones are taken, in step with their labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recipes.blinks import BlinkConfig, blink_frames, collect_blinks
from talkswap.data.stills import open_stills
from talkswap.errors import TrainingDataError
from talkswap.faces.mesh import LEFT_EYE_RING, RIGHT_EYE_RING, mean_face
from talkswap.types import FloatArray

HEIGHT, WIDTH = 160, 160
SHUT = {5: 0.1, 6: 0.05, 7: 0.5}


def labels(shares: list[float]) -> FloatArray:
    """T 478 3: one face, its eyes open by each share of their usual height."""
    faces = []
    for share in shares:
        points = mean_face().points * 32 + np.array([80, 70, 0])
        for ring in (LEFT_EYE_RING, RIGHT_EYE_RING):
            middle = points[list(ring), 1].mean()
            points[list(ring), 1] = middle + share * (points[list(ring), 1] - middle)
        faces.append(points)
    return np.array(faces, np.float32)


def test_only_frames_well_below_the_median_are_blinks() -> None:
    found = labels([SHUT.get(i, 1.0 - 0.005 * i) for i in range(12)])
    found[3] = np.nan  # nobody was seen
    assert blink_frames(found, 0.78, 30).tolist() == [5, 6, 7]
    assert 6 in blink_frames(found, 0.78, 2)  # of many, the most shut and the least stay
    assert 7 in blink_frames(found, 0.78, 2)
    assert blink_frames(labels([1.0] * 9), 0.78, 30).tolist() == []
    assert blink_frames(np.full((4, 478, 3), np.nan, np.float32), 0.78, 30).tolist() == []


def test_crops_are_those_of_the_labelled_frames(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    levels = [20 * i for i in range(12)]
    clip = write_clip([np.full((HEIGHT, WIDTH, 3), level, np.uint8) for level in levels], "train-1.mp4")
    (tmp_path / "labels").mkdir()
    np.savez(tmp_path / "labels" / "train-1.npz", landmarks=labels([SHUT.get(i, 1.0) for i in range(12)]))
    np.savez(tmp_path / "labels" / "train-2.npz", landmarks=labels([1.0, 0.1, 1.0]))  # its video is not there
    config = BlinkConfig(tmp_path / "labels", clip.parent, tmp_path / "blinks-train")
    assert collect_blinks(config, lambda line: None) == 3
    stills = open_stills(config.out)
    assert json.loads((config.out / "meta.json").read_text()) == [{"name": "train-1.mp4", "frame": i} for i in SHUT]
    for crop, frame in zip(stills.crops, SHUT, strict=True):
        assert float(crop[160, 160].mean()) == pytest.approx(levels[frame], abs=8)
    assert stills.landmarks.shape == (3, 478, 3)
    assert 0 < stills.landmarks[:, 33, 0].min() < stills.landmarks[:, 263, 0].max() < 320


def test_clips_without_a_blink_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no blink"):
        collect_blinks(BlinkConfig(tmp_path, tmp_path, tmp_path / "out"), lambda line: None)
