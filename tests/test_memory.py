"""Ten seconds, a minute and ten minutes of video need the same memory, and after ten minutes nothing has drifted.

Each render runs in a process of its own.  What has to grow with a clip is small: per frame its time and its place in the
file, and per second of voice the features that the lips follow.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from talkswap.render.render import render_clip
from talkswap.types import RenderPlan

from . import time_workshop
from .time_workshop import HZ, clicks_at, clicks_in, flashes_in, near, stamps_of, write_voice

FILM, TELEVISION = Fraction(24000, 1001), Fraction(30000, 1001)
WriteClip = Callable[..., Path]

EXAMPLES = Path(__file__).parents[1] / "examples"

MEASURE = """
import sys
from pathlib import Path
from talkswap.device import peak_memory_mb
from talkswap.render.render import render_clip
from talkswap.types import RenderPlan

target, voice, source, output, fit = sys.argv[1:]
dub = bool(source)
report = render_clip(RenderPlan(
    Path(source) if dub else None, Path(target), Path(voice) if voice else None, Path(output),
    preset="compact", device="cpu", swap=dub, sync=dub, fit=fit,
))
status = Path("/proc/self/status")
if status.exists():  # Linux hands ru_maxrss down from the process that starts this one
    words = status.read_text().split()
    peak = int(words[words.index("VmHWM:") + 1]) * 1024 / 1e6
else:
    peak = peak_memory_mb()
print(report.frames_out, report.faceless_frames, peak)
"""


def rendered(target: Path, output: Path, voice: Path | None = None, fit: str = "clip") -> tuple[int, float]:
    """Frames and peak memory in MB of a render in a process of its own; with a voice, face and lips are changed."""
    source = EXAMPLES / "source.png" if voice else ""
    words = [sys.executable, "-c", MEASURE, str(target), str(voice or ""), str(source), str(output), fit]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    frames, faceless, peak = done.stdout.split()
    assert faceless == "0"
    return int(frames), float(peak)


def long_clip(path: Path, rate: Fraction, seconds: int) -> tuple[Path, list[Fraction]]:
    """A clip with a flash and a click near its beginning, in its middle and near its end."""
    count = int(seconds * rate)
    flashes = [int(second * rate) for second in (1, seconds // 2, seconds - 1)]
    return time_workshop.write_clip(path, range(count), 1 / rate, rate, flashes), [flash / rate for flash in flashes]


def test_ten_minutes_of_film_need_the_memory_of_ten_seconds_and_do_not_drift(tmp_path: Path) -> None:
    peaks = {}
    for seconds in (10, 60, 600):
        target, moments = long_clip(tmp_path / f"{seconds}.mp4", FILM, seconds)
        output = tmp_path / f"{seconds}-out.mp4"
        frames, peaks[seconds] = rendered(target, output)
        assert frames == int(seconds * FILM)
    times, _ = stamps_of(output)
    assert times == [k / FILM for k in range(frames)]
    assert flashes_in(output) == moments
    assert max(abs(a - b) for a, b in zip(clicks_in(output, 3), moments, strict=True)) < 1 / FILM / 2
    assert 0 < max(peaks.values()) <= 1.1 * min(peaks.values()), peaks


def test_ten_minutes_of_television_do_not_drift_from_their_voice(tmp_path: Path) -> None:
    """The voice is a file of its own, at another rate than the target's sound, and is encoded anew."""
    target, moments = long_clip(tmp_path / "target.mp4", TELEVISION, 600)
    output = tmp_path / "out.mkv"
    voice = write_voice(tmp_path / "voice.wav", clicks_at(moments, Fraction(600)))
    plan = RenderPlan(None, target, audio=voice, output=output, preset="compact", device="cpu", swap=False, sync=False)
    assert render_clip(plan).frames_out == int(600 * TELEVISION)
    times, _ = stamps_of(output)
    assert max(abs(time - k / TELEVISION) for k, time in enumerate(times)) <= Fraction(1, 1000)
    assert near(flashes_in(output), moments, Fraction(1, 1000))
    assert near(clicks_in(output, 3), moments, 1 / TELEVISION / 2)


def test_a_long_dub_needs_the_memory_of_a_short_one(
    tmp_path: Path, write_clip: WriteClip, example_pictures: list[np.ndarray]
) -> None:
    """Face and lips of a clip that is played over and over again under a voice; sixty times as long.

    Both have forty frames, enough to fill every queue and batch of the corridor, so that what a second of voice and of
    output costs is seen; ten minutes at 25 frames a second would take longer than all other tests together.
    """
    random = np.random.default_rng(3)
    peaks = []
    for seconds, rate in ((10, Fraction(4)), (600, Fraction(1, 15))):
        target = write_clip(example_pictures[:8], f"{seconds}.mp4", range(8), 1 / rate)
        loudness = np.repeat(random.random(seconds * 5) > 0.4, HZ // 5)
        voice = write_voice(
            tmp_path / f"{seconds}.wav", 0.2 * loudness * random.standard_normal(seconds * HZ).clip(-3, 3)
        )
        frames, peak = rendered(target, tmp_path / f"{seconds}-out.mp4", voice, "loop")
        assert frames >= seconds * rate
        peaks.append(peak)
    assert 0 < max(peaks) <= 1.1 * min(peaks), peaks
