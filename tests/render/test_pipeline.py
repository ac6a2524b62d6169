"""Stages that work ahead: order, bounds, errors, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from talkswap.render.pipeline import Stopwatch, ahead, batched, closing_source, each, side_by_side


def test_order_is_kept_through_several_threads() -> None:
    doubled = (2 * x for x in ahead(range(200), 3, "first"))
    assert list(ahead(doubled, 3, "second")) == [2 * x for x in range(200)]


def test_a_stage_never_runs_further_ahead_than_its_depth() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for x in range(100):
            made.append(x)
            yield x

    stage = ahead(numbers(), 4, "numbers")
    assert next(stage) == 0
    time.sleep(0.3)
    assert len(made) <= 1 + 4 + 1  # taken, waiting in the queue, in the producer's hand
    stage.close()


def test_an_error_comes_out_where_the_items_would_and_ends_the_thread() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no third item")

    stage = ahead(broken(), 2, "broken")
    assert next(stage) == 1
    with pytest.raises(ValueError, match="no third item"):
        next(stage)
    assert not [t for t in threading.enumerate() if t.name == "talkswap-broken"]


def test_closing_the_last_stage_closes_the_first_ones_file() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            x = 0
            while True:
                yield x
                x += 1
        finally:
            closed.set()

    chain = ahead((x for x in ahead(endless(), 2, "endless")), 2, "outer")
    assert next(chain) == 0
    chain.close()
    assert closed.wait(5)
    assert not [t for t in threading.enumerate() if t.name in ("talkswap-endless", "talkswap-outer")]


def test_work_side_by_side_comes_out_in_order_and_really_overlaps() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def work(x: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02 * (x % 3))
        with lock:
            running -= 1
        return x * x

    assert list(side_by_side(range(20), work, 3)) == [x * x for x in range(20)]
    assert 1 < most <= 3


def test_an_error_in_one_of_several_workers_is_raised_in_its_place() -> None:
    results = side_by_side(range(6), lambda x: 12 // (3 - x), 2)
    assert [next(results) for _ in range(3)] == [4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(("count", "size", "expected"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (0, 3, []), (2, 5, [2])])
def test_the_last_batch_is_short_and_never_dropped(count: int, size: int, expected: list[int]) -> None:
    batches = list(batched(range(count), size))
    assert [len(b) for b in batches] == expected
    assert [x for b in batches for x in b] == list(range(count))


def test_waiting_for_a_consumer_is_no_work() -> None:
    stopwatch = Stopwatch()
    for _ in stopwatch.timed("work", iter(range(3))):
        time.sleep(0.05)
    assert stopwatch.seconds["work"] < 0.05


def test_a_stage_that_fails_in_the_middle_closes_the_stages_before_it() -> None:
    """Else the reader's thread goes on decoding, and closing its file finds it busy."""
    closed = threading.Event()

    def slow() -> Iterator[int]:
        try:
            for x in range(1000):
                time.sleep(0.01)
                yield x
        finally:
            closed.set()

    def broken(x: int) -> int:
        if x == 3:
            raise ValueError("the fourth")
        return x

    source = slow()
    chain = ahead(batched(ahead(each(ahead(source, 2, "slow"), broken), 2, "middle"), 2), 2, "last")
    with pytest.raises(ValueError, match="the fourth"), closing_source(chain) as items:
        list(items)
    assert closed.is_set()
    source.close()  # raises when the generator is still running in another thread
    assert not [t for t in threading.enumerate() if t.name.startswith("talkswap-")]
