"""The mark's code: what is written is read, also from poor evidence, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.provenance.code import CODED_BITS, KNOWN_BITS, MESSAGE_BITS, Message, decode, encode, message_bits, read


def soft(message: Message) -> np.ndarray:
    return encode(message).astype(np.float32) * 2 - 1


@pytest.mark.parametrize("number", [0, 1, 0xDEADBEEF, 2**32 - 1])
def test_a_message_comes_back(number: int) -> None:
    assert len(encode(Message(number))) == CODED_BITS
    (bits,) = decode(soft(Message(number))[None])
    assert bits.tolist() == message_bits(Message(number)).tolist()
    assert read(bits) == Message(number)


def test_a_tenth_of_all_coded_bits_wrong_is_put_right() -> None:
    rng = np.random.default_rng(7)
    noisy = soft(Message(0x12345678)) + rng.standard_normal((24, CODED_BITS)).astype(np.float32) * 0.8
    wrong = ((noisy > 0) != (encode(Message(0x12345678)) > 0)).mean()
    assert wrong > 0.08
    assert [read(bits) for bits in decode(noisy)] == [Message(0x12345678)] * 24


def test_noise_is_no_message() -> None:
    noise = np.random.default_rng(3).standard_normal((60, CODED_BITS)).astype(np.float32)
    assert [read(bits) for bits in decode(noise)] == [None] * 60


def test_one_wrong_bit_fails_the_check() -> None:
    bits = message_bits(Message(99))
    for place in range(MESSAGE_BITS):
        changed = bits.copy()
        changed[place] ^= 1
        assert read(changed) is None


def test_the_known_bits_do_not_depend_on_the_message() -> None:
    one, other = encode(Message(0)), encode(Message(2**32 - 1))
    assert one[:KNOWN_BITS].tolist() == other[:KNOWN_BITS].tolist()
    assert (one[KNOWN_BITS:] != other[KNOWN_BITS:]).any()
