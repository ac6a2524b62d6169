"""SwapTalk with untrained networks, for ``talkswap bench --random-weights``: how long would a size take that nobody trained?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from talkswap.device import Device
from talkswap.faces.identity import IdentityConfig, IdentityNetwork
from talkswap.systems.description import Workload
from talkswap.systems.swaptalk import face_swap, lip_sync, vqgan
from talkswap.systems.swaptalk.system import SwapTalk


def random_system(preset: str, device: Device) -> SwapTalk:
    """SwapTalk in the sizes of ``paper`` or ``compact``, freshly initialised, on the device and in its precision.

    Raises:
        DependencyError: the paper's lip transform needs diffusers.
    """
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
    return SwapTalk(*networks, device)


def random_workload(preset: str, device: Device, batch_size: int) -> Workload:
    """The four stages of a batch, and the reading of a source; each works on what the one before really made.

    Args:
        preset: ``paper`` or ``compact``.
        device: where the networks run.
        batch_size: frames per call.
    """
    system = random_system(preset, device)
    place, kind = device.place, device.dtype
    side, speech = system.crop.size, system.lip_sync.config
    generator = torch.Generator().manual_seed(0)
    crops = (torch.rand(batch_size, 3, side, side, generator=generator) * 2 - 1).to(place, kind)  # B 3 S S
    crops = crops.contiguous(memory_format=torch.channels_last)
    features = torch.randn(batch_size, speech.window, speech.speech_width, generator=generator).to(place, kind)  # B L D
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
    spoken = system.lip_sync(swapped, swapped, features).to(kind)
    stages: dict[str, Callable[[], Tensor]] = {
        "encode": encode,
        "swap": lambda: system.face_swap.swap(memory, latent, guide),
        "sync": lambda: system.lip_sync(swapped, swapped, features),
        "decode": lambda: system.vqgan.decode(spoken),
    }
    networks = {"vqgan": system.vqgan, "face_swap": system.face_swap, "lip_sync": system.lip_sync}
    return Workload(stages, remember, networks, side)
