"""SyncNet (Chung and Zisserman, "Out of time", 2016) in the shape of its published weights, syncnet_v2, and as a judge.

    five pictures 3x5x224x224 -> seven convolutions, the first over all five -> 512 -> 512 -> 1024
    0.2 s of cepstra 1x13x20  -> six convolutions                            -> 512 -> 512 -> 1024

Layers are numbered as in the published file, so that its names (``netcnnlip.0.weight``) fit unchanged; a pooling of one
cell, which does nothing, keeps its number too.  The file is a pickle and is never read as one here: `talkswap download`
converts it to safetensors.  On one CPU core the network takes about 100 ms for each picture at 25 frames/s.

The pictures are squares around the face, larger than the face and with room under the chin.  With h half the longer side
of a face's box, the protocol's square is 2.8 h wide and reaches from h above the box's middle to 1.8 h below it.  Middle
and h are medians over 13 frames, missing frames are interpolated between their neighbours, and everything beyond the
picture is grey.  The protocol's box comes from its own face detector; ours is the box of the mesh's points, which reach
from the hairline to the chin as those boxes do.  Squares are cut from whole pictures: an FFHQ-aligned crop ends above the
square's lower edge and would leave a grey stripe.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from talkswap.checkpoints import networks, preset_folder, presets
from talkswap.errors import TrainingDataError, WeightsCorruptError, WeightsMissingError
from talkswap.evaluation.metrics.lip_sync import SyncScore, grid_rows, offset_distances, score_of
from talkswap.evaluation.metrics.metric import Judge, check_landmarks, has_face
from talkswap.files import file_sha256
from talkswap.types import FloatArray, UInt8Image

SIDE = 224  # px of a picture
FRAMES = 5  # pictures of one embedding
CEPSTRA = 20  # of one embedding: as long as five pictures at 25 frames/s
STRIDE = CEPSTRA // FRAMES  # cepstra per picture
FILE = "evaluation/syncnet_v2"  # in the paper preset's folder
COUNTER = "num_batches_tracked"  # of batch normalisation; files of before 2018 have none

HZ = 16000
WINDOW, STEP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the transform's length
FILTERS, COEFFICIENTS = 26, 13
EMPHASIS = 0.97
LIFT = 22  # of the cepstral lifter
RATE = HZ // STEP  # frames per second

MARGIN = 0.4  # of h, on the left, on the right, and twice below
MEDIAN = 13  # frames, odd
GREY = 110  # beyond the picture


def _layer(convolution: nn.Conv2d | nn.Conv3d, pool: nn.Module | None = None) -> list[nn.Module]:
    """Convolution, normalisation, rectifier and, where there is one, a pooling."""
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    layer: list[nn.Module] = [convolution, norm(convolution.out_channels), nn.ReLU(inplace=True)]
    return layer if pool is None else [*layer, pool]


def _flat(before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv3d:
    """A convolution within single pictures."""
    return nn.Conv3d(before, after, (1, kernel, kernel), (1, stride, stride), (0, padding, padding))


def _shrink(padding: int = 0) -> nn.MaxPool3d:
    return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, padding, padding))


def _head(width: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, embedding))


class SyncNet(nn.Module):
    """Embeddings of mouths and of sounds, close to each other where both belong together.

    Args:
        embedding: width of the embeddings; 1024 in the published file.
    """

    def __init__(self, embedding: int = 1024) -> None:
        super().__init__()
        self.embedding = embedding
        self.netcnnaud = nn.Sequential(
            *_layer(nn.Conv2d(1, 64, 3, padding=1), nn.MaxPool2d(1, 1)),
            *_layer(nn.Conv2d(64, 192, 3, padding=1), nn.MaxPool2d(3, (1, 2))),
            *_layer(nn.Conv2d(192, 384, 3, padding=1)),
            *_layer(nn.Conv2d(384, 256, 3, padding=1)),
            *_layer(nn.Conv2d(256, 256, 3, padding=1), nn.MaxPool2d(3, 2)),
            *_layer(nn.Conv2d(256, 512, (5, 4))),
        )
        self.netfcaud = _head(512, embedding)
        self.netfclip = _head(512, embedding)
        self.netcnnlip = nn.Sequential(
            *_layer(nn.Conv3d(3, 96, (FRAMES, 7, 7), (1, 2, 2)), _shrink()),
            *_layer(_flat(96, 256, 5, stride=2, padding=1), _shrink(padding=1)),
            *_layer(_flat(256, 256, 3, padding=1)),
            *_layer(_flat(256, 256, 3, padding=1)),
            *_layer(_flat(256, 256, 3, padding=1), _shrink()),
            *_layer(_flat(256, 512, 6)),
        )

    def see(self, pictures: Tensor) -> Tensor:
        """Embeddings (T-4 E) of all runs of five in pictures (3 T 224 224: BGR, 0 to 255).

        Only the first convolution crosses time, so each run of a longer stretch gets the embedding that it has alone.
        """
        runs = self.netcnnlip(pictures[None])[0, :, :, 0, 0].t()  # T-4 512
        return self.netfclip(runs)

    def hear(self, cepstra: Tensor) -> Tensor:
        """Embeddings (B E) of stretches of cepstra (B 1 13 20)."""
        return self.netfcaud(self.netcnnaud(cepstra).flatten(1))

    def forward(self, pictures: Tensor, cepstra: Tensor) -> Tensor:
        """Distance (T-4) of each run of five pictures (3 T 224 224) and its own cepstra (T-4 1 13 20)."""
        return F.pairwise_distance(self.see(pictures), self.hear(cepstra))


def load_syncnet(path: Path) -> SyncNet:
    """The published network from a safetensors file with the published names, ready to run.

    Raises:
        WeightsMissingError: there is no such file.
        WeightsCorruptError: it isn't a safetensors file, or holds another network.
    """
    if not path.is_file():
        raise WeightsMissingError(f"no SyncNet at {path}", "run `talkswap download syncnet_v2`")
    tensors = networks.read_tensors([path], "`talkswap download syncnet_v2` fetches the published file and converts it")
    network = SyncNet()
    # Files of before 2018 lack batch normalisation's counters, which inference doesn't use.
    counters = {name: value for name, value in network.state_dict().items() if name.endswith(COUNTER)}
    return networks.load_network(network, counters | tensors, "syncnet_v2")


@torch.inference_mode()
def see_all(network: SyncNet, squares: Iterable[UInt8Image], batch: int = 8) -> FloatArray:
    """Embeddings of all runs of five among face squares, in their order.

    Args:
        squares: T pictures of 224 px, RGB; read one by one, so that memory doesn't grow with T.
        batch: runs in one pass; more than eight gain nothing on a CPU.

    Returns:
        float32 (T - 4, E); (0, E) for fewer than five.
    """
    device = next(network.parameters()).device
    embeddings = []
    for stretch in stretches(squares, batch):
        # 3 T 224 224 of floats 0 to 255, blue first as OpenCV reads
        pictures = torch.from_numpy(np.stack(stretch)[..., ::-1].copy()).permute(3, 0, 1, 2).float()
        embeddings.append(network.see(pictures.to(device)).cpu().numpy())
    return np.concatenate(embeddings) if embeddings else np.zeros((0, network.embedding), np.float32)


def stretches(squares: Iterable[UInt8Image], batch: int) -> Iterator[list[UInt8Image]]:
    """Stretches of up to ``batch`` runs; neighbours share four pictures, so that no run is lost between them."""
    stretch: list[UInt8Image] = []
    for square in squares:
        stretch.append(square)
        if len(stretch) == batch + FRAMES - 1:
            yield stretch
            stretch = stretch[batch:]
    if len(stretch) >= FRAMES:
        yield stretch


@torch.inference_mode()
def hear_all(network: SyncNet, cepstra: FloatArray, count: int, batch: int = 64) -> FloatArray:
    """Embeddings of the sound during runs of five pictures at 25 frames/s.

    Args:
        cepstra: T 13, of :func:`mfcc`.
        count: runs; the last needs cepstra up to 4 (count - 1) + 20.

    Returns:
        float32 (count, E).
    """
    windows = np.lib.stride_tricks.sliding_window_view(cepstra, CEPSTRA, axis=0)[::STRIDE][:count]  # count 13 20
    if len(windows) < count:
        raise ValueError(f"{len(cepstra)} cepstra hold {len(windows)} stretches, not {count}")
    tensor = torch.from_numpy(np.ascontiguousarray(windows, np.float32))[:, None]
    device = next(network.parameters()).device
    embeddings = [network.hear(part.to(device)).cpu().numpy() for part in tensor.split(batch)]
    return np.concatenate(embeddings) if embeddings else np.zeros((0, network.embedding), np.float32)


def mfcc(samples: FloatArray) -> FloatArray:
    """Mel-frequency cepstra of a voice, with the numbers of the Python package that SyncNet's authors used.

    Args:
        samples: N at 16 kHz in [-1, 1]; rounded to 16 bits first.

    Returns:
        float32 (T, 13); frame k begins at k / 100 seconds.  The last frame reaches past the end, into zeros; a voice
        shorter than one frame has one.  No samples: (0, 13).
    """
    if samples.size == 0:
        return np.zeros((0, COEFFICIENTS), np.float32)
    # The authors' package reads 16-bit samples, and the first cepstrum depends on that scale.
    whole = np.clip(np.round(np.asarray(samples, np.float64).reshape(-1) * 32768), -32768, 32767)
    # Pre-emphasis lifts the high frequencies, where consonants are.
    emphasised = np.concatenate([whole[:1], whole[1:] - EMPHASIS * whole[:-1]])
    count = 1 + max(0, -(-(len(emphasised) - WINDOW) // STEP))
    padded = np.zeros((count - 1) * STEP + WINDOW)
    padded[: len(emphasised)] = emphasised[: len(padded)]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]  # T 400
    spectrum = np.fft.rfft(frames, FFT, axis=1)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) / FFT  # T 257
    # The logarithm of silence: exact zeros become the smallest step of a double.
    mel, total = (
        np.where(part == 0, np.finfo(np.float64).eps, part) for part in (power @ mel_triangles().T, power.sum(1))
    )
    cepstra = np.log(mel) @ lifted_cosines().T  # T 13
    # The package replaces the first cepstrum by the frame's log energy.
    cepstra[:, 0] = np.log(total)
    return cepstra.astype(np.float32)


@lru_cache(maxsize=1)
def mel_triangles() -> NDArray[np.float64]:
    """Triangles of height one between corners on whole FFT bins, even in mel = 2595 log10(1 + f / 700): (26, 257)."""
    highest = 2595 * np.log10(1 + HZ / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, FILTERS + 2) / 2595) - 1)  # Hz
    bins = np.floor((FFT + 1) * corners / HZ)
    low, middle, high = bins[:-2, None], bins[1:-1, None], bins[2:, None]
    place = np.arange(FFT // 2 + 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # low filters are so narrow that a side may be empty
        rising = np.where((place >= low) & (place < middle), (place - low) / (middle - low), 0.0)
        falling = np.where((place >= middle) & (place < high), (high - place) / (high - middle), 0.0)
    return rising + falling


@lru_cache(maxsize=1)
def lifted_cosines() -> NDArray[np.float64]:
    """Orthonormal DCT-II, its rows lifted by 1 + 11 sin(pi n / 22): (13, 26)."""
    n = np.arange(COEFFICIENTS)
    waves = np.cos(np.pi * n[:, None] * (2 * np.arange(FILTERS) + 1) / (2 * FILTERS))
    waves *= np.sqrt(np.where(n == 0, 1, 2) / FILTERS)[:, None]
    return waves * (1 + LIFT / 2 * np.sin(np.pi * n / LIFT))[:, None]


class SyncNetJudge:
    """The published protocol with SyncNet.

    Args:
        file: safetensors with the published names; None: the one that `talkswap download` fetched.
        device: ``cpu`` or ``cuda``.
        published: whether the file holds the published tensors, so that figures are comparable; None: only if it is,
            byte for byte, what `talkswap download` fetched, since the sha256 of another conversion is unknown.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """

    def __init__(self, file: Path | None = None, device: str = "cpu", published: bool | None = None) -> None:
        path = file if file is not None else preset_folder.verify_tensors(presets.preset_state("paper"), FILE)[0]
        self.network = load_syncnet(path).to(device)
        digest = file_sha256(path)
        if published is None:
            published = file is None or digest == downloaded_hash()
        name = "syncnet_v2" if published else f"SyncNet from {path.name}"
        note = "" if published else "Only its user can know whether the named file is the published SyncNet"
        self.judge = Judge("syncnet", name, published, digest, note)

    def __call__(
        self, pictures: Iterable[UInt8Image], landmarks: FloatArray, times: NDArray[np.float64], voice: FloatArray
    ) -> SyncScore:
        # SyncNet knows 25 pictures a second only, so any other rate is resampled to it.
        rows = grid_rows(times, len(voice) / HZ)
        count = len(rows) - FRAMES  # the protocol leaves the last run out
        if count < 1:
            raise TrainingDataError(
                f"{len(rows)} frames at 25 frames/s are too few for SyncNet", "it needs more than five with their sound"
            )
        # Lazily: the pictures are decoded while the network runs, and never all held.
        squares = cut_squares(pictures, square_places(landmarks), rows[: count + FRAMES - 1], SIDE)
        mouths = see_all(self.network, squares)
        sounds = hear_all(self.network, mfcc(voice), count)
        return score_of(offset_distances(mouths, sounds), count)


def downloaded_hash() -> str:
    """sha256 of the file that `talkswap download` fetched; empty if it isn't here, or is damaged."""
    try:
        return file_sha256(preset_folder.verify_tensors(presets.preset_state("paper"), FILE)[0])
    except (WeightsMissingError, WeightsCorruptError):
        return ""


def square_places(landmarks: FloatArray) -> NDArray[np.float64]:
    """The place of the square in each frame.

    Args:
        landmarks: N 478 3 in px of the pictures, nan where no face is.

    Returns:
        N 3: the middle of the face's box, x and y, and h, in px.

    Raises:
        TrainingDataError: no frame has a face, or these are no landmarks.
    """
    check_landmarks(landmarks)
    faces = has_face(landmarks)
    if not faces.any():
        raise TrainingDataError("no frame shows a face", "check the clip")
    # The protocol's detector gives boxes; the mesh's own extent takes their place.
    points = landmarks[faces, :, :2].astype(np.float64)
    low, high = points.min(1), points.max(1)
    boxes = np.column_stack([(low + high) / 2, (high - low).max(1) / 2])  # x y h
    rows = np.arange(len(landmarks))
    # Lost frames are interpolated before the median, so that it never sees a gap.
    places = np.stack([np.interp(rows, rows[faces], column) for column in boxes.T], axis=1)
    # Repeated ends let the median reach the first and the last frame.
    padded = np.pad(places, ((MEDIAN // 2, MEDIAN // 2), (0, 0)), mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN, axis=0), axis=2))


def cut_square(rgb: UInt8Image, place: NDArray[np.float64], side: int) -> UInt8Image:
    """The face square of a picture.

    Args:
        rgb: H W 3.
        place: x, y and h of :func:`square_places`.
        side: px of the square.
    """
    x, y, half = (float(value) for value in place)
    width = 2 * half * (1 + MARGIN)
    left, top = x - width / 2, y - half
    # A square larger than ``side`` is cut at the picture's own px first and then averaged, so that it doesn't alias.
    size = side if width <= side else max(1, round(width))
    scale = size / width
    matrix = np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])
    square = cv2.warpAffine(
        rgb, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3
    )
    if width > side:
        square = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(square, np.uint8)


def cut_squares(
    pictures: Iterable[UInt8Image], places: NDArray[np.float64], rows: Sequence[int] | NDArray[np.intp], side: int
) -> Iterator[UInt8Image]:
    """Face squares of chosen pictures, each as often as it is chosen.

    Args:
        pictures: N, in order; read one by one, pictures that aren't chosen are skipped.
        places: N 3.
        rows: numbers of the chosen pictures, in ascending order.
        side: px.

    Raises:
        TrainingDataError: the pictures end before the last chosen one.
    """
    choice = list(rows)
    done = 0
    for row, rgb in enumerate(pictures):
        if done == len(choice):
            return
        if choice[done] != row:
            continue
        square = cut_square(rgb, places[row], side)
        while done < len(choice) and choice[done] == row:
            yield square
            done += 1
    if done < len(choice):
        raise TrainingDataError(f"pictures end before frame {choice[done]}", "give one picture for each time")
