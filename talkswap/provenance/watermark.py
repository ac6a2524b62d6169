"""An invisible mark in the changed face.

Improved spread spectrum (Malvar and Florencio, "Improved spread spectrum: a new modulation technique for robust
watermarking", IEEE Transactions on Signal Processing 51(4), 2003): each coded bit adds a band-limited carrier, and since
the face is known when the mark is made, what it says itself in the carrier's place counts: only what is missing
is added, up to the margin that the allowed change buys.

The carriers live in the FFHQ-aligned crop, so the mark follows the face and stays with it through cuts and resizes.
All frames carry the same message: a codec's motion compensation hands it on, and a detector sums.  The amplitude
follows the local texture, and nothing outside the mask is touched.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from talkswap.provenance.code import CODED_BITS, Message, encode
from talkswap.types import FloatArray, UInt8Image

GRID = 160  # cells along the crop's side
ROWS = 32  # carriers at a time: more would wake the linear algebra library's threads, which costs ten times the work
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class WatermarkConfig:
    """The mark's place in the spectrum, and its strength; a detector needs the first six as they were.

    Measured on held-out clips (faces of 330 to 360 px, 75 frames): read after crf 28, after halving, and after a cut;
    not after halving and crf 28 together.  A lower band drowns in the face's own features, a higher one in the codec;
    more change in rough skin than in even one wastes it, since rough skin speaks louder against it.
    """

    seed: int = 0x7A1C
    fine: float = 0.9  # cells: sigma under which detail is left to the codec
    coarse: float = 2.0  # cells: sigma above which light and shape begin
    reach: float = 1.5  # cells: sigma of the neighbourhood whose texture counts
    floor: float = 2.0  # levels of texture that even skin is taken for
    limit: float = 1.5  # textures up to which a cell is heard: eyes and teeth must not outshout the skin
    texture: float = -0.6  # power of the texture that the amplitude follows
    most_noise: float = 4.8  # mean squared change of the luma inside the mask: 41.3 dB
    most_level: float = 7.0  # levels by which a cell changes at most
    rounds: int = 2  # of correction, since texture makes the carriers see each other


@functools.lru_cache(maxsize=1)
def window() -> FloatArray:
    """Where a frontal face's mask lies in the FFHQ crop (GRID GRID, [0, 1])."""
    y, x = (np.mgrid[0:GRID, 0:GRID] + 0.5) / GRID
    across, down = np.abs(x - 0.5) / 0.265, y - 0.575
    brow = (across**4 + (np.maximum(-down, 0) / 0.315) ** 4) ** (1 / 4)
    chin = (across**2.2 + (np.maximum(down, 0) / 0.335) ** 2.2) ** (1 / 2.2)
    return np.asarray(np.clip((1 - np.where(down < 0, brow, chin)) / 0.15, 0, 1), np.float32)


@functools.lru_cache(maxsize=1)
def window_box() -> tuple[slice, slice]:
    """The rows and columns of the grid that the window reaches."""
    rows, columns = np.flatnonzero(window().max(1)), np.flatnonzero(window().max(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def blurred(field: FloatArray, sigma: float) -> FloatArray:
    """Gaussian mean of each cell's neighbourhood."""
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.float32)


def band(field: FloatArray, config: WatermarkConfig) -> FloatArray:
    """The part of a field (GRID GRID) that lies in the mark's band."""
    return blurred(field, config.fine) - blurred(field, config.coarse)


class Carriers:
    """One pattern per coded bit in the window's box, orthonormal.

    Signs come from a bit generator whose stream numpy keeps for good; the symmetric root makes the result free of
    the linear algebra library's choices.
    """

    def __init__(self, config: WatermarkConfig) -> None:
        box, inside = window_box(), window()
        raw = np.random.PCG64(config.seed).random_raw(CODED_BITS * GRID * GRID // 64)
        signs = np.unpackbits(np.asarray(raw, "<u8").view(np.uint8)).astype(np.float32) * 2 - 1
        fields = [(band(field, config) * inside)[box].ravel() for field in signs.reshape(CODED_BITS, GRID, GRID)]
        flat = np.stack(fields).astype(np.float64)
        values, vectors = np.linalg.eigh(flat @ flat.T)
        patterns = ((vectors / np.sqrt(values)) @ vectors.T @ flat).astype(np.float32)
        self.shape = inside[box].shape
        self.blocks = [np.ascontiguousarray(block) for block in np.split(patterns, range(ROWS, CODED_BITS, ROWS))]
        self.gain = self._gain(config)

    def _gain(self, config: WatermarkConfig) -> float:
        """Share of a carrier that is left in its own direction by the band that a detector looks through."""
        shares = []
        for bit in range(0, CODED_BITS, 8):
            units = np.zeros(CODED_BITS, np.float32)
            units[bit] = 1
            field = np.zeros((GRID, GRID), np.float32)
            field[window_box()] = self.pattern(units)
            shares.append(float(self.statements(band(field, config)[window_box()])[bit]))
        return float(np.mean(shares))

    def statements(self, fields: FloatArray) -> FloatArray:
        """How much of each carrier is in fields over the box (... rows columns): ... CODED_BITS."""
        flat = fields.reshape(*fields.shape[:-2], -1)
        return np.concatenate([flat @ block.T for block in self.blocks], -1)

    def pattern(self, units: FloatArray) -> FloatArray:
        """The sum of the carriers, each ``units`` (CODED_BITS) times, over the box (rows columns)."""
        parts = np.split(units.astype(np.float32), range(ROWS, CODED_BITS, ROWS))
        total = np.zeros(self.shape[0] * self.shape[1], np.float32)
        for part, block in zip(parts, self.blocks, strict=True):
            total += part @ block
        return total.reshape(self.shape)


@functools.lru_cache(maxsize=2)
def carriers(config: WatermarkConfig) -> Carriers:
    """The carriers of a configuration; made once."""
    return Carriers(config)


def cells_of(crop: UInt8Image) -> FloatArray:
    """Luma of a crop (S S 3), averaged over cells (GRID GRID)."""
    luma = cv2.transform(cv2.resize(crop, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32), LUMA[None])
    return np.asarray(luma, np.float32)


def texture_of(banded: FloatArray, config: WatermarkConfig) -> FloatArray:
    """Local standard deviation of the band in levels, never below the floor (GRID GRID)."""
    return np.asarray(np.sqrt(blurred(banded * banded, config.reach) + config.floor**2), np.float32)


def residual(luma: FloatArray, config: WatermarkConfig, texture: FloatArray | None = None) -> FloatArray:
    """What a detector hears of a luma (GRID GRID) in the window's box: the band, limited, even skin first."""
    banded = band(luma, config)
    box = window_box()
    texture = (texture_of(banded, config) if texture is None else texture)[box]
    heard = np.tanh(banded[box] / (texture * config.limit)) * config.limit
    return np.asarray(heard / texture, np.float32)


class Watermark:
    """Marks the crops of one render; calls do not depend on each other.

    Args:
        message: what the mark says.
        config: see :class:`WatermarkConfig`.
    """

    def __init__(self, message: Message, config: WatermarkConfig | None = None) -> None:
        self.message = message
        self.config = config or WatermarkConfig()
        self.signs = encode(message).astype(np.float32) * 2 - 1
        self.carriers = carriers(self.config)
        self.gain = self.carriers.gain

    def pattern(self, crop: UInt8Image, mask: FloatArray, target_crop: UInt8Image) -> FloatArray:
        """What is to be added to the luma of ``crop`` in the window's box (levels); arguments as of a call."""
        config, box = self.config, window_box()
        share = np.asarray(cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA), np.float32)
        luma = cells_of(crop) * share + cells_of(target_crop) * (1 - share)
        texture = texture_of(band(luma, config), config)
        inner, near = texture[box], (share * window())[box]
        amplitude = inner**config.texture
        weight = float(near.sum()) / float(window().sum())
        if weight < 0.02:
            return np.zeros(near.shape, np.float32)  # next to nothing of the face is changed here
        # A carrier's unit raises its statement by gain, and costs cost of the mean squared change.
        gain = self.gain * float((inner ** (config.texture - 2) * near).sum()) / float(window().sum())
        cost = float((amplitude**2 * near).sum() / window().sum() / share.sum())
        said = self.carriers.statements(residual(luma, config, texture)) * self.signs
        margin = affordable(said, config.most_noise * gain**2 / cost)
        units = np.maximum(0, margin - said) / gain
        change = self._change(units, amplitude)
        for _ in range(config.rounds - 1):
            shown = luma.copy()
            shown[box] += change * share[box]
            said = self.carriers.statements(residual(shown, config, texture)) * self.signs
            units = np.maximum(0, units + 0.7 * (margin - said) / gain)
            units *= min(1.0, float(np.sqrt(config.most_noise / max(cost * float((units**2).sum()), 1e-9))))
            change = self._change(units, amplitude)
        return change

    def _change(self, units: FloatArray, amplitude: FloatArray) -> FloatArray:
        change = self.carriers.pattern(units * self.signs) * amplitude
        return np.asarray(np.clip(change, -self.config.most_level, self.config.most_level), np.float32)

    def __call__(self, crop: UInt8Image, mask: FloatArray, target_crop: UInt8Image) -> UInt8Image:
        """A crop that carries the mark.

        Args:
            crop: S S 3, the system's answer.
            mask: S S in [0, 1], how much of it the picture will take.
            target_crop: S S 3, what is under it.

        Returns:
            S S 3.
        """
        size = crop.shape[0]
        change = np.zeros((GRID, GRID), np.float32)
        change[window_box()] = self.pattern(crop, mask, target_crop)
        large = cv2.resize(change, (size, size), interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.add(crop, cv2.merge([large, large, large]), dtype=cv2.CV_8U), np.uint8)


def affordable(said: FloatArray, budget: float) -> float:
    """The largest margin to which all statements can be raised with the sum of squares ``budget``."""
    low, high = float(said.min()), float(said.max() + np.sqrt(budget))
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if float((np.maximum(0, middle - said) ** 2).sum()) < budget else (low, middle)
    return low
