"""Work by several processes that may be killed at any time, in a folder that one run at a time may write."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from talkswap.errors import OutputUnwritableError, TrainingError
from talkswap.files import write_error

Job = TypeVar("Job")
Result = TypeVar("Result")


def _start_worker(parent: int) -> None:
    import cv2
    import torch

    # A process per core already: threads of their own would only wait for each other.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others

    def watch() -> None:
        while os.getppid() == parent:  # a worker must not outlive a run that was killed
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def spread(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    """Results as they come; with one worker in this process, one thread each, so that their bits are the same.

    Raises:
        TrainingError: a process was killed, for example for want of memory.
    """
    # Starting a process takes seconds, and a debugger sees nothing inside one.
    if workers == 1 or len(jobs) < 2:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for job in jobs:
                yield job, work(job)
        finally:
            torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(
        min(workers, len(jobs)), get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    ) as pool:
        # Two jobs a process in the queue are enough; all of them would hold their arguments in memory.
        ahead = iter(jobs)
        running: dict[Future[Result], Job] = {}
        try:
            while True:
                for job in ahead:
                    running[pool.submit(work, job)] = job
                    if len(running) >= 2 * workers:
                        break
                if not running:
                    return
                futures, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in futures:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process of the preparation was killed", "run again with fewer --workers; finished clips are kept"
            ) from error
        except BaseException:
            # A stopped run must not wait for unfinished clips.
            for child in active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one run prepares a folder at a time.

    Raises:
        OutputUnwritableError: it cannot be written, or another run is at work there.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputUnwritableError(f"another run prepares {folder}", "wait until it ends") from error
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        yield
    finally:
        lock.release()
