"""Features of our own that stand in for Inception's: what the compact face detector sees in a crop.

Of each of the 128 maps at 1/32 of the crop, the mean and the standard deviation over its cells.  The detector is chosen
for two reasons.  No generator was trained against it, as they were against the identity network and the VQGAN.  And
its distance answers to every damage that Inception's answers to: on 100 held-out portraits, in parts of the distance
between these and 100 other people's,

    Gaussian blur, sigma 0.7, 1.2, 2.5 px           0.06   0.33   2.6
    noise, sigma 3, 8, 20 levels                    0.007  0.26   9.1
    JPEG of quality 80, 40, 15                      0.009  0.10   1.5
    another's face in 25 %, 50 %, all of them       0.18   0.31   0.68

The identity network hardly sees blur (0.15 at 2.5 px) and noise (0.03 at 20 levels), the VQGAN's encoder noise (0.06 to
0.1) and another's face (0.2); the landmark network at this size is drowned by noise (22).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from talkswap.checkpoints.manifest import file_sha256
from talkswap.checkpoints.tensors import tensor_files
from talkswap.evaluation.arrays import PAPER_SIZE, Crops, check_crops
from talkswap.evaluation.metric import Judge
from talkswap.faces.detector import DetectorNetwork, load_detector
from talkswap.types import FloatArray

SIDE = int(PAPER_SIZE)  # px at which the detector looks at a crop: coarser and finer detail are not the same to it
BATCH = 8  # pictures at once; more gain nothing on a CPU
KIND = "inception"  # what they stand in for


class DetectorFeatures:
    """Features for :mod:`talkswap.evaluation.fid` by the compact face detector.

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
        made = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(crops), BATCH):
            pictures = [_at_side(crop) for crop in crops[start : start + BATCH]]
            batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
            maps = self.network.coarse(self.network.middle(self.network.fine(batch)))  # B C H/32 W/32
            spread, mean = torch.std_mean(maps, (2, 3))
            made.append(torch.cat([mean, spread], 1).numpy())
        return np.concatenate(made)


def _at_side(crop: Crops) -> Crops:
    if crop.shape[0] == SIDE:
        return crop
    smaller = crop.shape[0] > SIDE
    return np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC))


def load_compact_features(folder: Path) -> DetectorFeatures:
    """The stand-in from a compact weights folder.

    Raises:
        WeightsMissingError: it lacks the detector.
        WeightsCorruptError: its files do not fit the network.
    """
    network = load_detector(folder)
    sha256 = file_sha256(folder / tensor_files(folder, "detector")[0])
    note = "Frechet distance in the features of talkswap's own face detector, not of Inception"
    return DetectorFeatures(network, Judge(KIND, "compact face detector", False, sha256, note))
