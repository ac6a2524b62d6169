"""Batches made ahead of the training step, in a fixed order, so that the device does not wait for them.

Processes make them where the system can fork and has shared memory to hand them over in; threads elsewhere.  Which
one made a batch changes nothing in it: a batch is a function of its number.
"""

import os
import shutil
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from talkswap.train.stage import Batch, Stage, as_is

SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED = 1 << 30  # bytes free for batches on their way; containers often have 64 MB
MOST_FOR_A_GPU = 8


@dataclass(frozen=True)
class Failure:
    """An error on its way from a worker to the training process, which raises it as it was."""

    error: BaseException


class StageBatches(Dataset[Batch | Failure]):
    """A stage's batches by number."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __getitem__(self, number: int) -> Batch | Failure:
        try:
            return self.stage.batch(number)
        except Exception as error:  # a DataLoader would wrap it into a text with a traceback
            return Failure(error)


def worker_count(setting: int, device: torch.device, processes: int) -> int:
    """How many workers a process has: what was asked for, or for -1 one, on a GPU its share of the cores.

    Args:
        asked: ``LoopConfig.workers``.
        device: what trains.
        processes: training processes on this host.
    """
    if setting >= 0:
        return setting
    if device.type == "cpu":
        return 1
    return max(1, min(MOST_FOR_A_GPU, (os.cpu_count() or 2) // max(1, processes) - 1))


def can_fork() -> bool:
    """Whether processes can make batches here."""
    if sys.platform != "linux":
        return False
    try:
        return shutil.disk_usage(SHARED_MEMORY).free >= LEAST_SHARED
    except OSError:
        return False


@contextmanager
def made_ahead(stage: Stage, numbers: Iterable[int], workers: int, ahead: int, pin: bool) -> Iterator[Iterator[Batch]]:
    """The batches of ``numbers``, in their order, on the CPU.

    Args:
        stage: what makes them.
        numbers: which ones.
        workers: makers; 0 = made when they are asked for.
        ahead: batches that each maker may be ahead.
        pin: put them into pinned memory, from which a CUDA device copies while it computes.

    Yields:
        An iterator that raises whatever ``stage.batch`` raised.
    """
    if not workers:
        yield _opened(StageBatches(stage)[number] for number in numbers)
    elif can_fork():
        # iter() starts the workers: before any thread of the loop's own, since a fork copies locks as they stand
        loader: DataLoader[Any] = DataLoader(
            StageBatches(stage),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=max(1, ahead),
            pin_memory=pin,
            collate_fn=as_is,
            worker_init_fn=_begin_worker,
            multiprocessing_context="fork",
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork beside threads; ours only draws batches, on one thread, without a lock
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            batches = iter(loader)
        try:
            yield _opened(batches)
        finally:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # else they end with the garbage collector
    else:
        with ThreadPoolExecutor(workers, "batches") as pool:
            waiting: deque[Future[Batch | Failure]] = deque()
            try:
                yield _opened(_in_threads(stage, numbers, pool, waiting, workers * max(1, ahead), pin))
            finally:
                for future in waiting:
                    future.cancel()


def _in_threads(
    stage: Stage,
    numbers: Iterable[int],
    pool: ThreadPoolExecutor,
    waiting: deque[Future[Batch | Failure]],
    most: int,
    pin: bool,
) -> Iterator[Batch | Failure]:
    batches = StageBatches(stage)

    def make(number: int) -> Batch | Failure:
        batch = batches[number]
        return {k: v.pin_memory() for k, v in batch.items()} if pin and not isinstance(batch, Failure) else batch

    # The queue keeps the order of the numbers, whichever thread is done first.
    for number in numbers:
        waiting.append(pool.submit(make, number))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _opened(batches: Iterable[Batch | Failure]) -> Iterator[Batch]:
    for item in batches:
        if isinstance(item, Failure):
            raise item.error
        yield item


def _begin_worker(number: int) -> None:
    """One thread per worker, and no share in the signals that the training process answers for all."""
    import cv2

    cv2.setNumThreads(0)  # its pool of threads did not survive the fork, and waiting for it would last for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
