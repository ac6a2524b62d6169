"""Talking people: prepared clips as training opens them, and whether a clip's lips belong to its sound.

Voice, mel features, mouth shapes and poses, on the clip's own clock, are computed from the labels that
:mod:`talkswap.data.prepare` wrote; no picture is decoded.
"""

import csv
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from talkswap.checkpoints.preset_folder import preset_network
from talkswap.checkpoints.presets import find_preset
from talkswap.errors import InputMissingError, TrainingDataError
from talkswap.faces.geometry import OUTER_EYE_CORNERS, ffhq_quad
from talkswap.faces.measures import mouth_opening, mouth_shape, pearson
from talkswap.types import FloatArray
from talkswap.voice.features import FeatureExtractor, MelFeatures, cut_windows
from talkswap.voice.mel import SILENCE, MelConfig, log_mel
from talkswap.voice.speech_encoder import SpeechEncoder, SpeechEncoderConfig

# Points of the mesh that turn with the head and do not follow the mouth.
POSE_POINTS = (33, 133, 362, 263, 168, 6, 1, 2, 234, 454, 10)


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


def head_pose(landmarks: FloatArray) -> FloatArray:
    """Where eyes, nose and face edge lie (T P), centred on the eyes, in eye distances: nearness of poses."""
    plane = landmarks[:, :, :2]  # T 478 2
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
    extractor = features or MelFeatures()
    clips = []
    for file in files:
        row = index.get(file.stem, {})
        with np.load(file) as arrays:
            times, landmarks, voice = arrays["times"], arrays["landmarks"], arrays["voice"]
        mel = log_mel(voice)  # M 80
        clips.append(
            SpokenClip(
                file.stem,
                row.get("kind", "real"),
                float(row.get("mouth_audio_corr") or 0.0),
                times.astype(np.float32),
                landmarks.astype(np.float32),
                mel,
                mel if features is None else features(voice),
                extractor.rate,
                extractor.start,
                extractor.silence(),
                mouth_opening(landmarks),
                mouth_shape(landmarks),
                head_pose(landmarks),
            )
        )
    return sorted(clips, key=lambda c: (c.kind != "real", -c.correlation, c.name))


def smoothed_quads(landmarks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centre (T 2) and half-side vector (T 2) of each frame's FFHQ square, averaged over neighbours 1:2:1."""
    # A square for each frame trembles with its landmarks; over three frames it doesn't.
    quads = [ffhq_quad(points) if np.isfinite(points[0, 0]) else None for points in landmarks]
    centres = np.array([q[0] if q else (np.nan, np.nan) for q in quads], np.float32)
    sides = np.array([q[1] if q else (np.nan, np.nan) for q in quads], np.float32)
    result = []
    for track in (centres, sides):
        around = np.stack([np.roll(track, 1, 0), track, np.roll(track, -1, 0)])  # 3 T 2
        # np.roll goes round; the first frame is no neighbour of the last.
        around[0, 0], around[2, -1] = np.nan, np.nan
        weight = np.array([1, 2, 1], np.float32)[:, None, None] * np.isfinite(around)
        mean = (np.nan_to_num(around) * weight).sum(0) / np.maximum(weight.sum(0), 1e-6)
        result.append(np.where(np.isfinite(track), mean, np.nan).astype(np.float32))
    return result[0], result[1]


# --- Do these lips belong to this sound?
#
# Two curves are compared with the mouth's opening: what the compact preset's speech encoder expects of the mouth, and how
# loud the voice is. Dubbed clips, voices from off and music follow neither. Sound and picture of a true clip may lie a few
# frames apart; so lags are tried, and one that is clear is reported for the stages, which can undo it.


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
    """
    config = config or LipCheckConfig()
    opening = mouth_opening(landmarks)  # T
    seen = np.isfinite(opening)
    # A correlation of a few frames says nothing.
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

    scores = np.array([agreement(float(lag)) for lag in lags])  # L
    best = int(scores.argmax())
    # A lag is believed where it's clearly better than none: most clips are in time.
    clear = scores[best] >= config.clear and scores[best] >= scores[count] + config.gain
    lag = float(round(lags[best], 3)) if clear else 0.0
    return LipCheck(float(scores[best]), lag, float(true.std()))
