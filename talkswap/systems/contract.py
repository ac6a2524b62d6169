"""What every system promises to the corridor; ``render`` knows nothing else about it.

A system hears a whole voice once (:meth:`System.listen`), then begins one :class:`Performance` per person of a clip.
Everything that a performance remembers is fixed when it begins, so its batches may be rendered side by side, in any
order and by any process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from talkswap.animation.portrait import Portrait as Portrait  # part of what systems import from here
from talkswap.types import AlignedFace, FloatArray, UInt8Image, Voice
from talkswap.voice.activity import SpeechGate


@dataclass(frozen=True)
class CropSpec:
    """The aligned picture that a system reads and writes."""

    size: int  # px of the square
    alignment: str = "ffhq"


@dataclass(frozen=True)
class Source:
    """The person whose face is put in."""

    face: AlignedFace  # from the best photo: its skin is used
    others: tuple[AlignedFace, ...] = ()  # from further photos: the identity is the mean over all
    detail: AlignedFace | None = None  # the best photo's at its own resolution, hair off the face; None = ``face``
    cover: FloatArray | None = None  # G G in [0, 1] over ``detail``: where it was covered and is filled; None = nowhere


class SpeechFeatures(Protocol):
    """What a system hears of a whole voice."""

    def at(self, times: Sequence[Fraction]) -> FloatArray:
        """The features around N times in seconds on the voice's clock: float32 (N, ...)."""
        ...


class Performance(Protocol):
    """One person of one clip, dubbed by one system."""

    def render(self, faces: Sequence[AlignedFace], times: Sequence[Fraction]) -> list[UInt8Image]:
        """Dub some faces of the person.  The answer depends on nothing but the arguments and :meth:`System.begin`.

        Args:
            faces: N aligned faces; a guided system's have a guide.
            times: N times of their frames, in seconds.

        Returns:
            N crops, S S 3 uint8.  A guided system that changes nothing returns the guide's own array.
        """
        ...

    def mask(self, face: AlignedFace) -> FloatArray:
        """Where the result replaces the target: S S in [0, 1]."""
        ...


class System(Protocol):
    """One way to dub a face."""

    name: str
    crop: CropSpec
    guided: bool  # refines the guide that the corridor paints; the others work from the target's own crop

    def listen(self, voice: Voice) -> SpeechFeatures:
        """Extract what this system hears of a whole voice.

        Raises:
            WeightsMissingError, WeightsCorruptError: of a speech network.
        """
        ...

    def begin(
        self, portrait: Portrait, source: Source | None, features: SpeechFeatures | None, gate: SpeechGate | None = None
    ) -> Performance:
        """Prepare one person of one clip.

        Args:
            portrait: the person, as the first look at the clip saw them.
            source: whose face is put in; None where nothing is swapped.
            features: what the person says, from :meth:`listen`; None where the lips stay the target's.
            gate: how far the lips follow the voice at a time; where it is shut, they stay the target's.  None = wholly.
        """
        ...
