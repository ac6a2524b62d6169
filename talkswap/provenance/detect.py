"""Looks for the invisible mark in aligned faces that somebody may have cut, resized and encoded anew.

The mark keeps its place in the aligned face, so the residuals of many frames are summed per person.  The face is aligned
anew and comes out a little differently than when it was marked, so the sum is held against the carriers at many
small moves; where they agree best with any message, the check decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike

from talkswap.provenance.code import (
    CHECK_BITS,
    CODED_BITS,
    Message,
    decode,
    encode,
    read,
)
from talkswap.provenance.watermark import (
    GRID,
    PLANES,
    WatermarkConfig,
    carriers,
    cells_of,
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
