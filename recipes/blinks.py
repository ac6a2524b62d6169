"""Frames of blinks: what every k-th frame of a clip hardly ever holds, and landmarks must follow.

A blink lasts a tenth of a second, so stills at a fixed step show open eyes nearly always, and a network trained on them
takes a shut lid for noise.  The labels of prepared clips hold every frame: this module takes those in which the eyes are
far less open than is usual in their clip, spread over all openings from shut to half.

``python recipes/blinks.py CACHE CLIPS`` made the 3,647 frames from which the landmark network of ``weights/compact``
learned its lids.  It reads ``CACHE/clips-train`` and the videos, and writes ``CACHE/blinks-train``, laid out as
``frames-train`` is (:mod:`talkswap.data.portraits`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talkswap.data.portraits import CROP
from talkswap.errors import TrainingDataError
from talkswap.faces.geometry import align
from talkswap.faces.measures import eye_openings
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.types import FloatArray, UInt8Image


@dataclass(frozen=True)
class BlinkConfig:
    """Which frames are taken."""

    labels: Path  # NAME.npz with landmarks T 478 3, px of the clip, nan where there is no face
    videos: Path  # NAME.mp4
    out: Path
    below: float = 0.78  # of the clip's median opening: less is on the way to a blink
    most: int = 30  # of one clip, or long ones would stand for all


def blink_frames(landmarks: FloatArray, below: float, most: int) -> NDArray[np.intp]:
    """Frames of one clip in which the eyes are on the way to shut or shut.

    Args:
        landmarks: T 478 3, nan where there is no face.
        below: share of the clip's median opening under which a frame counts.
        most: number of frames at most; where there are more, the openings are thinned out evenly.

    Returns:
        Rising frame numbers.
    """
    seen = np.flatnonzero(np.isfinite(landmarks[:, 0, 0]))
    if len(seen) == 0:
        return seen
    opening = eye_openings(landmarks[seen]).mean(1)
    low = opening < below * np.median(opening)
    chosen = seen[low][np.argsort(opening[low], kind="stable")]
    if len(chosen) > most:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most).round().astype(int)]
    return np.sort(chosen)


def cut_blinks(video: Path, landmarks: FloatArray, frames: NDArray[np.intp]) -> tuple[list[UInt8Image], FloatArray]:
    """Aligned crops (each ``CROP`` px a side) of the numbered frames and their landmarks (N 478 3, px of the crop)."""
    wanted, crops, points = set(frames.tolist()), [], []
    with ClipReader(probe(video)) as reader:
        for index, frame in enumerate(reader.frames()):
            if index > frames[-1]:
                break
            if index in wanted:
                face = align(frame.rgb, landmarks[index], CROP, index)
                crops.append(face.crop)
                points.append(face.landmarks)
    return crops, np.array(points, np.float32).reshape(-1, 478, 3)


def collect_blinks(config: BlinkConfig, echo: Callable[[str], None] = print) -> int:
    """Write the folder; returns how many frames it holds.

    Raises:
        TrainingDataError: no labelled clip holds a blink.
    """
    crops: list[UInt8Image] = []
    points: list[FloatArray] = []
    meta: list[dict[str, str | int]] = []
    for file in sorted(config.labels.glob("*.npz")):
        video = config.videos / f"{file.stem}.mp4"
        if not video.is_file():
            continue
        with np.load(file) as stored:
            landmarks = stored["landmarks"]
        frames = blink_frames(landmarks, config.below, config.most)
        if len(frames) == 0:
            continue
        cut, places = cut_blinks(video, landmarks, frames)
        crops += cut
        points.append(places)
        meta += [{"name": video.name, "frame": int(index)} for index in frames[: len(cut)]]
        echo(f"{video.name}: {len(cut)} frames")
    if not crops:
        hint = "prepare clips with `talkswap data prepare` and point at the folder of their videos"
        raise TrainingDataError(f"no blink in the labelled clips of {config.labels}", hint)
    config.out.mkdir(parents=True, exist_ok=True)
    np.save(config.out / "crops.npy", np.stack(crops))
    np.save(config.out / "landmarks.npy", np.concatenate(points))
    (config.out / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return len(crops)


def main() -> None:
    """Arguments: prepared folder, folder of the clips; prints how many frames were taken."""
    data, videos = Path(sys.argv[1]), Path(sys.argv[2])
    count = collect_blinks(BlinkConfig(data / "clips-train", videos, data / "blinks-train"))
    print(json.dumps({"blinks-train": count}))


if __name__ == "__main__":
    main()
