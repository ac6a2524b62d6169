"""The networks that judge: the published ones if they are on this machine, else compact stand-ins that say so."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from talkswap.checkpoints import preset_folder, presets
from talkswap.evaluation.judges import mouth_sync, observe, recognition
from talkswap.evaluation.judges.inception import load_compact_features, load_inception
from talkswap.evaluation.judges.syncnet import FILE as SYNCNET
from talkswap.evaluation.judges.syncnet import SyncNetJudge
from talkswap.evaluation.metrics import frechet, lip_sync
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

    features: frechet.FeatureNetwork
    sync: lip_sync.SyncJudge
    identity: recognition.IdentityJudge
    truths: dict[str, lip_sync.SyncScore] = field(default_factory=dict)  # of true clips, by file: each is judged once

    def judge(self, kind: str) -> Judge | None:
        """The judge of a kind of metrics (:attr:`~talkswap.evaluation.metrics.metric.Metric.network`); None for no network."""
        return next((judge for judge in self.named() if judge.kind == kind), None)

    def named(self) -> tuple[Judge, ...]:
        """Every judge, for the report."""
        return self.features.judge, self.sync.judge, self.identity.judge

    def person(self, photo: observe.Photo) -> FloatArray:
        """Unit vector (D) of the person in a photo."""
        return np.asarray(self.identity([photo.crop], photo.landmarks[None])[0], np.float32)

    def gallery(self, photos: Sequence[observe.Photo]) -> Gallery:
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
    return Judges(
        load_features(files.inception), load_sync_judge(files.syncnet), recognition.load_identity_judge(files.identity)
    )


def load_features(file: Path | None = None) -> frechet.FeatureNetwork:
    """Inception if its file is at hand, else the compact stand-in.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    if file is not None:
        return load_inception(file)
    paper = presets.preset_state("paper")
    if any(preset_folder.has(folder, f"{INCEPTION}.safetensors") for folder in paper.folders):
        # `talkswap download` converts the pinned file: the published tensors in another container
        return load_inception(preset_folder.verify_tensors(paper, INCEPTION)[0], published=True)
    return load_compact_features(preset_folder.network_folder(presets.find_preset("compact"), "faces/detector"))


def load_sync_judge(file: Path | None = None, device: str = "cpu") -> lip_sync.SyncJudge:
    """SyncNet if its file is at hand, else the compact stand-in.

    Args:
        file: SyncNet's safetensors file, as named by the user; None: one of the downloaded weights.
        device: where SyncNet runs, ``cpu`` or ``cuda``; the stand-in always runs on the CPU.

    Raises:
        WeightsMissingError: the named file isn't there, or even the stand-in's networks are missing.
        WeightsCorruptError: a file is damaged or of another network.
    """
    if file is not None or any(
        preset_folder.has(folder, f"{SYNCNET}.safetensors") for folder in presets.preset_state("paper").folders
    ):
        return SyncNetJudge(file, device)
    return mouth_sync.MouthJudge()
