"""Stage ``faces``: what the compact face analyser is made of, one network per run.

``part = "landmarks"`` trains the dense landmarks (:mod:`talkswap.train.shared.landmarks`), ``part = "detector"`` the
detector, from labelled photographs and composites.  Both read the same prepared folder and the same photographs without
faces.

The detector's loss: the penalty-reduced focal loss of centre-point detectors on the score map (Zhou et al., "Objects as
points", eq. 1: exponents 2 and 4), and L1 on centre, log side and points in the cells around each face's centre.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talkswap.data import detection, face_views
from talkswap.errors import UsageError
from talkswap.faces.detector import DetectorConfig, DetectorNetwork, FaceDetector, face_square, save_detector
from talkswap.faces.landmarks import LandmarkConfig, LandmarkNetwork
from talkswap.train.shared.landmarks import LandmarkSettings, LandmarkStage
from talkswap.train.stage import SAMPLES, Batch, LoopConfig, Networks, Part, Stage, Work, to_tensor
from talkswap.types import UInt8Image

PARTS = ("landmarks", "detector")


@dataclass(frozen=True)
class DetectorSettings:
    """The detector, its pictures and its loss."""

    network: DetectorConfig = DetectorConfig()
    pictures: detection.SceneConfig = detection.SceneConfig()
    centre: float = 0.3  # weights of the L1 terms: centre in cells, log side, points in sides
    side: float = 1.0
    points: float = 4.0


def focal(logit: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Focal loss of a score map (B h w), summed over cells and divided by the number of faces.

    With p the score and y the closeness to a centre: -(1 - p)^2 log p at centres, -(1 - y)^4 p^2 log(1 - p) elsewhere.
    """
    score = torch.sigmoid(logit)
    centre = (target == 1).float()
    hit = (1 - score).square() * F.softplus(-logit) * centre
    miss = (1 - target).pow(4) * score.square() * F.softplus(logit) * (1 - centre)
    return ((hit + miss) * counted).sum() / centre.sum().clamp(min=1)


class DetectorStage(Stage):
    """Trains :class:`~talkswap.faces.detector.DetectorNetwork`.

    Args:
        config: of the stage ``faces``, whose ``data``, ``scenes``, ``teachers``, ``loop`` and ``detector`` count.
    """

    name = "faces"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        torch.manual_seed(config.loop.seed)
        settings: DetectorSettings = config.detector
        self._settings = settings
        self.network: DetectorNetwork = DetectorNetwork(settings.network)
        faces = face_views.StoredFaces(config.data, ("portraits-train", "frames-train"))
        backgrounds = face_views.read_backgrounds(config.scenes)
        teacher = config.teachers / detection.DETECTOR_TEACHER_FILE
        scenes = detection.read_scenes(
            config.scenes, detection.DetectorTeacher(teacher, detection.DOUBTFUL) if teacher.is_file() else None
        )
        face_views.check_enough(len(backgrounds), face_views.HELD_BACKGROUNDS, "backgrounds", config.scenes)
        face_views.check_enough(len(scenes), detection.HELD_SCENES, "labelled photographs", config.scenes)
        self._held_backgrounds = backgrounds[: face_views.HELD_BACKGROUNDS]
        self._held_scenes = scenes[-detection.HELD_SCENES :]
        self._painter = detection.ScenePainter(
            settings.pictures, faces, scenes[: -detection.HELD_SCENES], backgrounds[face_views.HELD_BACKGROUNDS :]
        )

    def batch(self, step: int) -> Batch:
        """``picture`` B 3 S S in [-1, 1], ``target`` B 13 h w and ``counted`` B h w (see talkswap.data.detection.targets)."""
        config = self.config
        generator = np.random.default_rng([config.loop.seed, step])
        pictures, answers, counted = [], [], []
        for _ in range(config.loop.batch):
            picture, faces, ignored = self._painter.draw(generator)
            answer, cells = detection.targets(faces, ignored, self._settings.pictures.size)
            pictures.append(picture)
            answers.append(answer)
            counted.append(cells)
        return {
            "picture": to_tensor(pictures),
            "target": torch.from_numpy(np.stack(answers)),
            "counted": torch.from_numpy(np.stack(counted)),
        }

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Score map, centre, side and points."""
        settings = self._settings
        answer = self.network(batch["picture"]).float()
        target = batch["target"]
        score = focal(answer[:, 0], target[:, 0], batch["counted"])
        # Several cells around a centre learn the same face; together they weigh as one.
        weight = target[:, 12:13]  # sums to 1 over the cells of one face
        faces = weight.sum().clamp(min=1)
        error = (answer[:, 1:] - target[:, 1:12]).abs() * weight
        centre, side, points = error[:, 0:2].sum() / faces, error[:, 2].sum() / faces, error[:, 3:].sum() / faces / 4
        loss = score + settings.centre * centre + settings.side * side + settings.points * points
        return loss, {
            "score": score.detach(),
            "centre": centre.detach(),
            "side": side.detach(),
            "points": points.detach(),
        }

    def _held_faces(self) -> list[tuple[UInt8Image, np.ndarray]]:
        """Val crops shrunk onto held-out backgrounds at sides from 24 to 290 px; the same at every call."""
        # A fixed seed: scores of two runs are of the same pictures.
        generator = np.random.default_rng(2)
        held = []
        for name in ("portraits-val", "frames-val"):
            faces = face_views.StoredFaces(self.config.data, (name,))
            settings = detection.SceneConfig(size=320, smallest=24, largest=290, photographs=0, empty=0, most=1)
            painter = detection.ScenePainter(settings, faces, [], self._held_backgrounds)
            for index in range(0, len(faces), 4):
                picture = painter.canvas(generator)
                points = painter.paste(picture, [], generator, index)
                assert points is not None  # an empty picture has room
                held.append((picture, points[None]))
        return held

    def score(self) -> dict[str, float]:
        """Share of faces found and distance of the points on held-out composites, recall on held-out photographs, false
        alarms a picture on held-out backgrounds."""
        detector = FaceDetector(self.network)
        scores: dict[str, float] = {}
        labelled = [(scene.rgb, scene.faces) for scene in self._held_scenes]
        for name, held in (("composites", self._held_faces()), ("photographs", labelled)):
            hits, faces, errors = 0, 0, []
            for picture, labels in held:
                answers = detector(picture)
                for points in labels:
                    centre, side = face_square(points)
                    faces += 1
                    # A detection counts where it lies within a quarter of the face's side.
                    near = [f for f in answers if float(np.hypot(*(f.centre - centre))) < 0.25 * side]
                    if near:
                        hits += 1
                        errors.append(float(np.linalg.norm(near[0].points - points, axis=1).mean()) / side)
            scores[f"{name}_found"] = hits / faces
            scores[f"{name}_error"] = float(np.mean(errors)) if errors else 1.0
        # Backgrounds hold nobody, so every answer on them is wrong.
        alarms = [len(detector(picture)) for picture in self._held_backgrounds]
        scores["false_alarms"] = float(np.mean(alarms))
        self.network.train()
        return scores

    def sample(self, path: Path) -> None:
        """Held-out photographs and composites with what is found: square, points and score."""
        detector = FaceDetector(self.network, threshold=0.3)
        pictures = [scene.rgb for scene in self._held_scenes[:15]] + [p for p, _ in self._held_faces()[::12][:15]]
        tiles = []
        for picture in pictures:
            canvas = picture.copy()
            for face in detector(picture):
                low, high = (np.round(face.centre + sign * face.side / 2).astype(int).tolist() for sign in (-1, 1))
                cv2.rectangle(canvas, low, high, (0, 255, 0), 1)
                for x, y in face.points:
                    cv2.circle(canvas, (round(float(x)), round(float(y))), 2, (255, 0, 0), -1)
                cv2.putText(canvas, f"{face.score:.2f}", low, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1)
            tiles.append(cv2.resize(canvas, (224, 224), interpolation=cv2.INTER_AREA))
        rows = [np.concatenate(tiles[i : i + 6], 1) for i in range(0, len(tiles) - 5, 6)]
        cv2.imwrite(str(path), np.ascontiguousarray(np.concatenate(rows)[:, :, ::-1]))
        self.network.train()

    def export(self, folder: Path) -> None:
        """Write ``detector.safetensors`` and ``detector.json``."""
        save_detector(self.network, folder)


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
        landmarks=LandmarkSettings(network=LandmarkConfig.named("large"), views=face_views.ViewConfig(size=192)),
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
