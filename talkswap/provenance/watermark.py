"""The invisible mark: its message, the code that protects it, and how it goes into a changed face.

    24 bits id of the render | 20 bits check

go through the convolutional code of rate 1/2 and constraint length 13 with generators 10533, 17661 (octal; Proakis,
"Digital Communications", table of rate 1/2 codes).  The code ends in the state in which it begins (Ma and Wolf, "On
tail biting convolutional codes", IEEE Transactions on Communications 34(2), 1986), so no bit is spent on a tail.
Viterbi's algorithm, going round the circle, reads soft values back.

Each coded bit has a carrier, a smooth pattern over the aligned face, whose sign in the picture's Cb or Cr is the bit.
A detector (:mod:`talkswap.provenance.verify`) projects the same face on the same carriers, so it needs no original.
"""

import functools
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.types import FloatArray, UInt8Image

Bits = NDArray[np.uint8]

MARKER = 0x7A51  # "talkswap"
FORM = 2  # version of the mark; version 1 lay in luma, and the check tells them apart
ID_BITS, CHECK_BITS = 24, 20
GENERATORS = (0o10533, 0o17661)
MEMORY = 12
MESSAGE_BITS = ID_BITS + CHECK_BITS
CODED_BITS = len(GENERATORS) * MESSAGE_BITS
LEAD = 40  # steps before and after the circle, in which Viterbi's algorithm finds its state


@dataclass(frozen=True)
class Message:
    """One render's mark."""

    id: int  # 24 bits, from the plan's hash

    @property
    def text(self) -> str:
        """The id as six hexadecimal digits."""
        return f"{self.id:06x}"


def _check(number: int) -> int:
    """The check bits of an id."""
    data = MARKER.to_bytes(2, "big") + bytes([FORM]) + number.to_bytes(3, "big")
    return zlib.crc32(data) & (1 << CHECK_BITS) - 1


def message_bits(message: Message) -> Bits:
    """Id and check (MESSAGE_BITS)."""
    number = message.id & (1 << ID_BITS) - 1
    word = number << CHECK_BITS | _check(number)
    return np.array([word >> place & 1 for place in range(MESSAGE_BITS - 1, -1, -1)], np.uint8)


@functools.lru_cache(maxsize=1)
def _outputs() -> Bits:
    """Coded bits of every (state, input): 4096 2 2; the state holds the last twelve inputs, newest in its highest bit."""
    table = np.zeros((1 << MEMORY, 2, len(GENERATORS)), np.uint8)
    for state in range(1 << MEMORY):
        for bit in (0, 1):
            register = bit << MEMORY | state
            table[state, bit] = [(register & generator).bit_count() & 1 for generator in GENERATORS]
    return table


def encode(message: Message) -> Bits:
    """Coded bits (CODED_BITS)."""
    bits = [int(bit) for bit in message_bits(message)]
    # Tail-biting: the code starts in the state in which it will end.
    state = int("".join(str(bit) for bit in reversed(bits[-MEMORY:])), 2)
    coded = []
    for bit in bits:
        coded.append(_outputs()[state, bit])
        state = (bit << MEMORY | state) >> 1
    return np.concatenate(coded)


def decode(soft: FloatArray) -> tuple[list[Bits], FloatArray]:
    """The likeliest message bits behind each row of soft values (N CODED_BITS; positive = 1).

    Returns:
        N times MESSAGE_BITS, and how much more the values agree with their path than disagree (N).
    """
    circle = np.asarray(soft, np.float32).reshape(len(soft), -1, len(GENERATORS))
    # Some steps before and after the circle, since the first state is unknown.
    steps = circle[:, np.arange(-LEAD, MESSAGE_BITS + LEAD) % MESSAGE_BITS]
    signs = _outputs().astype(np.float32) * 2 - 1
    after = np.arange(1 << MEMORY)
    before = (after[:, None] << 1 | np.arange(2)) & ((1 << MEMORY) - 1)  # 4096 2: states that lead to each
    newest = after >> (MEMORY - 1)  # and the input that does
    outputs = signs[before, newest[:, None]]  # 4096 2 2: coded bits of each step
    score = np.zeros((len(soft), 1 << MEMORY), np.float32)  # N 4096
    choices = []
    for values in steps.transpose(1, 0, 2):
        ways = score[:, before] + np.einsum("nk,sik->nsi", values, outputs)
        second = ways[:, :, 1] > ways[:, :, 0]
        score = np.where(second, ways[:, :, 1], ways[:, :, 0])  # N 4096
        choices.append(second)
    rows, state = np.arange(len(soft)), score.argmax(1)
    bits = []
    for second in reversed(choices):
        bits.append(newest[state])
        state = before[state, second[rows, state].astype(int)]
    return [row.astype(np.uint8) for row in np.array(bits[::-1][LEAD : LEAD + MESSAGE_BITS]).T], score.max(1)


def read(bits: Bits) -> Message | None:
    """The message of these bits, or None where the check does not fit."""
    value = int("".join(str(int(bit)) for bit in bits), 2)
    number = value >> CHECK_BITS
    return Message(number) if value & (1 << CHECK_BITS) - 1 == _check(number) else None


# Where and how strongly the coded bits go into a picture.

GRID = 80  # cells along the crop's side
PLANES = 2  # Cb and Cr
PLANE_BITS = CODED_BITS // PLANES  # bits 0, 2, 4, ... lie in Cb, the others in Cr
CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)  # of RGB; ITU-T T.871
COLOUR = np.array([[0, 1.402], [-0.344136, -0.714136], [1.772, 0]], np.float32)  # and back, luma as it was


@dataclass(frozen=True)
class WatermarkConfig:
    """The mark's place in the spectrum, and its strength; a detector needs the same first seven values.

    A lower band drowns in the face's own colours, a higher one in the codec, which halves chroma's resolution.
    Measured on six held-out clips (faces of 275 to 355 px, 75 frames): read in all six after crf 20 and a cut, in five
    after crf 28, in five after halving, in one after both.  A picture turned to grey has lost it.
    """

    seed: int = 0x7A1C
    lowest: float = 0.09  # cycles per cell of the slowest cosine
    fine: float = 1.5  # cells: sigma under which detail is left to the codec
    coarse: float = 3.0  # cells: sigma above which light and complexion begin
    reach: float = 4.0  # cells: sigma of the neighbourhood whose texture counts
    floor: float = 1.0  # levels of texture that even skin is taken for
    limit: float = 4.0  # textures at which a cell's weight saturates: lips must not outweigh the skin
    most_noise: float = 5.6  # mean squared change of a colour inside the mask: 40.6 dB, next to none of it luma
    most_level: float = 7.0  # levels by which a cell's Cb or Cr changes at most
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
    """PLANE_BITS patterns in the window's box, orthonormal, mixed so that all survive about equally well.

    Signs come from a bit generator whose stream numpy keeps for good; the symmetric root makes the result free of
    the linear algebra library's choices.
    """

    def __init__(self, config: WatermarkConfig) -> None:
        box, inside = window_box(), window()
        self.shape = inside[box].shape
        raw = np.random.PCG64(config.seed).random_raw(PLANE_BITS * PLANE_BITS // 64 + 1)
        signs = np.unpackbits(np.asarray(raw, "<u8").view(np.uint8))[: PLANE_BITS**2].astype(np.float64) * 2 - 1
        waves = orthonormal(cosines(self.shape, config.lowest) * inside[box].ravel())  # PLANE_BITS cells
        self.patterns = np.ascontiguousarray(orthonormal(signs.reshape(PLANE_BITS, -1)) @ waves, np.float32)
        self.gain = self._gain(config)

    def _gain(self, config: WatermarkConfig) -> float:
        """Share of a carrier that is left in its own direction by the band that a detector looks through."""
        box, shares = window_box(), []
        for pattern in self.patterns[::8]:
            field = np.zeros((GRID, GRID), np.float32)
            field[box] = pattern.reshape(self.shape)
            shares.append(float(pattern @ band(field, config)[box].ravel()))
        return float(np.mean(shares))

    def project(self, fields: FloatArray) -> FloatArray:
        """How much of each carrier is in fields over the box (... rows columns): ... PLANE_BITS."""
        return np.asarray(fields.reshape(*fields.shape[:-2], -1) @ self.patterns.T, np.float32)

    def pattern(self, units: FloatArray) -> FloatArray:
        """The sum of the carriers, each ``units`` (PLANE_BITS) times, over the box (rows columns)."""
        return np.asarray((units.astype(np.float32) @ self.patterns).reshape(self.shape), np.float32)


def cosines(shape: tuple[int, ...], lowest: float) -> NDArray[np.float64]:
    """The PLANE_BITS slowest cosines over a box (rows columns) that are not slower than ``lowest`` (PLANE_BITS cells)."""
    rows, columns = shape
    orders = [(down, across) for down in range(rows) for across in range(columns)]
    pace = {order: float(np.hypot(order[0] / rows, order[1] / columns)) / 2 for order in orders}
    fast_enough = (order for order in orders if pace[order] >= lowest)
    slowest = sorted(fast_enough, key=lambda order: (pace[order], order))[:PLANE_BITS]
    y, x = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    return np.stack([np.outer(np.cos(np.pi * i * y), np.cos(np.pi * j * x)).ravel() for i, j in slowest])


def orthonormal(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthonormal rows nearest to some that are linearly independent (N M)."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T @ rows)


@functools.lru_cache(maxsize=2)
def carriers(config: WatermarkConfig) -> Carriers:
    """The carriers of a configuration, computed once."""
    return Carriers(config)


def cells_of(crop: UInt8Image) -> FloatArray:
    """Cb and Cr of a crop (S S 3), averaged over cells (2 GRID GRID), without their middle of 128."""
    small = cv2.resize(crop, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.ascontiguousarray(cv2.transform(small, CHROMA).transpose(2, 0, 1))


def texture_of(banded: FloatArray, config: WatermarkConfig) -> FloatArray:
    """Local standard deviation of the band in levels, never below the floor (GRID GRID)."""
    return np.asarray(np.sqrt(blurred(banded * banded, config.reach) + config.floor**2), np.float32)


def residual(plane: FloatArray, config: WatermarkConfig, texture: FloatArray | None = None) -> FloatArray:
    """What a detector sees of a plane (GRID GRID) in the window's box: the band, limited, in units of texture."""
    banded = band(plane, config)
    box = window_box()
    texture = (texture_of(banded, config) if texture is None else texture)[box]
    limited = np.tanh(banded[box] / (texture * config.limit)) * config.limit
    return np.asarray(limited / texture, np.float32)


class Watermark:
    """Marks the crops of one render; calls do not depend on each other."""

    def __init__(self, message: Message, config: WatermarkConfig | None = None) -> None:
        self.message = message
        self.config = config or WatermarkConfig()
        self.signs = encode(message).astype(np.float32) * 2 - 1
        self.carriers = carriers(self.config)
        self.gain = self.carriers.gain

    def pattern(self, crop: UInt8Image, mask: FloatArray, target_crop: UInt8Image) -> FloatArray:
        """The change of Cb and Cr of ``crop`` in the window's box (2 rows columns); arguments as of a call."""
        share = np.asarray(cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA), np.float32)
        # What will be seen: the result where the mask is, the target elsewhere.
        planes = cells_of(crop) * share + cells_of(target_crop) * (1 - share)  # 2 GRID GRID
        near = (share * window())[window_box()]  # rows columns
        if float(near.sum()) < 0.02 * float(window().sum()):
            return np.zeros((PLANES, *near.shape), np.float32)  # next to nothing of the face is changed here
        squares = (COLOUR**2).mean(0) * PLANES  # of the three colours, for one of a plane that has half of all
        budgets = self.config.most_noise / squares
        return np.stack([self._change(planes[k], share, near, k, float(budgets[k])) for k in range(PLANES)])

    def _change(self, plane: FloatArray, share: FloatArray, near: FloatArray, number: int, budget: float) -> FloatArray:
        """The change of one plane in the window's box, its mean square inside the mask within the budget."""
        config, box, signs = self.config, window_box(), self.signs[number::PLANES]
        texture = texture_of(band(plane, config), config)  # GRID GRID
        # One unit of a carrier raises its projection by ``gain`` and costs ``cost`` of the mean squared change.
        gain = self.gain * float((near / texture[box]).sum() / window().sum())
        cost = float(near.sum() / window().sum() / share.sum())
        # The face itself already projects on each carrier, for its bit or against it.  The budget goes where it is
        # needed: every bit is raised to the same margin, and what already lies above it costs nothing.
        agreement = self.carriers.project(residual(plane, config, texture)) * signs
        margin = affordable(agreement, budget * gain**2 / cost)
        units = np.maximum(0, margin - agreement) / gain
        change = self._limited(units * signs)
        # A limited residual isn't linear: what was added changes the texture that it's measured by.
        for _ in range(config.rounds - 1):
            result = plane.copy()
            result[box] += change * share[box]
            agreement = self.carriers.project(residual(result, config, texture)) * signs
            units = np.maximum(0, units + 0.7 * (margin - agreement) / gain)
            units *= min(1.0, float(np.sqrt(budget / max(cost * float((units**2).sum()), 1e-9))))
            change = self._limited(units * signs)
        return change

    def _limited(self, units: FloatArray) -> FloatArray:
        """The carriers' sum, no cell changed by more than the limit."""
        return np.clip(self.carriers.pattern(units), -self.config.most_level, self.config.most_level)

    def __call__(self, crop: UInt8Image, mask: FloatArray, target_crop: UInt8Image) -> UInt8Image:
        """A crop that carries the mark.

        Args:
            crop: S S 3, the system's result.
            mask: S S in [0, 1], its share in the picture.
            target_crop: S S 3, the target under it.
        """
        size = crop.shape[0]
        change = np.zeros((GRID, GRID, PLANES), np.float32)
        change[window_box()] = self.pattern(crop, mask, target_crop).transpose(1, 2, 0)
        # Smooth between cells, so that nothing of the grid can be seen.
        large = cv2.resize(change, (size, size), interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.add(crop, cv2.transform(large, COLOUR), dtype=cv2.CV_8U), np.uint8)


def affordable(agreement: FloatArray, budget: float) -> float:
    """The largest margin to which all projections can be raised with the sum of squares ``budget``, by bisection."""
    low, high = float(agreement.min()), float(agreement.max() + np.sqrt(budget))
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if float((np.maximum(0, middle - agreement) ** 2).sum()) < budget else (low, middle)
    return low
