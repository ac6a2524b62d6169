"""A cascade as a system: its steps run on one FFHQ crop, in the order of its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from talkswap.checkpoints.presets import PresetFolder
from talkswap.device import Device
from talkswap.faces.mask import face_mask
from talkswap.systems.cascade.networks import STEPS, Inswapper, Restorer, Wav2Lip, face_box
from talkswap.systems.cascade.parts import part_path, steps_of
from talkswap.systems.contract import ClipState, CropSpec, SourceState, SpeechSpec, Switches
from talkswap.types import AlignedFace, FloatArray, UInt8Image

FEATHER = 0.01  # of the crop: softens the edge of the lip-sync's box, which is laid on whole


class Cascade:
    """The published parts behind :class:`~talkswap.systems.contract.System`.

    Args:
        name: one of :data:`~talkswap.systems.cascade.parts.CASCADES`.
        steps: what is done, in order: ``swap``, ``sync``, ``restore``.
        swapper, lips, restorer: the networks that the steps need.
        switches: a switched-off swap or sync is left out.
    """

    speech = SpeechSpec("wav2lip", STEPS)
    crop = CropSpec(512)

    def __init__(
        self,
        name: str,
        steps: Sequence[str],
        switches: Switches,
        swapper: Inswapper | None = None,
        lips: Wav2Lip | None = None,
        restorer: Restorer | None = None,
    ) -> None:
        off = ({"swap"} if not switches.swap else set()) | ({"sync"} if not switches.sync else set())
        self.name, self.switches = name, switches
        self.steps = tuple(step for step in steps if step not in off)
        self.swapper, self.lips, self.restorer = swapper, lips, restorer

    @classmethod
    def load(cls, name: str, preset: PresetFolder, device: Device, switches: Switches) -> Cascade:
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
            switches,
            Inswapper(part_path("inswapper"), part_path("arcface")) if "swap" in steps else None,
            Wav2Lip(part_path("wav2lip")) if "sync" in steps else None,
            Restorer(part_path("gfpgan")) if "restore" in steps else None,
        )

    def encode_source(self, face: AlignedFace, others: Sequence[AlignedFace] = ()) -> SourceState:
        values: dict[str, Any] = {}
        if self.swapper is not None:
            values = {"source": self.swapper.embed([face, *others])}
        return SourceState(face, values)

    def render(
        self,
        source: SourceState | None,
        faces: Sequence[AlignedFace],
        speech: FloatArray,
        state: ClipState,
        opened: FloatArray | None = None,
    ) -> list[UInt8Image]:
        gates = np.ones(len(faces), np.float32) if opened is None else opened
        return [
            self._one(source, face, heard, float(gate)) for face, heard, gate in zip(faces, speech, gates, strict=True)
        ]

    def _one(self, source: SourceState | None, face: AlignedFace, heard: FloatArray, gate: float) -> UInt8Image:
        crop = face.crop
        for step in self.steps:
            if step == "swap" and self.swapper is not None and source is not None:
                made, cover = self.swapper.swap(source.values["source"], crop, face.landmarks)
                mask = np.ascontiguousarray(face_mask(face.landmarks, crop.shape[0]) * cover)
                crop = np.asarray(cv2.blendLinear(made, crop, mask, 1 - mask), np.uint8)
            elif step == "sync" and self.lips is not None:
                crop = np.asarray(
                    cv2.addWeighted(self.lips(crop, face.landmarks, heard), gate, crop, 1 - gate, 0), np.uint8
                )
            elif step == "restore" and self.restorer is not None:
                crop = self.restorer(crop, face.landmarks)
        return crop

    def mask(self, face: AlignedFace) -> FloatArray:
        """The face where it was swapped or restored, the lip-sync's whole box where there is one."""
        side = self.crop.size
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

    def similarity(self, source: SourceState, crops: Sequence[UInt8Image]) -> list[float]:
        """Nothing: the recognition network wants landmarks, which finished crops come without."""
        return []
