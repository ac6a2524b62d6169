"""SwapTalk as a system (section III, figure 2b): encode, swap, lip-sync, decode once.

S, T -> Enc_VQ -> face swap -> face warping, lip transform <- speech -> Dec_VQ -> crop
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from talkswap.checkpoints.preset_folder import PresetFolder, has_network, preset_network, verify
from talkswap.device import Device
from talkswap.errors import UsageError
from talkswap.faces.guide import FaceGuide
from talkswap.faces.identity import IdentityConfig, IdentityNetwork
from talkswap.faces.mask import face_mask, lower_face_mask
from talkswap.systems.contract import CropSpec, Portrait, Source, SpeechFeatures, System
from talkswap.systems.guide_alone import GuideAlone
from talkswap.systems.swaptalk import SwapTalkOptions
from talkswap.systems.swaptalk.detail import DetailConfig, add_detail, detail_share, fitting_strength
from talkswap.systems.swaptalk.face_swap import FaceSwap, FaceSwapConfig, SourceMemory
from talkswap.systems.swaptalk.lip_sync import LipSync, LipSyncConfig
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.types import AlignedFace, FloatArray, UInt8Image, Voice
from talkswap.voice.activity import SpeechGate
from talkswap.voice.features import FeatureExtractor, MelFeatures, listen

GUIDE_CROP = 320  # px: size of the crop where no network asks for another


def choose_networks(options: SwapTalkOptions, preset: PresetFolder) -> SwapTalkOptions:
    """The options with ``networks`` decided for a preset.

    Raises:
        UsageError: a guide is asked for, and the preset has no network that moves its mouth.
    """
    guided = has_network(preset, "animation/sync_former")
    if options.networks == "auto":
        # Order and reference are questions to the networks.
        asked = options.mode != "cross" or options.order != "swap-sync"
        return dataclasses.replace(options, networks="alone" if asked or not guided else "none")
    if options.networks != "alone" and not guided:
        raise UsageError(f"the {preset.name} preset has no network that moves a guide's mouth", "use --networks alone")
    return options


class SwapTalk:
    """The paper's networks behind :class:`~talkswap.systems.contract.System`.

    With ``options.networks`` at ``refine`` all edits begin at the painted guide, in which the swap is done and the mouth
    speaks already; at ``alone`` they begin at the target's own crop, as in the paper.

    Args:
        vqgan, face_swap, lip_sync, identity: networks in evaluation mode.
        device: where and how precisely they run.
        options: the system's own switches.
        detail: how fine detail of the guide is added; None leaves the networks' answer as it is.
        extractor: makes what the lip transform hears, called when a voice comes; HuBERT is a network of its own.
    """

    name = "swaptalk"

    def __init__(
        self,
        vqgan: VQGAN,
        face_swap: FaceSwap,
        lip_sync: LipSync,
        identity: IdentityNetwork,
        device: Device,
        options: SwapTalkOptions | None = None,
        detail: DetailConfig | None = None,
        extractor: Callable[[], FeatureExtractor] = MelFeatures,
    ) -> None:
        self.vqgan, self.face_swap, self.lip_sync = vqgan, face_swap, lip_sync
        for part in (vqgan.encoder, vqgan.decoder, face_swap, lip_sync):
            part.to(device=device.place, dtype=device.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for codebook in (vqgan.upper, vqgan.lower):
            codebook.to(device.place)  # in float32: half precision would choose other codes
        self.identity = identity.to(device.place)
        self.device, self.options = device, options or SwapTalkOptions()
        self.guided = self.options.networks == "refine"
        self.detail, self.extractor = detail, extractor
        self.crop = CropSpec(vqgan.config.size)

    @classmethod
    def load(cls, name: str, preset: PresetFolder, device: Device, options: SwapTalkOptions | None = None) -> System:
        """Every network from a preset's verified files; none where the options leave them out.

        Raises:
            UsageError: the options ask for a guide, and the preset has no network that moves its mouth.
            WeightsMissingError, WeightsCorruptError.
        """
        options = choose_networks(options or SwapTalkOptions(), preset)
        if options.networks == "none":
            return GuideAlone(name, GUIDE_CROP)

        def hubert() -> FeatureExtractor:
            from talkswap.voice.hubert import HubertFeatures

            return HubertFeatures(verify(preset, "hubert/model.safetensors").parent, device.place)

        lip_sync = preset_network(preset, "swaptalk/lip_sync", LipSync, LipSyncConfig)
        return cls(
            preset_network(preset, "swaptalk/vqgan", VQGAN, VQGANConfig),
            preset_network(preset, "swaptalk/face_swap", FaceSwap, FaceSwapConfig),
            lip_sync,
            preset_network(preset, "faces/identity", IdentityNetwork, IdentityConfig),
            device,
            options,
            DetailConfig() if preset.name == "compact" else None,
            hubert if lip_sync.config.speech == "hubert" else MelFeatures,
        )

    def listen(self, voice: Voice) -> SpeechFeatures:
        return listen(voice, self.extractor(), self.lip_sync.config.window)

    def begin(
        self, portrait: Portrait, source: Source | None, features: SpeechFeatures | None, gate: SpeechGate | None = None
    ) -> SwapTalkPerformance:
        return SwapTalkPerformance(self, portrait, source, features, gate)

    # --- crops to tensors and back

    def tensor(self, crops: Sequence[UInt8Image]) -> Tensor:
        """Crops (N of S S 3 uint8) on the device: N 3 S S in [-1, 1], float32."""
        batch = torch.from_numpy(np.stack(crops))
        if self.device.name == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device.place, non_blocking=True).permute(0, 3, 1, 2)
        return (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def encode(self, crops: Sequence[UInt8Image]) -> Tensor:
        """Latents (N C G G) of N crops."""
        return self.vqgan.embed(self.tensor(crops).to(self.device.dtype))

    def decode(self, latent: Tensor) -> list[UInt8Image]:
        """Crops of latents (N C G G)."""
        pictures = self.vqgan.decode(latent.to(self.device.dtype))
        scaled = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy())


class SwapTalkPerformance:
    """One person of one clip: the source's memory, the guide's skin and the self-driven reference, all fixed here.

    Args: as :meth:`talkswap.systems.contract.System.begin`.
    """

    def __init__(
        self,
        system: SwapTalk,
        portrait: Portrait,
        source: Source | None,
        features: SpeechFeatures | None,
        gate: SpeechGate | None,
    ) -> None:
        self.system, self.features, self.gate = system, features, gate
        self.swap_first = system.options.order == "swap-sync"
        self.memory: SourceMemory | None = None
        self.guide: FaceGuide | None = None
        self.reference: Tensor | None = None  # 1 C G G
        with torch.inference_mode():
            if source is not None:
                self._read_source(source)
            if system.options.mode == "self":
                # Self-driven (section IV): the reference is the first frame, warped to each frame's pose.  It goes
                # through whatever comes before the lip-sync, as the frames do.
                crops, guides = [portrait.reference.crop], self._guides([portrait.reference])
                latent = system.encode(guides if guides and self._guide_is_target else crops)
                if self.swap_first:
                    latent = self._swap(latent, guides, latent if self._guide_is_target else None)
                self.reference = latent

    def _read_source(self, source: Source) -> None:
        """Remember the source's latent and identity, the mean over all photos (section III-B)."""
        system, kind = self.system, self.system.device.dtype
        crop = system.tensor([source.face.crop])
        identity = system.identity(crop.float())  # 1 D
        if source.others:
            views = [identity, *(system.identity(system.tensor([other.crop]).float()) for other in source.others)]
            identity = torch.nn.functional.normalize(torch.cat(views).mean(0, keepdim=True), dim=1)
        self.memory = system.face_swap.remember(system.vqgan.embed(crop.to(kind)).to(kind), identity.to(kind))
        if system.face_swap.config.guide == "mesh":
            self.guide = FaceGuide(source.face.crop, source.face.landmarks)

    @property
    def _guide_is_target(self) -> bool:
        """Whether the guide stands for the target as well: it is the target but for the source's skin, and one picture
        less is encoded."""
        return self.guide is not None and self.swap_first and self.system.face_swap.config.guide_is_target

    def render(self, faces: Sequence[AlignedFace], times: Sequence[Fraction]) -> list[UInt8Image]:
        system = self.system
        with torch.inference_mode():
            # A painted guide is target and guide in one: it is encoded once, and each edit begins there.
            guided = system.guided
            crops = [face.guide.crop if guided and face.guide else face.crop for face in faces]
            guides = self._guides(faces) if not guided or self.guide is None else crops
            latent = system.encode(guides if guides and self._guide_is_target else crops)  # N C G G
            if self.swap_first:
                silent = self._swap(latent, guides, latent if self._guide_is_target else None)
                result = self._sync(silent, times)
                change = result - silent
            else:
                spoken = self._sync(latent, times)
                change = spoken - latent
                if guides is not None and not guided:
                    # The photo's skin goes on the face that lip-sync made, mouth and all.
                    guides = self._guides(faces, system.decode(spoken))
                result = self._swap(spoken, guides)
            pictures = system.decode(result)
            if system.detail is None:
                return pictures
            moved = change.square().mean(1).sqrt().float().cpu().numpy()  # N G G
        # What speech left alone looks in detail as the guide does, or as the target where nothing is swapped.
        return [
            add_detail(
                picture,
                look,
                detail_share(cells, system.crop.size, system.detail),
                system.detail,
                fitting_strength(look, crop, system.detail),
            )
            for picture, look, cells, crop in zip(pictures, guides or crops, moved, crops, strict=True)
        ]

    def mask(self, face: AlignedFace) -> FloatArray:
        """The whole face for a swap, else what speech moves."""
        make = lower_face_mask if self.memory is None else face_mask
        landmarks = face.guide.landmarks if self.system.guided and face.guide else face.landmarks
        return make(landmarks, self.system.crop.size)

    def _guides(
        self, faces: Sequence[AlignedFace], crops: Sequence[UInt8Image] | None = None
    ) -> list[UInt8Image] | None:
        """The source's skin on each face, or on crops that were made of them; None where the swap works without, or
        nothing is swapped."""
        if self.guide is None:
            return None
        crops = crops or [face.crop for face in faces]
        return [self.guide.lay(crop, face.landmarks).crop for crop, face in zip(crops, faces, strict=True)]

    def _swap(self, latent: Tensor, guides: list[UInt8Image] | None, guide: Tensor | None = None) -> Tensor:
        """Latents (N C G G) with the source's face; ``guide`` is the guides' latent where it is known already."""
        if self.memory is None:
            return latent
        kind = self.system.device.dtype
        if guide is None and guides is not None:
            guide = self.system.encode(guides)
        return self.system.face_swap.swap(
            self.memory, latent.to(kind), None if guide is None else guide.to(kind)
        ).float()

    def _sync(self, latent: Tensor, times: Sequence[Fraction]) -> Tensor:
        """Latents (N C G G) whose lips follow the voice, as far as the gate is open."""
        if self.features is None:
            return latent
        system, kind = self.system, self.system.device.dtype
        speech = torch.from_numpy(self.features.at(times)).to(latent.device, kind)  # N L D
        # Cross-driven (section IV): each frame is its own reference, and nothing is warped.
        reference = latent if self.reference is None else self.reference.expand_as(latent)
        spoken = system.lip_sync(latent.to(kind), reference.to(kind), speech, warp=self.reference is not None).float()
        if system.lip_sync.config.quantize:
            spoken = system.vqgan.quantize(spoken)
        if self.gate is None:
            return spoken
        open_share = torch.from_numpy(self.gate.at(times)).to(latent.device)[:, None, None, None]
        return latent + open_share * (spoken - latent)
