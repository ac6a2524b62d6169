"""Crops as codes of one frozen VQGAN, and talking clips stored so: what the lip-sync stages read instead of video.

``talkswap data codes`` decodes every prepared clip once, aligns the faces and stores the code numbers that one frozen
VQGAN gives them.  A clip's file is written in one move and carries the hash of that VQGAN's encoder and codebooks, so a
stopped run goes on where it was and codes of two VQGANs never mix.  Everything else (mel features, mouth shapes, poses)
is computed from the prepared labels when the clips are opened (:mod:`talkswap.data.talking`).

Layout of a code folder::

    talking-{train,val}/NAME.npz   weights · frames T' · lower T' G/2 G · upper_rows U · upper U G/2 G · lower_raw, upper_raw
                                   (frames count in the clip; upper_rows count in frames; raw: the encoder's own vectors, C G/2 G each,
                                   int8 in steps of RAW_STEP, where the VQGAN's modules work on those)
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from talkswap.data.talking import SpokenClip, open_spoken, smoothed_quads
from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.faces.geometry import quad_affine, warp_crop
from talkswap.files import write_arrays
from talkswap.records import from_plain
from talkswap.systems.swaptalk.vqgan import VQGAN, VQGANConfig
from talkswap.train.stage import load_weights, to_tensor

RAW_STEP = 4.0 / 127  # raw vectors have unit variance and are stored in steps of this


def code_hash(network: VQGAN) -> str:
    """sha256 over all that decides the codes of a crop: encoder and codebooks, not the decoder."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if name.startswith(("encoder.", "upper.codes", "lower.codes")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def load_vqgan(path: Path, config: VQGANConfig | None = None) -> VQGAN:
    """A VQGAN from a checkpoint or an export, float32, frozen, in evaluation mode.

    Args:
        config: its sizes; None reads them from the ``.json`` beside an export, or takes the compact preset's.
    """
    if not path.is_file():
        raise InputMissingError(f"no VQGAN weights at {path}", "train the stage vqgan first")
    settings = path.with_suffix(".json")
    if config is None and settings.is_file():
        config = from_plain(VQGANConfig, json.loads(settings.read_text()))
    network = VQGAN(config or VQGANConfig())
    load_weights(network, path)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class CodesConfig:
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
class TalkingClip:
    """A spoken clip with the codes of its frames."""

    spoken: SpokenClip
    frames: NDArray[np.int64]  # T' rows of the spoken clip
    lower: NDArray[np.uint16]  # T' G/2 G
    upper_rows: NDArray[np.int64]  # U rows of frames
    upper: NDArray[np.uint16]  # U G/2 G
    lower_raw: NDArray[np.int8]  # T' C G/2 G; empty where the VQGAN's modules work on codes
    upper_raw: NDArray[np.int8]  # U C G/2 G


class ClipEncoder:
    """Encodes clips with one VQGAN into its code folder."""

    def __init__(self, config: CodesConfig) -> None:
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

        # Smoothed as in a render, so that codes don't tremble with the landmarks.
        centres, sides = smoothed_quads(clip.landmarks)
        rate = (len(clip.times) - 1) / max(float(clip.times[-1] - clip.times[0]), 1e-3) if len(clip.times) > 1 else 25.0
        # A 50 frames/s clip would only give pairs of nearly equal frames.
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
                # The upper half hardly changes, so every k-th frame's is enough.
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
        x = to_tensor(list(halves))
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            features = self.network.encoder(x)
        quantized = (self.network.lower if lower else self.network.upper)(features)
        index = list(quantized.number.numpy().astype(np.uint16))  # each G/2 G
        if not self.network.config.continuous:
            return [(codes, np.zeros(0, np.int8)) for codes in index]
        raw = (quantized.raw / RAW_STEP).round().clamp(-127, 127).to(torch.int8).contiguous().numpy()
        return list(zip(index, raw, strict=True))


def encode_clips(config: CodesConfig, echo: Callable[[str], None] = print) -> dict[str, int]:
    """Encode validation clips, then training clips in order of use, until done or out of time.

    Returns:
        Stored clips and frames of this call.
    """
    encoder = ClipEncoder(config)
    started, clips, frames = time.monotonic(), 0, 0
    for split in ("val", "train"):
        for clip in open_spoken(config.data, split, config.videos):
            # What is encoded with these weights is never encoded again.
            if encoder.done(split, clip.name) or (split == "train" and clip.correlation < config.weakest):
                continue
            if config.minutes and time.monotonic() - started > 60 * config.minutes:
                echo(f"out of time after {clips} clips; run again to go on")
                return {"clips": clips, "frames": frames}
            frames += encoder.encode(clip, split)
            clips += 1
            echo(f"{clip.name}: {clips} clips, {frames} frames, {time.monotonic() - started:.0f} s")
    return {"clips": clips, "frames": frames}


def open_codes(codes: Path, spoken: list[SpokenClip], split: str, weights: str) -> list[TalkingClip]:
    """The clips whose codes were made by the VQGAN of hash ``weights``.

    Raises:
        TrainingDataError: there is none, or only of another VQGAN.
    """
    clips, other = [], 0
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
                clips.append(TalkingClip(clip, *parts))
    if not clips:
        message = (
            f"the codes in {codes / f'talking-{split}'} are of another VQGAN"
            if other
            else f"no codes in {codes / f'talking-{split}'}"
        )
        raise TrainingDataError(message, "run `talkswap data codes` with this VQGAN")
    return clips
