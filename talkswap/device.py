"""Where networks run and in which precision, and the facts about this machine that decide or explain a result.

No other module names a device or asks torch for one.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from talkswap import __version__
from talkswap.errors import DeviceError

if TYPE_CHECKING:
    import torch

MOST_WORKERS = 4  # batches side by side: each holds its own activations, about 100 MB
# Packages whose versions decide a result.
PACKAGES = ("torch", "numpy", "av", "opencv-python", "opencv-python-headless", "transformers")


@dataclass(frozen=True)
class Device:
    """A device that this machine really has."""

    name: str  # cpu | cuda | mps
    half: bool  # bfloat16 is fast here
    reason: str  # why it was chosen, for the user

    @property
    def place(self) -> torch.device:
        """The device as torch names it."""
        import torch

        return torch.device(self.name)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that networks run in."""
        import torch

        return torch.bfloat16 if self.half else torch.float32

    @property
    def memory_gb(self) -> float:
        """Free memory for networks in GiB: the GPU's own, or the system's for a CPU or a Mac."""
        import torch

        if self.name == "cuda":
            return torch.cuda.mem_get_info()[0] / 2**30
        if not hasattr(os, "sysconf"):  # Windows
            return 4.0
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30


def choose_device(name: str = "auto") -> Device:
    """The device of this name, or for ``auto`` the fastest one.

    Args:
        name: auto, cpu, cuda or mps.

    Raises:
        DeviceError: this machine has no such device, or the name is unknown.
    """
    import torch

    if name not in ("auto", "cpu", "cuda", "mps"):
        raise DeviceError(f"unknown device {name}", "choose auto, cpu, cuda or mps")
    # A device that was named and can't be had is an error; only auto may choose another.
    if name == "cuda" and not torch.cuda.is_available():
        cuda = torch.version.cuda
        reason = "this torch is a CPU build" if cuda is None else f"torch for CUDA {cuda} finds no usable GPU"
        raise DeviceError(f"no CUDA device can be had: {reason}", "use --device auto, or install a CUDA build of torch")
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("no Apple GPU can be had on this machine", "use --device auto")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return Device("cuda", torch.cuda.is_bf16_supported(), torch.cuda.get_device_name())
    if name == "mps" or (name == "auto" and torch.backends.mps.is_available()):
        return Device("mps", False, "Apple GPU, float32")
    half, threads = cpu_has_bfloat16(), torch.get_num_threads()
    return Device("cpu", half, f"{threads} thread{'s' * (threads != 1)}, {'bfloat16' if half else 'float32'}")


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; without it bfloat16 is slower than float32."""
    import torch

    # torch has no public question for this, and older versions lack one of the private ones.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check)()) for check in checks if hasattr(torch.cpu, check))


@contextmanager
def network_threads(device: Device) -> Iterator[int]:
    """Divide the processor among batches that run side by side; yields how many those are.

    Several batches on a core or two each beat one batch on all cores; a GPU gets one batch at a time.  The number
    of cores is the one that torch was given (``OMP_NUM_THREADS``), and is restored at the end.
    """
    import torch

    cores = torch.get_num_threads()
    if device.name != "cpu" or cores == 1:
        yield 1
        return
    # Matrix products of one crop don't fill many cores; several crops do.
    workers = min(MOST_WORKERS, cores)
    torch.set_num_threads(cores // workers)
    try:
        yield workers
    finally:
        torch.set_num_threads(cores)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB; 0 on a system that doesn't say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6  # macOS counts bytes, Linux KiB


def processor() -> str:
    """What of the processor decides how networks are rounded: its kind and the instructions that torch uses."""
    import torch

    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, str]:
    """Versions by name: of talkswap, of Python, and of the installed :data:`PACKAGES`."""
    result = {"talkswap": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            result[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return result
