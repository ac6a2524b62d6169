"""One piece of a video becomes one training clip, or is refused with a reason.

What a clip leaves behind::

    videos/NAME.mp4             the region around the face, 25 frames/s, encoded once, no sound
    clips-SPLIT/NAME.npz        times T · landmarks T 478 3 in px of the region (nan where no face) · voice 16 kHz ·
                                affines T 2 3 from the region to the FFHQ crop of 512 px · yaw T degrees ·
                                region x y width height in px of the source, px of the region per px of the source
    voices/NAME.wav             the voice, 16 bit
    features/mel/NAME.npy       M 80
    records/NAME.json           what was found, hashes of the files; written last, so that it says "finished"

The pictures of the source are decoded twice, once to follow the face and once to cut the region, since ten seconds of
a large video do not fit into memory.
"""

import io
import json
import wave
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from talkswap.data.cutting import Box, Piece, open_source, read_piece
from talkswap.data.portraits import label_clip
from talkswap.data.stills import paths_of
from talkswap.data.talking import LipCheckConfig, check_lips, smoothed_quads
from talkswap.errors import NoAudioError, NoVideoError, UnreadableMediaError
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.faces.geometry import box_around, box_overlap, quad_affine
from talkswap.faces.mesh import POINTS
from talkswap.faces.track import FaceTracker, TrackedFace
from talkswap.files import file_sha256, write_arrays, write_atomically
from talkswap.media.codecs import EncoderSettings
from talkswap.media.sound import load_voice, shift_voice
from talkswap.media.writer import VideoWriter
from talkswap.types import ClipInfo, ColourTags, FloatArray, Frame
from talkswap.voice.mel import log_mel

HZ = 16000
BT601 = ColourTags(matrix=6, primaries=6, transfer=6, range=1)  # what every decoder takes an untagged picture for


@dataclass(frozen=True)
class ClipConfig:
    """How pieces are looked at, and what is refused."""

    rate: int = 25  # frames per second
    size: int = 512  # px of the FFHQ crop
    smallest: float = 160.0  # px of the source: side of the FFHQ square below which a face is too small
    least_seen: float = 0.9  # share of the frames that must show the face
    second_face: float = 0.5  # size, as a share of the first, from which another face counts ...
    second_seen: float = 0.1  # ... in more than this share of the frames
    least_loudness: float = 0.002  # root mean square below which there is no sound
    lips: LipCheckConfig = LipCheckConfig()
    margin: float = 0.04  # of the region's side, around the FFHQ squares
    crf: int = 12  # of the region's video
    # The fastest efforts work without x264's macroblock tree. With it the same pictures gave other bytes from run to run
    # (x264 core 165, one thread), and a resumed preparation has to end with those of an uninterrupted one.
    effort: str = "superfast"
    teachers: Path | None = None  # folder with MediaPipe's face landmarker; None: our own landmarks


@dataclass(frozen=True)
class ClipJob:
    """One piece and where it belongs."""

    name: str
    split: str
    speaker: str
    source: str  # sha256 of the source file
    piece: Piece
    out: Path
    config: ClipConfig


class Refused(Exception):
    """A piece is no training clip.

    Args:
        reason: one of a few words, for counting.
        detail: what was measured.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class FaceTrack:
    """The face of a piece, frame by frame."""

    landmarks: FloatArray  # T 478 3, px of the source, nan where no face
    yaw: FloatArray  # T degrees, nan where no face
    picture: tuple[int, int]  # height, width


@lru_cache(maxsize=1)
def analyser() -> FaceAnalyser:
    """The one analyser of a process."""
    from talkswap.checkpoints.presets import find_preset

    return load_analyser("compact", find_preset("compact"))


def follow_face(piece: Piece, config: ClipConfig) -> FaceTrack:
    """Landmarks of the piece's one speaker.

    Raises:
        Refused: a cut, two faces, no face for too long, or too small a face.
    """
    networks = analyser()
    tracker = FaceTracker(networks, embed=networks.embed)
    seen: list[list[TrackedFace]] = []
    size = (0, 0)
    # The face is followed through the whole piece first: how large it is and whether it is alone shows only at the
    # end.
    for number, rgb in enumerate(read_piece(piece)):
        size = (rgb.shape[0], rgb.shape[1])
        seen.append(tracker.update(Frame(rgb, Fraction(number, config.rate), number, number)))
        if tracker.cuts:
            raise Refused("cut", f"the shot changes after {number / config.rate:.2f} s")
    sides: dict[int, float] = {}
    for faces in seen:
        for face in faces:
            sides[face.track_id] = sides.get(face.track_id, 0.0) + 2 * float(np.hypot(*face.x))
    if not sides:
        raise Refused("no face", f"none in {len(seen)} frames")
    # The face that is largest over time is the speaker; passers-by are small or short.
    main = max(sides, key=lambda number: sides[number])
    landmarks = np.full((len(seen), POINTS, 3), np.nan, np.float32)  # T 478 3
    yaw = np.full(len(seen), np.nan, np.float32)
    widths, others = [], 0
    for row, faces in enumerate(seen):
        own = next((f for f in faces if f.track_id == main), None)
        usual = sides[main] / max(1, sum(any(f.track_id == main for f in fs) for fs in seen)) if own is None else 0.0
        width = usual if own is None else 2 * float(np.hypot(*own.x))
        others += any(f.track_id != main and 2 * np.hypot(*f.x) >= config.second_face * width for f in faces)
        if own is not None:
            landmarks[row], yaw[row] = own.landmarks, own.yaw
            widths.append(width)
    if others > config.second_seen * len(seen):
        raise Refused("two faces", f"another face in {others} of {len(seen)} frames")
    if len(widths) < config.least_seen * len(seen):
        raise Refused("no face", f"none in {len(seen) - len(widths)} of {len(seen)} frames")
    if np.median(widths) < config.smallest:
        raise Refused("small face", f"its square has {np.median(widths):.0f} px, less than {config.smallest:.0f}")
    return FaceTrack(landmarks, yaw, size)


def label_by_teacher(piece: Piece, track: FaceTrack, config: ClipConfig) -> FaceTrack:
    """The same face with the teacher's landmarks; where the teacher sees none, or another face, there is a gap."""
    assert config.teachers is not None
    frames = ((Fraction(k, config.rate), rgb) for k, rgb in enumerate(read_piece(piece)))
    landmarks = np.full_like(track.landmarks, np.nan)
    for row, (_, _, points) in enumerate(label_clip(config.teachers, frames)):
        own = track.landmarks[row]
        if points is not None and np.isfinite(own[0, 0]) and box_overlap(box_around(points), box_around(own)) >= 0.3:
            landmarks[row] = points
    gaps = int(np.isnan(landmarks[:, 0, 0]).sum())
    if gaps > (1 - config.least_seen) * len(landmarks):
        raise Refused("no face", f"the teacher finds none in {gaps} of {len(landmarks)} frames")
    return FaceTrack(landmarks, track.yaw, track.picture)


def face_region(track: FaceTrack, config: ClipConfig) -> tuple[Box, float]:
    """What is kept of the picture: around all FFHQ squares, and by how much it is made smaller."""
    # Smoothed squares, as stages cut them later; so no crop reaches out of the region.
    centres, sides = smoothed_quads(track.landmarks)  # T 2 each
    visible = np.isfinite(centres[:, 0])
    centre, x = centres[visible], sides[visible]
    y = np.stack([-x[:, 1], x[:, 0]], 1)
    corners = np.concatenate([centre + a * x + b * y for a in (-1, 1) for b in (-1, 1)])  # 4T 2
    low, high = corners.min(0), corners.max(0)
    room = config.margin * float((high - low).max())
    height, width = track.picture
    # Even corners: in 4:2:0 two pixels share their colour.
    x0, y0 = (max(0, int(v) & ~1) for v in np.floor(low - room))
    x1, y1 = (min(most, int(v)) for v, most in zip(np.ceil(high + room), (width, height), strict=True))
    side = 2 * float(np.median(np.hypot(x[:, 0], x[:, 1])))
    return (x0, y0, x1 - x0, y1 - y0), min(1.0, config.size / side)


def region_size(box: Box, scale: float) -> tuple[int, int]:
    """Width and height of the region's video: even, since 4:2:0 wants that."""
    return max(16, 2 * round(box[2] * scale / 2)), max(16, 2 * round(box[3] * scale / 2))


def to_region(points: FloatArray, box: Box, size: tuple[int, int]) -> FloatArray:
    """Points (... 3, px of the source) in px of the region's video; px are measured at their centres."""
    factors = np.array([size[0] / box[2], size[1] / box[3]], np.float32)
    result = np.array(points, np.float32)
    # Half a pixel each way, since both pictures measure from the centres of their pixels.
    result[..., :2] = (result[..., :2] + 0.5 - np.array(box[:2], np.float32)) * factors - 0.5
    result[..., 2] *= factors.mean()
    return result


def write_region(path: Path, piece: Piece, box: Box, size: tuple[int, int], config: ClipConfig) -> None:
    """Encode the region once, in BT.601, so that tagged and untagged readers see the same colours."""
    info = ClipInfo(
        path, *size, Fraction(config.rate), Fraction(1, 512 * config.rate), Fraction(piece.frames, config.rate),
        piece.frames, 0, "h264", "yuv420p", 8, BT601, False,
    )  # fmt: skip
    # One thread: the same pictures must give the same bytes on every machine.
    settings = EncoderSettings(crf=config.crf, preset=config.effort, threads=1)
    with VideoWriter(path, info, settings, info.duration) as writer:
        x, y, width, height = box
        for number, rgb in enumerate(read_piece(piece)):
            region = np.ascontiguousarray(rgb[y : y + height, x : x + width])
            if (width, height) != size:
                region = np.asarray(cv2.resize(region, size, interpolation=cv2.INTER_AREA), np.uint8)
            writer.write(region, Fraction(number, config.rate))


@lru_cache(maxsize=2)
def source_voice(path: Path, cache: Path) -> FloatArray:
    """The whole sound of a source on its pictures' clock, decoded once for all processes."""
    # An hour of sound is decoded once and mapped into every process.
    if not cache.is_file():
        voice = shift_voice(load_voice(path, HZ), open_source(path)[0].audio_offset)
        write_atomically(cache, lambda part: np.save(part, voice.samples), parents=True)
    return np.asarray(np.load(cache, mmap_mode="r"))


def cut_voice(samples: FloatArray, start: Fraction, frames: int, rate: int) -> FloatArray:
    """Exactly the samples of so many frames; silence where the sound has ended."""
    first, count = round(start * HZ), frames * HZ // rate
    part = np.array(samples[first : first + count], np.float32)  # N
    return np.pad(part, (0, count - len(part)))


def _wav(samples: FloatArray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(HZ)
        file.writeframes((samples.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()


def _make(job: ClipJob) -> dict[str, Any]:
    config, piece = job.config, job.piece
    try:
        whole = source_voice(piece.path, job.out / "work" / f"{job.source}.npy")
    except NoAudioError as error:
        raise Refused("no sound", error.message) from error
    # The cheapest checks come first; following the face takes most of the time.
    voice = cut_voice(whole, piece.start, piece.frames, config.rate)
    loudness = float(np.sqrt(np.square(voice, dtype=np.float64).mean()))
    if loudness < config.least_loudness:
        raise Refused("no sound", f"its root mean square is {loudness:.4f}")
    track = follow_face(piece, config)
    if config.teachers is not None:
        track = label_by_teacher(piece, track, config)
    times = np.arange(piece.frames) / config.rate  # T seconds
    lips = check_lips(track.landmarks, voice, times.astype(np.float32), config.lips)
    if lips.movement < config.lips.still:
        raise Refused("lips", f"they do not move (deviation {lips.movement:.4f} eye distances)")
    if lips.correlation < config.lips.least:
        raise Refused("lips", f"they do not follow the sound (correlation {lips.correlation:.2f})")
    box, scale = face_region(track, config)
    size = region_size(box, scale)
    landmarks = to_region(track.landmarks, box, size)
    centres, sides = smoothed_quads(landmarks)
    affines = np.full((piece.frames, 2, 3), np.nan, np.float32)  # T 2 3
    for row in np.flatnonzero(np.isfinite(centres[:, 0])):
        affines[row] = quad_affine(centres[row], sides[row], config.size)
    files = {kind: job.out / path for kind, path in paths_of(job.name, job.split).items()}
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(files["video"], lambda part: write_region(part, piece, box, size, config))
    # Where the region lies in the source, so that labels can be traced back to it.
    region = np.array([*box, size[0] / box[2], size[1] / box[3]], np.float64)
    labels = {"times": times, "landmarks": landmarks, "voice": voice, "affines": affines, "yaw": track.yaw}
    write_arrays(files["labels"], {**labels, "region": region})
    write_atomically(files["voice"], _wav(voice))
    write_atomically(files["mel"], lambda part: np.save(part, log_mel(voice)))
    visible = np.isfinite(landmarks[:, 0, 0])  # T
    return {
        "seen": int(visible.sum()),
        "correlation": round(lips.correlation, 4),
        "lag": lips.lag,
        "quad_px": round(2 * float(np.nanmedian(np.hypot(sides[:, 0], sides[:, 1]))) * box[2] / size[0], 1),
        "portrait": int(np.nanargmin(np.where(visible, np.abs(track.yaw), np.nan))),
        "files": {path: file_sha256(job.out / path) for path in paths_of(job.name, job.split).values()},
    }


def prepare_clip(job: ClipJob) -> dict[str, Any]:
    """Prepare one piece and write its record, accepted or refused.

    Raises:
        OutputUnwritableError, WeightsMissingError: nothing that another piece would change.
    """
    record: dict[str, Any] = {
        "name": job.name, "split": job.split, "speaker": job.speaker, "source": job.source,
        "start": float(job.piece.start), "frames": job.piece.frames,
    }  # fmt: skip
    # What is wrong with one piece must not end the preparation of a thousand.
    try:
        record |= {**_make(job), "refused": None}
    except Refused as refusal:
        record["refused"] = {"reason": refusal.reason, "detail": refusal.detail}
    except (UnreadableMediaError, NoVideoError) as error:
        record["refused"] = {"reason": "unreadable", "detail": error.message}
    write_atomically(job.out / "records" / f"{job.name}.json", json.dumps(record, indent=1) + "\n", parents=True)
    return record


def finished(job: ClipJob) -> dict[str, Any] | None:
    """The record of a piece that an earlier run has finished, if all its files are still there."""
    path = job.out / "records" / f"{job.name}.json"
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    same = record["split"] == job.split and all((job.out / file).is_file() for file in record.get("files", ()))
    return record if same else None


def settings_of(config: ClipConfig) -> dict[str, Any]:
    """What decides a clip, for comparing two runs."""
    return {**asdict(config), "teachers": config.teachers is not None}
