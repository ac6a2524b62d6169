"""SwapTalk as a system (section III, figure 2b): encode, swap, lip-sync, decode once.

S, T -> Enc_VQ -> face swap -> face warping, lip transform <- speech -> Dec_VQ -> crop
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from talkswap.checkpoints import PresetFolder, load_config, load_weights
from talkswap.checkpoints.networks import build_network, load_network
from talkswap.device import Device
from talkswap.errors import DeviceError
from talkswap.faces.guide import FaceGuide
from talkswap.faces.identity import IdentityConfig, IdentityNetwork
from talkswap.faces.mask import face_mask, lower_face_mask
from talkswap.systems.contract import ClipState, CropSpec, SourceState, SpeechSpec, Switches
from talkswap.systems.swaptalk.detail import DetailConfig, add_detail, detail_share, fitting_strength
from talkswap.systems.swaptalk.face_swap import FaceSwap, FaceSwapConfig
from talkswap.systems.swaptalk.lip_sync import LipSync, LipSyncConfig
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.types import AlignedFace, FloatArray, UInt8Image


class SwapTalk:
    """The paper's pipeline behind :class:`~talkswap.systems.contract.System`.

    Args:
        vqgan, face_swap, lip_sync, identity: networks in evaluation mode.
        device: where and how precisely they run.
        switches: which of them work, and in which order.
        detail: how fine detail of the guide is added, None for the networks' answer as it is.
    """

    name = "swaptalk"

    def __init__(
        self,
        vqgan: VQGAN,
        face_swap: FaceSwap,
        lip_sync: LipSync,
        identity: IdentityNetwork,
        device: Device,
        switches: Switches,
        detail: DetailConfig | None = None,
    ) -> None:
        place, kind = device.place, device.dtype
        self.vqgan, self.face_swap, self.lip_sync = vqgan, face_swap, lip_sync
        for part in (vqgan.encoder, vqgan.decoder, face_swap, lip_sync):
            part.to(device=place, dtype=kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for codebook in (vqgan.upper, vqgan.lower):
            codebook.to(place)
        self.identity = identity.to(place)
        self.device, self.switches = device, switches
        self.detail = detail
        self.crop = CropSpec(vqgan.config.size)
        self.speech = SpeechSpec(lip_sync.config.speech, lip_sync.config.window)

    @classmethod
    def load(cls, name: str, preset: PresetFolder, device: Device, switches: Switches) -> SwapTalk:
        """Every network from a preset's verified files.

        Raises:
            WeightsMissingError, WeightsCorruptError.
        """

        def read(kind: type[nn.Module], config: type[Any], name: str) -> Any:
            network = build_network(kind, config, load_config(preset, name), name)
            return load_network(network, load_weights(preset, name), name)

        return cls(
            read(VQGAN, VQGANConfig, "vqgan"),
            read(FaceSwap, FaceSwapConfig, "face_swap"),
            read(LipSync, LipSyncConfig, "lip_sync"),
            read(IdentityNetwork, IdentityConfig, "identity"),
            device,
            switches,
            DetailConfig() if preset.name == "compact" else None,
        )

    # --- the contract

    def encode_source(self, face: AlignedFace, others: Sequence[AlignedFace] = ()) -> SourceState:
        with torch.inference_mode():
            crop = self._tensor([face.crop])
            identity, kind = self.identity(crop.float()), self.device.dtype
            if others:
                seen = torch.cat([identity, *(self.identity(self._tensor([o.crop]).float()) for o in others)])
                identity = torch.nn.functional.normalize(seen.mean(0, keepdim=True), dim=1)
            memory = self.face_swap.remember(self._encode(crop).to(kind), identity.to(kind))
            values: dict[str, Any] = {"identity": identity, "memory": memory}
        if self.face_swap.config.guide == "mesh":
            values["guide"] = FaceGuide(face.crop, face.landmarks)
        return SourceState(face, values)

    def render(
        self,
        source: SourceState | None,
        faces: Sequence[AlignedFace],
        speech: FloatArray,
        state: ClipState,
        opened: FloatArray | None = None,
    ) -> list[UInt8Image]:
        most = int(state.values.get("most", len(faces)))  # frames that the GPU's memory was found to hold
        if len(faces) <= most:
            try:
                with torch.inference_mode():
                    return self._render(source, faces, speech, state, opened)
            except torch.OutOfMemoryError as error:
                if len(faces) == 1:
                    raise DeviceError(
                        "the GPU's memory does not hold a single frame", "close other programs, or use --device cpu"
                    ) from error
            # Only here has the error let go of what it held in memory.
            torch.cuda.empty_cache()
            most = state.values["most"] = len(faces) // 2
            told = f"the GPU's memory did not hold {len(faces)} frames at once, from there on {most} go together"
            if told not in state.warnings:
                state.warnings.append(told)
        made: list[UInt8Image] = []
        for start in range(0, len(faces), most):
            part = slice(start, start + most)
            gate = None if opened is None else opened[part]
            made += self.render(source, faces[part], speech[part], state, gate)
        return made

    def mask(self, face: AlignedFace) -> FloatArray:
        """Where the result replaces the target: the whole face for a swap, else what speech moves."""
        make = face_mask if self.switches.swap else lower_face_mask
        return make(face.landmarks, self.crop.size)

    def similarity(self, source: SourceState, crops: Sequence[UInt8Image]) -> list[float]:
        with torch.inference_mode():
            found = self.identity(self._tensor(crops).float())
            return [float(x) for x in (found * source.values["identity"]).sum(1)]

    # --- inside

    def _render(
        self,
        source: SourceState | None,
        faces: Sequence[AlignedFace],
        speech: FloatArray,
        state: ClipState,
        opened: FloatArray | None,
    ) -> list[UInt8Image]:
        heard = torch.from_numpy(speech).to(self.device.place)
        laid = self._lay(source, faces)
        # A guide is the target but for the source's skin: where one network input may stand for two, it is encoded once.
        one = laid is not None and self.switches.swap_first and self.face_swap.config.guide_is_target
        latent = self._encode(self._tensor(laid if one and laid else [f.crop for f in faces]))  # B 256 G G
        if self.switches.swap_first:
            shown = self._swap(latent, source, laid, latent if one else None)
            spoken = self._sync(shown, heard, state, opened)
            change = spoken - shown
        else:
            moved = self._sync(latent, heard, state, opened)
            change = moved - latent
            spoken = self._swap(moved, source, laid)
        made = self._pictures(self.vqgan.decode(spoken.to(self.device.dtype)))
        if self.detail is None:
            return made
        looks = laid if laid is not None else [f.crop for f in faces]
        changes = change.square().mean(1).sqrt().float().cpu().numpy()  # B G G
        return [
            add_detail(
                m,
                p,
                detail_share(c, self.crop.size, self.detail),
                self.detail,
                fitting_strength(p, f.crop, self.detail),
            )
            for m, p, c, f in zip(made, looks, changes, faces, strict=True)
        ]

    def _lay(self, source: SourceState | None, faces: Sequence[AlignedFace]) -> list[UInt8Image] | None:
        """The guides: the source's skin on each face; None where the swap works without, or not at all."""
        if not self.switches.swap or source is None or "guide" not in source.values:
            return None
        return [source.values["guide"].lay(f.crop, f.landmarks).crop for f in faces]

    def _swap(
        self, latent: Tensor, source: SourceState | None, laid: list[UInt8Image] | None, guide: Tensor | None = None
    ) -> Tensor:
        if not self.switches.swap or source is None:
            return latent
        kind = self.device.dtype
        if guide is None and laid is not None:
            guide = self._encode(self._tensor(laid))
        led = None if guide is None else guide.to(kind)
        return self.face_swap.swap(source.values["memory"], latent.to(kind), led).float()

    def _sync(self, latent: Tensor, speech: Tensor, state: ClipState, opened: FloatArray | None) -> Tensor:
        if not self.switches.sync:
            return latent
        reference = latent
        if self.switches.self_driven:
            # Self-driven (section IV): the reference is the first frame, warped to each frame's pose.
            reference = state.values.setdefault("reference", latent[:1].clone()).expand_as(latent)
        kind = self.device.dtype
        spoken = self.lip_sync(
            latent.to(kind), reference.to(kind), speech.to(kind), warp=self.switches.self_driven
        ).float()
        if self.lip_sync.config.quantize:
            spoken = self.vqgan.quantize(spoken)
        if opened is None:
            return spoken
        gate = torch.from_numpy(opened).to(latent.device)[:, None, None, None]
        return latent + gate * (spoken - latent)

    def _encode(self, crop: Tensor) -> Tensor:
        return self.vqgan.embed(crop.to(self.device.dtype))

    def _tensor(self, crops: Sequence[UInt8Image]) -> Tensor:
        batch = torch.from_numpy(np.stack(crops))
        if self.device.name == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device.place, non_blocking=True).permute(0, 3, 1, 2)
        return (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def _pictures(self, made: Tensor) -> list[UInt8Image]:
        scaled = ((made.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy())
