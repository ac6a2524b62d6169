"""The networks that judge: the published ones where they are on this machine, else compact stand-ins that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from talkswap.checkpoints import find_preset, network_folder
from talkswap.checkpoints.finding import preset_state
from talkswap.checkpoints.presets import has, verify_tensors
from talkswap.evaluation.judges.recognition import IdentityJudge, load_identity_judge
from talkswap.evaluation.metrics.frechet import FeatureNetwork
from talkswap.evaluation.metrics.lip_sync import SyncJudge, SyncScore, load_sync_judge
from talkswap.evaluation.metrics.metric import Judge
from talkswap.evaluation.protocol.case import Gallery, Photo
from talkswap.types import FloatArray

INCEPTION = "evaluation/inception"  # in the paper preset's folder


@dataclass(frozen=True)
class JudgeFiles:
    """Networks that the user names; None: look among the downloaded weights, else take the stand-in."""

    identity: Path | None = None
    syncnet: Path | None = None
    inception: Path | None = None


@dataclass
class Judges:
    """All of them, loaded once for a whole evaluation."""

    features: FeatureNetwork
    sync: SyncJudge
    identity: IdentityJudge
    truths: dict[str, SyncScore] = field(default_factory=dict)  # of true clips, by file: each is judged once

    def judge(self, kind: str) -> Judge | None:
        """Who judges metrics of a kind; None where no network does.

        Args:
            kind: as :attr:`talkswap.evaluation.metrics.metric.Metric.network`.
        """
        return next((judge for judge in self.named() if judge.kind == kind), None)

    def named(self) -> tuple[Judge, ...]:
        """Every judge, for the report."""
        return self.features.judge, self.sync.judge, self.identity.judge

    def person(self, photo: Photo) -> FloatArray:
        """Unit vector (D) of whom a photo shows."""
        return np.asarray(self.identity([photo.crop], photo.landmarks[None])[0], np.float32)

    def gallery(self, photos: Sequence[Photo]) -> Gallery:
        """The persons of some photos."""
        vectors = np.stack([self.person(photo) for photo in photos])
        return Gallery(tuple(photo.name for photo in photos), tuple(photo.speaker for photo in photos), vectors)


def load_judges(files: JudgeFiles) -> Judges:
    """Load them.

    Raises:
        WeightsMissingError: a file that the user named is not there, or not even the stand-ins are.
        WeightsCorruptError: a file is damaged or of another network.
        DependencyError: a named file needs a package that is not installed.
    """
    return Judges(load_features(files.inception), load_sync_judge(files.syncnet), load_identity_judge(files.identity))


def load_features(file: Path | None = None) -> FeatureNetwork:
    """Inception where it can be had, else the compact stand-in.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    from talkswap.evaluation.judges.inception import load_inception
    from talkswap.evaluation.metrics.frechet import load_compact_features

    if file is not None:
        return load_inception(file)
    paper = preset_state("paper")
    if any(has(folder, f"{INCEPTION}.safetensors") for folder in paper.folders):
        # converted by our download from the pinned file, so the published tensors in another container
        return load_inception(verify_tensors(paper, INCEPTION)[0], published=True)
    return load_compact_features(network_folder(find_preset("compact"), "detector"))
