"""The processes of a run: what accelerate does for them, what they tell each other, and the signals that end them.

``network`` is not wrapped in DistributedDataParallel: its gradient averaging hangs on the wrapper's ``forward``, and
stages call parts of their networks (``encode``, ``decode``, a teacher's codebook) instead.  The gradients are averaged
here after the backward passes of a step, in a few large pieces.  As with DDP, batch normalisation counts each
process's own samples, and rank 0's running statistics are everybody's.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from talkswap.device import choose_device
from talkswap.errors import DependencyError, DeviceError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = {"bf16": "bf16", "float32": "no", "fp16": "fp16"}  # ours, and what accelerate calls it
BUCKET = 1 << 24  # numbers reduced at once
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def launched() -> int:
    """How many processes ``accelerate launch`` started together; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_accelerator(device: str, precision: str, accumulate: int) -> Accelerator:
    """An Accelerator for one run.

    Args:
        device: auto, cpu, cuda or mps.
        precision: a key of :data:`PRECISIONS`.
        accumulate: micro-batches per step, by which its ``backward`` divides.

    Raises:
        DependencyError: accelerate is not installed.
        DeviceError: the device cannot be had, or not in this precision.
        UsageError: no such precision.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise DependencyError("training needs accelerate", 'run `pip install "talkswap[train]"`') from error
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision}", f"choose one of: {', '.join(PRECISIONS)}")
    chosen = choose_device(device)
    if precision == "fp16" and chosen.name == "cpu":
        raise DeviceError("fp16 needs a GPU", "train with --set loop.precision=bf16 or float32")
    # accelerate keeps one state per program and refuses a second precision; a program may train several stages
    AcceleratorState._reset_state(reset_partial_state=launched() == 1)
    try:
        return Accelerator(
            cpu=chosen.name == "cpu",
            mixed_precision=PRECISIONS[precision],
            gradient_accumulation_steps=accumulate,
            device_placement=False,
        )
    except ValueError as error:  # "bf16 mixed precision requires …"
        raise DeviceError(f"{chosen.name} cannot train in {precision}", "use --set loop.precision=float32") from error


class Processes:
    """The processes of one run, which may be one.

    Args:
        device: auto, cpu, cuda or mps; with several GPUs each process takes the one of its local rank.
        precision: bf16, float32 or fp16.
        accumulate: micro-batches per step.
    """

    def __init__(self, device: str, precision: str, accumulate: int = 1) -> None:
        self.accelerator = make_accelerator(device, precision, accumulate)
        self.device: torch.device = self.accelerator.device
        self.count: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index
        self.main: bool = self.accelerator.is_main_process
        self.on_host = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for a block."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def mean_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients by their mean over processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([g.reshape(-1) for g in bucket])
            _spread(self.accelerator.reduce(flat, reduction="mean"), bucket)

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of rank 0, in place."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        by_kind: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault(tensor.dtype, []).append(tensor)
        for kind in by_kind.values():
            for bucket in _buckets(kind):
                _spread(broadcast(torch.cat([t.reshape(-1) for t in bucket])), bucket)

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows (N …) of all processes, in the order of ranks."""
        if self.count == 1:
            return rows
        every: Tensor = self.accelerator.gather(rows.contiguous())
        return every

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes of a few numbers, without waiting for them."""
        if self.count == 1:
            return values
        reduced: Tensor = self.accelerator.reduce(values, reduction="mean")
        return reduced

    def anybody(self, flag: bool) -> bool:
        """Whether the flag is up in any process; all must ask at the same place."""
        if self.count == 1:
            return flag
        total: Tensor = self.accelerator.reduce(torch.tensor([float(flag)], device=self.device), reduction="sum")
        return bool(total.item() > 0)

    def agree(self, number: int) -> bool:
        """Whether all processes have the same number."""
        if self.count == 1:
            return True
        every = self.gathered(torch.tensor([number], device=self.device))
        return bool((every == number).all())

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.accelerator.wait_for_everyone()

    def end(self) -> None:
        """Leave the process group; without it torch warns at exit."""
        if self.count > 1:
            self.accelerator.end_training()

    def optimiser(self, optimiser: torch.optim.Optimizer) -> Any:
        """``optimiser`` with the loss scaling of fp16."""
        return self.accelerator.prepare_optimizer(optimiser, device_placement=False)


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


@torch.no_grad()
def _spread(flat: Tensor, tensors: list[Tensor]) -> None:
    for piece, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True):
        tensor.copy_(piece.view(tensor.shape))


class Interruption:
    """SIGTERM and Ctrl-C while training: the loop finishes and saves the step in hand before the program ends.

    A spot machine sends SIGTERM and takes itself away half a minute later; a second signal ends the program at once.
    Takes both signals for the length of a ``with`` block; in a thread that is not the main one, none.

    Attributes:
        signal: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
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
        if self.signal is not None:
            raise self.ending()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def ending(self) -> BaseException:
        """What ends the program with the interrupted code: 130 for Ctrl-C, 143 for SIGTERM."""
        return KeyboardInterrupt() if self.signal == signal.SIGINT else SystemExit(128 + signal.SIGTERM)

    def _take(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = number
        if again or self._at_once:
            raise self.ending()
