"""A system without networks: the painted guide is its answer.

What a system's networks are held against, and what a render takes where they don't do better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from talkswap.faces.mask import face_mask, lower_face_mask
from talkswap.systems.contract import CropSpec, Portrait, Source, SpeechFeatures
from talkswap.types import AlignedFace, FloatArray, UInt8Image, Voice
from talkswap.voice.activity import SpeechGate


class Silence:
    """Speech features of a system that hears nothing: the guide has heard the voice already."""

    def at(self, times: Sequence[Fraction]) -> FloatArray:
        return np.zeros((len(times), 0), np.float32)


class GuideAlone:
    """The guide behind :class:`~talkswap.systems.contract.System`.

    Args:
        name: of the system whose networks are left out.
        size: px of its crop, in which the invisible mark is made.
    """

    guided = True

    def __init__(self, name: str, size: int) -> None:
        self.name, self.crop = name, CropSpec(size)

    def listen(self, voice: Voice) -> SpeechFeatures:
        return Silence()

    def begin(
        self, portrait: Portrait, source: Source | None, features: SpeechFeatures | None, gate: SpeechGate | None = None
    ) -> GuidePerformance:
        return GuidePerformance(face_mask if source is not None else lower_face_mask)


class GuidePerformance:
    """One person; ``make_mask`` draws what of a face is changed, from landmarks and the crop's size."""

    def __init__(self, make_mask: Callable[[FloatArray, int], FloatArray]) -> None:
        self.make_mask = make_mask

    def render(self, faces: Sequence[AlignedFace], times: Sequence[Fraction]) -> list[UInt8Image]:
        return [face.crop if face.guide is None else face.guide.crop for face in faces]

    def mask(self, face: AlignedFace) -> FloatArray:
        landmarks = face.landmarks if face.guide is None else face.guide.landmarks
        return self.make_mask(landmarks, face.crop.shape[0])
