"""Stage ``identity``: distil a face recognition teacher, forward only, into the compact identity network.

The teacher saw the clean picture once; the student must give the same vector for that picture moved, relit, blurred,
compressed or partly hidden.  Loss: 1 - cosine to the teacher, plus the mean squared difference of the two batches'
cosine matrices (relational distillation), which keeps distances between people where the teacher has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from talkswap.data.face_views import STORED, degrade, relight, small_crops
from talkswap.data.identity import TEACHER_FILE, label_blends, label_folder, people, verification
from talkswap.faces.identity import IdentityConfig, IdentityNetwork, save_identity
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work
from talkswap.types import FloatArray, UInt8Image


@dataclass(frozen=True)
class IdentityStageConfig:
    """Data and loss of the identity stage."""

    data: Path = Path("cache")  # made by talkswap/data/prepare.py
    teachers: Path = Path("teachers")
    network: IdentityConfig = IdentityConfig()
    loop: LoopConfig = LoopConfig(steps=2000, batch=64, learning_rate=2e-3, ema=0.998, weight_decay=0.02, clip=5.0)
    blend_sets: int = 2  # each with blend_count people mixed from two portraits
    blend_count: int = 4000
    frames: float = 0.15  # share of the batch from clips
    blends: float = 0.3  # share of mixed people
    relational: float = 4.0  # weight of the cosine-matrix term


PRESETS = {"compact": IdentityStageConfig(), "paper": IdentityStageConfig(network=IdentityConfig.named("large"))}


def networks(config: IdentityStageConfig) -> Mapping[str, nn.Module]:
    """The untrained network, for counting parameters."""
    return {"identity": IdentityNetwork(config.network)}


def work(config: IdentityStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
    network: Any = networks["identity"]
    size = config.network.size
    return Work([Part("identity", lambda: network.embed_square(torch.empty(SAMPLES, 3, size, size)))])


class IdentityStage(Stage):
    """Distillation of the identity network."""

    name = "identity"

    def __init__(self, config: IdentityStageConfig) -> None:
        super().__init__(config)
        self.config: IdentityStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: IdentityNetwork = IdentityNetwork(config.network)
        self._sets = [self._prepared(name) for name in ("portraits-train", "frames-train")]
        blends = [self._mixed(index) for index in range(config.blend_sets)]
        if blends:
            self._sets.append((np.concatenate([b[0] for b in blends]), np.concatenate([b[1] for b in blends])))

    def _labels(self, name: str) -> FloatArray:
        data = self.config.data
        return label_folder(data / name, self.config.teachers / TEACHER_FILE, data / f"identity-{name}.npy")

    def _prepared(self, name: str) -> tuple[np.ndarray, FloatArray]:
        labels = self._labels(name)  # first: it names a missing folder
        return small_crops(self.config.data / name), labels

    def _mixed(self, index: int) -> tuple[np.ndarray, FloatArray]:
        out = self.config.data / f"identity-blends-{index}.npy"
        if not out.is_file():
            teacher, people_folder = self.config.teachers / TEACHER_FILE, self.config.data / "portraits-train"
            label_blends(people_folder, teacher, out, self.config.blend_count, STORED, index)
        return np.load(out.with_name(out.stem + "-crops.npy"), mmap_mode="r"), np.load(out)

    def _augmented(self, crop: UInt8Image, flip: bool, generator: np.random.Generator) -> UInt8Image:
        """One student's view (S S 3) of an FFHQ crop."""
        x, y, side = self.network.config.region
        size = self.network.config.size
        # Moved, turned and scaled a little, as landmarks of a render place faces.
        scale = size / (side * STORED) * generator.uniform(0.94, 1.07)
        affine = cv2.getRotationMatrix2D((0, 0), generator.uniform(-6, 6), scale)
        centre = np.array([x, y]) * STORED - 0.5 + generator.uniform(-0.03, 0.03, 2) * STORED
        affine[:, 2] = (size - 1) / 2 - affine[:, :2] @ centre
        view = cv2.warpAffine(crop, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        if flip:
            view = view[:, ::-1]
        view = degrade(np.ascontiguousarray(view), generator)
        return relight(view, generator) if generator.random() < 0.8 else view

    def batch(self, step: int) -> Batch:
        """``square`` B 3 S S in [-1, 1] and the teacher's ``target`` B D."""
        config = self.config
        generator = np.random.default_rng([config.loop.seed, step])
        # Mixed people fill the gaps between the few real identities.
        shares = [1 - config.frames - config.blends, config.frames, config.blends]
        if len(self._sets) == 2:
            shares = [1 - config.frames, config.frames]
        views, targets = [], []
        for _ in range(config.loop.batch):
            crops, labels = self._sets[generator.choice(len(self._sets), p=shares)]
            index, flip = int(generator.integers(len(crops))), int(generator.random() < 0.5)
            views.append(self._augmented(crops[index], bool(flip), generator))
            targets.append(labels[index, flip])
        square = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
        return {"square": square.float() / 127.5 - 1, "target": torch.from_numpy(np.stack(targets))}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Distillation loss and its two terms."""
        embedding, target = self.network.embed_square(batch["square"]), batch["target"]
        cosine = (embedding * target).sum(1).mean()
        # Distances between people must be the teacher's too, not just each vector.
        relation = (embedding @ embedding.T - target @ target.T).square()
        count = len(embedding)
        relational = relation.sum() / (count * max(1, count - 1))  # the diagonal is zero: both are of unit length
        return 1 - cosine + self.config.relational * relational, {
            "cosine": cosine.detach(),
            "relational": relational.detach(),
        }

    def _embed(self, crops: np.ndarray) -> FloatArray:
        device = next(self.network.parameters()).device
        pieces = []
        for start in range(0, len(crops), 32):
            tensor = torch.from_numpy(np.array(crops[start : start + 32])).to(device)
            pieces.append(self.network(tensor.permute(0, 3, 1, 2).float() / 127.5 - 1).float().cpu().numpy())
        return np.concatenate(pieces)

    def score(self) -> dict[str, float]:
        """On the val folders: cosine to the teacher, and verification of the network and of the teacher."""
        scores: dict[str, float] = {}
        for name in ("portraits-val", "frames-val"):
            folder = self.config.data / name
            crops = np.load(folder / "crops.npy", mmap_mode="r")
            targets = self._labels(name)[:, 0]
            embeddings, names = self._embed(crops), people(folder / "meta.json")
            short = name.split("-")[0]
            scores[f"{short}_cosine"] = float((embeddings * targets).sum(1).mean())
            if 1 < len(set(names)) < len(names):  # one person alone is like nobody else
                scores |= {f"{short}_{key}": value for key, value in verification(embeddings, names).items()}
                scores |= {f"{short}_teacher_{key}": value for key, value in verification(targets, names).items()}
        return scores

    def sample(self, path: Path) -> None:
        """Ten val portraits, each with the five nearest other val pictures by the network's cosine, which is
        written on them."""
        folder = self.config.data / "portraits-val"
        frames = self.config.data / "frames-val"
        crops = np.concatenate([np.load(folder / "crops.npy")[:100], np.load(frames / "crops.npy")[::4]])
        vectors = self._embed(crops)
        cosine = vectors @ vectors.T
        rows = []
        for index in np.linspace(0, len(crops) - 1, 10).astype(int):
            order = np.argsort(-cosine[index])[:6]
            tiles = []
            for other in order:
                tile = cv2.resize(crops[other], (120, 120), interpolation=cv2.INTER_AREA)
                label = f"{cosine[index, other]:.2f}"
                cv2.putText(tile, label, (4, 114), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1, cv2.LINE_AA)
                tiles.append(tile)
            rows.append(np.concatenate(tiles, 1))
        cv2.imwrite(str(path), np.ascontiguousarray(np.concatenate(rows)[:, :, ::-1]))

    def export(self, folder: Path) -> None:
        """Write ``identity.safetensors`` and ``identity.json``."""
        save_identity(self.network, folder)
