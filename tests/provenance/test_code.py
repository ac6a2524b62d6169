"""The mark's code: what is written is read, also from poor evidence, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from talkswap.provenance.watermark import CODED_BITS, MEMORY, MESSAGE_BITS, Message, decode, encode, message_bits, read


def soft(message: Message) -> np.ndarray:
    return encode(message).astype(np.float32) * 2 - 1


@pytest.mark.parametrize("number", [0, 1, 0xDEADBE, 2**24 - 1])
def test_a_message_comes_back(number: int) -> None:
    assert len(encode(Message(number))) == CODED_BITS
    (bits,), agreeing = decode(soft(Message(number))[None])
    assert bits.tolist() == message_bits(Message(number)).tolist()
    assert read(bits) == Message(number) and agreeing[0] > CODED_BITS


def test_a_tenth_of_all_coded_bits_wrong_is_put_right() -> None:
    rng = np.random.default_rng(7)
    noisy = soft(Message(0x123456)) + rng.standard_normal((24, CODED_BITS)).astype(np.float32) * 0.8
    wrong = ((noisy > 0) != (encode(Message(0x123456)) > 0)).mean()
    assert wrong > 0.08
    assert [read(bits) for bits in decode(noisy)[0]] == [Message(0x123456)] * 24


def test_noise_is_no_message() -> None:
    noise = np.random.default_rng(3).standard_normal((60, CODED_BITS)).astype(np.float32)
    assert [read(bits) for bits in decode(noise)[0]] == [None] * 60


def test_one_wrong_bit_fails_the_check() -> None:
    bits = message_bits(Message(99))
    for place in range(MESSAGE_BITS):
        changed = bits.copy()
        changed[place] ^= 1
        assert read(changed) is None


def test_the_code_begins_where_it_ends() -> None:
    message = Message(0xBADA55)
    bits, coded = message_bits(message), soft(message).reshape(MESSAGE_BITS, -1)
    for turn in (1, MEMORY, 29):  # a circle has no first bit
        (turned,), _ = decode(np.roll(coded, turn, 0).reshape(1, -1))
        assert turned.tolist() == np.roll(bits, turn).tolist()


def test_an_id_is_told_in_six_digits() -> None:
    assert Message(0x00C0FF).text == "00c0ff"
