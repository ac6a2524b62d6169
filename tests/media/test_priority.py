"""No encoder makes a render a real-time process (SVT-AV1 does, when root opens it, and a render then stands still)."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from talkswap.media.codecs import EncoderSettings, check_encoder, ordinary_priority
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.writer import VideoWriter

needs_threads = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's threads in /proc")


def real_time_threads() -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
    return [n for n in numbers if os.sched_getscheduler(n) not in (os.SCHED_OTHER, os.SCHED_BATCH)]


@needs_threads
@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def test_an_encoder_leaves_every_thread_ordinary(encoder: str, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    check_encoder(encoder)
    assert real_time_threads() == []
    info = probe(make_clip(size=(128, 128), count=4))
    settings = EncoderSettings(encoder, preset="ultrafast")
    with ClipReader(info) as clip, VideoWriter(tmp_path / "out.mkv", info, settings) as writer:
        for frame in clip.frames():
            writer.write(frame.rgb, frame.time)
            assert real_time_threads() == []


@needs_threads
def test_policies_come_back_and_new_threads_get_the_caller_s() -> None:
    done = threading.Event()
    started: list[int] = []
    os_policy = os.sched_getscheduler(0)
    with ordinary_priority():
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # allowed to every user

        def wait() -> None:
            started.append(threading.get_native_id())
            done.wait()

        thread = threading.Thread(target=wait)
        thread.start()
        while not started:
            done.wait(0.01)
        assert os.sched_getscheduler(started[0]) == os.SCHED_BATCH, "it inherits what its maker has"
    try:
        assert os.sched_getscheduler(0) == os.sched_getscheduler(started[0]) == os_policy
    finally:
        done.set()
        thread.join()


@needs_threads
def test_what_was_set_before_stays() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        with ordinary_priority():
            pass
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
