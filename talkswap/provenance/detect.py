"""Looks for the invisible mark in aligned faces that somebody may have cut, resized and encoded anew.

The mark keeps its place in the aligned face, so the residuals of many frames are summed per person.  The face is aligned
anew and comes out a little differently than when it was marked, so the sum is held against the carriers at many
small moves; where they agree best with any message, the check decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike

from talkswap.faces.analyse import FaceAnalyser
from talkswap.faces.geometry import warp_crop
from talkswap.faces.track import FaceTracker
from talkswap.media.index import FrameIndex, index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import Timeline
from talkswap.provenance.watermark import (
    CHECK_BITS,
    CODED_BITS,
    GRID,
    PLANES,
    Message,
    WatermarkConfig,
    carriers,
    cells_of,
    decode,
    encode,
    read,
    residual,
    window_box,
)
from talkswap.types import FloatArray, UInt8Image


@dataclass(frozen=True)
class SearchConfig:
    """How far a face may lie from where it was marked, and how often the message may be read."""

    zooms: tuple[float, ...] = (0.975, 1.0, 1.025)
    turns: tuple[float, ...] = (-1.5, 0.0, 1.5)  # degrees
    shifts: tuple[float, ...] = (-1.0, 0.0, 1.0)  # cells, each way
    tries: int = 8  # best places whose check is looked at


@dataclass(frozen=True)
class Finding:
    """What one face says."""

    message: Message | None  # None: no mark was read
    false_positive: float  # bound on the probability that a face without a mark is read as this one was; 1 without
    agreement: float | None  # share of the coded bits that are right before correction; None without a message
    frames: int


class Evidence:
    """The summed residual of one face."""

    def __init__(self, config: WatermarkConfig | None = None) -> None:
        self.config = config or WatermarkConfig()
        rows, columns = window_box()
        self.total = np.zeros((PLANES, rows.stop - rows.start, columns.stop - columns.start), np.float32)
        self.frames = 0

    def add(self, crop: UInt8Image) -> None:
        """Count one aligned crop (S S 3)."""
        self.total += np.stack([residual(plane, self.config) for plane in cells_of(crop)])
        self.frames += 1

    def finding(self, search: SearchConfig | None = None) -> Finding:
        """The mark in the sum, if there is one."""
        search = search or SearchConfig()
        if self.frames == 0:
            return Finding(None, 1.0, None, 0)
        soft = statements_at(self.total, self.config, search)
        read_there, agreeing = decode(soft)
        for place in np.argsort(-agreeing, kind="stable")[: search.tries]:
            message = read(read_there[place])
            if message is not None:
                agreement = float(((soft[place] > 0) == (encode(message) > 0)).mean())
                return Finding(message, search.tries * 0.5**CHECK_BITS, agreement, self.frames)
        return Finding(None, 1.0, None, self.frames)


def statements_at(total: FloatArray, config: WatermarkConfig, search: SearchConfig) -> FloatArray:
    """What the carriers say at each place (N CODED_BITS), in standard deviations.

    Args:
        total: summed residuals of Cb and Cr (2 rows columns).
        config: the mark's.
        search: the places.
    """
    patterns, box = carriers(config), window_box()
    field = np.zeros((PLANES, GRID, GRID), np.float32)
    field[:, *box] = total
    middle = (GRID - 1) / 2
    shifts = [(across, down) for across in search.shifts for down in search.shifts]
    found = []
    for zoom in search.zooms:
        for turn in search.turns:
            matrix = cv2.getRotationMatrix2D((middle, middle), turn, zoom)
            moved = np.stack([[seen(plane, matrix, x, y)[box] for plane in field] for x, y in shifts])
            said = patterns.statements(moved)  # shifts 2 bits
            said /= np.sqrt(np.maximum((said**2).mean(-1, keepdims=True), 1e-12))
            found.append(said.transpose(0, 2, 1).reshape(len(shifts), CODED_BITS))
    return np.concatenate(found)


def seen(field: FloatArray, matrix: MatLike, across: float, down: float) -> FloatArray:
    """A field (GRID GRID) through a similarity (2 3) and a shift in cells."""
    here = matrix.copy()
    here[:, 2] += np.array([across, down])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(field, here, (GRID, GRID), flags=flags), np.float32)


# --- The invisible mark in a clip: which frames are looked at, and whose faces are in them.


CROP = 320  # px of the aligned crop that a detector cuts
BURSTS = 6  # stretches of a long clip that are looked at
LEAST_FRAMES = 4  # of a face that is worth a search
MOST_FACES = 4  # that are searched, those seen most often first


@dataclass(frozen=True)
class FaceFinding:
    """What one person's face says."""

    face: int  # number in order of appearance
    finding: Finding
    width: float  # px of the face's square, mean


def bursts(index: FrameIndex, frames: int) -> tuple[int, ...]:
    """Frames to look at: all of a short clip, else stretches that begin at keyframes, spread over it."""
    count = len(index.times)
    if count <= frames:
        return tuple(range(count))
    length = max(1, frames // BURSTS)
    chosen: dict[int, None] = {}
    for place in range(BURSTS):
        wanted = place * (count - length) // max(BURSTS - 1, 1)
        start = max((key for key in index.keyframes if key <= wanted), default=0)
        chosen.update(dict.fromkeys(range(start, min(start + length, count))))
    return tuple(sorted(chosen))


def look(path: Path, analyser: FaceAnalyser, frames: int) -> list[FaceFinding]:
    """What the faces of a clip say, those with a mark first.

    Args:
        path: the clip.
        analyser: finds the faces.
        frames: how many frames are looked at.

    Raises:
        As of :func:`talkswap.media.probe.probe` and :func:`talkswap.media.index.index_frames`.
    """
    info = probe(path)
    index = index_frames(info)
    pictures = bursts(index, frames)
    timeline = Timeline(pictures, tuple(index.times[p] for p in pictures), index.duration)
    tracker = FaceTracker(analyser, embed=analyser.embed)
    evidence: dict[int, Evidence] = {}
    widths: dict[int, float] = {}
    with ClipReader(info, index) as reader:
        for frame in reader.frames_for(timeline):
            for tracked in tracker.update(frame):
                affine = tracked.affine(CROP)
                evidence.setdefault(tracked.track_id, Evidence()).add(warp_crop(frame.rgb, affine, CROP))
                widths[tracked.track_id] = (
                    widths.get(tracked.track_id, 0) + CROP / float(affine[0, :2] @ affine[0, :2]) ** 0.5
                )
    often = sorted((one for one in evidence if evidence[one].frames >= LEAST_FRAMES), key=lambda i: -evidence[i].frames)
    found = [FaceFinding(i, evidence[i].finding(), widths[i] / evidence[i].frames) for i in often[:MOST_FACES]]
    return sorted(found, key=lambda one: one.finding.message is None)


def read_at(path: Path, affines: Mapping[int, FloatArray]) -> Finding | None:
    """What a clip says at places that are known (frame -> 2 3, picture px -> crop px); None where none is."""
    if not affines:
        return None
    info = probe(path)
    index = index_frames(info)
    pictures = tuple(sorted(i for i in affines if i < len(index.times)))
    timeline = Timeline(pictures, tuple(index.times[p] for p in pictures), index.duration)
    evidence = Evidence()
    with ClipReader(info, index) as reader:
        for picture, frame in zip(pictures, reader.frames_for(timeline), strict=True):
            evidence.add(warp_crop(frame.rgb, affines[picture], CROP))
    return evidence.finding(SearchConfig(zooms=(1.0,), turns=(0.0,), shifts=(0.0,), tries=1))
