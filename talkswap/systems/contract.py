"""What every system promises to the corridor; render.py knows nothing else of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from talkswap.types import AlignedFace, FloatArray, UInt8Image


@dataclass(frozen=True)
class CropSpec:
    """The aligned picture a system reads and writes."""

    size: int  # px of the square
    alignment: str = "ffhq"


@dataclass(frozen=True)
class SpeechSpec:
    """The speech features a system listens to."""

    kind: str  # "mel" or "hubert"
    length: int  # feature frames in one window, centred on the video frame's time


@dataclass(frozen=True)
class Switches:
    """Which parts of a system work in a render."""

    swap: bool = True
    sync: bool = True
    swap_first: bool = True  # the paper's order; False: lip-sync before the swap (Table VI)
    self_driven: bool = False  # reference = the first frame, warped to each pose; else the frame itself


@dataclass(frozen=True)
class SourceState:
    """What a system keeps of the source photo; its content is the system's own."""

    face: AlignedFace
    values: dict[str, Any]


@dataclass
class ClipState:
    """What a system carries from batch to batch of one clip (for example the reference frame)."""

    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)  # what the user should know, one sentence each


class System(Protocol):
    """One way to dub a face."""

    name: str
    crop: CropSpec
    speech: SpeechSpec
    switches: Switches

    def encode_source(self, face: AlignedFace, others: Sequence[AlignedFace] = ()) -> SourceState:
        """Read the source photo once; the identity is the mean of it and ``others``, photos of the same person."""
        ...

    def render(
        self,
        source: SourceState | None,
        faces: Sequence[AlignedFace],
        speech: FloatArray,
        state: ClipState,
        opened: FloatArray | None = None,
    ) -> list[UInt8Image]:
        """The dubbed crops of some successive frames of one face.

        Args:
            source: from :meth:`encode_source`; None where nothing is swapped.
            faces: N aligned faces, in order of time.
            speech: N L D windows, one centred on each face's time.
            state: the same object for all batches of a clip; each person of it has their own.
            opened: N in [0, 1], how far the lips follow the voice; at 0 they stay the target's.  None = wholly.

        Returns:
            N crops, S S 3 uint8.
        """
        ...

    def mask(self, face: AlignedFace) -> FloatArray:
        """Where the result replaces the target: S S in [0, 1]."""
        ...

    def similarity(self, source: SourceState, crops: Sequence[UInt8Image]) -> list[float]:
        """Identity cosine of each crop to the source, by the preset's own recognition network."""
        ...
