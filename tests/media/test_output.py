"""A finished file that breaks its plan does not pass."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from talkswap.errors import OutputCheckError
from talkswap.media.output import read_back, verify

MakeClip = Callable[..., Path]


@pytest.fixture
def finished(make_clip: MakeClip) -> Path:
    return make_clip(count=25, sound=True)


TIMES = [Fraction(index, 25) for index in range(25)]


def test_a_kept_plan_passes(finished: Path) -> None:
    found = verify(finished, TIMES, Fraction(1))
    assert found.times == tuple(TIMES)
    assert abs(found.sound_end - 1) <= Fraction(1, 25)


@pytest.mark.parametrize(
    ("times", "duration", "words"),
    [
        (TIMES[:-1], Fraction(1), "25 frames, 24 were planned"),
        ([*TIMES, Fraction(1)], Fraction(26, 25), "25 frames, 26 were planned"),
        ([*TIMES[:-1], Fraction(23, 25) + Fraction(1, 100)], Fraction(1), "frame 24"),
        (TIMES, Fraction(2), "sound ends"),
    ],
)
def test_each_broken_promise_is_named(finished: Path, times: list[Fraction], duration: Fraction, words: str) -> None:
    with pytest.raises(OutputCheckError, match=words):
        verify(finished, times, duration)


def test_late_sound_is_found(make_clip: MakeClip, tmp_path: Path) -> None:
    import av

    clip, late = make_clip(count=25, sound=True), tmp_path / "late.mp4"
    with av.open(str(clip)) as source, av.open(str(late), "w") as container:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio" and packet.pts is not None:
                shift = round(Fraction(1, 5) / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packet.stream = streams[packet.stream_index]
            container.mux(packet)
    with pytest.raises(OutputCheckError, match="sound begins"):
        verify(late, TIMES, Fraction(6, 5))


def test_silent_empty_and_broken_files_do_not_pass(
    make_clip: MakeClip, make_voice: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(OutputCheckError, match="no sound"):
        read_back(make_clip("mute.mp4"))
    with pytest.raises(OutputCheckError, match="no picture"):
        read_back(make_voice(1))
    text = tmp_path / "text.mp4"
    text.write_text("text")
    for path in (text, tmp_path / "none.mp4"):
        with pytest.raises(OutputCheckError, match="read back"):
            read_back(path)
