"""The small frozen types that pass between rooms; no torch here, so that importing them is free."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_SYSTEM = "swaptalk"
"""The system that dubs where nobody names one; the only place outside ``talkswap/systems`` that names a system."""

UInt8Image = NDArray[np.uint8]
"""H x W x 3, RGB, 0 to 255."""

Int8Image = NDArray[np.int8]
"""H x W x 3."""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ColourTags:
    """Colour description of a video stream, as FFmpeg's integer codes (2 = unspecified, range 0)."""

    matrix: int = 2  # colorspace: 1 = BT.709, 5/6 = BT.601, 9 = BT.2020
    primaries: int = 2
    transfer: int = 2  # 16 = PQ, 18 = HLG
    range: int = 0  # 1 = limited (MPEG), 2 = full (JPEG)


@dataclass(frozen=True)
class ClipInfo:
    """What the container says of a clip, before any frame is decoded."""

    path: Path
    width: int  # px, after rotation
    height: int  # px, after rotation
    rate: Fraction  # average frames per second; nominal where the rate varies
    time_base: Fraction  # seconds per pts tick
    duration: Fraction  # seconds; 0 when unknown
    frames: int  # as the container states; 0 when unknown
    rotation: int  # clockwise degrees to apply before showing: 0, 90, 180, 270
    codec: str
    pixel_format: str
    bits: int  # per component
    colour: ColourTags
    has_audio: bool
    audio_duration: Fraction = Fraction(0)
    sample_aspect_ratio: Fraction = Fraction(1)
    mirrored: bool = False  # to be flipped left to right before it is turned
    audio_offset: Fraction = Fraction(0)  # seconds from the first picture to the container's start, the sound's time 0


@dataclass(frozen=True)
class Frame:
    """One decoded picture at its exact time."""

    rgb: UInt8Image  # H W 3, rotation applied
    time: Fraction  # seconds from the clip's first frame (its pts, start removed)
    index: int  # 0-based position in the output
    source_index: int = 0  # 0-based position in the target clip; differs where the clip is looped, bounced or held
    fine: Int8Image | None = None  # H W 3: what rounding to 8 bits took, in 256ths of a level; where it was asked for


@dataclass(frozen=True)
class Face:
    """One face in one picture; coordinates in px of that picture."""

    box: FloatArray  # 4: x0 y0 x1 y1
    score: float  # 0 to 1
    landmarks: FloatArray  # 478 3: dense mesh, z in px toward the viewer negative
    embedding: FloatArray | None = None  # unit length, where an identity network ran


@dataclass(frozen=True)
class AlignedFace:
    """A face cut out in the system's crop, with the way back."""

    crop: UInt8Image  # S S 3
    affine: FloatArray  # 2 3: picture px -> crop px
    landmarks: FloatArray  # 478 3 in crop px
    index: int  # frame index; 0 for a photo


@dataclass(frozen=True)
class Voice:
    """Mono speech."""

    samples: FloatArray  # N in [-1, 1]
    hz: int

    @property
    def seconds(self) -> Fraction:
        return Fraction(len(self.samples), self.hz)


@dataclass(frozen=True)
class RenderPlan:
    """All that decides a render's result; equal plans give equal frames."""

    source: Path | None  # a photo; None where nothing is swapped
    target: Path
    audio: Path | None  # None: the sound of the target itself
    output: Path
    system: str = DEFAULT_SYSTEM  # a name in talkswap.systems.registry
    preset: str = "auto"  # auto | compact | paper
    weights: Path | None = None  # a preset folder to take instead of looking for one
    device: str = "auto"  # auto | cpu | cuda | mps
    swap: bool = True
    sync: bool = True
    face: str | None = None  # index from `talkswap faces`, or a photo of the person
    more_sources: tuple[Path, ...] = ()  # further photos of the person of `source`
    map: tuple[tuple[str, Path], ...] = ()  # people as in `face`, each with a photo of their own; again for one more
    voices: tuple[tuple[str, Path], ...] = ()  # people as in `face`, each with a voice of their own
    silence: str = "neutral"  # neutral | original: what the mouth does where nobody speaks
    occlusion: bool = True  # leave what is in front of a face as it is
    fit: str = "clip"  # clip | voice | loop | bounce | freeze
    start: Fraction = Fraction(0)  # seconds from the target's first frame; the voice starts with the first one shown
    end: Fraction | None = None  # seconds from the target's first frame; None = its end
    audio_mix: str = "replace"  # replace | keep | duck: what becomes of the target's own sound beside a voice
    crf: int | None = None  # None = the encoder's own default
    encoder: str = "auto"  # auto | a name in talkswap.media.codecs.CODECS
    encoder_preset: str = "auto"
    pixel_format: str = "auto"  # auto = as deep as the target, where the encoder can
    batch_size: int = 0  # 0 = chosen from the device's memory
    overwrite: bool = False
    segment_seconds: float = 10.0  # most output in one closed piece: what a kill or a power cut can cost
    fresh: bool = False  # do not go on where an interrupted render of this output stopped
    provenance: bool = True  # mark the result as synthetic (talkswap.provenance)
    sign_cert: Path | None = None  # PEM chain and key that sign the C2PA manifest; a local certificate without them
    sign_key: Path | None = None
    timestamp_url: str | None = None  # RFC 3161 authority to ask for the time of the signature
    options: dict[str, Any] = field(default_factory=dict)  # the system's own, by name


@dataclass(frozen=True)
class RenderReport:
    """What a render did, for the last line, for ``--report`` and for scripts."""

    output: Path
    frames_in: int
    frames_out: int
    seconds: float  # wall time of the whole render
    video_seconds: float
    real_time_factor: float  # seconds / video_seconds
    preset: str
    device: str
    faceless: list[tuple[float, float]]  # intervals in seconds
    faceless_frames: int
    identity_similarity: float | None  # mean cosine of result to source, compact identity network
    timings: dict[str, float]  # seconds per stage
    peak_memory_mb: float
    warnings: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)  # what became of each of the target's other streams
    weights: dict[str, str] = field(default_factory=dict)  # file -> sha256
    turned: list[tuple[float, float]] = field(default_factory=list)  # seconds in which a turned head is faded out
    covered_frames: int = 0  # in which something in front of a face was left as it is
    people: list[dict[str, Any]] = field(default_factory=list)  # who got which photos and voice, in how many frames
    versions: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    resumed_frames: int = 0  # finished by an interrupted run before this one
    provenance: dict[str, Any] = field(default_factory=dict)  # which marks were written and read back


@dataclass(frozen=True)
class ProgressEvent:
    """How far a long piece of work is; handed to a callback, never printed by the library."""

    stage: str  # a word or two: "frames", "joining"
    done: int  # of the stage's own units
    total: int  # 0 when unknown
    message: str = ""  # one line that the user should see, such as a fallback
