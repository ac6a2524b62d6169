"""Aligned stills: opening, drawing by seed, augmentation that moves picture and points alike."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkswap.data.stills import StillAugmentation, draw_still, importance, open_stills
from talkswap.errors import TrainingDataError
from talkswap.faces.mesh import mean_face

STILL = StillAugmentation(flip=0, geometry=0, light=0, colour=0)


def points() -> np.ndarray:
    return (mean_face().points * 70 + np.array([160, 152, 0])).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    crop = np.full((320, 320, 3), 40, np.uint8)
    cv2.circle(crop, tuple(points()[1, :2].round().astype(int).tolist()), 6, (250, 250, 250), -1)  # the nose's tip
    np.save(tmp_path / "crops.npy", np.stack([crop] * 3))
    np.save(tmp_path / "landmarks.npy", np.stack([points()] * 3))
    (tmp_path / "meta.json").write_text(json.dumps([{"name": str(i)} for i in range(3)]))
    return tmp_path


def test_what_is_drawn_without_augmentation_is_what_is_stored(folder: Path) -> None:
    stills = open_stills(folder)
    crop, found = draw_still(stills, np.random.default_rng(0), STILL)
    assert np.array_equal(crop, stills.crops[0]) and np.array_equal(found, stills.landmarks[0])


@pytest.mark.parametrize("seed", range(6))
def test_points_follow_the_picture(folder: Path, seed: int) -> None:
    augmentation = StillAugmentation(flip=0.5, geometry=1.0, shift=0.06, scale=0.1, roll=12, light=0.1)
    crop, found = draw_still(open_stills(folder), np.random.default_rng(seed), augmentation)
    y, x = np.nonzero(crop[..., 1] > crop[..., 1].min() + 100)
    assert np.hypot(x.mean() - found[1, 0], y.mean() - found[1, 1]) < 1.5


def test_equal_seeds_draw_equal_pictures(folder: Path) -> None:
    stills = open_stills(folder)
    one, two, three = (draw_still(stills, np.random.default_rng(s), StillAugmentation())[0] for s in (4, 4, 5))
    assert np.array_equal(one, two) and not np.array_equal(one, three)


def test_eyes_and_mouth_weigh_most_and_the_background_least() -> None:
    weight = importance(points(), 320, outside=0.5, face=1.0, parts=3.0)
    assert weight.shape == (80, 80)
    at = {
        name: weight[int(points()[i, 1]) // 4, int(points()[i, 0]) // 4] for name, i in (("mouth", 13), ("cheek", 50))
    }
    eye = points()[[33, 133], :2].mean(0) / 4
    assert at["mouth"] > 2 and weight[int(eye[1]), int(eye[0])] > 2
    assert at["cheek"] == pytest.approx(1.0, abs=0.05) and weight[2, 2] == pytest.approx(0.5)


def test_missing_and_unequal_arrays_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no prepared stills"):
        open_stills(tmp_path / "elsewhere")
    np.save(folder / "landmarks.npy", np.stack([points()] * 2))
    with pytest.raises(TrainingDataError, match="differ in length"):
        open_stills(folder)
