"""The one place with threads and queues: stages of the corridor that work ahead of each other.

A stage is a generator.  :func:`ahead` runs it in a thread of its own and keeps a bounded number of finished
items, so memory does not depend on the clip's length; order is kept, errors and closing travel through.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Failure:
    """An exception on its way to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _End:
    """Marks that a stage has no more items."""


@contextmanager
def closing_source(items: Iterable[Item]) -> Iterator[Iterator[Item]]:
    """Iterate ``items`` inside the block, and close them at its end, however it ends.

    A stage that fails must not leave the stages before it running until the garbage collector finds them: they hold
    open files.
    """
    iterator = iter(items)
    try:
        yield iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


class Stopwatch:
    """Seconds of work per stage, summed over threads; waiting for another stage does not count."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the block's duration to ``stage``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started

    def timed(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on, counting the time that each took to come."""
        with closing_source(items) as iterator:
            while True:
                with self.measure(stage):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item


START_SECONDS = 1.0  # that a thread whose start was interrupted gets to appear


class _Ahead(Generic[Item]):
    def __init__(self, items: Iterable[Item], depth: int, name: str) -> None:
        self.items = items
        self.queue: queue.Queue[Item | _Failure | _End] = queue.Queue(depth)
        self.begun, self.stop = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._work, name=f"talkswap-{name}", daemon=True)

    def _put(self, item: Item | _Failure | _End) -> bool:
        while not self.stop.is_set():
            try:
                self.queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _work(self) -> None:
        self.begun.set()
        try:
            with closing_source(self.items) as iterator:
                for item in iterator:
                    if not self._put(item):
                        return
            self._put(_End())
        except BaseException as error:  # raised again in the consumer's thread
            self._put(_Failure(error))


def ahead(items: Iterable[Item], depth: int, name: str) -> Generator[Item, None, None]:
    """Iterate ``items`` in a thread, at most ``depth`` finished items ahead of the consumer.

    Raises:
        whatever ``items`` raised, in the consumer's thread.
    """
    work = _Ahead(items, depth, name)
    try:
        work.thread.start()  # Ctrl-C may strike in here, with the thread already running
        while True:
            item = work.queue.get()
            if isinstance(item, _End):
                return
            if isinstance(item, _Failure):
                error = item.error
                del item  # else error, traceback, this frame and item hold each other, and threads with them
                try:
                    raise error
                finally:
                    del error
            yield item
    finally:
        work.stop.set()
        if work.begun.wait(START_SECONDS):
            work.thread.join()


def each(items: Iterable[Item], work: Callable[[Item], Result]) -> Generator[Result, None, None]:
    """``work`` of each item, in the thread that asks for it."""
    with closing_source(items) as iterator:
        for item in iterator:
            yield work(item)


def side_by_side(items: Iterable[Item], work: Callable[[Item], Result], workers: int) -> Generator[Result, None, None]:
    """``work`` of each item in order, on up to ``workers`` items at once.

    On a CPU two small batches on one core each finish sooner than one batch split over two: nothing waits at the
    end of every layer.

    Raises:
        whatever ``work`` raised, where its result would have come.
    """
    pending: deque[Future[Result]] = deque()
    with closing_source(items) as iterator, ThreadPoolExecutor(workers, thread_name_prefix="talkswap-work") as pool:
        try:
            for item in iterator:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` successive items; the last one short, never dropped."""
    batch: list[Item] = []
    with closing_source(items) as iterator:
        for item in iterator:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
