"""Portraits in tar shards, and clips cut by hand, as arrays that training reads without decoding.

This is how the data of our compact weights are made, with a teacher's landmarks; for plain videos there is
:mod:`talkswap.data.prepare`.

Layout of a prepared folder::

    portraits-{train,val}/  crops.npy N 320 320 3 uint8 · landmarks.npy N 478 3 · meta.json
    clips-{train,val}/NAME.npz   times (s) · landmarks T 478 3 in clip px (nan where no face) · voice 16 kHz · crops index
    frames-{train,val}/     as portraits, every k-th aligned frame of the clips; meta names clip and frame

Arrays are opened as memory maps: many processes share one copy in the page cache.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from talkswap.errors import DependencyError, InputMissingError, TrainingDataError
from talkswap.faces.geometry import align
from talkswap.types import FloatArray, UInt8Image

CROP = 320  # px
Row = TypeVar("Row")


@dataclass(frozen=True)
class PortraitsConfig:
    """What to prepare, from where."""

    source: Path  # folder with faces/ and clips/
    teachers: Path
    out: Path
    frame_step: int = 8  # every k-th clip frame becomes a still
    workers: int = 2


def read_picture(tar: tarfile.TarFile, member: tarfile.TarInfo) -> UInt8Image | None:
    """One stored picture as RGB (H W 3), or None if it is damaged."""
    file = tar.extractfile(member)
    assert file is not None
    bgr = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)  # H W 3
    return None if bgr is None else np.ascontiguousarray(bgr[:, :, ::-1])


def listed_pictures(archive: Path, rows: Mapping[str, Row]) -> Iterator[tuple[Row, UInt8Image]]:
    """The pictures of a tar file that have a row by their name, each with its row.

    Raises:
        TrainingDataError: one of them is damaged.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name in rows:
                rgb = read_picture(tar, member)
                if rgb is None:
                    raise TrainingDataError(f"{member.name} in {archive.name} is no picture", "fetch the archive again")
                yield rows[member.name], rgb


def read_portraits(folder: Path, split: str) -> Iterator[tuple[dict[str, str], UInt8Image]]:
    """Rows of ``faces/SPLIT.csv`` with their pictures, shard by shard."""
    with open(folder / f"{split}.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for shard in sorted({row["shard"] for row in rows.values()}):
        yield from listed_pictures(folder / shard, rows)


def prepare_portraits(config: PortraitsConfig, split: str) -> int:
    """Write ``portraits-SPLIT``; returns how many portraits have a face that the teacher finds."""
    folder = config.out / f"portraits-{split}"
    if (folder / "meta.json").is_file():
        return len(json.loads((folder / "meta.json").read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    crops, landmarks, meta = [], [], []
    with LandmarkTeacher(config.teachers, video=False) as teacher:
        for row, rgb in read_portraits(config.source / "faces", split):
            points = teacher(rgb)
            if points is None:
                continue
            crops.append(rgb)
            landmarks.append(points)
            meta.append({key: row[key] for key in ("name", "kind", "identity", "repo", "licence", "yaw", "mouth_open")})
    np.save(folder / "crops.npy", np.stack(crops))
    np.save(folder / "landmarks.npy", np.stack(landmarks))
    (folder / "meta.json").write_text(json.dumps(meta))
    return len(meta)


def prepare_clip(job: tuple[PortraitsConfig, Path, str]) -> tuple[str, int, int]:
    """Label one clip; writes its npz and its stills; returns (name, frames, frames with a face)."""
    # imported here, since the stages read CROP from this module on machines that have no PyAV
    from talkswap.media.probe import probe
    from talkswap.media.reader import ClipReader
    from talkswap.media.sound import load_voice

    config, path, split = job
    out = config.out / f"clips-{split}" / f"{path.stem}.npz"
    stills = config.out / f"stills-{split}" / f"{path.stem}.npz"
    if out.is_file() and stills.is_file():
        with np.load(out) as arrays:
            return path.name, len(arrays["times"]), int(np.isfinite(arrays["landmarks"][:, 0, 0]).sum())
    # The whole clip is short: cut by hand, some seconds.
    voice = load_voice(path).samples

    def frames() -> Iterator[tuple[Fraction, UInt8Image]]:
        with ClipReader(probe(path)) as reader:
            for frame in reader.frames():
                yield frame.time, frame.rgb

    times: list[float] = []
    landmarks: list[FloatArray] = []
    crops, still_landmarks, still_index = [], [], []
    no_face = np.full((478, 3), np.nan, np.float32)
    for index, (time, rgb, points) in enumerate(label_clip(config.teachers, frames())):
        times.append(float(time))
        landmarks.append(no_face if points is None else points)
        if points is not None and index % config.frame_step == 0:
            face = align(rgb, points, CROP, index)
            crops.append(face.crop)
            still_landmarks.append(face.landmarks)
            still_index.append(index)
    for target in (out, stills):
        target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(stills, crops=np.array(crops), landmarks=np.array(still_landmarks), index=np.array(still_index))
    np.savez(out, times=np.array(times), landmarks=np.stack(landmarks), voice=voice)
    return path.name, len(times), int(np.isfinite(np.stack(landmarks)[:, 0, 0]).sum())


def collect_stills(config: PortraitsConfig, split: str) -> int:
    """Join the clips' stills into one ``frames-SPLIT`` folder shaped like the portraits."""
    files = sorted((config.out / f"stills-{split}").glob("*.npz"))
    folder = config.out / f"frames-{split}"
    folder.mkdir(parents=True, exist_ok=True)
    crops, landmarks = [], []
    meta: list[dict[str, str | int]] = []
    for file in files:
        with np.load(file) as arrays:
            if not len(arrays["crops"]):
                continue
            crops.append(arrays["crops"])
            landmarks.append(arrays["landmarks"])
            meta.extend({"name": f"{file.stem}.mp4", "frame": int(i)} for i in arrays["index"])
    np.save(folder / "crops.npy", np.concatenate(crops))
    np.save(folder / "landmarks.npy", np.concatenate(landmarks).astype(np.float32))
    (folder / "meta.json").write_text(json.dumps(meta))
    return len(meta)


def prepare(config: PortraitsConfig, echo: Callable[[str], None] = print) -> dict[str, int]:
    """Prepare everything; what is already written is kept.  Returns counts by folder."""
    counts: dict[str, int] = {}
    jobs = [
        (config, path, split)
        for split in ("val", "train")
        for path in sorted((config.source / "clips").glob(f"{split}-*.mp4"))
    ]
    with get_context("spawn").Pool(config.workers) as pool:
        portraits = [pool.apply_async(prepare_portraits, (config, split)) for split in ("val", "train")]
        for name, frames, faces in pool.imap_unordered(prepare_clip, jobs):
            echo(f"{name}: {faces} of {frames} frames with a face")
        # The same processes label the portraits meanwhile.
        counts |= {f"portraits-{s}": p.get() for s, p in zip(("val", "train"), portraits, strict=True)}
    for split in ("val", "train"):
        counts[f"frames-{split}"] = collect_stills(config, split)
    return counts


LANDMARKER_FILE = "face_landmarker.task"


class LandmarkTeacher:
    """478 landmarks of the one face in a picture or of a clip's frames.

    Args:
        folder: where ``face_landmarker.task`` lies.
        video: follow the face from frame to frame instead of detecting anew in each.
    """

    def __init__(self, folder: Path, video: bool) -> None:
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise DependencyError(
                "preparing training data needs the package mediapipe", "pip install mediapipe"
            ) from error
        path = folder / LANDMARKER_FILE
        if not path.is_file():
            raise InputMissingError(f"no landmark teacher at {path}", "point --teachers at the folder that holds it")
        self._mediapipe: Any = mediapipe
        self._video = video
        self._landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(path)),
                running_mode=vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE,
                num_faces=1,
                min_face_detection_confidence=0.3,
                min_face_presence_confidence=0.3,
                min_tracking_confidence=0.3,
            )
        )

    def __enter__(self) -> LandmarkTeacher:
        return self

    def __exit__(self, *_: object) -> None:
        self._landmarker.close()

    def __call__(self, rgb: UInt8Image, milliseconds: int = 0) -> FloatArray | None:
        """Landmarks (478 x 3, px; z in the x scale) or None; times must grow from call to call for a clip."""
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        result = (
            self._landmarker.detect_for_video(image, milliseconds) if self._video else self._landmarker.detect(image)
        )
        if not result.face_landmarks:
            return None
        height, width = rgb.shape[:2]
        return np.array([(p.x * width, p.y * height, p.z * width) for p in result.face_landmarks[0]], np.float32)


def label_clip(
    folder: Path, frames: Iterable[tuple[Fraction, UInt8Image]]
) -> Iterator[tuple[Fraction, UInt8Image, FloatArray | None]]:
    """Each frame of a clip with its landmarks, in order."""
    with LandmarkTeacher(folder, video=True) as teacher:
        for index, (time, rgb) in enumerate(frames):
            # The teacher wants times that grow; two frames of one millisecond would stop it.
            yield time, rgb, teacher(rgb, int(time * 1000) + index)
