"""The work folder: how a timeline is cut, who may work in it, and what is left of it."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkswap.errors import OutputExistsError, OutputUnwritableError, UsageError
from talkswap.files import Lock
from talkswap.media.timeline import Timeline
from talkswap.render.segments import LEAST_FRAMES, MOST_FRAMES, WorkFolder, cut_spans, work_folder


def timeline(steps: list[int]) -> Timeline:
    times = [Fraction(sum(steps[:i]), 1000) for i in range(len(steps))]
    return Timeline(tuple(range(len(steps))), tuple(times), Fraction(sum(steps), 1000))


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=400),
    st.floats(0.01, 30),
    st.integers(1, 64),
)
def test_segments_hold_every_frame_once_in_whole_batches(steps: list[int], seconds: float, batch: int) -> None:
    line = timeline(steps)
    spans = cut_spans(line, seconds, batch)
    assert [span.number for span in spans] == list(range(len(spans)))
    assert spans[0].first == 0 and spans[-1].last == len(line)
    assert all(before.last == after.first for before, after in zip(spans, spans[1:], strict=False))
    assert all(span.first % batch == 0 for span in spans), "a batch lies across a border"
    for span in spans:
        assert span.last - span.first >= min(LEAST_FRAMES, len(line))
        whole = span.last - span.first - batch - 2 * LEAST_FRAMES  # what is left without the least that has to be
        if whole > 0 and span is not spans[-1]:
            assert line.times[span.first + whole] - line.times[span.first] <= Fraction(seconds)
        assert span.last - span.first < MOST_FRAMES + batch + LEAST_FRAMES


def test_ten_seconds_are_a_segment() -> None:
    spans = cut_spans(timeline([40] * 1000), 10.0, 4)
    assert [span.last for span in spans] == [248, 496, 744, 992, 1000]
    with pytest.raises(UsageError, match="segments cannot be 0 seconds"):
        cut_spans(timeline([40]), 0, 4)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    output = tmp_path / "a.mp4"
    with WorkFolder(output, False, print), pytest.raises(OutputUnwritableError, match=f"process {os.getpid()}"):
        WorkFolder(output, False, print).__enter__()
    assert list(tmp_path.iterdir()) == []
    with WorkFolder(output, False, print), WorkFolder(tmp_path / "b.mp4", False, print):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_appeared_while_waiting_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "a.mp4"

    class Late(Lock):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            output.write_bytes(b"finished by another")

    monkeypatch.setattr("talkswap.render.segments.Lock", Late)
    with pytest.raises(OutputExistsError), WorkFolder(output, False, print):
        pytest.fail("the work was begun")
    assert list(tmp_path.iterdir()) == [output]


def test_a_long_name_still_has_a_folder(tmp_path: Path) -> None:
    output = tmp_path / ("ä" * 125 + ".mp4")
    with WorkFolder(output, False, print) as folder:
        assert folder.path == work_folder(output) != work_folder(output.with_name("ä" * 124 + "o.mp4"))
    assert list(tmp_path.iterdir()) == []
