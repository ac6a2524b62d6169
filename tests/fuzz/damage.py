"""Ways to spoil a file, all decided by one random number generator."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

Spoil = Callable[[random.Random, bytes], bytes]

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip_bits(chance: random.Random, data: bytes) -> bytes:
    """One to some dozens of bits, anywhere."""
    found = bytearray(data)
    for _ in range(2 ** chance.randrange(0, 7)):
        if found:
            found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def flip_header(chance: random.Random, data: bytes) -> bytes:
    """Bits of the first bytes, where sizes, rates and counts stand."""
    head = min(len(data), 2 ** chance.randrange(4, 12))
    return flip_bits(chance, data[:head]) + data[head:]


def truncate(chance: random.Random, data: bytes) -> bytes:
    """The end is missing."""
    return data[: chance.randrange(len(data))] if data else data


def behead(chance: random.Random, data: bytes) -> bytes:
    """The beginning is missing."""
    return data[chance.randrange(len(data)) :] if data else data


def blank(chance: random.Random, data: bytes) -> bytes:
    """A stretch of zeros, or of ones, as a bad sector leaves it."""
    start = chance.randrange(max(1, len(data)))
    length = min(len(data) - start, 2 ** chance.randrange(2, 14))
    return data[:start] + bytes([chance.choice((0, 255))]) * length + data[start + length :]


def swap(chance: random.Random, data: bytes) -> bytes:
    """Two stretches have changed places."""
    if len(data) < 8:
        return data
    a, b, c = sorted(chance.sample(range(len(data)), 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def insert(chance: random.Random, data: bytes) -> bytes:
    """Something stands in between."""
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(2 ** chance.randrange(0, 10)) + data[place:]


def repeat(chance: random.Random, data: bytes) -> bytes:
    """A stretch comes twice."""
    start = chance.randrange(max(1, len(data)))
    end = min(len(data), start + 2 ** chance.randrange(2, 14))
    return data[:end] + data[start:end] + data[end:]


def number(chance: random.Random, data: bytes) -> bytes:
    """Some bytes become a number at the edge of what its kind can say."""
    found = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        width = chance.choice((1, 2, 4, 4, 8))
        if len(found) < width:
            return bytes(found)
        place = chance.randrange(min(len(found) - width + 1, 2 ** chance.randrange(4, 20)))
        value = chance.choice(EXTREMES) & (2 ** (8 * width) - 1)
        found[place : place + width] = value.to_bytes(width, chance.choice(("little", "big")))
    return bytes(found)


def nothing(chance: random.Random, data: bytes) -> bytes:
    """An empty file."""
    return b""


def noise(chance: random.Random, data: bytes) -> bytes:
    """Not one byte is right."""
    return chance.randbytes(min(len(data), 2 ** chance.randrange(0, 16)))


def only_magic(chance: random.Random, data: bytes) -> bytes:
    """The first bytes promise the kind, noise follows."""
    return data[: 2 ** chance.randrange(2, 8)] + chance.randbytes(2 ** chance.randrange(0, 14))


BYTES: tuple[Spoil, ...] = (
    flip_bits, flip_bits, flip_header, flip_header, truncate, behead, blank, swap, insert, repeat, number, number, nothing,
    noise, only_magic,
)  # fmt: skip
"""For files of any kind; what finds most stands twice."""


def spoil(chance: random.Random, data: bytes) -> bytes:
    """One kind of damage, now and then two."""
    for _ in range(1 if chance.random() < 0.8 else 2):
        data = chance.choice(BYTES)(chance, data)
    return data


# --- headers that lie, in files that are otherwise whole

BOXES = (
    b"mvhd",
    b"tkhd",
    b"mdhd",
    b"stts",
    b"stsz",
    b"stsc",
    b"stco",
    b"avc1",
    b"mp4a",
    b"elst",
    b"hdlr",
    b"uuid",
    b"avcC",
)


def lie_in_a_box(chance: random.Random, data: bytes) -> bytes:
    """A field of one of an mp4's boxes, or a box's own length, becomes an extreme number."""
    there = [place for name in BOXES for place in [data.find(name)] if place > 4]
    if not there:
        return number(chance, data)
    place = chance.choice(there) + chance.choice((-4, 4, 8, 12, 16, 20, 24, 28, 32, 76, 80))
    value = struct.pack(">I", chance.choice(EXTREMES) if chance.random() < 0.7 else chance.randrange(1, 100_000))
    return data[:place] + value + data[place + 4 :]


def lie_in_a_wave(chance: random.Random, data: bytes) -> bytes:
    """A wav's rate, channels, depth, block or length becomes an extreme number."""
    place, width = chance.choice(((4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4)))
    value = chance.choice(EXTREMES) & (2 ** (8 * width) - 1)
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def lie_in_a_png(chance: random.Random, data: bytes) -> bytes:
    """A png's width, height, depth or colours become an extreme number, with a checksum that agrees."""
    import zlib

    head = bytearray(data[16:29])
    place, width = chance.choice(((0, 4), (4, 4), (8, 1), (9, 1), (12, 1)))
    head[place : place + width] = (chance.choice(EXTREMES) & (2 ** (8 * width) - 1)).to_bytes(width, "big")
    return data[:16] + bytes(head) + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + data[33:]


# --- files of words

WORDS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**400, 1e308, -1e308, 1e-320, float("nan"), float("inf"), "", " ",
    "0", "x", "\0", "a\0b", "\ud800", "\u202e映画", "a" * 300, "a" * 5000, "/", "/dev/zero", "/dev/null", "..", "../" * 40,
    "%s%n%d", "$(id)", "`id`", "-h", "--help", "a\nb", "1/0", "1/3", "nan", "-1", "1e999999999", [], {}, [[]], [None], ["", ""], [["0"]],
    {"": ""}, [1, 2, 3], "http://127.0.0.1:9/x", "concat:a|b", "pipe:0", "file:x",
)  # fmt: skip
"""What may stand where something else belongs."""


def spoil_words(chance: random.Random, record: Any) -> Any:
    """Some values, names or items of a JSON value become others; the given one stays as it is."""
    record = json.loads(json.dumps(record))
    for _ in range(chance.randrange(1, 4)):
        places = list(_places(record))
        if not places:
            return chance.choice(WORDS)
        parent, key = chance.choice(places)
        what = chance.random()
        if what < 0.75:
            parent[key] = chance.choice(WORDS)
        elif what < 0.9:
            del parent[key]
        elif isinstance(parent, dict):
            parent[str(chance.choice(WORDS))] = parent[key]
        else:
            parent.append(parent[key])
    return record


def _places(record: Any) -> Any:
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, value in list(items):
        yield record, key
        yield from _places(value)


def json_bytes(record: Any) -> bytes:
    """As a program would write it that checks nothing: with lone surrogates, NaN and Infinity."""
    return json.dumps(record).encode()


def spoil_text(chance: random.Random, text: str) -> bytes:
    """A word or a number of a text becomes another one; else its bytes are spoilt."""
    words = list(re.finditer(r"[\w./-]+", text))
    if not words or chance.random() < 0.35:
        return spoil(chance, text.encode())
    for _ in range(chance.randrange(1, 3)):
        words = list(re.finditer(r"[\w./-]+", text))
        if not words:
            break
        word = chance.choice(words)
        value = chance.choice(WORDS)
        put = value if isinstance(value, str) else json.dumps(value)
        text = text[: word.start()] + put + text[word.end() :]
    return text.encode("utf-8", "surrogatepass")
