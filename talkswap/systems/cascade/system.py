"""A cascade as a system: its steps run on one FFHQ crop, in the order of its name."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np

from talkswap.checkpoints.preset_folder import PresetFolder
from talkswap.device import Device
from talkswap.faces.mask import face_mask
from talkswap.systems.cascade.networks import STEPS, Inswapper, Restorer, Wav2Lip, Wav2LipMel, face_box
from talkswap.systems.cascade.parts import part_path, steps_of
from talkswap.systems.contract import CropSpec, Portrait, Source, SpeechFeatures
from talkswap.systems.description import NoOptions
from talkswap.types import AlignedFace, FloatArray, UInt8Image, Voice
from talkswap.voice.activity import SpeechGate
from talkswap.voice.features import listen

FEATHER = 0.01  # of the crop: softens the edge of the lip-sync's box, which is laid on whole


class Cascade:
    """The published parts behind :class:`~talkswap.systems.contract.System`.

    Args:
        name: one of :data:`~talkswap.systems.cascade.parts.CASCADES`.
        steps: what is done, in order: ``swap``, ``sync``, ``restore``.
        swapper, lips, restorer: the networks that the steps need.
    """

    crop = CropSpec(512)
    guided = False  # the published parts read the target's own face

    def __init__(
        self,
        name: str,
        steps: Sequence[str],
        swapper: Inswapper | None = None,
        lips: Wav2Lip | None = None,
        restorer: Restorer | None = None,
    ) -> None:
        self.name, self.steps = name, tuple(steps)
        self.swapper, self.lips, self.restorer = swapper, lips, restorer

    @classmethod
    def load(cls, name: str, preset: PresetFolder, device: Device, options: NoOptions | None = None) -> Cascade:
        """The cascade with its parts from this machine, each held against its manifest; they run on the CPU.

        Raises:
            UsageError: there is no such cascade.
            WeightsMissingError, WeightsCorruptError: a part is not here, or damaged.
            DependencyError: onnxruntime is not installed.
        """
        steps = steps_of(name)
        return cls(
            name,
            steps,
            Inswapper(part_path("inswapper"), part_path("arcface")) if "swap" in steps else None,
            Wav2Lip(part_path("wav2lip")) if "sync" in steps else None,
            Restorer(part_path("gfpgan")) if "restore" in steps else None,
        )

    def listen(self, voice: Voice) -> SpeechFeatures:
        return listen(voice, Wav2LipMel(), STEPS, gate=False)  # as published: it hears everything

    def begin(
        self, portrait: Portrait, source: Source | None, features: SpeechFeatures | None, gate: SpeechGate | None = None
    ) -> CascadePerformance:
        return CascadePerformance(self, source, features, gate)


class CascadePerformance:
    """The steps for one person; a swap without a source and a sync without a voice are left out.

    Args: as :meth:`talkswap.systems.contract.System.begin`.
    """

    def __init__(
        self, system: Cascade, source: Source | None, features: SpeechFeatures | None, gate: SpeechGate | None
    ) -> None:
        self.system, self.features, self.gate = system, features, gate
        off = ({"swap"} if source is None else set()) | ({"sync"} if features is None else set())
        self.steps = tuple(step for step in system.steps if step not in off)
        self.identity: FloatArray | None = None  # as the swapper takes it
        if source is not None and system.swapper is not None:
            self.identity = system.swapper.embed([source.face, *source.others])

    def render(self, faces: Sequence[AlignedFace], times: Sequence[Fraction]) -> list[UInt8Image]:
        speech = None if self.features is None else self.features.at(times)
        gates = np.ones(len(faces), np.float32) if self.gate is None else self.gate.at(times)
        return [
            self._render_one(face, None if speech is None else speech[place], float(gates[place]))
            for place, face in enumerate(faces)
        ]

    def _render_one(self, face: AlignedFace, speech: FloatArray | None, gate: float) -> UInt8Image:
        system, crop = self.system, face.crop
        for step in self.steps:
            if step == "swap" and system.swapper is not None and self.identity is not None:
                square, cover = system.swapper.swap(self.identity, crop, face.landmarks)
                mask = np.ascontiguousarray(face_mask(face.landmarks, crop.shape[0]) * cover)
                crop = np.asarray(cv2.blendLinear(square, crop, mask, 1 - mask), np.uint8)
            elif step == "sync" and system.lips is not None and speech is not None:
                lips = system.lips(crop, face.landmarks, speech)
                crop = np.asarray(cv2.addWeighted(lips, gate, crop, 1 - gate, 0), np.uint8)
            elif step == "restore" and system.restorer is not None:
                crop = system.restorer(crop, face.landmarks)
        return crop

    def mask(self, face: AlignedFace) -> FloatArray:
        """The face where it was swapped or restored, the lip-sync's whole box where there is one."""
        side = self.system.crop.size
        cover = np.zeros((side, side), np.float32)
        if "swap" in self.steps or "restore" in self.steps:
            cover = face_mask(face.landmarks, side)
        if "sync" in self.steps:
            x0, y0, x1, y1 = face_box(face.landmarks, side)
            box = np.zeros((side, side), np.float32)
            box[y0:y1, x0:x1] = 1
            blurred = np.asarray(cv2.GaussianBlur(box, (0, 0), FEATHER * side), np.float32)
            cover = np.maximum(cover, np.clip(2 * blurred - 1, 0, 1))  # inside the box only
        return cover
