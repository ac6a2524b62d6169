"""Stage ``faces``: what the compact face analyser is made of, one network per run.

``part = "landmarks"`` trains the dense landmarks (:mod:`talkswap.train.shared.landmarks`), ``part = "detector"`` the detector
(:mod:`talkswap.train.shared.detector`).  Both read the same prepared folder and the same photographs without faces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from talkswap.data.face_views import ViewConfig
from talkswap.errors import UsageError
from talkswap.faces.detector import DetectorConfig, DetectorNetwork
from talkswap.faces.landmarks import LandmarkConfig, LandmarkNetwork
from talkswap.train.estimate import SAMPLES, Networks, Part, Work
from talkswap.train.shared.detector import DetectorSettings, DetectorStage
from talkswap.train.shared.landmarks import LandmarkSettings, LandmarkStage
from talkswap.train.stage import Batch, LoopConfig, Stage

PARTS = ("landmarks", "detector")


@dataclass(frozen=True)
class FacesStageConfig:
    """Which part to train, from what and for how long; each part's own settings lie in its own field."""

    part: str = "landmarks"
    data: Path = Path("cache")  # made by `talkswap data prepare`
    scenes: Path = Path("scenes")  # scenes.tar with scenes.json, backgrounds.tar
    teachers: Path = Path("teachers")  # a detector teacher here checks the photographs' labels
    loop: LoopConfig = LoopConfig(steps=4800, batch=64, learning_rate=2e-3, ema=0.998, clip=5.0)
    landmarks: LandmarkSettings = LandmarkSettings()
    detector: DetectorSettings = DetectorSettings()


PRESETS = {
    "compact": FacesStageConfig(),
    "paper": FacesStageConfig(
        landmarks=LandmarkSettings(network=LandmarkConfig.named("large"), views=ViewConfig(size=192)),
        detector=DetectorSettings(network=DetectorConfig.named("large")),
    ),
}


def networks(config: FacesStageConfig) -> Mapping[str, nn.Module]:
    """The untrained network of the configured part, for counting parameters."""
    if config.part == "detector":
        return {"detector": DetectorNetwork(config.detector.network)}
    return {"landmarks": LandmarkNetwork(config.landmarks.network)}


def work(config: FacesStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
    name, network = next(iter(networks.items()))
    size = config.detector.pictures.size if name == "detector" else config.landmarks.network.size
    return Work([Part(name, lambda: network(torch.empty(SAMPLES, 3, size, size)))])


class FacesStage(Stage):
    """The configured part behind one name.

    Raises:
        UsageError: no such part.
    """

    name = "faces"

    def __init__(self, config: FacesStageConfig) -> None:
        super().__init__(config)
        if config.part not in PARTS:
            raise UsageError(f"stage faces has no part {config.part!r}", f"parts are {', '.join(PARTS)}")
        self._part: Stage = LandmarkStage(config) if config.part == "landmarks" else DetectorStage(config)
        self.network = self._part.network

    def batch(self, step: int) -> Batch:
        """The part's batch."""
        return self._part.batch(step)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The part's loss."""
        return self._part.loss(batch, step)

    def score(self) -> dict[str, float]:
        """The part's figures on held-out data."""
        return self._part.score()

    def sample(self, path: Path) -> None:
        """The part's sample sheet."""
        self._part.sample(path)

    def export(self, folder: Path) -> None:
        """The part's finished weights."""
        self._part.export(folder)
