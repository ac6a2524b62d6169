"""inswapper: the face swap that Roop runs, one 128 px square at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from talkswap.engine.onnx import OnnxNetwork, last_initialiser
from talkswap.errors import WeightsCorruptError
from talkswap.faces.geometry import ARCFACE_POINTS, ARCFACE_SIZE, five_points, similarity_affine
from talkswap.faces.insightface import MESH_OF_68
from talkswap.faces.mask import face_mask
from talkswap.types import AlignedFace, FloatArray, UInt8Image
from talkswap.voice.mel import MelConfig, hann, mel_filters

INSWAPPER_SIZE = 128  # px
# The network's square is ArcFace's 112 px one enlarged, with the eight px that remain on both sides.
SQUARE_POINTS = ARCFACE_POINTS + np.array([8.0, 0.0], np.float32)


class Inswapper:
    """An inswapper network in ONNX form with the ArcFace network that it listens to.

    Its two inputs are ``target`` (1 3 128 128, RGB in [0, 1], ArcFace alignment) and ``source`` (1 512, an ArcFace
    embedding times the square matrix stored as the graph's last initialiser, then of unit length); it answers with the
    swapped square.

    Args:
        path: the network's ``.onnx`` file.
        embedder: an ArcFace network (``.onnx``) of 512 numbers for 112 px squares, RGB in [-1, 1].
        threads: CPU threads.

    Raises:
        WeightsMissingError: a file is not there.
        DependencyError: onnxruntime is not installed.
        WeightsCorruptError: the graph has other inputs, or no matrix of the embedding's size.
    """

    def __init__(self, path: Path, embedder: Path, threads: int = 1) -> None:
        self._network = OnnxNetwork(
            path, {"target": (1, 3, INSWAPPER_SIZE, INSWAPPER_SIZE), "source": (1, 512)}, threads
        )
        self._embedder = OnnxNetwork(embedder, {"": (None, 3, ARCFACE_SIZE, ARCFACE_SIZE)}, threads)
        self._matrix = last_initialiser(path)
        if self._matrix.ndim != 2 or self._matrix.shape[0] != self._matrix.shape[1]:
            raise WeightsCorruptError(f"{path.name} is not an inswapper network", "fetch the file again")

    def recognise(self, crop: UInt8Image, landmarks: FloatArray) -> FloatArray:
        """ArcFace's vector (512, unit length) of a face in a crop (S S 3; landmarks 478 3 px)."""
        affine = similarity_affine(five_points(landmarks), ARCFACE_POINTS).astype(np.float64)
        square = cv2.warpAffine(crop, affine, (ARCFACE_SIZE, ARCFACE_SIZE), flags=cv2.INTER_LINEAR)
        vector = self._embedder(square.transpose(2, 0, 1)[None] / 127.5 - 1).reshape(-1)
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)

    def embed(self, faces: Sequence[AlignedFace]) -> FloatArray:
        """The source as the network wants it (1 512): the mean of one or more photos of a person."""
        mean = np.mean([self.recognise(face.crop, face.landmarks) for face in faces], axis=0)
        vector = mean[None] @ self._matrix
        return np.asarray(vector / np.linalg.norm(vector), np.float32)

    def swap(self, source: FloatArray, crop: UInt8Image, landmarks: FloatArray) -> tuple[UInt8Image, FloatArray]:
        """A crop's face in the source's likeness.

        Args:
            source: 1 512, from :meth:`embed`.
            crop: S S 3.
            landmarks: 478 3, px of the crop.

        Returns:
            (the square's answer in the crop's place, S S 3; how much of each px the square covers, S S in [0, 1]).
        """
        affine = similarity_affine(five_points(landmarks), SQUARE_POINTS).astype(np.float64)
        square = cv2.warpAffine(crop, affine, (INSWAPPER_SIZE, INSWAPPER_SIZE), flags=cv2.INTER_AREA)
        made = self._network(square.transpose(2, 0, 1)[None] / np.float32(255), source)[0]
        picture = np.clip(made.transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
        return lay_back(picture, affine, crop.shape[0])


def lay_back(square: UInt8Image, affine: np.ndarray, side: int) -> tuple[UInt8Image, FloatArray]:
    """A square in its place of the crop that it was cut from, and its cover.

    Args:
        square: A A 3.
        affine: 2 3, crop px -> square px.
        side: px of the crop.
    """
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    back = cv2.warpAffine(square, affine, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(
        np.ones(square.shape[:2], np.float32), affine, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return np.asarray(back, np.uint8), np.asarray(cover, np.float32)


# --- Wav2Lip: lips for a 96 px face box from 200 ms of mel spectrogram (Prajwal et al., 2020).


WAV2LIP_SIZE = 96  # px
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
        WeightsMissingError, DependencyError, WeightsCorruptError: as :class:`~talkswap.engine.onnx.OnnxNetwork`.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self._network = OnnxNetwork(
            path, {"source": (1, 1, 80, STEPS), "target": (1, 6, WAV2LIP_SIZE, WAV2LIP_SIZE)}, threads
        )

    def __call__(self, crop: UInt8Image, landmarks: FloatArray, mel: FloatArray) -> UInt8Image:
        """A crop (S S 3) whose face box speaks ``mel`` (16 80)."""
        x0, y0, x1, y1 = face_box(landmarks, crop.shape[0])
        box = cv2.resize(crop[y0:y1, x0:x1, ::-1], (WAV2LIP_SIZE, WAV2LIP_SIZE), interpolation=cv2.INTER_AREA)
        hidden = box.copy()
        hidden[WAV2LIP_SIZE // 2 :] = 0
        target = np.concatenate([hidden, box], 2).transpose(2, 0, 1)[None] / np.float32(255)
        answer = self._network(np.asarray(mel).T[None, None], target)[0]
        picture = np.clip(answer.transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
        made = crop.copy()
        made[y0:y1, x0:x1] = cv2.resize(picture, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)[:, :, ::-1]
        return made


class InswapperProxy:
    """An inswapper network as a teacher for other systems: its swap, laid into the face's own outline.

    Args:
        path: the network's ``.onnx`` file.
        embedder: an ArcFace network (``.onnx``) of 512 numbers for 112 px squares, RGB in [-1, 1].
        threads: CPU threads.

    Raises:
        As :class:`Inswapper`.
    """

    name = "inswapper"

    def __init__(self, path: Path, embedder: Path, threads: int = 1) -> None:
        self._network = Inswapper(path, embedder, threads)

    def embed(self, face: AlignedFace) -> FloatArray:
        """The source as the network wants it (1 512)."""
        return self._network.embed([face])

    def swap(self, source: AlignedFace, target: AlignedFace) -> UInt8Image:
        made, inside = self._network.swap(self.embed(source), target.crop, target.landmarks)
        mask = np.ascontiguousarray(face_mask(target.landmarks, target.crop.shape[0]) * inside)
        return np.asarray(cv2.blendLinear(made, target.crop, mask, 1 - mask), np.uint8)


# --- GFPGAN: a face restorer, the "Restore" of the paper's cascades (Wang et al., 2021).


GFPGAN_SIZE = 512  # px
POINTS = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ],
    np.float32,
)  # where the restorer wants eyes, nose tip and mouth corners


class Restorer:
    """A GFPGAN network in ONNX form: one input (1 3 512 512, RGB in [-1, 1]), the restored square as answer.

    Args:
        path: the network's ``.onnx`` file.
        threads: CPU threads.

    Raises:
        WeightsMissingError, DependencyError, WeightsCorruptError: as :class:`~talkswap.engine.onnx.OnnxNetwork`.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self._network = OnnxNetwork(path, {"": (1, 3, GFPGAN_SIZE, GFPGAN_SIZE)}, threads)

    def __call__(self, crop: UInt8Image, landmarks: FloatArray) -> UInt8Image:
        """A crop (S S 3; landmarks 478 3 px) with its face restored."""
        affine = similarity_affine(five_points(landmarks), POINTS).astype(np.float64)
        square = cv2.warpAffine(
            crop, affine, (GFPGAN_SIZE, GFPGAN_SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
        made = self._network(square.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)[0]
        picture = ((np.clip(made, -1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)
        back, cover = lay_back(np.ascontiguousarray(picture), affine, crop.shape[0])
        return np.asarray(cv2.blendLinear(back, crop, cover, 1 - cover), np.uint8)
