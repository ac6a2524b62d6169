"""Preparing training data from a shard, a list and real encoded clips; the teacher is replaced, it is no part of the package."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkswap.data import portraits
from talkswap.data import portraits as teachers
from talkswap.data.stills import open_stills
from talkswap.errors import DependencyError
from talkswap.faces.mesh import mean_face
from talkswap.types import FloatArray, UInt8Image


class Teacher:
    """Sees the mean face wherever a picture is bright enough."""

    def __init__(self, folder: Path, video: bool) -> None:
        self.video = video

    def __enter__(self) -> Teacher:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __call__(self, rgb: UInt8Image, milliseconds: int = 0) -> FloatArray | None:
        if rgb.mean() < 50:
            return None
        height, width = rgb.shape[:2]
        return (mean_face().points * height / 5 + np.array([width / 2, height / 2, 0])).astype(np.float32)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> portraits.PortraitsConfig:
    monkeypatch.setattr(portraits, "LandmarkTeacher", Teacher)
    monkeypatch.setattr(teachers, "LandmarkTeacher", Teacher)
    return portraits.PortraitsConfig(tmp_path / "raw", tmp_path / "teachers", tmp_path / "cache", frame_step=4)


def test_portraits_without_a_face_are_left_out(config: portraits.PortraitsConfig) -> None:
    folder = config.source / "faces"
    folder.mkdir(parents=True)
    columns = ("name", "shard", "kind", "identity", "repo", "licence", "yaw", "mouth_open")
    with open(folder / "train.csv", "w", newline="") as file, tarfile.open(folder / "train-000.tar", "w") as tar:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for number, level in enumerate((120, 10, 200)):
            name = f"{number}.webp"
            writer.writerow(dict.fromkeys(columns, "x") | {"name": name, "shard": "train-000.tar"})
            data = cv2.imencode(".webp", np.full((320, 320, 3), level, np.uint8))[1].tobytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert portraits.prepare_portraits(config, "train") == 2
    stills = open_stills(config.out / "portraits-train")
    assert [m["name"] for m in stills.meta] == ["0.webp", "2.webp"]
    assert stills.crops.shape == (2, 320, 320, 3) and stills.crops[1].mean() == pytest.approx(200, abs=2)


def test_a_clip_keeps_its_times_its_voice_and_the_gaps_of_its_face(
    config: portraits.PortraitsConfig, write_clip: Callable[..., Path]
) -> None:
    pictures = [np.full((96, 128, 3), level, np.uint8) for level in (90, 90, 10, 90, 90, 90, 90, 90, 90)]
    ticks = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    clip = write_clip(pictures, "train-0001.mp4", ticks=ticks)
    assert portraits.prepare_clip((config, clip, "train")) == ("train-0001.mp4", 9, 8)
    with np.load(config.out / "clips-train" / "train-0001.npz") as stored:
        assert stored["times"] == pytest.approx([float(Fraction(t, 25)) for t in ticks])
        assert np.isnan(stored["landmarks"][2]).all() and np.isfinite(stored["landmarks"][3]).all()
        assert len(stored["voice"]) / 16000 == pytest.approx(0.4, abs=0.07) and stored["voice"].dtype == np.float32
    written = (config.out / "clips-train" / "train-0001.npz").stat().st_mtime_ns
    portraits.prepare_clip((config, clip, "train"))
    assert (config.out / "clips-train" / "train-0001.npz").stat().st_mtime_ns == written, "done twice"
    assert portraits.collect_stills(config, "train") == 3  # frames 0, 4 and 8
    stills = open_stills(config.out / "frames-train")
    assert [m["frame"] for m in stills.meta] == [0, 4, 8] and stills.crops.shape == (3, 320, 320, 3)


def test_a_missing_teacher_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import sys

    whole = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.split(".")[0] == "mediapipe":
            raise ImportError(name)
        return whole(name, *rest, **named)  # type: ignore[arg-type]

    for name in [n for n in sys.modules if n.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DependencyError, match="mediapipe"):
        teachers.LandmarkTeacher(tmp_path, video=False)
