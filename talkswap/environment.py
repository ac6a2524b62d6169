"""Facts about this process and its packages, for reports."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from talkswap import __version__

PACKAGES = ("torch", "numpy", "av", "opencv-python", "opencv-python-headless", "transformers")


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def processor() -> str:
    """What of the processor decides how networks are rounded: its kind and the instructions that torch uses."""
    import torch

    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, str]:
    """Versions that decide a result."""
    found = {"talkswap": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
