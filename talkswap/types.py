"""The small frozen types that pass between rooms; no torch here, so that importing them is free."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

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
class GuideCrop:
    """A face as geometry alone paints it: the photo's skin or the frame's own, with the voice's mouth."""

    crop: UInt8Image  # S S 3
    landmarks: FloatArray  # 478 3 in crop px: the mesh that was painted


@dataclass(frozen=True)
class AlignedFace:
    """A face cut out in the system's crop, with the way back."""

    crop: UInt8Image  # S S 3
    affine: FloatArray  # 2 3: picture px -> crop px
    landmarks: FloatArray  # 478 3 in crop px
    index: int  # frame index; 0 for a photo
    guide: GuideCrop | None = None  # what a guided system refines; None where nothing was painted


@dataclass(frozen=True)
class Voice:
    """Mono speech."""

    samples: FloatArray  # N in [-1, 1]
    hz: int

    @property
    def seconds(self) -> Fraction:
        return Fraction(len(self.samples), self.hz)


def option(default: Any = MISSING, help: str = "", **spelling: Any) -> Any:
    """A field of a dataclass that the command line offers.

    The field's type gives the choices (``Literal``), ``help`` the text of ``--help``.

    Args:
        default: of the field; without one, whoever makes the record has to give a value.
        help: one or two sentences for ``--help``; empty keeps the field away from the command line.
        spelling: what :mod:`talkswap.cli.options` can't tell from name and type: ``flag``, ``metavar``, ``minimum``, ``maximum``,
            ``without`` (shown as the default where that is chosen later), ``rest`` (the field that takes further values).
    """
    return field(default=default, metadata={"help": help, **spelling})


@dataclass(frozen=True)
class RenderPlan:
    """All that decides a render's result; equal plans give equal frames.

    This is the one list of a render's options: command line, plan files, tables of jobs and checks derive from it.
    """

    source: Path | None = option(
        help="Photo of the face to put in; needed unless --no-swap. Again for more photos of the same person: "
        "the identity is their mean, the skin that of the best.",
        metavar="PHOTO",
        rest="more_sources",
    )
    target: Path = option(help="Clip whose person gets the face and the words.")
    audio: Path | None = option(
        help="Voice: a sound file, or a video whose sound is taken. Without it: the target's own sound."
    )
    output: Path = option(help="Clip to write. Without it: TARGET-dubbed.mp4 in the current folder.")
    system: str = option(
        DEFAULT_SYSTEM, "What dubs; `--system NAME --help` shows the options of that system.", metavar="NAME"
    )
    preset: Literal["auto", "compact", "paper"] = option("auto", "Set of weights; auto takes the best complete one.")
    weights: Path | None = option(None, "Preset folder to use, instead of looking for the set.")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "Where the networks run; auto says what it took.")
    swap: bool = option(True, "Give the target the source's face.")
    sync: bool = option(True, "Move the lips with the voice.")
    face: str | None = option(None, "Whose face: a number from `talkswap faces`, or a photo of the person.")
    more_sources: tuple[Path, ...] = option(())  # further photos of the person of `source`
    map: tuple[tuple[str, Path], ...] = option(
        (),
        "One person's face: ID=PHOTO, with ID as in --face. For each person once, and again for more photos.",
        metavar="ID=PHOTO",
    )
    voices: tuple[tuple[str, Path], ...] = option(
        (),
        "One person's voice: ID=SOUND. Without --audio the voices together are the clip's sound.",
        flag="--voice",
        metavar="ID=SOUND",
    )
    lip_strength: float = option(
        1.0,
        "How far the mouth follows the voice. 0: the target's own mouth. 1: the voice's. Up to 1.5: larger.",
        minimum=0,
        maximum=1.5,
    )
    style_from: Path | None = option(
        None,
        "Whose way of speaking the lips have: that of the most prominent person of another clip, or self, the target's.",
        metavar="CLIP|self",
        without="self",
    )
    silence: Literal["neutral", "original"] = option(
        "neutral",
        "What the mouth does where nobody speaks. neutral: rests, closed. original: as in the target.",
    )
    occlusion: bool = option(True, "Leave hands, microphones and hair in front of a face as they are.")
    fit: Literal["clip", "voice", "loop", "bounce", "freeze"] = option(
        "clip",
        "When voice and clip differ in length. clip: exactly the target's frames, a longer voice is cut. "
        "voice: end with a shorter voice. loop, bounce, freeze: stretch the clip to a longer voice.",
    )
    start: Fraction = option(  # seconds from the target's first frame
        Fraction(0), "Dub and write only from here on: seconds or HH:MM:SS.mmm; the voice begins there."
    )
    end: Fraction | None = option(None, "Dub and write only up to here: seconds or HH:MM:SS.mmm.")
    audio_mix: Literal["replace", "keep", "duck"] = option(
        "replace",
        "The target's own sound beside a voice. replace: the voice takes its place. keep: it stays as a second "
        "track. duck: it goes on under the voice, lower while somebody speaks. Other tracks always stay.",
    )
    crf: int | None = option(
        None,
        "Constant quality of the encoder: lower is better. Without it the encoder's own: 18 for libx264, "
        "which looks lossless.",
        minimum=0,
    )
    encoder: str = option(  # a name in talkswap.media.codecs.CODECS
        "auto",
        "Video encoder: libx264, libx265, libvpx-vp9, libsvtav1, prores_ks, ffv1, h264_nvenc, hevc_nvenc, "
        "h264_videotoolbox or hevc_videotoolbox. auto: libx264, in .webm libvpx-vp9.",
    )
    encoder_preset: str = option(
        "auto",
        "Effort of the encoder, ultrafast to veryslow; the profile of ProRes, proxy to 4444xq. "
        "auto: veryfast; hq for ProRes.",
    )
    pixel_format: str = option(
        "auto",
        "yuv420p, yuv422p, yuv444p, or one of these with 10le at the end for ten bits. "
        "auto: as deep as the target, where the encoder can.",
    )
    batch_size: int = option(0, "Frames per network call; 0 = chosen from the device's memory.", minimum=0)
    overwrite: bool = option(False, "Replace an existing output.")
    segment_seconds: float = option(10.0)  # most output in one closed piece: what a kill or a power cut can cost
    fresh: bool = option(False, "Do not go on where an interrupted render of this output stopped.")
    provenance: bool = option(True, "Mark the result as synthetic: tags, C2PA, invisible mark.")
    sign_cert: Path | None = option(
        None, "PEM chain that signs the C2PA manifest, or TALKSWAP_SIGN_CERT. Without it: a local certificate."
    )
    sign_key: Path | None = option(None, "PEM key of --sign-cert, or TALKSWAP_SIGN_KEY.")
    timestamp_url: str | None = option(
        None, "Time-stamp authority (RFC 3161) to ask; reaches the network.", metavar="URL"
    )
    options: Mapping[str, Any] = field(default_factory=dict)  # the system's own, by name


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
