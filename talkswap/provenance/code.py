"""What the invisible mark says, and the code that lets it be read from poor evidence.

    24 bits id of the render | 20 bits check

go through the convolutional code of rate 1/2 and constraint length 13 with generators 10533, 17661 (octal; Proakis,
"Digital Communications", table of rate 1/2 codes), which ends in the state in which it begins (Ma and Wolf, "On tail
biting convolutional codes", IEEE Transactions on Communications 34(2), 1986), so no bit is spent on a tail.  Soft
values are read back with Viterbi's algorithm going round the circle.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkswap.types import FloatArray

Bits = NDArray[np.uint8]

MARKER = 0x7A51  # "talkswap"
FORM = 2  # of the mark; the first lay in luma, and the check keeps them apart
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


def _bits(value: int, count: int) -> list[int]:
    return [value >> place & 1 for place in range(count - 1, -1, -1)]


def _check(number: int) -> int:
    data = MARKER.to_bytes(2, "big") + bytes([FORM]) + number.to_bytes(3, "big")
    return zlib.crc32(data) & (1 << CHECK_BITS) - 1


def message_bits(message: Message) -> Bits:
    """Id and check (MESSAGE_BITS)."""
    number = message.id & (1 << ID_BITS) - 1
    return np.array([*_bits(number, ID_BITS), *_bits(_check(number), CHECK_BITS)], np.uint8)


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
    steps = circle[:, np.arange(-LEAD, MESSAGE_BITS + LEAD) % MESSAGE_BITS]
    signs = _outputs().astype(np.float32) * 2 - 1
    after = np.arange(1 << MEMORY)
    before = (after[:, None] << 1 | np.arange(2)) & ((1 << MEMORY) - 1)  # 4096 2: states that lead to each
    newest = after >> (MEMORY - 1)  # and the input that does
    said = signs[before, newest[:, None]]  # 4096 2 2
    score = np.zeros((len(soft), 1 << MEMORY), np.float32)
    choices = []
    for values in steps.transpose(1, 0, 2):
        ways = score[:, before] + np.einsum("nk,sik->nsi", values, said)
        second = ways[:, :, 1] > ways[:, :, 0]
        score = np.where(second, ways[:, :, 1], ways[:, :, 0])
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
