"""Aligned stills: arrays of crops with landmarks, made from prepared clips and drawn by seed, with augmentation.

``frames-SPLIT`` holds every k-th frame of each clip, ``portraits-SPLIT`` one picture per clip, where the head is
turned least.  They are cut from the clips' region videos, and made anew when the clips have changed; several processes
write their own rows.  Training opens them as memory maps, so that many processes share one copy in the page cache.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.data.talking import smoothed_quads
from talkswap.errors import TrainingDataError
from talkswap.faces.geometry import quad_affine, transform_points, warp_crop
from talkswap.faces.measures import mouth_opening
from talkswap.faces.mesh import POINTS
from talkswap.files import write_atomically
from talkswap.types import FloatArray, UInt8Image

EYES = (
    (33, 160, 158, 133, 153, 144),
    (362, 385, 387, 263, 373, 380),
)
KINDS = ("frames", "portraits")
ARRAYS = ("crops.npy", "landmarks.npy")


@dataclass(frozen=True)
class Stills:
    """One prepared folder, opened as memory maps."""

    crops: NDArray[np.uint8]  # N 320 320 3
    landmarks: FloatArray  # N 478 3 px
    meta: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.meta)


def open_stills(folder: Path) -> Stills:
    """Open ``portraits-*`` or ``frames-*`` as made by :mod:`talkswap.data.prepare`."""
    if not (folder / "meta.json").is_file():
        raise TrainingDataError(f"no prepared stills in {folder}", "run `talkswap data prepare` first")
    meta = json.loads((folder / "meta.json").read_text())
    stills = Stills(
        np.load(folder / "crops.npy", mmap_mode="r"), np.load(folder / "landmarks.npy", mmap_mode="r"), meta
    )
    if not (len(stills.crops) == len(stills.landmarks) == len(meta) > 0):
        raise TrainingDataError(f"the arrays in {folder} differ in length", "prepare the folder anew")
    return stills


@dataclass(frozen=True)
class StillAugmentation:
    """Ranges of the random changes; zero switches one off."""

    flip: float = 0.5  # probability
    geometry: float = 0.5  # probability of the three below
    shift: float = 0.03  # of the side
    scale: float = 0.05
    roll: float = 4.0  # degrees
    light: float = 0.12  # gain and offset
    colour: float = 0.08  # per-channel gain


def draw_still(
    stills: Stills, random: np.random.Generator, augmentation: StillAugmentation
) -> tuple[UInt8Image, FloatArray]:
    """One augmented crop with its landmarks (478 x 3, px).

    After a flip the landmarks keep their numbers, so left and right parts are exchanged; use them
    only for regions that are symmetric.
    """
    # All numbers are drawn, whether they are used or not: so switching one change off leaves the others as they were.
    index = int(random.integers(len(stills)))
    crop, points = np.asarray(stills.crops[index]), np.asarray(stills.landmarks[index])
    size = crop.shape[0]
    flip = random.random() < augmentation.flip
    change_geometry = random.random() < augmentation.geometry
    shift = random.uniform(-1, 1, 2) * augmentation.shift * size
    scale = np.exp(random.uniform(-1, 1) * augmentation.scale)
    roll = random.uniform(-1, 1) * augmentation.roll
    gain = 1 + random.uniform(-1, 1) * augmentation.light + random.uniform(-1, 1, 3) * augmentation.colour
    offset = random.uniform(-1, 1) * augmentation.light * 128
    if change_geometry:
        matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), roll, scale)
        matrix[:, 2] += shift
        crop = cv2.warpAffine(crop, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        points = transform_points(matrix.astype(np.float32), points)
    if flip:
        crop = crop[:, ::-1]
        points = points * np.array([-1, 1, 1], np.float32) + np.array([size - 1, 0, 0], np.float32)
    if augmentation.light or augmentation.colour:
        # Light and colour in one look-up a channel.
        table = np.arange(256)[:, None] * gain[None] + offset  # 256 3
        crop = cv2.LUT(np.ascontiguousarray(crop), table.clip(0, 255).astype(np.uint8)[None])
    return np.ascontiguousarray(crop), points.astype(np.float32)


def importance(points: FloatArray, size: int, outside: float, face: float, parts: float) -> FloatArray:
    """Weight of each px (size/4 x size/4): little outside the face, more on it, most on eyes and mouth."""
    # At a quarter of the size: losses weigh areas, not pixels.
    small = size // 4
    weight = np.full((small, small), outside, np.float32)
    plane = points[:, :2] / 4  # 478 2
    hull = cv2.convexHull(plane[:468].astype(np.int32))
    cv2.fillConvexPoly(weight, hull, face)
    regions = [plane[list(eye)] for eye in EYES] + [plane[[61, 291, 0, 17, 37, 267, 84, 314]]]
    for region in regions:
        centre = region.mean(0)
        grown = centre + (region - centre) * np.array([1.3, 1.8])
        cv2.fillConvexPoly(weight, cv2.convexHull(grown.astype(np.int32)), parts)
    return np.asarray(cv2.GaussianBlur(weight, (5, 5), 0), np.float32)


def paths_of(name: str, split: str) -> dict[str, str]:
    """The files of a clip below the data set's folder."""
    return {
        "video": f"videos/{name}.mp4",
        "labels": f"clips-{split}/{name}.npz",
        "voice": f"voices/{name}.wav",
        "mel": f"features/mel/{name}.npy",
    }


@dataclass(frozen=True)
class StillsJob:
    """One clip's rows in one folder's arrays."""

    out: Path
    folder: Path  # where the unfinished arrays lie
    name: str
    split: str
    frames: tuple[int, ...]  # of the clip
    first: int  # row of the first of them
    size: int  # px


def still_frames(out: Path, record: dict[str, Any], kind: str, step: int) -> tuple[int, ...]:
    """Which frames of a clip become stills: those in which the face was found."""
    if kind == "portraits":
        return (int(record["portrait"]),)
    with np.load(out / paths_of(record["name"], record["split"])["labels"]) as arrays:
        visible = np.isfinite(arrays["landmarks"][:, 0, 0])
    return tuple(int(k) for k in np.flatnonzero(visible) if k % step == 0)


def write_stills(job: StillsJob) -> int:
    """Cut one clip's stills into its rows; returns how many."""
    paths = paths_of(job.name, job.split)
    with np.load(job.out / paths["labels"]) as arrays:
        landmarks = arrays["landmarks"]
    centres, sides = smoothed_quads(landmarks)
    crops, points = (np.load(job.folder / name, mmap_mode="r+") for name in ARRAYS)
    from talkswap.data.cutting import Piece, read_piece  # stages draw stills on machines that have no PyAV

    piece = Piece(job.out / paths["video"], Fraction(0), tuple(range(job.frames[-1] + 1)))
    rows = {frame: job.first + k for k, frame in enumerate(job.frames)}
    # Once through the clip: seeking in a region's video costs more than decoding it.
    for number, rgb in enumerate(read_piece(piece)):
        if number in rows:
            affine = quad_affine(centres[number], sides[number], job.size)
            crops[rows[number]] = warp_crop(rgb, affine, job.size)
            points[rows[number]] = transform_points(affine, landmarks[number])
    crops.flush()
    points.flush()
    return len(rows)


def _signature(records: Sequence[dict[str, Any]], kind: str, step: int, size: int) -> str:
    clips = [[r["name"], sorted(r["files"].items()), r["portrait"]] for r in records]
    return hashlib.sha256(json.dumps([clips, kind, step if kind == "frames" else 0, size]).encode()).hexdigest()


def plan_stills(
    out: Path, split: str, kind: str, records: Sequence[dict[str, Any]], step: int, size: int
) -> list[StillsJob]:
    """Lay out the arrays of one folder; an empty list where it is up to date.

    Args:
        records: of the split's accepted clips, in order of their names.
        step: every k-th frame.
        size: px of a still.
    """
    folder = out / f"{kind}-{split}"
    signature = _signature(records, kind, step, size)
    done = folder / "made.json"
    # Arrays of the same clips are left alone; their hashes decide, not their times.
    if done.is_file() and json.loads(done.read_text())["clips"] == signature:
        return []
    jobs, first = [], 0
    part = out / "work" / f"{kind}-{split}"
    for record in records:
        frames = still_frames(out, record, kind, step)
        if frames:
            jobs.append(StillsJob(out, part, record["name"], split, frames, first, size))
            first += len(frames)
    if not first:
        return []
    part.mkdir(parents=True, exist_ok=True)
    shapes: tuple[tuple[Any, tuple[int, ...]], ...] = (
        (np.uint8, (first, size, size, 3)),
        (np.float32, (first, POINTS, 3)),
    )
    for name, (dtype, shape) in zip(ARRAYS, shapes, strict=True):
        np.lib.format.open_memmap(part / name, mode="w+", dtype=dtype, shape=shape).flush()
    return jobs


def finish_stills(
    out: Path, split: str, kind: str, records: Sequence[dict[str, Any]], jobs: Sequence[StillsJob], step: int, size: int
) -> int:
    """Move a folder's filled arrays to their place and describe their rows; returns the number of stills."""
    folder = out / f"{kind}-{split}"
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {record["name"]: record for record in records}
    rows: list[dict[str, Any]] = []
    for job in jobs:
        record = by_name[job.name]
        with np.load(out / paths_of(job.name, split)["labels"]) as arrays:
            yaw, opening = arrays["yaw"], mouth_opening(arrays["landmarks"])
        for frame in job.frames:
            about = {"yaw": round(float(yaw[frame]), 1), "mouth_open": round(float(opening[frame]), 3)}
            name = f"{job.name}.mp4" if kind == "frames" else f"{job.name}-{frame}"
            rows.append({"name": name, "frame": frame, "kind": "real", "identity": record["speaker"], **about})
    # Removed first and written last: a run killed in between finds no promise that doesn't hold.
    (folder / "made.json").unlink(missing_ok=True)
    for name in ARRAYS:
        os.replace(out / "work" / f"{kind}-{split}" / name, folder / name)
    write_atomically(folder / "meta.json", json.dumps(rows))
    write_atomically(folder / "made.json", json.dumps({"clips": _signature(records, kind, step, size)}))
    return len(rows)
