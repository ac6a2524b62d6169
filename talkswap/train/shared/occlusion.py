"""Stage ``occlusion``: which part of a face is covered, learnt from things held before portraits at random.

Nobody has marked hands and microphones in the prepared faces, so :mod:`talkswap.data.occluders` draws them, and what it
drew is the answer.  Loss: cross-entropy per spot of the face, and one minus the soft overlap (Dice) of the batch, since
covered spots are few.  Spots outside of the face do not count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.data.covered_faces import CoverConfig, CoveredFaces, CoveredView, score_views
from talkswap.data.face_views import HELD_BACKGROUNDS, StoredFaces, check_enough, read_backgrounds
from talkswap.data.occluders import HELD, TRAINED, Materials
from talkswap.faces.geometry import outer_eye_distance
from talkswap.faces.mesh import mean_face
from talkswap.faces.occlusion import OcclusionConfig, OcclusionNetwork, save_occlusion
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work, to_tensor
from talkswap.types import FloatArray

FACES = ("portraits-val", "frames-val")  # held out
HELD_VIEWS = 100  # of each kind of thing, for scores
OPEN_MOUTH = 0.16  # distance of the inner lips, in distances of the outer eye corners


@dataclass(frozen=True)
class OcclusionStageConfig:
    """The network, its views and its loss."""

    data: Path = Path("cache")  # made by `talkswap data prepare`
    scenes: Path = Path("scenes")  # backgrounds.tar
    network: OcclusionConfig = OcclusionConfig()
    views: CoverConfig = CoverConfig()
    overlap: float = 0.5  # weight of the Dice term
    loop: LoopConfig = LoopConfig(steps=3000, batch=32, learning_rate=2e-3, ema=0.998, clip=5.0)


PRESETS = {
    "compact": OcclusionStageConfig(),
    "paper": OcclusionStageConfig(network=OcclusionConfig(size=128, widths=(32, 64, 96, 160))),
}


def networks(config: OcclusionStageConfig) -> Mapping[str, nn.Module]:
    """The untrained network, for counting parameters."""
    return {"occlusion": OcclusionNetwork(config.network)}


def work(config: OcclusionStageConfig, networks: Networks) -> Work:
    """What one sample runs through, for the estimate of `--dry-run`."""
    size = config.network.size
    return Work([Part("occlusion", lambda: networks["occlusion"](torch.empty(SAMPLES, 3, size, size)))])


class OcclusionStage(Stage):
    """Trains :class:`~talkswap.faces.occlusion.OcclusionNetwork`."""

    name = "occlusion"

    def __init__(self, config: OcclusionStageConfig) -> None:
        super().__init__(config)
        self.config: OcclusionStageConfig = config
        torch.manual_seed(config.loop.seed)
        self.network: OcclusionNetwork = OcclusionNetwork(config.network)
        backgrounds = read_backgrounds(config.scenes)
        check_enough(len(backgrounds), HELD_BACKGROUNDS, "backgrounds", config.scenes)
        self._held = backgrounds[:HELD_BACKGROUNDS]
        self._mirror = mean_face().mirror
        faces = StoredFaces(config.data, ("portraits-train", "frames-train"))
        materials = Materials(faces, backgrounds[HELD_BACKGROUNDS:], config.views.size)
        self._views = CoveredFaces(config.views, faces, materials, self._mirror)

    def batch(self, step: int) -> Batch:
        """``picture`` B 3 S S in [-1, 1], ``covered`` and ``counted`` B S/2 S/2 in [0, 1]."""
        generator = np.random.default_rng([self.config.loop.seed, step])
        return self._batch([self._views.draw(generator) for _ in range(self.config.loop.batch)])

    @staticmethod
    def _batch(views: list[CoveredView]) -> Batch:
        picture = to_tensor([v.picture for v in views])
        masks = torch.from_numpy(np.stack([[v.covered, v.counted] for v in views]))
        # The network answers at half the side, so truths are averaged to it.
        masks = F.avg_pool2d(masks, 2)
        return {"picture": picture, "covered": masks[:, 0], "counted": masks[:, 1]}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Cross-entropy and overlap on the spots that count."""
        logit = self.network(batch["picture"]).float()
        covered, counted = batch["covered"], batch["counted"]
        each = F.binary_cross_entropy_with_logits(logit, covered, reduction="none")
        entropy = (each * counted).sum() / counted.sum().clamp(min=1)
        cover = torch.sigmoid(logit)
        both = (cover * covered * counted).sum()
        # The added ones keep a batch without anything covered from dividing by zero.
        overlap = (2 * both + 1) / (((cover + covered) * counted).sum() + 1)
        return entropy + self.config.overlap * (1 - overlap), {"entropy": entropy.detach(), "overlap": overlap.detach()}

    def _answer(self, views: list[CoveredView]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Answer, truth and what counts (each N S/2 S/2) of some views."""
        device = next(self.network.parameters()).device
        answers, truths, counts = [], [], []
        for start in range(0, len(views), 32):
            batch = self._batch(views[start : start + 32])
            logit = self.network(batch["picture"].to(device))
            answers.append(torch.sigmoid(logit.float()).cpu().numpy())
            truths.append(batch["covered"].numpy())
            counts.append(batch["counted"].numpy())
        return np.concatenate(answers), np.concatenate(truths), np.concatenate(counts)

    def _held_faces(self, *names: str) -> CoveredFaces:
        """Held-out faces before held-out backgrounds' stuff."""
        faces = StoredFaces(self.config.data, names)
        return CoveredFaces(
            score_views(self.config.views), faces, Materials(faces, self._held, self.config.views.size), self._mirror
        )

    def _held_covered(self, kind: str, count: int) -> list[CoveredView]:
        """Held-out faces behind one kind of thing; the same at every call."""
        makers = self._held_faces(*FACES)
        draw = TRAINED[kind][0] if kind in TRAINED else HELD[kind]
        generator = np.random.default_rng(sorted((*TRAINED, *HELD)).index(kind))
        return [makers.cover(makers.faces.draw(generator), generator, [draw]) for _ in range(count)]

    def score(self) -> dict[str, float]:
        """On held-out faces: intersection over union behind each kind of thing (``letter`` and ``star`` are never
        trained on), all trained and all new kinds together; with nothing in front the share of spots called covered,
        with open mouths too.
        """
        scores: dict[str, float] = {}
        sums: dict[bool, list[FloatArray]] = {True: [], False: []}
        for kind in (*TRAINED, *HELD):
            answer, truth, counted = self._answer(self._held_covered(kind, HELD_VIEWS))
            seen, target = (answer > 0.5) * counted, (truth > 0.5) * counted
            pair = np.array([np.minimum(seen, target).sum(), np.maximum(seen, target).sum()])
            sums[kind in TRAINED].append(pair)
            scores[kind] = float(pair[0] / max(pair[1], 1e-6))
        for trained, name in ((True, "overlap"), (False, "overlap_new_shapes")):
            both, either = np.sum(sums[trained], axis=0)
            scores[name] = float(both / max(either, 1e-6))
        for folder in FACES:
            # Uncovered faces: whatever the network calls covered is a false alarm.
            bare = self._held_faces(folder)
            generator = np.random.default_rng(1)
            count = len(bare.faces)
            views = [bare.cover(i, generator, [], degraded=False) for i in range(count)]
            answer, _, counted = self._answer(views)
            share = ((answer > 0.5) * counted).sum((1, 2)) / np.maximum(counted.sum((1, 2)), 1)
            short = folder.split("-")[0]
            scores[f"{short}_false"] = float(share.mean())
            points = bare.faces.landmarks
            eyes = outer_eye_distance(points[..., :2])
            wide = np.linalg.norm(points[:, 13, :2] - points[:, 14, :2], axis=1) / eyes > OPEN_MOUTH
            if wide.any():
                scores[f"{short}_false_open_mouths"] = float(share[wide].mean())
        return scores

    def sample(self, path: Path) -> None:
        """Held-out faces behind each kind of thing; below each the answer in red, the truth in green."""
        rows = []
        for kind in (*TRAINED, *HELD):
            views = self._held_covered(kind, 10)
            answer, truth, _ = self._answer(views)
            tiles = []
            for view, cover, target in zip(views, answer, truth, strict=True):
                size = view.picture.shape[:2]
                marked = view.picture.astype(np.float32) * 0.5
                for channel, values in ((0, cover), (1, target)):
                    marked[..., channel] += 127 * cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)
                tiles.append(np.concatenate([view.picture, marked.astype(np.uint8)]))
            rows.append(np.concatenate(tiles, 1))
        cv2.imwrite(str(path), np.ascontiguousarray(np.concatenate(rows)[:, :, ::-1]))

    def export(self, folder: Path) -> None:
        """Write ``occlusion.safetensors`` and ``occlusion.json``."""
        save_occlusion(self.network, folder)
