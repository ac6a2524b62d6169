"""The networks that judge: the published ones if they are on this machine, else compact stand-ins that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from talkswap.checkpoints.preset_folder import has, network_folder, verify_tensors
from talkswap.checkpoints.presets import find_preset, preset_state
from talkswap.evaluation.judges.inception import load_compact_features, load_inception
from talkswap.evaluation.judges.mouth_sync import MouthJudge
from talkswap.evaluation.judges.observe import Photo
from talkswap.evaluation.judges.recognition import IdentityJudge, load_identity_judge
from talkswap.evaluation.judges.syncnet import FILE as SYNCNET
from talkswap.evaluation.judges.syncnet import SyncNetJudge
from talkswap.evaluation.metrics.frechet import FeatureNetwork
from talkswap.evaluation.metrics.lip_sync import SyncJudge, SyncScore
from talkswap.evaluation.metrics.metric import Judge
from talkswap.types import FloatArray

INCEPTION = "evaluation/inception"  # in the paper preset's folder


@dataclass(frozen=True)
class JudgeFiles:
    """Networks that the user names; None: one of the downloaded weights, else the stand-in."""

    identity: Path | None = None
    syncnet: Path | None = None
    inception: Path | None = None


@dataclass(frozen=True)
class Gallery:
    """All source faces of an evaluation, among which ID Retrieve looks for the face of a result."""

    names: tuple[str, ...]
    speakers: tuple[str, ...]
    persons: FloatArray  # N D, unit length


@dataclass
class Judges:
    """All judges, loaded once for a whole evaluation."""

    features: FeatureNetwork
    sync: SyncJudge
    identity: IdentityJudge
    truths: dict[str, SyncScore] = field(default_factory=dict)  # of true clips, by file: each is judged once

    def judge(self, kind: str) -> Judge | None:
        """The judge of a kind of metrics (:attr:`~talkswap.evaluation.metrics.metric.Metric.network`); None for no network."""
        return next((judge for judge in self.named() if judge.kind == kind), None)

    def named(self) -> tuple[Judge, ...]:
        """Every judge, for the report."""
        return self.features.judge, self.sync.judge, self.identity.judge

    def person(self, photo: Photo) -> FloatArray:
        """Unit vector (D) of the person in a photo."""
        return np.asarray(self.identity([photo.crop], photo.landmarks[None])[0], np.float32)

    def gallery(self, photos: Sequence[Photo]) -> Gallery:
        """The persons of some photos."""
        vectors = np.stack([self.person(photo) for photo in photos])
        return Gallery(tuple(photo.name for photo in photos), tuple(photo.speaker for photo in photos), vectors)


def load_judges(files: JudgeFiles) -> Judges:
    """Load all judges.

    Raises:
        WeightsMissingError: a file that the user named isn't there, or even the stand-ins are missing.
        WeightsCorruptError: a file is damaged or of another network.
        DependencyError: a named file needs a package that isn't installed.
    """
    return Judges(load_features(files.inception), load_sync_judge(files.syncnet), load_identity_judge(files.identity))


def load_features(file: Path | None = None) -> FeatureNetwork:
    """Inception if its file is at hand, else the compact stand-in.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    if file is not None:
        return load_inception(file)
    paper = preset_state("paper")
    if any(has(folder, f"{INCEPTION}.safetensors") for folder in paper.folders):
        # `talkswap download` converts the pinned file: the published tensors in another container
        return load_inception(verify_tensors(paper, INCEPTION)[0], published=True)
    return load_compact_features(network_folder(find_preset("compact"), "faces/detector"))


def load_sync_judge(file: Path | None = None, device: str = "cpu") -> SyncJudge:
    """SyncNet if its file is at hand, else the compact stand-in.

    Args:
        file: SyncNet's safetensors file, as named by the user; None: one of the downloaded weights.
        device: where SyncNet runs, ``cpu`` or ``cuda``; the stand-in always runs on the CPU.

    Raises:
        WeightsMissingError: the named file isn't there, or even the stand-in's networks are missing.
        WeightsCorruptError: a file is damaged or of another network.
    """
    if file is not None or any(has(folder, f"{SYNCNET}.safetensors") for folder in preset_state("paper").folders):
        return SyncNetJudge(file, device)
    return MouthJudge()
