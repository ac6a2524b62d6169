"""How long the networks of a preset take, stage by stage, with random weights: for sizes that nobody has trained here."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from talkswap.errors import DeviceError

if TYPE_CHECKING:
    from torch import Tensor

    from talkswap.device import Device
    from talkswap.systems.swaptalk.system import SwapTalk

ROUNDS = 3  # after one that is not counted; the median is reported


def random_system(preset: str, device: Device) -> SwapTalk:
    """SwapTalk in the sizes of ``paper`` or ``compact``, freshly initialised, on the device and in its precision.

    Raises:
        DependencyError: the paper's lip transform needs diffusers.
    """
    import torch

    from talkswap.faces.identity import IdentityConfig, IdentityNetwork
    from talkswap.systems.contract import Switches
    from talkswap.systems.swaptalk import face_swap, lip_sync, vqgan
    from talkswap.systems.swaptalk.system import SwapTalk

    paper = preset == "paper"
    torch.manual_seed(0)
    networks = (
        vqgan.VQGAN(vqgan.PAPER if paper else vqgan.COMPACT),
        face_swap.FaceSwap(face_swap.PAPER if paper else face_swap.COMPACT),
        lip_sync.LipSync(lip_sync.PAPER if paper else lip_sync.COMPACT),
        IdentityNetwork(IdentityConfig()),
    )
    for network in networks:
        network.eval().requires_grad_(False)
    return SwapTalk(*networks, device, Switches())


def milliseconds(work: Callable[[], Tensor], device: Device) -> float:
    """Median time of a call, the device's own queue waited for."""
    import torch

    def wait() -> None:
        if device.name == "cuda":
            torch.cuda.synchronize()
        elif device.name == "mps":
            torch.mps.synchronize()

    times = []
    for _ in range(ROUNDS + 1):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[1:])


def time_networks(preset: str, device: Device, batch_size: int) -> dict[str, Any]:
    """Milliseconds per frame of encode, swap, sync and decode, and per clip of the source.

    Args:
        preset: ``paper`` or ``compact``.
        device: where the networks run.
        batch_size: frames per call.

    Raises:
        DependencyError: a package that the networks need is absent.
        DeviceError: the device's memory does not hold the batch.
    """
    import torch

    from talkswap.environment import peak_memory_mb, versions

    try:
        system = random_system(preset, device)
        with torch.inference_mode():
            stages, source = _stages(system, device, batch_size)
            times = {name: milliseconds(work, device) / batch_size for name, work in stages.items()}
            source_time = milliseconds(source, device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the GPU's memory does not hold {batch_size} frames at once", "give a smaller --batch-size"
        ) from error
    networks = {"vqgan": system.vqgan, "face_swap": system.face_swap, "lip_sync": system.lip_sync}
    return {
        "random_weights": True,
        "preset": preset,
        "device": device.name,
        "device_note": device.reason,
        "precision": str(device.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "crop_px": system.crop.size,
        "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()},
        "ms_per_frame": times,
        "network_ms_per_frame": sum(times.values()),
        "source_ms": source_time,
        "peak_memory_mb": peak_memory_mb(),
        "gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if device.name == "cuda" else None,
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": versions(),
    }


def _stages(
    system: SwapTalk, device: Device, batch_size: int
) -> tuple[dict[str, Callable[[], Tensor]], Callable[[], Tensor]]:
    """The four stages of a batch, and the reading of a source; each works on what the one before really made."""
    import torch

    place, kind = device.place, device.dtype
    side, speech = system.crop.size, system.lip_sync.config
    generator = torch.Generator().manual_seed(0)
    crops = (torch.rand(batch_size, 3, side, side, generator=generator) * 2 - 1).to(place, kind)
    crops = crops.contiguous(memory_format=torch.channels_last)
    heard = torch.randn(batch_size, speech.window, speech.speech_width, generator=generator).to(place, kind)
    guided = system.face_swap.config.guide != "none"

    def remember() -> Any:
        identity = system.identity(crops[:1].float()).to(kind)
        return system.face_swap.remember(system.vqgan.embed(crops[:1]).to(kind), identity)

    def encode() -> Tensor:
        if guided:  # the source laid over each face is read as well
            system.vqgan.embed(crops)
        return system.vqgan.embed(crops)

    memory, latent = remember(), encode().to(kind)
    guide = latent if guided else None
    swapped = system.face_swap.swap(memory, latent, guide).to(kind)
    spoken = system.lip_sync(swapped, swapped, heard).to(kind)
    stages: dict[str, Callable[[], Tensor]] = {
        "encode": encode,
        "swap": lambda: system.face_swap.swap(memory, latent, guide),
        "sync": lambda: system.lip_sync(swapped, swapped, heard),
        "decode": lambda: system.vqgan.decode(spoken),
    }
    return stages, remember
