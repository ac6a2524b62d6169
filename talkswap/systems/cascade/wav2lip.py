"""Wav2Lip: lips for a 96 px face box from 200 ms of mel spectrogram (Prajwal et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from talkswap.faces.insightface import MESH_OF_68
from talkswap.systems.cascade.parts import OnnxNetwork
from talkswap.types import FloatArray, UInt8Image
from talkswap.voice.mel import MelConfig, hann, mel_filters

SIZE = 96  # px
STEPS = 16  # mel frames that it hears: 200 ms
QUIETEST = -4.0  # what digital silence is in every band
_EMPHASIS = 0.97
_BLOCK = 2048  # frames a block: memory does not grow with the voice


@dataclass(frozen=True)
class Wav2LipMel:
    """Wav2Lip's own mel spectrogram as speech features.

    Amplitudes (not powers) of a Hann-windowed FFT of 800 samples every 200 at 16 kHz, reflected at both ends, through 80
    area-normalised triangles from 55 to 7600 Hz; 20 log10 - 20 dB, where [-100, 0] goes to [-4, 4].
    """

    config: MelConfig = MelConfig()

    @property
    def rate(self) -> Fraction:
        return self.config.rate

    @property
    def start(self) -> Fraction:
        # The network hears the 16 frames that begin at a picture's time; our windows are centred on it.
        return -Fraction(STEPS - 1, 2) / self.rate

    def __call__(self, samples: FloatArray) -> FloatArray:
        config = self.config
        heard = np.asarray(samples, np.float64).reshape(-1)
        if heard.size < 2:
            return np.full((heard.size, config.bins), QUIETEST, np.float32)
        emphasised = np.append(heard[0], heard[1:] - _EMPHASIS * heard[:-1])
        padded = np.pad(emphasised, config.fft // 2, mode="reflect" if heard.size > config.fft // 2 else "constant")
        windows = np.lib.stride_tricks.sliding_window_view(padded, config.fft)[:: config.hop]
        # our triangles are those of unit area times an FFT bin's width
        filters = mel_filters(config) * (config.fft / config.hz)
        answer = np.empty((len(windows), config.bins), np.float32)
        for first in range(0, len(windows), _BLOCK):
            amplitude = np.abs(np.fft.rfft(windows[first : first + _BLOCK] * hann(config.fft), axis=1)) @ filters.T
            decibels = 20 * np.log10(np.maximum(amplitude, 1e-5)) - 20
            answer[first : first + _BLOCK] = np.clip(8 * (decibels + 100) / 100 - 4, -4, 4)
        return answer

    def silence(self) -> FloatArray:
        return np.full(self.config.bins, QUIETEST, np.float32)


def face_box(landmarks: FloatArray, side: int) -> tuple[int, int, int, int]:
    """The box that the network looks at: around the 68 points, inside the crop (x0 y0 x1 y1, whole px).

    Args:
        landmarks: 478 3, px of a crop of ``side`` px.
    """
    points = np.asarray(landmarks, np.float32)[list(MESH_OF_68), :2]
    x0, y0 = np.floor(points.min(0)).astype(int)
    x1, y1 = np.ceil(points.max(0)).astype(int) + 1
    x0, y0 = int(np.clip(x0, 0, side - 2)), int(np.clip(y0, 0, side - 2))
    return x0, y0, int(np.clip(x1, x0 + 2, side)), int(np.clip(y1, y0 + 2, side))


class Wav2Lip:
    """A Wav2Lip network in ONNX form.

    Inputs ``source`` (1 1 80 16, mel) and ``target`` (1 6 96 96: the box with its lower half black, then the box; BGR in
    [0, 1]); it answers with the box (1 3 96 96).

    Args:
        path: the network's ``.onnx`` file.
        threads: CPU threads.

    Raises:
        InputMissingError, DependencyError, WeightsCorruptError: as :class:`~talkswap.systems.cascade.parts.OnnxNetwork`.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self._network = OnnxNetwork(path, {"source": (1, 1, 80, STEPS), "target": (1, 6, SIZE, SIZE)}, threads)

    def __call__(self, crop: UInt8Image, landmarks: FloatArray, mel: FloatArray) -> UInt8Image:
        """A crop (S S 3) whose face box speaks ``mel`` (16 80)."""
        x0, y0, x1, y1 = face_box(landmarks, crop.shape[0])
        box = cv2.resize(crop[y0:y1, x0:x1, ::-1], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        hidden = box.copy()
        hidden[SIZE // 2 :] = 0
        target = np.concatenate([hidden, box], 2).transpose(2, 0, 1)[None] / np.float32(255)
        answer = self._network(np.asarray(mel).T[None, None], target)[0]
        picture = np.clip(answer.transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
        made = crop.copy()
        made[y0:y1, x0:x1] = cv2.resize(picture, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)[:, :, ::-1]
        return made
