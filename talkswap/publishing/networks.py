"""The networks that a preset folder may hold, and how each is stored."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from talkswap.checkpoints import COMPACT_NETWORKS, RENDER, network_of, read_catalogue
from talkswap.checkpoints.networks import config_from
from talkswap.errors import UsageError, WeightsCorruptError

if TYPE_CHECKING:
    from torch import Tensor, nn

PRECISIONS = ("fp16", "int8", "float32")


@dataclass(frozen=True)
class NetworkKind:
    """One network of the system."""

    name: str  # of its files
    module: str
    network: str  # class
    config: str  # class
    purpose: str  # for the model card
    exact: bool  # its answers are positions or angles, which eight bits would move

    def build(self, settings: dict[str, Any]) -> nn.Module:
        """The network, not trained, from the JSON form of its configuration.

        Raises:
            WeightsCorruptError: the configuration does not fit.
        """
        module = import_module(self.module)
        try:
            network: nn.Module = getattr(module, self.network)(config_from(getattr(module, self.config), settings))
        except (TypeError, ValueError, RuntimeError) as error:
            raise WeightsCorruptError(
                f"{self.name}.json does not describe a {self.name} network: {error}", "export the run again"
            ) from error
        return network


_FACES, _SWAPTALK = "talkswap.faces", "talkswap.systems.swaptalk"
NETWORKS = {
    kind.name: kind
    for kind in (
        NetworkKind("detector", f"{_FACES}.detector", "DetectorNetwork", "DetectorConfig", "finds faces", True),
        NetworkKind(
            "landmarks", f"{_FACES}.landmarks", "LandmarkNetwork", "LandmarkConfig", "478 dense points of a face", True
        ),
        NetworkKind(
            "identity", f"{_FACES}.identity", "IdentityNetwork", "IdentityConfig", "who a face is, as a vector", True
        ),
        NetworkKind(
            "occlusion", f"{_FACES}.occlusion", "OcclusionNetwork", "OcclusionConfig",
            "what is in front of a face; without it a render paints over that", False,
        ),
        NetworkKind("vqgan", f"{_SWAPTALK}.vqgan", "VQGAN", "VQGANConfig", "the latent space of faces", False),
        NetworkKind(
            "face_swap", f"{_SWAPTALK}.face_swap", "FaceSwap", "FaceSwapConfig", "gives the target the source's face", False
        ),
        NetworkKind(
            "lip_sync", f"{_SWAPTALK}.lip_sync", "LipSync", "LipSyncConfig", "moves the lips with the voice", False
        ),
        NetworkKind(
            "sync_expert", f"{_SWAPTALK}.sync_expert", "SyncExpert", "SyncExpertConfig",
            "supervises training; a render does not need it", False,
        ),
        NetworkKind(
            "speech_encoder", f"{_SWAPTALK}.speech_encoder", "SpeechEncoder", "SpeechEncoderConfig",
            "mel to mouth shape; `lip_sync` holds it too, so a render does not need it", False,
        ),
    )
}  # fmt: skip


def kind_of(name: str) -> NetworkKind:
    """The network that files called ``name`` hold.

    Raises:
        UsageError: there is no such network.
    """
    if name not in NETWORKS:
        raise UsageError(f"no network is called {name}", f"networks are {', '.join(NETWORKS)}")
    return NETWORKS[name]


def needed_networks(preset: str) -> tuple[str, ...]:
    """The networks of our own without which a preset renders nothing."""
    if preset == "compact":
        return COMPACT_NETWORKS
    made = (e.file for e in read_catalogue() if e.preset == preset and e.made_by and RENDER in e.needed_by)
    return tuple(name for file in made if (name := network_of(file)) is not None)


def parameters(network: nn.Module) -> int:
    """Trained numbers of a network."""
    return sum(p.numel() for p in network.parameters())


def stored_form(weights: dict[str, Tensor], precision: str, kind: NetworkKind) -> dict[str, Tensor]:
    """Tensors as they go to disk.

    Args:
        weights: float tensors by name.
        precision: ``fp16``; ``int8``, in which networks that tell positions or identities stay fp16; ``float32``.
        kind: whose tensors they are.

    Raises:
        WeightsCorruptError: a number is not finite, or too large for half precision.
    """
    import torch

    from talkswap.packing import pack

    kept = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    if precision == "float32":
        stored = {name: value.float() if value.is_floating_point() else value for name, value in kept.items()}
    elif precision == "int8" and not kind.exact:
        stored = pack(kept)
    else:
        stored = {name: value.half() if value.is_floating_point() else value for name, value in kept.items()}
    for name, value in stored.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsCorruptError(
                f"{kind.name} has numbers in {name} that are not finite or do not fit into {precision}",
                "pack with --precision float32, or train the network again",
            )
    return stored


def stored_precision(stored: dict[str, Tensor]) -> str:
    """Which of :data:`PRECISIONS` tensors are stored in."""
    import torch

    kinds = {tensor.dtype for tensor in stored.values()}
    return "int8" if torch.int8 in kinds else "float32" if torch.float32 in kinds else "fp16"
