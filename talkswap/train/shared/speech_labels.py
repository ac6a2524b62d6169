"""What the stage ``speech-encoder`` knows of a recording, on the grid of the encoder's tokens.

A talking clip has mouth shapes, other speech has the names of its sounds, and both may have what teachers want.
"""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from talkswap.data.talking import SpokenClip
from talkswap.errors import TrainingDataError
from talkswap.records import from_plain
from talkswap.train.stage import load_weights
from talkswap.types import FloatArray
from talkswap.voice.mel import SILENCE, MelConfig
from talkswap.voice.speech_encoder import SpeechEncoder, SpeechEncoderConfig

SOUNDS = (
    "silence",
    "closed lips",  # p b m
    "teeth on lip",  # f v
    "pouted",  # sh zh ch j
    "narrow",  # s z
    "tongue tip",  # t d n l
    "between teeth",  # th
    "back",  # k g ng x
    "r",
    "w",
    "breath",  # h
    "y",
    "open",  # a
    "half open",  # e, open e, schwa
    "spread",  # i
    "round",  # o
    "round and narrow",  # u, front rounded vowels
)
"""What the mouth does for a sound, the same for all languages; a label is an index."""


class SpeechLabels:
    """One recording as padded mel, and what is known of it on the grid of the encoder's tokens.

    Attributes:
        mel: rows before, of and after the recording (R 80).
        shape, weight: mouth shapes (N measures) and where they are known (N).
        sound: index into SOUNDS (N), -1 where unknown.
        teaching: mouth shapes of the teachers (N measures), zeros until they have answered.
    """

    def __init__(self, name: str, mel: FloatArray, config: SpeechEncoderConfig, room: int) -> None:
        self.name, self.count = name, (len(mel) - 1) // config.stride + 1
        self.stride, self.half = config.stride, (config.field - 1) // 2
        # Silence around the recording gives the first and last token their whole field.
        pad = ((self.half, self.half + room * config.stride), (0, 0))
        self.mel = torch.from_numpy(np.pad(mel, pad, constant_values=SILENCE))
        self.length = 2 * self.half + (self.count - 1) * config.stride + 1
        self.times = np.arange(self.count) * config.stride / float(MelConfig().rate)  # s, of each token
        self.shape, self.weight = torch.zeros(self.count, config.measures), torch.zeros(self.count)
        self.sound = torch.full((self.count,), -1, dtype=torch.long)
        self.teaching = torch.zeros(self.count, config.measures)

    def name_sounds(self, sound: NDArray[np.int8]) -> None:
        """Take the label of every mel frame."""
        kept = torch.from_numpy(sound[:: self.stride].astype(np.int64))[: self.count]
        self.sound[: len(kept)] = kept

    def piece(self, first: int, tokens: int, speed: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Mel, shape, weight, sound and teaching of a stretch that starts at a token and is played at ``speed``."""
        rows = (tokens - 1) * self.stride + 2 * self.half + 1
        place = first * self.stride + self.half + speed * (torch.arange(rows) - self.half)
        mel = _between(self.mel, place)
        token = first + speed * torch.arange(tokens)
        inside = token <= self.count - 1
        # Names of sounds can't be interpolated as mouth shapes can.
        nearest = token.round().long().clamp(max=self.count - 1)
        weight = (_between(self.weight[:, None], token)[:, 0] > 0.99) & inside
        return (
            mel,
            _between(self.shape, token),
            weight.float(),
            self.sound[nearest].masked_fill(~inside, -1),
            _between(self.teaching, token),
        )


def _between(series: Tensor, place: Tensor) -> Tensor:
    """Rows of a series (N C) at fractional places (M), by straight lines, held at the ends."""
    place = place.clamp(0, len(series) - 1)
    low = place.floor().long().clamp(max=max(0, len(series) - 2))
    part = (place - low)[:, None]
    high = (low + 1).clamp(max=len(series) - 1)
    return series[low].float() * (1 - part) + series[high].float() * part


class ClipLabels(SpeechLabels):
    """A clip: its mouth shapes, moved by its lag and brought nearer to the spread that all clips share."""

    def __init__(
        self,
        clip: SpokenClip,
        config: SpeechEncoderConfig,
        lag: float,
        room: int,
        spread: FloatArray | None,
        alike: float,
    ) -> None:
        super().__init__(clip.name, clip.mel, config, room)
        self.kind = clip.kind
        self.seen, self.own_times, self.own_shape = clip.seen, clip.times, clip.shape
        # Frames without a face are bridged here, and get no weight below.
        visible = np.flatnonzero(clip.seen)
        place = self.times + lag  # where in the picture the sound of a token belongs
        shape = np.stack(
            [np.interp(place, clip.times[visible], clip.shape[visible, j]) for j in range(clip.shape.shape[1])], 1
        )
        if spread is not None:
            # People open their mouths differently wide; the encoder can't hear how wide.
            scale = np.clip(spread / np.maximum(clip.shape[visible].std(0), 1e-3), 0.4, 2.5)
            shape = shape * scale**alike
        inside = (np.interp(place, clip.times, clip.seen.astype(np.float32)) > 0.99) & (place <= clip.times[-1])
        self.shape = torch.from_numpy(shape.clip(-4, 6).astype(np.float32))  # N measures
        self.weight = torch.from_numpy(inside.astype(np.float32))  # N


def load_encoder(folder: Path) -> SpeechEncoder:
    """An exported encoder, ready to be asked."""
    path = folder / "speech_encoder.safetensors"
    if not path.is_file():
        raise TrainingDataError(
            f"no speech_encoder.safetensors in {folder}", "name the export folder of a finished run"
        )
    stored = json.loads((folder / "speech_encoder.json").read_text())
    names = {field.name for field in fields(SpeechEncoderConfig)}  # an export of another version may have more
    encoder = SpeechEncoder(from_plain(SpeechEncoderConfig, {k: v for k, v in stored.items() if k in names}))
    load_weights(encoder, path)
    return encoder.eval()


@torch.no_grad()
def teacher_shapes(teacher: SpeechEncoder, speech: SpeechLabels) -> Tensor:
    """What an encoder wants at every token of a recording (N measures), before gain and offset."""
    mel = speech.mel[: speech.length].float()
    spare = (teacher.config.field - 1) // 2 - speech.half  # a teacher may hear further than the pupil
    if spare > 0:
        mel = F.pad(mel, (0, 0, spare, spare), value=SILENCE)
    elif spare < 0:
        mel = mel[-spare : len(mel) + spare]
    return teacher.shapes(teacher.tokens(mel[None]))[0]


def shape_at(clip: SpeechLabels, shapes: FloatArray, times: FloatArray) -> FloatArray:
    """Measures of a recording's tokens (N M) at times in seconds (T M)."""
    return np.stack([np.interp(times, clip.times, shapes[:, j]) for j in range(shapes.shape[1])], 1)
