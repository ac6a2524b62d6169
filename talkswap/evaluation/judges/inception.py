"""The features of the Frechet distance: Inception-v3, and a stand-in for machines without its file.

Inception-v3 is that of Szegedy et al. 2016, figures 5 to 7, with the differences of the TensorFlow graph of 2015, which
every published distance is measured with: 1008 classes; averages at a border count only what lies inside; the last block
pools by its maximum; pictures are resized to 299 px by TensorFlow 1's bilinear sampling, without the half-pixel shift,
and scaled to (x - 128) / 128.

The tensors have the names of torch-fidelity's file ``weights-inception-2015-12-05-6726825d.pth``, which torchmetrics
reads too.  Neither package is used here: torch-fidelity wants torchvision, whose wheel doesn't load beside the CPU build
of torch, and it unpickles its weights without restriction.

The stand-in is our own face detector; its distances order results by damage, but are never comparable with published ones.
"""

import pickle
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.checkpoints.manifest import file_path
from talkswap.checkpoints.networks import ENDING, load_network, read_tensors, tensor_files
from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.evaluation.metrics.metric import PAPER_SIZE, Crops, Judge, check_crops
from talkswap.faces.detector import DetectorNetwork, load_detector
from talkswap.files import file_sha256
from talkswap.types import FloatArray, UInt8Image

PUBLISHED = "6726825d"  # first digits of the published file's sha256, and the end of its name
SIZE = 299  # px
DIMENSION = 2048
BATCH = 16  # pictures at once: 300 MB
CLASSES = "fc."  # the classifier's tensors, which no distance uses
DETECTOR_SIDE = int(PAPER_SIZE)  # px of the crops that the detector gets
DETECTOR_BATCH = 8  # pictures at once; more gain nothing on a CPU

Kernel = tuple[int, int]
Unit = tuple[str, int, Kernel, int]
"""(name, channels, kernel, stride)."""
Branch = tuple[tuple[Unit, ...], tuple[Unit, ...]]
"""(units one after another, units side by side at its end)."""


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, before: int, after: int, kernel: Kernel, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded and stride == 1 else 0
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """B C H W to B C' H' W'."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side over one input, and a pooled one after them.

    Args:
        before: channels of the input.
        branches: what each consists of.
        pooled: channels that ``branch_pool`` makes of the pooled input; 0: a reduction, pooled by its maximum at stride
            2 and left as it is.
        by_maximum: what ``branch_pool`` pools by; False: the average of what lies inside.
    """

    def __init__(self, before: int, branches: tuple[Branch, ...], pooled: int = 0, by_maximum: bool = False) -> None:
        super().__init__()
        self.branches, self.pooled, self.by_maximum = branches, pooled, by_maximum
        self.channels = pooled or before
        for chain, ends in branches:
            # Register each unit under its published name: the state dict's keys come from these names.
            inner = before
            for name, channels, kernel, stride in chain:
                self.add_module(name, Convolution(inner, channels, kernel, stride))
                inner = channels
            for name, channels, kernel, stride in ends:
                self.add_module(name, Convolution(inner, channels, kernel, stride))
            self.channels += sum(unit[1] for unit in ends) or inner
        if pooled:
            self.branch_pool = Convolution(before, pooled, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """B C H W to B channels H' W'."""
        outputs = []
        for chain, ends in self.branches:
            inner = x
            for name, *_ in chain:
                inner = self.get_submodule(name)(inner)
            outputs += [self.get_submodule(name)(inner) for name, *_ in ends] or [inner]
        if not self.pooled:
            outputs.append(F.max_pool2d(x, 3, 2))
        elif self.by_maximum:
            outputs.append(self.branch_pool(F.max_pool2d(x, 3, 1, 1)))
        else:
            outputs.append(self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
        return torch.cat(outputs, 1)


def chain_of(name: str, *units: tuple[int, Kernel], reduces: bool = False, numbered: bool = True) -> Branch:
    """A branch of units named ``NAME_1``, ``NAME_2`` ...; a reduction's last one has stride 2."""
    last = len(units) - 1
    return tuple(
        (f"{name}_{place + 1}" if numbered else name, channels, kernel, 2 if reduces and place == last else 1)
        for place, (channels, kernel) in enumerate(units)
    ), ()


def fan_of(name: str, *units: tuple[int, Kernel]) -> Branch:
    """A branch whose last step is a row and a column filter side by side, ``NAME_Na`` and ``NAME_Nb``."""
    chain, _ = chain_of(name, *units)
    channels, number = units[-1][0], len(units) + 1
    return chain, ((f"{name}_{number}a", channels, (1, 3), 1), (f"{name}_{number}b", channels, (3, 1), 1))


ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def fine_block(before: int, pooled: int) -> Mixed:
    """A block at 35 cells (figure 5)."""
    branches = (
        chain_of("branch1x1", (64, ONE), numbered=False),
        chain_of("branch5x5", (48, ONE), (64, FIVE)),
        chain_of("branch3x3dbl", (64, ONE), (96, THREE), (96, THREE)),
    )
    return Mixed(before, branches, pooled)


def to_middle(before: int) -> Mixed:
    """The reduction to 17 cells."""
    branches = (
        chain_of("branch3x3", (384, THREE), reduces=True, numbered=False),
        chain_of("branch3x3dbl", (64, ONE), (96, THREE), (96, THREE), reduces=True),
    )
    return Mixed(before, branches)


def middle_block(width: int) -> Mixed:
    """A block at 17 cells (figure 6): filters of 7 as a row and a column."""
    branches = (
        chain_of("branch1x1", (192, ONE), numbered=False),
        chain_of("branch7x7", (width, ONE), (width, ROW), (192, COLUMN)),
        chain_of("branch7x7dbl", (width, ONE), (width, COLUMN), (width, ROW), (width, COLUMN), (192, ROW)),
    )
    return Mixed(768, branches, 192)


def to_coarse(before: int) -> Mixed:
    """The reduction to 8 cells."""
    branches = (
        chain_of("branch3x3", (192, ONE), (320, THREE), reduces=True),
        chain_of("branch7x7x3", (192, ONE), (192, ROW), (192, COLUMN), (192, THREE), reduces=True),
    )
    return Mixed(before, branches)


def coarse_block(before: int, by_maximum: bool) -> Mixed:
    """A block at 8 cells (figure 7)."""
    branches = (
        chain_of("branch1x1", (320, ONE), numbered=False),
        fan_of("branch3x3", (384, ONE)),
        fan_of("branch3x3dbl", (448, ONE), (384, THREE)),
    )
    return Mixed(before, branches, 192, by_maximum)


def resize_as_tensorflow(pictures: Tensor, size: int) -> Tensor:
    """Bilinear sampling as TensorFlow 1 did it: px n is read at n times the ratio of the sides.

    Args:
        pictures: B C H W, floats.
        size: side of the result, px.

    Returns:
        B C size size.
    """
    for axis in (2, 3):
        length = pictures.shape[axis]
        # TensorFlow 1 computes positions in single precision; doubles would differ in the last digits.
        place = torch.arange(size, dtype=torch.float32) * torch.tensor(length / size, dtype=torch.float32)
        low = place.long()
        share = (place - low).to(pictures.dtype).view([size if at == axis else 1 for at in range(4)])
        first = pictures.index_select(axis, low)
        second = pictures.index_select(axis, (low + 1).clamp_max(length - 1))
        pictures = first + (second - first) * share
    return pictures


class InceptionNetwork(nn.Module):
    """Pictures to the 2048 features below the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, THREE, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, THREE, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, THREE)
        self.Conv2d_3b_1x1 = Convolution(64, 80, ONE)
        self.Conv2d_4a_3x3 = Convolution(80, 192, THREE, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = fine_block(192, 32), fine_block(256, 64), fine_block(288, 64)
        self.Mixed_6a = to_middle(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
            middle_block(width) for width in (128, 160, 160, 192)
        )
        self.Mixed_7a = to_coarse(768)
        self.Mixed_7b, self.Mixed_7c = coarse_block(1280, False), coarse_block(DIMENSION, True)

    def forward(self, pictures: Tensor) -> Tensor:
        """B 3 H W in 0 to 255 (any number type) to B 2048."""
        # The published graph takes pictures of any size and does the resizing itself.
        x = (resize_as_tensorflow(pictures.float(), SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))  # B 192 71 71
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))  # B 288 35 35
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # B 768 17 17
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # B 2048 8 8
        # Global average pooling over the 8 x 8 cells.
        return x.mean((2, 3))


class InceptionFeatures:
    """The 2048 features of Inception-v3.

    Args:
        network: with its weights.
        judge: what to call it.
    """

    dimension = DIMENSION

    def __init__(self, network: InceptionNetwork, judge: Judge) -> None:
        self.network, self.judge = network.eval(), judge

    @torch.inference_mode()
    def __call__(self, crops: Crops) -> FloatArray:
        """N S S 3 uint8 to N 2048."""
        check_crops(crops)
        # Batches bound memory: a clip's crops are mapped from disk, and not all loaded.
        features = [
            self.network(torch.from_numpy(crops[start : start + BATCH]).permute(0, 3, 1, 2)).numpy()
            for start in range(0, len(crops), BATCH)
        ]
        return np.concatenate(features) if features else np.zeros((0, DIMENSION), np.float32)


def load_inception(path: Path, published: bool | None = None) -> InceptionFeatures:
    """Inception-v3 from a file: the published ``.pth``, or the same tensors as ``.safetensors``.

    Args:
        path: the file.
        published: whether it holds the published tensors, so that figures are comparable; None: only if its sha256
            is the published one, which a converted file's never is.

    Raises:
        WeightsMissingError: there is no such file.
        WeightsCorruptError: it holds anything else than this network's tensors.
    """
    hint = "fetch the published file again: weights-inception-2015-12-05-6726825d.pth of torch-fidelity"
    if not path.is_file():
        raise WeightsMissingError(f"no Inception network at {path}", hint)
    try:
        if path.suffix == ENDING:
            tensors: object = read_tensors([path], hint)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)  # tensors and plain containers only
    except (RuntimeError, pickle.UnpicklingError, BadZipFile, EOFError, ValueError, KeyError) as error:
        raise WeightsCorruptError(f"{path.name} does not hold tensors alone", hint) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsCorruptError(f"{path.name} does not hold tensors by name", hint)
    features = {name: value for name, value in tensors.items() if not name.startswith(CLASSES)}
    network = load_network(InceptionNetwork(), features, "Inception")
    sha256 = file_sha256(path)
    if published is None:
        published = sha256.startswith(PUBLISHED)
    name = "Inception-v3 of 2015-12-05" if published else f"Inception-v3 from {path.name}"
    return InceptionFeatures(network, Judge("inception", name, published, sha256))


class DetectorFeatures:
    """Features of the compact face detector: mean and spread of its coarse maps.

    Args:
        network: with its weights.
        judge: what to call it.
    """

    def __init__(self, network: DetectorNetwork, judge: Judge) -> None:
        self.network, self.judge = network.eval(), judge
        self.dimension = 2 * network.config.widths[2]

    @torch.inference_mode()
    def __call__(self, crops: Crops) -> FloatArray:
        """N S S 3 uint8 to N ``dimension``."""
        check_crops(crops)
        features = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(crops), DETECTOR_BATCH):
            pictures = [at_detector_side(crop) for crop in crops[start : start + DETECTOR_BATCH]]
            batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
            # The coarsest maps see the whole face, and their mean and spread don't depend on its position.
            maps = self.network.coarse(self.network.middle(self.network.fine(batch)))  # B C H/32 W/32
            spread, mean = torch.std_mean(maps, (2, 3))
            features.append(torch.cat([mean, spread], 1).numpy())
        return np.concatenate(features)


def at_detector_side(crop: UInt8Image) -> UInt8Image:
    """A crop (S S 3) at the one size of the detector's features, which change with the scale of detail."""
    if crop.shape[0] == DETECTOR_SIDE:
        return crop
    way = cv2.INTER_AREA if crop.shape[0] > DETECTOR_SIDE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (DETECTOR_SIDE, DETECTOR_SIDE), interpolation=way), np.uint8)


def load_compact_features(folder: Path) -> DetectorFeatures:
    """The stand-in from a compact weights folder.

    Raises:
        WeightsMissingError: it lacks the detector.
        WeightsCorruptError: its files do not fit the network.
    """
    network = load_detector(folder)
    # The hash of the very file lets a report say which detector judged.
    sha256 = file_sha256(file_path(folder, tensor_files(folder, "faces/detector")[0]))
    note = "Frechet distance in the features of talkswap's own face detector, not of Inception"
    return DetectorFeatures(network, Judge("inception", "compact face detector", False, sha256, note))
