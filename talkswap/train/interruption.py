"""SIGTERM and Ctrl-C while training: the step in hand is finished and saved before the program ends.

A spot machine sends SIGTERM and takes itself away half a minute later; a second signal ends the program at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Takes both signals for the length of a ``with`` block; in a thread that is not the main one, none.

    Attributes:
        asked: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def welcome(self) -> Iterator[None]:
        """A block in which nothing is half done: a signal ends it at once."""
        if self.asked is not None:
            raise self.ending()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def ending(self) -> BaseException:
        """What ends the program with the interrupted code: 130 for Ctrl-C, 143 for SIGTERM."""
        return KeyboardInterrupt() if self.asked == signal.SIGINT else SystemExit(128 + signal.SIGTERM)

    def _take(self, number: int, frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = number
        if again or self._at_once:
            raise self.ending()
