"""Part ``landmarks`` of stage ``faces``: the dense landmark network, from a teacher's points on portraits and clip
frames.

Loss, in parts of the eye distance: smooth L1 over the points, heavier on lips, eyes and the oval; the same for the
shape of lips and eyes alone, each with its own mean taken out, so that how far a mouth is open counts beside where it
is; the vectors from lower to upper lid, since a blink moves a few points by a fortieth of the square's side and is lost
among all others; cross-entropy for the presence of a face.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talkswap.data import face_views
from talkswap.faces import geometry, landmarks, measures, mesh
from talkswap.train.stage import Batch, Stage
from talkswap.types import FloatArray

LIPS = (*mesh.OUTER_LIPS, *mesh.INNER_LIPS)
LEFT_EYE = (*mesh.LEFT_EYE_RING, *range(468, 473))
RIGHT_EYE = (*mesh.RIGHT_EYE_RING, *range(473, 478))
PARTS = (LIPS, LEFT_EYE, RIGHT_EYE)
# Points of the upper lids and those that they meet, between the corners of each eye; the rings run corner to corner.
UPPER_LIDS = (*mesh.LEFT_EYE_RING[2:7], *mesh.RIGHT_EYE_RING[2:7])
LOWER_LIDS = (*mesh.LEFT_EYE_RING[14:9:-1], *mesh.RIGHT_EYE_RING[14:9:-1])
BLINKS = "blinks-train"  # folder beside the others
LID_KNEE = 0.25  # of the knee of all points: lids are never far from where they belong


@dataclass(frozen=True)
class LandmarkSettings:
    """The landmark network, its views and its loss."""

    network: landmarks.LandmarkConfig = landmarks.LandmarkConfig()
    views: face_views.ViewConfig = face_views.ViewConfig()
    lips: float = 3.0  # weight of a point, where the skin has 1
    eyes: float = 2.5
    oval: float = 1.5
    depth: float = 0.3  # of z beside x and y
    parts: float = 1.0  # weight of the shape of lips and eyes
    lids: float = 4.0  # weight of how far lids lie apart
    presence: float = 0.05
    knee: float = 0.02  # of the eye distance: where smooth L1 turns from square to straight
    blinks: float = 0.3  # share of faces from the folder blinks-train, where there is one (recipes/blinks.py)
    start: Path | None = None  # weights folder of an earlier run, whose shape basis stays


def eye_distance(points: Tensor) -> Tensor:
    """Size of faces (B) in px from B 478 3 points: between the pupils, or for a turned head what eyes to mouth
    suggest."""
    across = (points[:, 473, :2] - points[:, 468, :2]).norm(dim=1)
    mouth = (points[:, 61, :2] + points[:, 291, :2]) / 2
    down = (mouth - (points[:, 473, :2] + points[:, 468, :2]) / 2).norm(dim=1)
    return torch.maximum(across, 0.8 * down)


class LandmarkStage(Stage):
    """Trains :class:`~talkswap.faces.landmarks.LandmarkNetwork`.

    Args:
        config: of the stage ``faces``, whose ``data``, ``scenes``, ``loop`` and ``landmarks`` count.
    """

    name = "faces"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        torch.manual_seed(config.loop.seed)
        settings: LandmarkSettings = config.landmarks
        self._settings = settings
        names: tuple[str, ...] = ("portraits-train", "frames-train")
        shares: dict[str, float] = {}
        if settings.blinks > 0 and (config.data / BLINKS / "landmarks.npy").is_file():
            names, shares = (*names, BLINKS), {BLINKS: settings.blinks}
        faces = face_views.StoredFaces(config.data, names, shares)
        backgrounds = face_views.read_backgrounds(config.scenes)
        face_views.check_enough(len(backgrounds), face_views.HELD_BACKGROUNDS, "backgrounds", config.scenes)
        self._held = backgrounds[: face_views.HELD_BACKGROUNDS]
        self._mirror = mesh.mean_face().mirror
        self._views = face_views.FaceViews(
            settings.views, faces, backgrounds[face_views.HELD_BACKGROUNDS :], self._mirror
        )
        self.network: landmarks.LandmarkNetwork = landmarks.LandmarkNetwork(settings.network)
        if settings.start is not None:
            self.network.load_state_dict(landmarks.load_landmarks(settings.start).state_dict())
        else:
            mean, basis, _ = face_views.shape_space(faces, settings.network.coefficients)
            self.network.set_basis(mean, basis)
        weight = torch.ones(landmarks.POINTS)
        for indices, value in (
            (mesh.FACE_OVAL, settings.oval),
            (LEFT_EYE, settings.eyes),
            (RIGHT_EYE, settings.eyes),
            (LIPS, settings.lips),
        ):
            weight[list(indices)] = value
        self._weight = weight / weight.mean()

    def batch(self, step: int) -> Batch:
        """``picture`` B 3 S S in [-1, 1], ``points`` B 478 3 in its px, ``face`` B (1 where there is one)."""
        generator = np.random.default_rng([self.config.loop.seed, step])
        views = [self._views.draw(generator) for _ in range(self.config.loop.batch)]
        picture = torch.from_numpy(np.stack([view for view, _, _ in views])).permute(0, 3, 1, 2)
        return {
            "picture": picture.float() / 127.5 - 1,
            "points": torch.from_numpy(np.stack([points for _, points, _ in views])),
            "face": torch.tensor([float(face) for _, _, face in views]),
        }

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Points, shape of lips and eyes, and presence."""
        settings = self._settings
        predicted, logit = self.network(batch["picture"])
        presence = F.binary_cross_entropy_with_logits(logit.float(), batch["face"])
        # Squares without a face teach presence only.
        seen = batch["face"] > 0.5
        target = batch["points"][seen]
        error = (predicted[seen].float() - target) / eye_distance(target).clamp(min=4)[:, None, None]  # B 478 3
        axes = error.new_tensor([1.0, 1.0, settings.depth])
        weight = self._weight.to(error.device)[:, None] * axes
        points = (self._smooth(error) * weight).mean()
        shapes = error.new_zeros(())
        # Centred parts: the shape of lips and eyes counts apart from where they lie.
        for part in PARTS:
            inner = error[:, list(part), :2]
            shapes = shapes + self._smooth(inner - inner.mean(1, keepdim=True)).mean()
        # The gap between the lids is a blink, a few px that the mean error hides.
        apart = (error[:, list(UPPER_LIDS)] - error[:, list(LOWER_LIDS)])[..., :2]
        lids = self._smooth(apart, LID_KNEE).mean()
        loss = points + settings.parts * shapes + settings.lids * lids + settings.presence * presence
        return loss, {
            "error": error[..., :2].norm(dim=2).mean().detach(),
            "shapes": shapes.detach(),
            "lids": apart.norm(dim=2).mean().detach(),
            "presence": presence.detach(),
        }

    def _smooth(self, error: Tensor, share: float = 1.0) -> Tensor:
        knee = share * self._settings.knee
        return F.smooth_l1_loss(error, torch.zeros_like(error), beta=knee, reduction="none")

    def _read(self, pictures: list[np.ndarray]) -> tuple[FloatArray, FloatArray]:
        """Points (N 478 3) and presence (N) of N S S 3 uint8 squares."""
        device = next(self.network.parameters()).device
        points, presence = [], []
        for start in range(0, len(pictures), 32):
            tensor = torch.from_numpy(np.stack(pictures[start : start + 32])).to(device).permute(0, 3, 1, 2)
            answer, logit = self.network(tensor.float() / 127.5 - 1)
            points.append(answer.float().cpu().numpy())
            presence.append(torch.sigmoid(logit.float()).cpu().numpy())
        return np.concatenate(points), np.concatenate(presence)

    def _held_views(self, name: str, careful: float) -> tuple[list[np.ndarray], FloatArray]:
        """Clean views of a val folder's faces; the same at every call."""
        faces = face_views.StoredFaces(self.config.data, (name,))
        settings = face_views.ViewConfig(size=self._settings.network.size, careful=careful)
        views = face_views.FaceViews(settings, faces, self._held, self._mirror)
        generator = np.random.default_rng(1)
        pictures, points = [], []
        for index in range(len(faces)):
            picture, place = views.clean(index, generator)
            pictures.append(picture)
            points.append(place)
        return pictures, np.stack(points)

    def score(self) -> dict[str, float]:
        """On val faces: error in parts of the distance between the outer eye corners (followed and badly centred
        squares), of the lips alone, correlation of mouth and eye opening; presence on faces and on held-out
        backgrounds.
        """
        scores: dict[str, float] = {}
        for name in ("portraits-val", "frames-val"):
            short = name.split("-")[0]
            for careful, kind in ((1.0, "followed"), (0.0, "careless")):
                pictures, targets = self._held_views(name, careful)
                answer, presence = self._read(pictures)
                eyes = geometry.outer_eye_distance(targets[..., :2])
                error = np.linalg.norm(answer[..., :2] - targets[..., :2], axis=2) / eyes[:, None]
                scores[f"{short}_{kind}"] = float(error.mean())
                scores[f"{short}_{kind}_lips"] = float(error[:, list(LIPS)].mean())
                openings = [measures.mouth_opening(p) for p in (answer, targets)]
                eye_pairs = [measures.eye_openings(p).mean(1) for p in (answer, targets)]
                if len(targets) > 2:  # of two faces any correlation is 1 or -1
                    scores[f"{short}_{kind}_opening"] = measures.pearson(*openings)
                    scores[f"{short}_{kind}_eye_opening"] = measures.pearson(*eye_pairs)
                scores[f"{short}_{kind}_found"] = float((presence > 0.5).mean())
        size = self._settings.network.size
        empty = [cv2.resize(b, (size, size), interpolation=cv2.INTER_AREA) for b in self._held]
        scores["false_faces"] = float((self._read(empty)[1] > 0.5).mean())
        return scores

    def sample(self, path: Path) -> None:
        """Val faces from badly centred squares with the given points drawn, the teacher's in the row below."""
        size, rows = self._settings.network.size, []
        for name in ("portraits-val", "frames-val"):
            pictures, targets = self._held_views(name, 0.0)
            chosen = np.linspace(0, len(pictures) - 1, 8).astype(int)
            answer, _ = self._read([pictures[i] for i in chosen])
            for points in (answer, targets[chosen]):
                tiles = []
                for index, place in zip(chosen, points, strict=True):
                    tile = cv2.resize(pictures[index], (2 * size, 2 * size), interpolation=cv2.INTER_LINEAR)
                    for x, y in place[:, :2]:
                        cv2.circle(tile, (round(2 * float(x) + 0.5), round(2 * float(y) + 0.5)), 1, (0, 255, 0), -1)
                    tiles.append(tile)
                rows.append(np.concatenate(tiles, 1))
        cv2.imwrite(str(path), np.ascontiguousarray(np.concatenate(rows)[:, :, ::-1]))

    def export(self, folder: Path) -> None:
        """Write ``landmarks.safetensors`` and ``landmarks.json``."""
        landmarks.save_landmarks(self.network, folder)
