"""Talking clips as codes: what the lip-sync stages read instead of video.

``python -m talkswap.data.talking`` decodes every prepared clip once, aligns the faces and stores the code numbers that one
frozen VQGAN gives them.  A clip's file is written in one move and carries the hash of that VQGAN's encoder and
codebooks, so a stopped run goes on where it was and codes of two VQGANs never mix.  Everything else (mel features,
mouth shapes, poses) is computed from the prepared labels when the clips are opened.

Layout of a code folder::

    talking-{train,val}/NAME.npz   weights · frames T' · lower T' G/2 G · upper_rows U · upper U G/2 G · lower_raw, upper_raw
                                   (frames count in the clip; upper_rows count in frames; raw: the encoder's own vectors, C G/2 G each,
                                   int8 in steps of RAW_STEP, where the VQGAN's modules work on those)
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.faces.geometry import OUTER_EYE_CORNERS, ffhq_quad, quad_affine, transform_points, warp_crop
from talkswap.faces.measures import mouth_opening, mouth_shape
from talkswap.files import write_arrays
from talkswap.systems.swaptalk.training.pairs import RAW_STEP, code_hash, load_vqgan
from talkswap.types import FloatArray
from talkswap.voice.features import FeatureExtractor, MelFeatures
from talkswap.voice.mel import SILENCE, MelConfig, log_mel
from talkswap.voice.windows import cut_windows

POSE_POINTS = (33, 133, 362, 263, 168, 6, 1, 2, 234, 454, 10)
"""Points of the mesh that turn with the head and do not follow the mouth."""


@dataclass(frozen=True)
class TalkingConfig:
    """What to encode, with which VQGAN, for how long."""

    data: Path  # prepared clips (clips-train, clips-val)
    videos: Path  # folder with the clips and clips.csv
    vqgan: Path  # safetensors of VQGAN
    out: Path
    fastest: float = 31.0  # frames per second; of a faster clip every k-th frame is taken
    burst: int = 0  # frames taken of a training clip in a row, then `gap` frames left out; 0 = every frame
    gap: int = 0
    held_out: int = 0  # first frames taken of a validation clip; 0 = all
    upper_step: int = 4  # every k-th stored frame also stores its upper half
    batch: int = 8
    threads: int = 1
    minutes: float = 0.0  # stop after that long; 0 = no limit
    weakest: float = -1.0  # mouth_audio_corr below which a training clip is left out


@dataclass(frozen=True)
class SpokenClip:
    """One clip's voice and labels on its own clock; no pictures."""

    name: str
    kind: str  # real | generated
    correlation: float  # of mouth and sound, as clips.csv states
    times: FloatArray  # T seconds
    landmarks: FloatArray  # T 478 3, px of the clip, nan where no face
    mel: FloatArray  # M 80
    speech: FloatArray  # S D: what the lip transform hears; the mel again where it hears that
    rate: Fraction  # features of ``speech`` per second
    start: Fraction  # seconds: the time of its feature 0
    silence: FloatArray  # D: the feature of digital silence
    opening: FloatArray  # T, inner lips over eye distance, nan where no face
    shape: FloatArray  # T measures, see mouth_shape
    pose: FloatArray  # T P: where the head is turned, free of mouth and identity

    @property
    def seen(self) -> NDArray[np.bool_]:
        """T: frames with a face."""
        return np.isfinite(self.opening)

    def speech_windows(self, times: FloatArray, length: int) -> FloatArray:
        """What the lip transform hears around times in seconds (N length D), cut as in a render."""
        return cut_windows(self.speech, self.rate, times.tolist(), length, self.silence, self.start)

    def mel_windows(self, times: FloatArray, length: int) -> FloatArray:
        """The mel around times in seconds (N length 80)."""
        return cut_windows(self.mel, MelConfig().rate, times.tolist(), length, SILENCE)


@dataclass(frozen=True)
class TalkingClip:
    """A spoken clip with the codes of its frames."""

    spoken: SpokenClip
    frames: NDArray[np.int64]  # T' rows of the spoken clip
    lower: NDArray[np.uint16]  # T' G/2 G
    upper_rows: NDArray[np.int64]  # U rows of frames
    upper: NDArray[np.uint16]  # U G/2 G
    lower_raw: NDArray[np.int8]  # T' C G/2 G; empty where the VQGAN's modules work on codes
    upper_raw: NDArray[np.int8]  # U C G/2 G


def head_pose(landmarks: FloatArray) -> FloatArray:
    """Where eyes, nose and face edge lie (T P), centred on the eyes, in eye distances: nearness of poses."""
    plane = landmarks[:, :, :2]
    first, second = plane[:, OUTER_EYE_CORNERS[0]], plane[:, OUTER_EYE_CORNERS[1]]
    size = np.maximum(np.linalg.norm(first - second, axis=1), 1e-6)[:, None, None]
    return (
        ((plane[:, list(POSE_POINTS)] - ((first + second) / 2)[:, None]) / size)
        .reshape(len(plane), -1)
        .astype(np.float32)
    )


def read_index(videos: Path) -> dict[str, dict[str, str]]:
    """Rows of ``clips.csv`` by clip name without ending."""
    path = videos / "clips.csv"
    if not path.is_file():
        raise InputMissingError(f"no clips.csv in {videos}", "point --videos at the folder of the talking clips")
    with open(path, newline="") as file:
        return {Path(row["name"]).stem: row for row in csv.DictReader(file)}


def open_spoken(
    data: Path, split: str, videos: Path | None = None, features: FeatureExtractor | None = None
) -> list[SpokenClip]:
    """All prepared clips of a split, the most useful first: real before generated, then by correlation.

    Args:
        features: what the lip transform hears; None: mel.

    Raises:
        TrainingDataError: nothing is prepared there.
    """
    files = sorted((data / f"clips-{split}").glob("*.npz"))
    if not files:
        raise TrainingDataError(f"no prepared clips in {data / f'clips-{split}'}", "run `talkswap data prepare` first")
    index = read_index(videos) if videos is not None else {}
    heard = features or MelFeatures()
    clips = []
    for file in files:
        row = index.get(file.stem, {})
        with np.load(file) as stored:
            times, landmarks, voice = stored["times"], stored["landmarks"], stored["voice"]
        mel = log_mel(voice)
        clips.append(
            SpokenClip(
                file.stem,
                row.get("kind", "real"),
                float(row.get("mouth_audio_corr") or 0.0),
                times.astype(np.float32),
                landmarks.astype(np.float32),
                mel,
                mel if features is None else features(voice),
                heard.rate,
                heard.start,
                heard.silence(),
                mouth_opening(landmarks),
                mouth_shape(landmarks),
                head_pose(landmarks),
            )
        )
    return sorted(clips, key=lambda c: (c.kind != "real", -c.correlation, c.name))


def smoothed_quads(landmarks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centre (T 2) and half-side vector (T 2) of each frame's FFHQ square, averaged over neighbours 1:2:1."""
    quads = [ffhq_quad(points) if np.isfinite(points[0, 0]) else None for points in landmarks]
    centres = np.array([q[0] if q else (np.nan, np.nan) for q in quads], np.float32)
    sides = np.array([q[1] if q else (np.nan, np.nan) for q in quads], np.float32)
    result = []
    for track in (centres, sides):
        around = np.stack([np.roll(track, 1, 0), track, np.roll(track, -1, 0)])  # 3 T 2
        around[0, 0], around[2, -1] = np.nan, np.nan
        weight = np.array([1, 2, 1], np.float32)[:, None, None] * np.isfinite(around)
        mean = (np.nan_to_num(around) * weight).sum(0) / np.maximum(weight.sum(0), 1e-6)
        result.append(np.where(np.isfinite(track), mean, np.nan).astype(np.float32))
    return result[0], result[1]


def aligned_landmarks(landmarks: FloatArray, size: int) -> FloatArray:
    """Landmarks (T 478 3) in px of each frame's own crop."""
    centres, sides = smoothed_quads(landmarks)
    moved = np.full_like(landmarks, np.nan)
    for row in np.flatnonzero(np.isfinite(centres[:, 0])):
        moved[row] = transform_points(quad_affine(centres[row], sides[row], size), landmarks[row])
    return moved


class ClipEncoder:
    """Encodes clips with one VQGAN into its code folder."""

    def __init__(self, config: TalkingConfig) -> None:
        self.config = config
        torch.set_num_threads(config.threads)
        self.network = load_vqgan(config.vqgan)
        self.weights = code_hash(self.network)
        self.size = self.network.config.size

    def done(self, split: str, name: str) -> bool:
        """Whether the clip is already encoded with these weights."""
        path = self.config.out / f"talking-{split}" / f"{name}.npz"
        if not path.is_file():
            return False
        with np.load(path) as stored:
            return str(stored["weights"]) == self.weights

    def encode(self, clip: SpokenClip, split: str) -> int:
        """Write one clip's codes; returns the number of frames."""
        import av

        centres, sides = smoothed_quads(clip.landmarks)
        rate = (len(clip.times) - 1) / max(float(clip.times[-1] - clip.times[0]), 1e-3) if len(clip.times) > 1 else 25.0
        step = max(1, int(np.ceil(rate / self.config.fastest)))
        burst, gap = (self.config.burst, self.config.gap) if split == "train" and self.config.burst else (1, 0)
        last = self.config.held_out if split == "val" and self.config.held_out else len(clip.times)
        lower: list[tuple[Any, Any]] = []  # codes and raw vectors of each frame
        upper: list[tuple[Any, Any]] = []
        frames: list[int] = []
        waiting: list[NDArray[np.uint8]] = []

        def flush() -> None:
            if waiting:
                count = len(lower)
                crops = np.stack(waiting)
                lower.extend(self._codes(crops[:, self.size // 2 :], lower=True))
                rows = [i for i in range(len(waiting)) if (count + i) % self.config.upper_step == 0]
                if rows:
                    upper.extend(self._codes(crops[rows, : self.size // 2], lower=False))
                waiting.clear()

        with av.open(str(self.config.videos / f"{clip.name}.mp4")) as container:
            stream = container.streams.video[0]
            for number, frame in enumerate(container.decode(stream)):
                if number >= min(last, len(clip.times)) or number % step or not clip.seen[number]:
                    continue
                if number // step % (burst + gap) >= burst:
                    continue
                affine = quad_affine(centres[number], sides[number], self.size)
                waiting.append(warp_crop(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), affine, self.size))
                frames.append(number)
                if len(waiting) == self.config.batch:
                    flush()
        flush()
        self._store(split, clip.name, frames, lower, upper)
        return len(frames)

    def _store(self, split: str, name: str, frames: list[int], lower: list[Any], upper: list[Any]) -> None:
        grid = self.network.config.grid
        path = self.config.out / f"talking-{split}" / f"{name}.npz"
        arrays = {
            "weights": np.array(self.weights),
            "frames": np.array(frames, np.int64),
            "lower": np.array([codes for codes, _ in lower], np.uint16).reshape(-1, grid // 2, grid),
            "upper_rows": np.arange(0, len(frames), self.config.upper_step, dtype=np.int64),
            "upper": np.array([codes for codes, _ in upper], np.uint16).reshape(-1, grid // 2, grid),
            "lower_raw": np.array([raw for _, raw in lower], np.int8),
            "upper_raw": np.array([raw for _, raw in upper], np.int8),
        }
        write_arrays(path, arrays)

    def _codes(self, halves: NDArray[np.uint8], lower: bool) -> list[tuple[Any, Any]]:
        """Code numbers (G/2 G) of each half, and its vectors on the codes' scale where modules work on those."""
        x = torch.from_numpy(np.ascontiguousarray(halves)).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            made = self.network.encoder(x)
        found = (self.network.lower if lower else self.network.upper)(made)
        index = list(found.number.numpy().astype(np.uint16))  # each G/2 G
        if not self.network.config.continuous:
            return [(codes, np.zeros(0, np.int8)) for codes in index]
        raw = (found.raw / RAW_STEP).round().clamp(-127, 127).to(torch.int8).contiguous().numpy()
        return list(zip(index, raw, strict=True))


def encode_clips(config: TalkingConfig, echo: Any = print) -> dict[str, int]:
    """Encode validation clips, then training clips in order of use, until done or out of time.

    Returns:
        Stored clips and frames of this call.
    """
    encoder = ClipEncoder(config)
    started, clips, frames = time.monotonic(), 0, 0
    for split in ("val", "train"):
        for clip in open_spoken(config.data, split, config.videos):
            if encoder.done(split, clip.name) or (split == "train" and clip.correlation < config.weakest):
                continue
            if config.minutes and time.monotonic() - started > 60 * config.minutes:
                echo(f"out of time after {clips} clips; run again to go on")
                return {"clips": clips, "frames": frames}
            frames += encoder.encode(clip, split)
            clips += 1
            echo(f"{clip.name}: {clips} clips, {frames} frames, {time.monotonic() - started:.0f} s")
    return {"clips": clips, "frames": frames}


def open_talking(codes: Path, spoken: list[SpokenClip], split: str, weights: str) -> list[TalkingClip]:
    """The clips whose codes were made by the VQGAN of hash ``weights``.

    Raises:
        TrainingDataError: there is none, or only of another VQGAN.
    """
    found, other = [], 0
    for clip in spoken:
        path = codes / f"talking-{split}" / f"{clip.name}.npz"
        if not path.is_file():
            continue
        with np.load(path) as stored:
            if str(stored["weights"]) != weights:
                other += 1
                continue
            if len(stored["frames"]):
                parts = [stored[k] for k in ("frames", "lower", "upper_rows", "upper", "lower_raw", "upper_raw")]
                found.append(TalkingClip(clip, *parts))
    if not found:
        message = (
            f"the codes in {codes / f'talking-{split}'} are of another VQGAN"
            if other
            else f"no codes in {codes / f'talking-{split}'}"
        )
        raise TrainingDataError(message, "run python -m talkswap.data.talking with this VQGAN")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode talking clips with a frozen VQGAN.")
    for name in ("data", "videos", "vqgan", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--burst", type=int, default=0)
    parser.add_argument("--gap", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=0)
    parser.add_argument("--weakest", type=float, default=-1.0)
    values = parser.parse_args()
    print(encode_clips(TalkingConfig(**vars(values)), echo=lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
