"""Batches made ahead: in order, by processes and by threads alike, with errors and ends that arrive."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from talkswap.errors import TrainingDataError
from talkswap.train import batches
from talkswap.train.batches import can_fork, made_ahead, worker_count
from talkswap.train.figures import Pace
from talkswap.train.stage import Batch, Stage


class Counting(Stage):
    """A batch says its number, and who made it; odd ones take longer than even ones."""

    def batch(self, step: int) -> Batch:
        time.sleep(0.01 * (step % 2))
        if step == 7:
            raise TrainingDataError("row 7 is missing", "make it again")
        maker = [os.getpid(), threading.get_ident()]
        return {"number": torch.tensor([step]), "maker": torch.tensor(maker)}


def numbers(made: list[Batch]) -> list[int]:
    return [int(batch["number"]) for batch in made]


@pytest.fixture(params=["here", "processes", "threads"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(batches, "can_fork", lambda: request.param == "processes")
    return 0 if request.param == "here" else 2


def test_they_come_in_order_whoever_made_them(workers: int) -> None:
    with made_ahead(Counting(None), [5, 3, 4, 0, 1, 2, 6], workers, 2, pin=False) as made:
        got = list(made)
    assert numbers(got) == [5, 3, 4, 0, 1, 2, 6]
    makers = {tuple(batch["maker"].tolist()) for batch in got}
    assert len(makers) == max(1, workers)


def test_an_error_arrives_as_it_was_after_the_batches_before_it(workers: int) -> None:
    got: list[Batch] = []
    with (
        pytest.raises(TrainingDataError, match="^row 7 is missing$") as caught,
        made_ahead(Counting(None), range(5, 12), workers, 2, pin=False) as made,
    ):
        for batch in made:
            got.append(batch)
    assert numbers(got) == [5, 6] and caught.value.hint == "make it again"


def test_who_stops_early_leaves_no_worker_behind(workers: int) -> None:
    before = threading.active_count()
    with made_ahead(Counting(None), range(8, 10_000), workers, 2, pin=False) as made:
        first = next(made)
    maker = int(first["maker"][0])
    until = time.monotonic() + 10  # the threads that feed the workers' queues end a moment later
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before
    if maker != os.getpid():
        assert not Path(f"/proc/{maker}").exists()


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "can_fork", lambda: False)
    drawn: list[int] = []

    class Listing(Stage):
        def batch(self, step: int) -> dict[str, Tensor]:
            drawn.append(step)
            return {}

    with made_ahead(Listing(None), range(1000), 2, 3, pin=False) as made:
        next(made)
        time.sleep(0.1)
        assert len(drawn) <= 6


def test_a_container_with_little_shared_memory_gets_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batches, "LEAST_SHARED", 1 << 60)
    assert not can_fork()
    monkeypatch.setattr(batches, "SHARED_MEMORY", tmp_path / "nothing")
    assert not can_fork()


def test_a_gpu_gets_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert [worker_count(-1, cuda, n) for n in (1, 4, 8, 64)] == [8, 7, 3, 1]
    assert worker_count(-1, cpu, 1) == 1 and worker_count(0, cuda, 1) == 0 and worker_count(5, cpu, 2) == 5


def test_the_share_of_time_waited_is_measured() -> None:
    pace = Pace()
    for _ in range(3):
        with pace.waiting():
            time.sleep(0.03)
        time.sleep(0.03)
        pace.count()
    row = pace.row(batch=4)
    assert 0.3 < row["waiting"] < 0.7 and 30 < row["rate"] < 70
    assert pace.share_waited() == pytest.approx(row["waiting"], abs=0.1)
    with pace.aside():
        time.sleep(0.2)
    assert 0.3 < pace.share_waited() < 0.7, "a sample sheet is no step"
