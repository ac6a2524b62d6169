"""Prepared clips of random, moving texture, with made-up landmarks and voices."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def landmarks(count: int, opening: float = 0.1) -> np.ndarray:
    """T 478 3: a face about the middle of 128 px that moves one px to the right per frame."""
    points = np.full((count, 478, 3), 64.0, np.float32)
    points[:, :, :2] += np.random.default_rng(0).uniform(-10, 10, (1, 478, 2)).astype(np.float32)
    for rows, place in (((33, 160, 158, 133, 153, 144), (50, 54)), ((362, 385, 387, 263, 373, 380), (78, 54))):
        points[:, list(rows)] = (*place, 0)
    points[:, 61], points[:, 291] = (56, 78, 0), (72, 78, 0)
    points[:, (82, 13, 312)], points[:, (87, 14, 317)] = (64, 78 - 14 * opening, 0), (64, 78 + 14 * opening, 0)
    points[:, :, 0] += np.arange(count)[:, None]
    return points


def write_clip(folder: Path, name: str, split: str, count: int, rate: int = 25, gap: int | None = None) -> None:
    """A real mp4 of random, moving texture, and its labels; no face at frame ``gap``."""
    videos, data = folder / "videos", folder / "cache" / f"clips-{split}"
    videos.mkdir(exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(name) + count)
    texture = random.integers(0, 255, (16, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(videos / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, index, 1), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    points = landmarks(count)
    if gap is not None:
        points[gap] = np.nan
    voice = random.standard_normal(16000 * count // rate).astype(np.float32) * 0.1
    np.savez(data / f"{name}.npz", times=np.arange(count) / rate, landmarks=points, voice=voice)


@pytest.fixture(scope="session")
def talking_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talking")
    write_clip(folder, "val-0", "val", 9)
    write_clip(folder, "train-0", "train", 12, gap=5)
    write_clip(folder, "train-1", "train", 13, rate=50)
    (folder / "videos" / "clips.csv").write_text(
        "name,kind,mouth_audio_corr\nval-0.mp4,real,0.5\ntrain-0.mp4,generated,0.9\ntrain-1.mp4,real,0.2\n"
    )
    return folder
