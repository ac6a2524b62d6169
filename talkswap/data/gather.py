"""Stills of prepared clips, as the stages for faces, identity and the VQGAN read them.

``frames-SPLIT`` holds every k-th frame of each clip, ``portraits-SPLIT`` one picture per clip, where the head is
turned least; both are arrays as :mod:`talkswap.data.stills` opens them, cut from the clips' region videos.  They are
made anew when the clips have changed, several processes writing their own rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.data.clip import paths_of
from talkswap.data.cutting import Piece, read_piece
from talkswap.data.talking import smoothed_quads
from talkswap.faces.geometry import quad_affine, transform_points, warp_crop
from talkswap.faces.measures import mouth_opening
from talkswap.faces.mesh import POINTS
from talkswap.files import write_atomically

KINDS = ("frames", "portraits")
ARRAYS = ("crops.npy", "landmarks.npy")


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


def chosen_frames(out: Path, record: dict[str, Any], kind: str, step: int) -> tuple[int, ...]:
    """Which frames of a clip become stills: those in which the face was found."""
    if kind == "portraits":
        return (int(record["portrait"]),)
    with np.load(out / paths_of(record["name"], record["split"])["labels"]) as stored:
        seen = np.isfinite(stored["landmarks"][:, 0, 0])
    return tuple(int(k) for k in np.flatnonzero(seen) if k % step == 0)


def write_stills(job: StillsJob) -> int:
    """Cut one clip's stills into its rows; returns how many."""
    paths = paths_of(job.name, job.split)
    with np.load(job.out / paths["labels"]) as stored:
        landmarks = stored["landmarks"]
    centres, sides = smoothed_quads(landmarks)
    crops, points = (np.load(job.folder / name, mmap_mode="r+") for name in ARRAYS)
    piece = Piece(job.out / paths["video"], Fraction(0), tuple(range(job.frames[-1] + 1)))
    rows = {frame: job.first + k for k, frame in enumerate(job.frames)}
    for number, rgb in enumerate(read_piece(piece)):
        if number in rows:
            affine = quad_affine(centres[number], sides[number], job.size)
            crops[rows[number]] = warp_crop(rgb, affine, job.size)
            points[rows[number]] = transform_points(affine, landmarks[number])
    crops.flush()
    points.flush()
    return len(rows)


def _signature(records: Sequence[dict[str, Any]], kind: str, step: int, size: int) -> str:
    told = [[r["name"], sorted(r["files"].items()), r["portrait"]] for r in records]
    return hashlib.sha256(json.dumps([told, kind, step if kind == "frames" else 0, size]).encode()).hexdigest()


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
    if done.is_file() and json.loads(done.read_text())["clips"] == signature:
        return []
    jobs, first = [], 0
    part = out / "work" / f"{kind}-{split}"
    for record in records:
        frames = chosen_frames(out, record, kind, step)
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
        with np.load(out / paths_of(job.name, split)["labels"]) as stored:
            yaw, opening = stored["yaw"], mouth_opening(stored["landmarks"])
        for frame in job.frames:
            about = {"yaw": round(float(yaw[frame]), 1), "mouth_open": round(float(opening[frame]), 3)}
            name = f"{job.name}.mp4" if kind == "frames" else f"{job.name}-{frame}"
            rows.append({"name": name, "frame": frame, "kind": "real", "identity": record["speaker"], **about})
    (folder / "made.json").unlink(missing_ok=True)
    for name in ARRAYS:
        os.replace(out / "work" / f"{kind}-{split}" / name, folder / name)
    write_atomically(folder / "meta.json", json.dumps(rows))
    write_atomically(folder / "made.json", json.dumps({"clips": _signature(records, kind, step, size)}))
    return len(rows)
