"""Segments become one stream: every frame, bit for bit, at its planned time, whatever the codec and the rate."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkswap.errors import EncoderError, OutputUnwritableError
from talkswap.media.codecs import EncoderSettings
from talkswap.media.writer import Piece, VideoWriter, join, picture_ending
from talkswap.types import ClipInfo, ColourTags

WIDTH, HEIGHT = 96, 64
BORDERS = (0, 12, 16, 33, 40)
BASE = Fraction(1, 30000)
INFO = ClipInfo(
    Path("clip.mp4"), WIDTH, HEIGHT, Fraction(30000, 1001), BASE, Fraction(0), 0, 0, "h264", "yuv420p", 8,
    ColourTags(1, 1, 1, 1), False, sample_aspect_ratio=Fraction(4, 3),
)  # fmt: skip


def pictures() -> list[np.ndarray]:
    """A disc that wanders over noise which stays."""
    noise = np.random.default_rng(1).integers(0, 90, (HEIGHT, WIDTH, 3))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    made = []
    for number in range(BORDERS[-1]):
        disc = (rows - 30) ** 2 + (columns - 20 - 1.5 * number) ** 2 < 300
        made.append((noise + 120 * disc[..., None]).astype(np.uint8))
    return made


def steady() -> list[int]:
    return [1001 * number for number in range(BORDERS[-1] + 1)]


def uneven() -> list[int]:
    steps = np.random.default_rng(2).choice([1, 500, 1001, 2002, 9009], BORDERS[-1])
    return [0, *np.cumsum(steps).tolist()]


def write(path: Path, ticks: list[int], settings: EncoderSettings, first: int, last: int) -> Path:
    start = ticks[first]
    with VideoWriter(path, INFO, settings, (ticks[last] - start) * BASE) as writer:
        for number in range(first, last):
            writer.write(pictures()[number], (ticks[number] - start) * BASE)
    return path


def decoded(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(f.pts * f.time_base, f.to_ndarray()) for f in container.decode(video=0)]


def tags(path: Path) -> tuple[Any, ...]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        colour = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        return (*colour, stream.sample_aspect_ratio or context.sample_aspect_ratio, context.pix_fmt, context.codec_tag)


def settings_of(encoder: str) -> EncoderSettings:
    return EncoderSettings(encoder, preset="auto" if encoder in ("prores_ks", "ffv1") else "ultrafast")


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "ffv1"])
def test_frames_times_and_tags_survive(encoder: str, tmp_path: Path) -> None:
    settings, ending = settings_of(encoder), picture_ending(encoder)
    ticks = uneven()
    pieces = [
        Piece(write(tmp_path / f"{first}{ending}", ticks, settings, first, last), first, last)
        for first, last in zip(BORDERS, BORDERS[1:], strict=False)
    ]
    times, duration = [tick * BASE for tick in ticks[:-1]], ticks[-1] * BASE
    joined = tmp_path / f"joined{ending}"
    join(pieces, joined, times, duration, BASE)
    got, expected = decoded(joined), [frame for piece in pieces for frame in decoded(piece.path)]
    assert len(got) == BORDERS[-1]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(got, expected, strict=True))
    off = max(abs(found - got[0][0] - planned) for (found, _), planned in zip(got, times, strict=True))
    assert off == 0 if ending != ".mkv" else off <= Fraction(1, 1000), "Matroska counts milliseconds"
    assert tags(joined) == tags(pieces[0].path)
    with av.open(str(joined)) as container:
        stamps = [p.dts for p in container.demux(video=0) if p.dts is not None]
        assert stamps == sorted(stamps if ending == ".mkv" else set(stamps)), "a player would stumble"
        assert container.duration is not None
        assert abs(Fraction(container.duration, 1_000_000) - duration) <= Fraction(2, 1000)


def test_a_steady_rate_stays_steady(tmp_path: Path) -> None:
    ticks, settings = steady(), settings_of("libx264")
    settings = replace(settings, preset="medium")  # with frames out of order
    pieces = [
        Piece(write(tmp_path / f"{first}.mp4", ticks, settings, first, last), first, last)
        for first, last in zip(BORDERS, BORDERS[1:], strict=False)
    ]
    times, duration = [tick * BASE for tick in ticks[:-1]], ticks[-1] * BASE
    join(pieces, tmp_path / "joined.mp4", times, duration, BASE)
    with av.open(str(tmp_path / "joined.mp4")) as container:
        packets = [(p.pts, p.dts, p.duration) for p in container.demux(video=0) if p.size]
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
    assert {duration for _, _, duration in packets} == {1001}
    assert {b[1] - a[1] for a, b in zip(packets, packets[1:], strict=False)} == {1001}
    assert any(pts != dts for pts, dts, _ in packets) and sorted(p for p, _, _ in packets) == ticks[:-1]


def test_a_segment_that_is_not_whole_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    ticks = steady()
    one = Piece(write(tmp_path / "one.mp4", ticks, settings_of("libx264"), 0, 12), 0, 12)
    two = Piece(write(tmp_path / "two.mp4", ticks, settings_of("libx264"), 12, 16), 12, 18)
    times, duration = [tick * BASE for tick in ticks[:18]], ticks[18] * BASE
    with pytest.raises(EncoderError, match="two.mp4 holds 4 frames instead of 6"):
        join([one, two], tmp_path / "out.mp4", times, duration, BASE)
    other = Piece(write(tmp_path / "other.mp4", ticks, settings_of("libx265"), 12, 18), 12, 18)
    with pytest.raises(EncoderError, match="other.mp4 is of another kind"):
        join([one, other], tmp_path / "out.mp4", times, duration, BASE)
    with pytest.raises(OutputUnwritableError):
        join([one], tmp_path / "none" / "out.mp4", times[:12], ticks[12] * BASE, BASE)
