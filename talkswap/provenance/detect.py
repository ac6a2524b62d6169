"""Looks for the invisible mark in aligned faces that somebody may have cut, resized and encoded anew.

The mark keeps its place in the aligned face, so the residuals of many frames are summed per person.  The face is aligned
anew and comes out a little differently than when it was marked, so the sum is held against the carriers at many
small moves; where the known bits agree best, the message is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike

from talkswap.provenance.code import CHECK_BITS, KNOWN_BITS, Message, decode, encode, read
from talkswap.provenance.watermark import (
    GRID,
    WatermarkConfig,
    blurred,
    carriers,
    cells_of,
    residual,
    window_box,
)
from talkswap.types import FloatArray, UInt8Image


@dataclass(frozen=True)
class SearchConfig:
    """How far a face may lie from where it was marked, and how often the message may be read."""

    zooms: tuple[float, ...] = (0.96, 0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.04)
    turns: tuple[float, ...] = (-1.0, 0.0, 1.0)  # degrees
    shifts: tuple[float, ...] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # cells, each way
    zoom_spread: float = 0.02  # standard deviations of zoom, turn and shift, by which far places are less likely
    turn_spread: float = 1.0
    shift_spread: float = 1.5
    tries: int = 12  # best places at which the message is read
    blurs: tuple[float, ...] = (0.0, 0.9)  # cells: a small, hard encoded picture keeps the band's lower half alone


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
        self.total = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)
        self.frames = 0

    def add(self, crop: UInt8Image) -> None:
        """Count one aligned crop (S S 3)."""
        self.total += residual(cells_of(crop), self.config)
        self.frames += 1

    def finding(self, search: SearchConfig | None = None) -> Finding:
        """The mark in the sum, if there is one."""
        search = search or SearchConfig()
        if self.frames == 0:
            return Finding(None, 1.0, None, 0)
        for sigma in search.blurs:
            total = self.total if sigma == 0 else blurred(self.total, sigma)
            soft = best_statements(total, self.config, search)
            for values, bits in zip(soft, decode(soft), strict=True):
                message = read(bits)
                if message is not None:
                    agreement = float(((values > 0) == (encode(message) > 0)).mean())
                    bound = search.tries * len(search.blurs) * 0.5**CHECK_BITS
                    return Finding(message, bound, agreement, self.frames)
        return Finding(None, 1.0, None, self.frames)


def best_statements(total: FloatArray, config: WatermarkConfig, search: SearchConfig) -> FloatArray:
    """What the carriers say at the likeliest places (tries CODED_BITS), in standard deviations, likeliest first.

    A place is as likely as the known bits agree there, and as it is near.
    """
    patterns = carriers(config)
    known = encode(Message(0))[:KNOWN_BITS].astype(np.float32) * 2 - 1
    box = window_box()
    field = np.zeros((GRID, GRID), np.float32)
    field[box] = total
    middle = (GRID - 1) / 2
    found: list[tuple[float, FloatArray]] = []
    for zoom in search.zooms:
        for turn in search.turns:
            matrix = cv2.getRotationMatrix2D((middle, middle), turn, zoom)
            moved = np.stack([seen(field, matrix, x, y)[box] for x in search.shifts for y in search.shifts])
            far = ((zoom - 1) / search.zoom_spread) ** 2 + (turn / search.turn_spread) ** 2
            distances = [x * x + y * y for x in search.shifts for y in search.shifts]
            for soft, distance in zip(patterns.statements(moved), distances, strict=True):
                soft /= max(float(np.sqrt((soft**2).mean())), 1e-9)
                agreement = max(0.0, float(soft[:KNOWN_BITS] @ known)) / np.sqrt(KNOWN_BITS)
                found.append((agreement**2 - far - distance / search.shift_spread**2, soft))
    found.sort(key=lambda one: -one[0])
    return np.stack([soft for _, soft in found[: search.tries]])


def seen(field: FloatArray, matrix: MatLike, across: float, down: float) -> FloatArray:
    """A field (GRID GRID) through a similarity (2 3) and a shift in cells."""
    here = matrix.copy()
    here[:, 2] += np.array([across, down])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(field, here, (GRID, GRID), flags=flags), np.float32)
