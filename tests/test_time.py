"""Exact time through whole renders: every rate, every container, voices of any length, and ten minutes without drift.

mp4 and mov count in the target's own ticks, so that every time is written as it was read.  Matroska and WebM count
milliseconds: there each time is the nearest one, and the roundings never add up.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median

import av
import numpy as np
import pytest

from talkswap.media.codecs import EncoderSettings, encoder_options
from talkswap.media.probe import probe
from talkswap.render.forecast import plan_summary
from talkswap.render.render import render_clip
from talkswap.types import RenderPlan

from .time_workshop import (
    HEIGHT,
    WIDTH,
    clicks_at,
    clicks_in,
    flashes_in,
    near,
    picture_end,
    sound_end,
    stamps_of,
    write_clip,
    write_voice,
)

MILLISECOND = Fraction(1, 1000)
COUNT = 40
RATES = {
    "23.976": Fraction(24000, 1001),
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "50": Fraction(50),
    "59.94": Fraction(60000, 1001),
    "60": Fraction(60),
}


def frames_of(pace: str) -> tuple[list[int], Fraction, Fraction]:
    """Ticks, their clock and the nominal rate of forty frames at a steady rate, or at none."""
    if pace in RATES:
        return list(range(COUNT)), 1 / RATES[pace], RATES[pace]
    clock = {"variable": Fraction(1, 90000), "variable of a phone": Fraction(1, 600)}[pace]
    lengths = np.random.default_rng(5).integers(round(Fraction(1, 90) / clock), round(Fraction(1, 10) / clock), COUNT)
    return [0, *np.cumsum(lengths[:-1]).tolist()], clock, Fraction(25)


def untouched(target: Path, output: Path, **how: object) -> RenderPlan:
    """A render that changes neither face nor lips."""
    return RenderPlan(
        None, target, output=output, preset="compact", device="cpu", swap=False, sync=False, **{"audio": None, **how}
    )  # type: ignore[arg-type]


@pytest.fixture
def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Encode a clip of a pace: ``make("23.976", "clip.mkv")``; a flash and a click where frames 5 and 33 begin."""

    def encode(pace: str, name: str = "target.mp4") -> Path:
        ticks, clock, rate = frames_of(pace)
        codec = "libvpx" if name.endswith(".webm") else "libx264"
        return write_clip(tmp_path / name, ticks, clock, rate, (5, 33), codec)

    return encode


@pytest.mark.parametrize("pace", [*RATES, "variable", "variable of a phone"])
@pytest.mark.parametrize(
    ("fit", "share"), [("clip", Fraction(2, 5)), ("loop", Fraction(8, 5))], ids=["shorter", "longer"]
)
def test_times_are_the_targets_at_every_rate(make, tmp_path: Path, pace: str, fit: str, share: Fraction) -> None:  # type: ignore[no-untyped-def]
    target = make(pace)
    ticks, clock, _ = frames_of(pace)
    own = [pts * clock for pts in ticks]
    length = picture_end(target)
    voice = write_voice(tmp_path / "voice.wav", clicks_at([Fraction(1, 4)], length * share))
    plan = untouched(target, tmp_path / "out.mp4", audio=voice, fit=fit)
    report = render_clip(plan)
    times, written = stamps_of(plan.output)
    assert 1 / written == probe(target).time_base.denominator, "the container counts in the target's own ticks"
    assert times[:COUNT] == own
    if fit == "clip":
        assert len(times) == COUNT
    else:
        again = [length + time for time in own]
        assert times[COUNT:] == again[: len(times) - COUNT] and len(times) > COUNT
    assert report.frames_out == len(times)
    frame = median(after - before for before, after in pairwise(own))
    ends = max(length, length * share)
    assert abs(picture_end(plan.output) - ends) <= frame and abs(sound_end(plan.output) - ends) <= frame
    assert abs(sound_end(plan.output) - picture_end(plan.output)) <= frame
    assert near(clicks_in(plan.output, 1), [Fraction(1, 4)], 5 * MILLISECOND)


@pytest.mark.parametrize("pace", ["23.976", "59.94", "variable"])
@pytest.mark.parametrize("ending", [".mov", ".mkv", ".webm"])
def test_every_container_keeps_them_on_its_own_clock(make, tmp_path: Path, pace: str, ending: str) -> None:  # type: ignore[no-untyped-def]
    target = make(pace)
    ticks, clock, _ = frames_of(pace)
    output = tmp_path / f"out{ending}"
    render_clip(untouched(target, output))
    times, written = stamps_of(output)
    own = [pts * clock for pts in ticks]
    if ending == ".mov":
        assert times == own
    else:
        assert written == MILLISECOND
        # The first time is rounded as well, hence a whole millisecond and not half of one.
        assert len(times) == COUNT and max(abs(a - b) for a, b in zip(times, own, strict=True)) <= MILLISECOND
    frame = 1 / probe(target).rate
    assert abs(sound_end(output) - sound_end(target)) <= frame
    assert near(flashes_in(output), [own[5], own[33]], MILLISECOND)
    assert near(clicks_in(output, 2), [own[5], own[33]], frame / 2)


@pytest.mark.parametrize("name", ["target.mkv", "target.webm", "target.ts", "target.mov"])
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_every_targets_container_is_read_on_its_own_clock(make, tmp_path: Path, name: str, ending: str) -> None:  # type: ignore[no-untyped-def]
    target, output = make("29.97", name), tmp_path / f"out{ending}"
    own, _ = stamps_of(target)
    render_clip(untouched(target, output))
    times, clock = stamps_of(output)
    assert len(times) == COUNT
    if ending == ".mp4" or clock == probe(target).time_base:
        assert times == own
    assert max(abs(a - b) for a, b in zip(times, own, strict=True)) <= MILLISECOND
    assert max(abs(a - k * Fraction(1001, 30000)) for k, a in enumerate(times)) <= 2 * MILLISECOND, "no drift"
    assert near(clicks_in(output, 2), [own[5], own[33]], Fraction(1, 60))


@pytest.mark.parametrize(
    ("fit", "samples", "said"),
    [
        ("clip", 16000, "the voice ends 0.60 s before the clip, silence follows it"),
        ("voice", 16000, "the clip ends with the voice, its last 0.60 s are left out"),
        ("bounce", 25600, "equal lengths"),
        ("loop", 25900, "equal lengths within one frame: the voice is 0.0187 s longer"),
        ("voice", 25000, "equal lengths within one frame: the voice is 0.0375 s shorter"),
        ("clip", 32000, "the voice is 0.40 s longer than the clip and is cut at 1.60 s"),
        ("freeze", 32000, "the clip (1.60 s) holds its last picture until the voice ends (2.00 s)"),
        ("bounce", 32000, "the clip (1.60 s) plays back and forth until the voice ends (2.00 s)"),
    ],
)
def test_the_plan_line_says_what_fit_does(make, tmp_path: Path, fit: str, samples: int, said: str) -> None:  # type: ignore[no-untyped-def]
    voice = write_voice(tmp_path / "voice.wav", np.zeros(samples, np.float32) + 0.01)
    assert said in plan_summary(untouched(make("25"), tmp_path / "out.mp4", audio=voice, fit=fit))["fit"]


def luma(path: Path) -> list[np.ndarray]:
    """All planes of every picture, as they are stored."""
    with av.open(str(path)) as container:
        return [picture.to_ndarray() for picture in container.decode(video=0)]


def noisy(pixel_format: str) -> list[av.VideoFrame]:
    """Six pictures with gradients, edges and grain."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    found = []
    for number in range(6):
        rgb = np.stack([60 + 2 * x, 70 + 2 * y, 200 - x - y], -1) + random.normal(0, 6, (HEIGHT, WIDTH, 1))
        rgb[10:30, 5 + 3 * number : 25 + 3 * number] = (200, 90, 60)
        picture = av.VideoFrame.from_ndarray(np.clip(rgb, 16, 235).astype(np.uint8), format="rgb24")
        found.append(picture.reformat(format=pixel_format, dst_colorspace=5, dst_color_range=1))
    return found


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv420p"])
def test_an_untouched_picture_comes_back_bit_by_bit_where_the_codec_is_lossless(
    tmp_path: Path, pixel_format: str
) -> None:
    target = write_clip(
        tmp_path / "target.mkv", range(12), Fraction(1, 25), Fraction(25),
        codec="ffv1", pictures=noisy(pixel_format), pixel_format=pixel_format, sound=False,
    )  # fmt: skip
    output = tmp_path / "out.mkv"
    render_clip(untouched(target, output, encoder="ffv1", pixel_format=pixel_format))
    before, after = luma(target), luma(output)
    assert len(before) == len(after) == 12
    for one, two in zip(before, after, strict=True):
        if pixel_format == "yuv444p":
            assert np.array_equal(one, two), "luma and chroma"
        else:
            # Colour at half the size is spread over RGB's pixels and gathered again: edges lose a little of it.
            assert np.array_equal(one[:HEIGHT], two[:HEIGHT]), "luma"
            assert psnr(one[HEIGHT:], two[HEIGHT:]) > 40


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, ((one.astype(float) - two) ** 2).mean())))


def test_an_untouched_picture_loses_what_the_encoder_loses_and_no_more(tmp_path: Path) -> None:
    target = write_clip(tmp_path / "target.mp4", range(24), Fraction(1, 25), Fraction(25), pictures=noisy("yuv420p"))
    output, direct = tmp_path / "out.mp4", tmp_path / "direct.mp4"
    render_clip(untouched(target, output))
    options = encoder_options(EncoderSettings())
    with av.open(str(target)) as source, av.open(str(direct), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in source.decode(video=0):
            picture.pict_type = 0
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    before, after, bound = luma(target), luma(output), luma(direct)
    assert len(before) == len(after) == len(bound) == 24
    ours, encoders = (np.mean([psnr(a, b) for a, b in zip(before, other, strict=True)]) for other in (after, bound))
    assert ours > encoders - 1
