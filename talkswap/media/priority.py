"""Keeps an encoder from making this process a real-time one.

SVT-AV1, opened by root, gives the calling thread and its own threads the highest real-time priority (SCHED_FIFO 99).
Every thread started later inherits it, and real-time threads that spin at the end of a parallel loop wait for ever
for an ordinary one that gets no core: with two cores a render stood still.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

THREADS = Path("/proc/self/task")


def _policies() -> dict[int, tuple[int, int]]:
    """Scheduling policy and priority by thread of this process; empty where the system does not tell."""
    found: dict[int, tuple[int, int]] = {}
    if not hasattr(os, "sched_getscheduler") or not THREADS.is_dir():
        return found
    for entry in THREADS.iterdir():
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            number = int(entry.name)
            found[number] = (os.sched_getscheduler(number), os.sched_getparam(number).sched_priority)
    return found


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Give every thread its policy of before the block back, and new threads the calling thread's."""
    before = _policies()
    own = before.get(threading.get_native_id())
    try:
        yield
    finally:
        if own is not None:
            for number, now in _policies().items():
                policy, priority = before.get(number, own)
                if now != (policy, priority):
                    with contextlib.suppress(OSError):
                        os.sched_setscheduler(number, policy, os.sched_param(priority))
