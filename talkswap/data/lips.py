"""Do these lips belong to this sound?  A check for clips of unknown origin, without a network of its own.

Two curves are held against the mouth's opening: what the compact preset's speech encoder expects of the mouth, and
how loud the voice is.  Dubbed clips, voices from off and music follow neither.  Sound and picture of a true clip may
lie a few frames apart; so lags are tried, and one that is clear is reported for the stages, which can undo it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from talkswap.checkpoints.presets import find_preset, preset_network
from talkswap.faces.measures import mouth_opening, pearson
from talkswap.types import FloatArray
from talkswap.voice.mel import SILENCE, MelConfig, log_mel
from talkswap.voice.speech_encoder import SpeechEncoder, SpeechEncoderConfig

ENCODER = "voice/speech_encoder"  # in the preset's folder


@dataclass(frozen=True)
class LipCheckConfig:
    """Where a mouth counts as following its sound."""

    # Of 76 prepared clips 4 % lie below 0.25 with their own sound, 75 % with the sound of another clip.
    least: float = 0.25  # correlation below which a clip is refused, at the best lag
    still: float = 0.008  # deviation of the opening below which the lips do not move, in eye distances
    farthest: float = 0.24  # seconds by which sound and picture may lie apart
    step: float = 0.04  # seconds between two lags that are tried
    clear: float = 0.35  # correlation from which a lag is believed ...
    gain: float = 0.05  # ... if it is that much better than no lag


@dataclass(frozen=True)
class LipCheck:
    """How well lips follow the sound."""

    correlation: float  # at the best lag
    lag: float  # seconds by which the picture is later than its sound; 0 where none is clear
    movement: float  # deviation of the opening, in eye distances


class LipListener:
    """Curves that a talking mouth follows, from mel features.

    Raises:
        WeightsMissingError: the compact preset's speech encoder is not on this machine.
    """

    def __init__(self) -> None:
        self.network = preset_network(find_preset("compact"), ENCODER, SpeechEncoder, SpeechEncoderConfig)

    @torch.inference_mode()
    def __call__(self, mel: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected opening and loudness of mel features (T 80), both T / stride long."""
        config = self.network.config
        half = (config.field - 1) // 2
        padded = F.pad(torch.from_numpy(mel)[None], (0, 0, half, half), value=SILENCE)
        opening = self.network.shapes(self.network.tokens(padded))[0, :, 0].numpy()
        loudness = mel.mean(1)[:: config.stride]
        return opening.astype(np.float32), loudness[: len(opening)].astype(np.float32)


@lru_cache(maxsize=1)
def listener() -> LipListener:
    """The one listener of a process."""
    return LipListener()


def check_lips(
    landmarks: FloatArray, voice: FloatArray, times: FloatArray, config: LipCheckConfig | None = None
) -> LipCheck:
    """Hold a clip's mouth against its sound.

    Args:
        landmarks: T 478 3, nan where no face.
        voice: samples at 16 kHz on the pictures' clock.
        times: T seconds.
    """
    config = config or LipCheckConfig()
    opening = mouth_opening(landmarks)
    seen = np.isfinite(opening)
    if seen.sum() < 10:
        return LipCheck(0.0, 0.0, 0.0)
    encoder = listener()
    curves = encoder(log_mel(voice))
    rate = float(MelConfig().rate) / encoder.network.config.stride
    true, at = opening[seen], np.asarray(times, np.float64)[seen]
    count = round(config.farthest / config.step)
    lags = np.arange(-count, count + 1) * config.step

    def agreement(lag: float) -> float:
        values = [np.interp((at - lag) * rate, np.arange(len(curve)), curve) for curve in curves]
        return max(pearson(true, np.asarray(value, np.float32)) for value in values)

    scores = np.array([agreement(float(lag)) for lag in lags])
    best = int(scores.argmax())
    clear = scores[best] >= config.clear and scores[best] >= scores[count] + config.gain
    lag = float(round(lags[best], 3)) if clear else 0.0
    return LipCheck(float(scores[best]), lag, float(true.std()))
