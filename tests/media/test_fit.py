"""The media corridor for every ``--fit``: reader along a timeline, writer, mux, and the check at its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkswap.media.codecs import EncoderSettings
from talkswap.media.index import index_frames
from talkswap.media.mux import mux
from talkswap.media.output import verify
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.sound import load_voice
from talkswap.media.timeline import FITS, plan_timeline
from talkswap.media.writer import VideoWriter

MakeClip = Callable[..., Path]
MakeVoice = Callable[..., Path]
ReadIndex = Callable[[np.ndarray], int]

COUNT = 18
STEADY = Fraction(1001, 24000)
TICKS = [0, 18, 60, 61, 110, 125, 200, 230, 232, 260, 300, 310, 345, 360, 400, 405, 430, 449]  # of 1/600 s

FilmClip = Callable[[str], Path]


@pytest.fixture
def film(make_clip: MakeClip) -> FilmClip:
    """Eighteen pictures at 23.976 a second, or at no steady rate."""

    def make(pace: str) -> Path:
        if pace == "film":
            return make_clip(count=COUNT, rate=1 / STEADY, time_base=Fraction(1, 24000))
        return make_clip(ticks=TICKS, rate=Fraction(24), time_base=Fraction(1, 600))

    return make


def expected_order(fit: str, length: str, count: int) -> list[int]:
    """Which pictures are shown, by what README and ``--help`` say of each fit."""
    forward = list(range(COUNT))
    if length == "longer" and fit == "freeze":
        return forward + [COUNT - 1] * (count - COUNT)
    if length == "longer" and fit == "loop":
        return (forward * 3)[:count]
    if length == "longer" and fit == "bounce":
        return (forward + forward[-2:0:-1] + forward)[:count]
    return forward[:count]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("length", ["shorter", "equal", "longer"])
@pytest.mark.parametrize("pace", ["film", "variable"])
def test_picture_and_sound_end_together(
    film: FilmClip, make_voice: MakeVoice, read_index: ReadIndex, tmp_path: Path, pace: str, length: str, fit: str
) -> None:
    target = film(pace)
    info = probe(target)
    index = index_frames(info)
    clip = index.duration
    wanted = {"shorter": clip * Fraction(2, 5), "equal": clip, "longer": clip * Fraction(7, 3)}[length]
    voice = make_voice(float(wanted))
    timeline = plan_timeline(index.times, index.last_duration, load_voice(voice).seconds, fit)
    encoded, output = tmp_path / "encoded.mp4", tmp_path / "out.mp4"
    with ClipReader(info, index) as reader, VideoWriter(encoded, info, EncoderSettings(), timeline.duration) as writer:
        for frame in reader.frames_for(timeline):
            writer.write(frame.rgb, frame.time)
    mux(encoded, voice, target, output, timeline.times, timeline.duration)

    found = verify(output, timeline.times, timeline.duration)
    assert found.times == timeline.times
    with av.open(str(output)) as container:
        shown = [read_index(picture.to_ndarray(format="rgb24")) for picture in container.decode(video=0)]
    assert shown == expected_order(fit, length, len(shown))

    step = sorted(after - before for before, after in zip(index.times, index.times[1:], strict=False))[COUNT // 2]
    stretched = length == "longer" and fit in ("loop", "bounce", "freeze")
    ends = wanted if stretched or (length == "shorter" and fit == "voice") else clip
    assert abs(timeline.duration - ends) <= step
    assert len(shown) == COUNT or timeline.duration != clip
    assert bool(timeline.warnings) == (length == "longer" and not stretched)  # only a cut voice is a loss
    sound = load_voice(output)
    assert abs(float(sound.seconds - timeline.duration)) <= step
    heard = np.flatnonzero(np.abs(sound.samples) > 0.25)[-1] / sound.hz
    assert heard == pytest.approx(float(min(wanted, timeline.duration)), abs=0.01)


MEASURE = """
import sys
from fractions import Fraction
from pathlib import Path
from talkswap.device import peak_memory_mb
from talkswap.media.codecs import EncoderSettings
from talkswap.media.index import index_frames
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import plan_timeline
from talkswap.media.writer import VideoWriter

target, seconds, fit, output = Path(sys.argv[1]), Fraction(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
info = probe(target)
index = index_frames(info)
timeline = plan_timeline(index.times, index.last_duration, seconds, fit)
with ClipReader(info, index) as reader, VideoWriter(output, info, EncoderSettings(), timeline.duration) as writer:
    for frame in reader.frames_for(timeline):
        writer.write(frame.rgb, frame.time)
status = Path("/proc/self/status")
if status.exists():  # Linux hands ru_maxrss down from the process that starts this one
    words = status.read_text().split()
    peak = int(words[words.index("VmHWM:") + 1]) / 2**10
else:
    peak = peak_memory_mb()
print(len(timeline), peak)
"""


def peak_of(target: Path, seconds: Fraction, fit: str, output: Path) -> tuple[int, float]:
    """Frames and peak memory in MiB of reading and writing in a process of its own."""
    arguments = [sys.executable, "-c", MEASURE, str(target), str(seconds), fit, str(output)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    frames, peak = done.stdout.split()
    return int(frames), float(peak)


def test_memory_does_not_grow_with_a_looped_clip(make_clip: MakeClip, tmp_path: Path) -> None:
    target = make_clip(count=20, size=(960, 540))
    once = peak_of(target, Fraction(20, 25), "clip", tmp_path / "once.mp4")
    looped = peak_of(target, Fraction(100, 25), "loop", tmp_path / "looped.mp4")
    assert (once[0], looped[0]) == (20, 100)
    assert 0 < looped[1] <= 1.1 * once[1]
