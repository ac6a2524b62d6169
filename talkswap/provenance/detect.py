"""Look for the invisible mark in a clip that somebody may have cut, resized and encoded again.

The mark keeps its place in the aligned face, so the residuals of many frames are summed per person.  A detector aligns
the face a little differently than the render did, so the sum is projected on the carriers at many small moves; where
they agree best with any message, the check decides.
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

CROP = 320  # px of the aligned crop that a detector cuts
BURSTS = 6  # stretches of a long clip that are decoded
LEAST_FRAMES = 4  # of a face that is worth a search
MOST_FACES = 4  # that are searched, the most frequent ones first


@dataclass(frozen=True)
class SearchConfig:
    """How far a face may lie from its place in the render, and how many places are read."""

    zooms: tuple[float, ...] = (0.975, 1.0, 1.025)
    turns: tuple[float, ...] = (-1.5, 0.0, 1.5)  # degrees
    shifts: tuple[float, ...] = (-1.0, 0.0, 1.0)  # cells, each way
    tries: int = 8  # best places whose check is read; each try adds to the chance of a false mark


@dataclass(frozen=True)
class Finding:
    """What one face says."""

    message: Message | None  # None: no mark
    false_positive: float  # bound on the probability that an unmarked face gives a message; 1 without a message
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
        soft = project_at_places(self.total, self.config, search)
        bits, agreement_of_path = decode(soft)
        for place in np.argsort(-agreement_of_path, kind="stable")[: search.tries]:
            message = read(bits[place])
            if message is not None:
                agreement = float(((soft[place] > 0) == (encode(message) > 0)).mean())
                return Finding(message, search.tries * 0.5**CHECK_BITS, agreement, self.frames)
        return Finding(None, 1.0, None, self.frames)


def project_at_places(total: FloatArray, config: WatermarkConfig, search: SearchConfig) -> FloatArray:
    """Projections on the carriers at each place (N CODED_BITS), in standard deviations.

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
    places = []
    for zoom in search.zooms:
        for turn in search.turns:
            matrix = cv2.getRotationMatrix2D((middle, middle), turn, zoom)
            moved = np.stack([[_move(plane, matrix, x, y)[box] for plane in field] for x, y in shifts])
            bits = patterns.project(moved)  # shifts 2 bits
            bits /= np.sqrt(np.maximum((bits**2).mean(-1, keepdims=True), 1e-12))
            places.append(bits.transpose(0, 2, 1).reshape(len(shifts), CODED_BITS))
    return np.concatenate(places)


def _move(field: FloatArray, matrix: MatLike, across: float, down: float) -> FloatArray:
    """A field (GRID GRID) through a similarity (2 3) and a shift in cells."""
    here = matrix.copy()
    here[:, 2] += np.array([across, down])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(field, here, (GRID, GRID), flags=flags), np.float32)


@dataclass(frozen=True)
class FaceFinding:
    """The finding for one person of a clip."""

    face: int  # number in order of appearance
    finding: Finding
    width: float  # px of the face's square, mean


def bursts(index: FrameIndex, frames: int) -> tuple[int, ...]:
    """Frames to decode: all of a short clip, else stretches that begin at keyframes, spread over it."""
    count = len(index.times)
    if count <= frames:
        return tuple(range(count))
    length = max(1, frames // BURSTS)
    chosen: dict[int, None] = {}
    for place in range(BURSTS):
        aim = place * (count - length) // max(BURSTS - 1, 1)
        start = max((key for key in index.keyframes if key <= aim), default=0)  # decoding begins there anyway
        chosen.update(dict.fromkeys(range(start, min(start + length, count))))
    return tuple(sorted(chosen))


def look(path: Path, analyser: FaceAnalyser, frames: int) -> list[FaceFinding]:
    """Search the faces of a clip; those with a mark come first.

    Args:
        path: the clip.
        analyser: finds the faces.
        frames: number of frames to decode.

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
    # A search costs as much as many frames: passers-by in a crowd are left out.
    often = sorted((i for i in evidence if evidence[i].frames >= LEAST_FRAMES), key=lambda i: -evidence[i].frames)
    faces = [FaceFinding(i, evidence[i].finding(), widths[i] / evidence[i].frames) for i in often[:MOST_FACES]]
    return sorted(faces, key=lambda face: face.finding.message is None)


def read_at(path: Path, affines: Mapping[int, FloatArray]) -> Finding | None:
    """The mark at the places of a render (frame -> 2 3, picture px -> crop px); None without any place."""
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
