"""What the stage ``joint`` draws (driven, spoken and plain rows of a batch), and how it reads decoded mouths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talkswap.data.stills import StillAugmentation, Stills, draw_still, importance, open_stills
from talkswap.data.talking import open_spoken
from talkswap.errors import TrainingDataError
from talkswap.faces import geometry, guide, landmarks, mask, measures, mesh
from talkswap.systems.swaptalk.lip_sync import LipSyncConfig
from talkswap.systems.swaptalk.training.pair_draw import compatible
from talkswap.train.stage import Batch, LoopConfig, step_seed, to_tensor
from talkswap.types import FloatArray, UInt8Image
from talkswap.voice.mel import SILENCE


@dataclass(frozen=True)
class JointStageConfig:
    """Data and losses of the stage; the defaults are compact's."""

    data: Path = Path("cache")
    videos: Path | None = None  # folder with clips.csv; None: every prepared clip counts alike
    lags: Path | None = None  # seconds by clip name, from the stage speech-encoder
    vqgan: Path = Path("weights/compact/swaptalk/vqgan.safetensors")
    lip_sync: Path = Path("weights/compact/swaptalk/lip_sync.safetensors")
    speech: Path | None = None  # another trained speech encoder
    identity_network: Path | None = None  # folder
    landmark_network: Path = Path("weights/compact/faces")  # folder
    perceptual_network: Path | None = None  # a file, or vgg19 for the published network
    network: LipSyncConfig = LipSyncConfig()
    loop: LoopConfig = LoopConfig(steps=2000, batch=6, learning_rate=2.5e-4, warmup=50, ema=0.995, sample_every=400)
    driven: int = 2  # rows of a batch
    spoken: int = 2
    portraits: float = 0.6  # share of portraits among plain rows
    quantized: float = 0.2  # share of plain rows decoded from nearest codes
    noisy: float = 0.25  # share decoded from vectors with noise, as modules make them
    noise: float = 0.25  # its standard deviation; vectors have unit variance
    hidden: float = 0.3  # share of driven and spoken rows without speech tokens: the shape alone must do
    wanted: float = 0.3  # share of spoken rows asked for what the speech encoder wants, not for a true shape
    silent: float = 0.06  # share of spoken rows with silence
    laid: float = 0.5  # share of spoken rows on which another face was laid first, as the swap of a render does
    mouth_pull: float = 0.012  # as in the stage lip-sync
    pixel: float = 1.0
    gradient: float = 1.0
    code: float = 0.3  # L1 of driven latents: keeps the transform near the encoder's vectors
    perceptual: float = 0.12
    identity: float = 0.1
    landmark: float = 0.15  # change of the mouth's measures against the change asked for, spoken rows
    points: float = 0.02  # px of the landmark square: lips of driven rows against the truth's
    keep: float = 1.0  # L1 outside the lower face of spoken rows
    hue: float = (
        2.0  # L1 of the coarse hue of spoken mouths against the frame's own: speech moves lips, it does not paint them
    )
    adversarial: float = 0.35  # share of the other terms' gradient
    adversarial_start: int = 150
    focus: int = 192  # px: window of plain rows for the perceptual and adversarial terms
    mouth_side: int = 128  # px: window of the others, around the mouth
    validation: int = 48


class JointRows:
    """Draws batches; a function of seed and step.

    Args:
        talking: training stills with what was said around them.
        square: px, side of the landmark network's input.
    """

    def __init__(self, config: JointStageConfig, talking: TalkingStills, square: int) -> None:
        self.config, self.talking, self.square = config, talking, square
        self.sets = [open_stills(config.data / "portraits-train"), open_stills(config.data / "frames-train")]
        # Roots of lengths: a long clip counts more, but doesn't crowd out the others.
        sizes = np.array([len(r) for r in talking.rows], float) ** 0.5
        self.share = sizes / sizes.sum()
        self.augmentation = StillAugmentation()
        closed = talking.shape[talking.shape[:, 0] <= np.quantile(talking.shape[:, 0], 0.05)]
        self.rest = np.median(closed, 0)  # measures of a closed mouth, for silence

    def _clip(self, random: np.random.Generator) -> np.ndarray:
        """Still numbers of one clip; long clips are drawn more often."""
        return self.talking.rows[int(random.choice(len(self.talking.rows), p=self.share))]

    def _driven(self, random: np.random.Generator) -> tuple[int, int, int]:
        """A still, one that is posed alike with another mouth, and itself as the mouth asked for."""
        rows = self._clip(random)
        row = int(random.choice(rows))
        candidates = random.choice(rows, 16)
        pose, shape = self.talking.pose, self.talking.shape
        turns = np.abs(pose[candidates] - pose[row]).mean(1)
        # A mouth much wider open gains nothing more; pose decides then.
        changes = np.minimum(np.abs(shape[candidates] - shape[row])[:, 0], 1.5)
        return row, int(candidates[np.argmin(turns - self.config.mouth_pull * changes + (candidates == row))]), row

    def _spoken(self, random: np.random.Generator) -> tuple[int, int, int]:
        """A still, itself as the reference, and a still of any clip whose mouth is asked for."""
        rows = self._clip(random)
        row = int(random.choice(rows))
        candidates = random.choice(rows if random.random() < 0.5 else self._clip(random), 4)
        # far mouths count more: near ones are what changing nothing would give
        far = np.abs(self.talking.shape[candidates, 0] - self.talking.shape[row, 0]) + 0.3
        return row, row, int(random.choice(candidates, p=far / far.sum()))

    def _laid(self, random: np.random.Generator, crop: UInt8Image, points: FloatArray) -> tuple[UInt8Image, FloatArray]:
        """A frame with some portrait's face laid over it, and its landmarks; heads turned too far apart stay as they are."""
        portraits = self.sets[0]
        number = int(random.integers(len(portraits)))
        source = np.asarray(portraits.landmarks[number], np.float32)
        if not compatible(measures.yaw_degrees(source), measures.yaw_degrees(points)):
            return crop, points
        guided = guide.FaceGuide(np.asarray(portraits.crops[number]), source).lay(crop, points)
        return guided.crop, guided.landmarks

    def batch(self, step: int) -> Batch:
        config, talking = self.config, self.talking
        random = np.random.default_rng(step_seed(config.loop.seed, step))
        count = config.driven + config.spoken
        draws = [self._driven(random) if i < config.driven else self._spoken(random) for i in range(count)]
        stills, references, models = (np.array(column) for column in zip(*draws, strict=True))
        crops, faces, weights, mouths = [], [], [], []
        for number, row in enumerate(stills):
            crop, points = np.asarray(talking.stills.crops[row]), talking.faces([row])[0]
            if number >= config.driven and random.random() < config.laid:
                crop, points = self._laid(random, crop, points)
            crops.append(crop)
            faces.append(points)
            size = crop.shape[0]
            if number < config.driven:
                weights.append(importance(points, size, 0.7, 1.2, 2.5))
            else:
                lower = cv2.dilate(mask.lower_face_mask(points, size), np.ones((15, 15)))
                small = cv2.resize(lower, (size // 4, size // 4), interpolation=cv2.INTER_AREA)
                weights.append(np.asarray(1 - small, np.float32))
            # A little off centre, so that the discriminator doesn't learn the window's place.
            corner = points[list(mesh.OUTER_LIPS), :2].mean(0) - config.mouth_side / 2 + random.integers(-12, 13, 2)
            mouths.append([int(np.clip(c, 0, size - config.mouth_side)) for c in corner])
        for _ in range(config.loop.batch - count):
            crop, points = draw_still(
                self.sets[0 if random.random() < config.portraits else 1], random, self.augmentation
            )
            crops.append(crop)
            weights.append(importance(points, crop.shape[0], 0.7, 1.2, 2.0))
        size = crops[0].shape[0]
        speech, shapes = talking.speech[models], talking.shape[models]
        spoken = np.arange(count) >= config.driven
        silent = spoken & (random.random(count) < config.silent)
        speech[silent], shapes[silent] = SILENCE, self.rest
        return {
            "crop": to_tensor(crops),
            "reference": to_tensor(
                [
                    np.asarray(talking.stills.crops[i]) if number < config.driven else crops[number]
                    for number, i in enumerate(references)
                ]
            ),
            "weight": F.interpolate(torch.from_numpy(np.stack(weights))[:, None], (size, size), mode="bilinear"),
            "speech": torch.from_numpy(speech),
            "request": torch.from_numpy(shapes),
            "own": torch.from_numpy(talking.shape[stills]),
            "square": landmark_squares(faces, size, self.square),
            "mouth": torch.tensor(mouths),
            "hidden": torch.from_numpy(random.random(count) < config.hidden),
            "from_speech": torch.from_numpy(spoken & ~silent & (random.random(count) < config.wanted)),
            "kind": torch.from_numpy(random.random(config.loop.batch - count).astype(np.float32)),
        }


def mouth_measures(points: Tensor) -> Tensor:
    """The measures of :func:`talkswap.faces.measures.mouth_shape` without its medians, differentiable.

    Args:
        points: B 478 3, px.

    Returns:
        B 7 in units of MOUTH_SPREAD.
    """
    between = points[:, geometry.OUTER_EYE_CORNERS[0]] - points[:, geometry.OUTER_EYE_CORNERS[1]]
    eyes, flat = between.norm(dim=1).clamp(min=1e-3), between[:, :2].norm(dim=1).clamp(min=1e-3)
    lips = points[:, list(measures.INNER_TOP), :2].mean(1) - points[:, list(measures.INNER_BOTTOM), :2].mean(1)
    lengths = [(lips.square().sum(1) + 1e-4).sqrt() / flat]
    lengths += [(points[:, a] - points[:, b]).norm(dim=1) / eyes for a, b in measures.MOUTH_PAIRS]
    return torch.stack(lengths, 1) / torch.from_numpy(measures.MOUTH_SPREAD).to(points)


@dataclass(frozen=True)
class TalkingStills:
    """Stills of talking clips with what was said around them."""

    stills: Stills
    rows: list[np.ndarray]  # still numbers of each clip
    shape: FloatArray  # N 7
    pose: FloatArray  # N P
    speech: FloatArray  # N L D

    def faces(self, rows: Iterable[int]) -> list[FloatArray]:
        """Landmarks (478 3, px) of stills."""
        return [np.asarray(self.stills.landmarks[i], np.float32) for i in rows]


def open_talking_stills(
    data: Path, split: str, videos: Path | None, lags: dict[str, float], window: int
) -> TalkingStills:
    """Stills of ``frames-SPLIT`` with shapes, poses and mel windows from ``clips-SPLIT``."""
    stills = open_stills(data / f"frames-{split}")
    clips = {clip.name: clip for clip in open_spoken(data, split, videos)}
    count = len(stills)
    shape = np.zeros((count, len(measures.MOUTH_SPREAD)), np.float32)
    pose: list[FloatArray] = []
    speech = np.zeros((count, window, 80), np.float32)
    groups: dict[str, list[int]] = {}
    for number, entry in enumerate(stills.meta):
        name = Path(str(entry["name"])).stem
        if name not in clips:
            raise TrainingDataError(f"the still {number} belongs to no clip", "prepare the folder anew")
        clip, frame = clips[name], int(entry["frame"])
        groups.setdefault(name, []).append(number)
        shape[number] = clip.shape[frame]
        pose.append(clip.pose[frame])
        lag = lags.get(name, 0.0) if split == "train" else 0.0
        speech[number] = clip.mel_windows(clip.times[frame : frame + 1] - lag, window)[0]
    # Fewer stills hold no two alike poses with different mouths.
    rows = [np.array(group) for group in groups.values() if len(group) >= 8]
    return TalkingStills(stills, rows, shape.clip(-4, 6), np.stack(pose), speech)


def landmark_squares(faces: Iterable[FloatArray], side: int, size: int) -> Tensor:
    """Where a landmark network of side ``size`` looks in each crop (B 2 3: the affine of grid_sample).

    Args:
        faces: 478 3 landmarks of each crop, px.
        side: of the crops, px.
    """
    # square px = (u + 1) size / 2 - 0.5; normalised crop = (px + 0.5) 2 / side - 1
    to_px = np.array([[size / 2, 0, size / 2 - 0.5], [0, size / 2, size / 2 - 0.5], [0, 0, 1]])
    to_unit = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
    affines = []
    for points in faces:
        affine = landmarks.affine_from_landmarks(points, size)  # crop px to square px
        inverse = np.linalg.inv(np.vstack([affine.astype(np.float64), [0, 0, 1]]))
        affines.append((to_unit @ inverse @ to_px)[:2])
    return torch.from_numpy(np.stack(affines).astype(np.float32))


def read_points(network: landmarks.LandmarkNetwork, crops: Tensor, squares: Tensor) -> Tensor:
    """Landmarks (B 478 3, px of the network's square) of crops (B 3 S S in [-1, 1]); gradients reach the pixels."""
    size = network.config.size
    with torch.autocast(crops.device.type, enabled=False):
        half = F.avg_pool2d(crops.float(), 2)  # the square is about half as fine: without it samples would alias
        grid = F.affine_grid(squares.float(), [len(crops), 3, size, size], align_corners=False)
        square = F.grid_sample(half, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return network(square)[0]


def reading_gain(network: landmarks.LandmarkNetwork, talking: TalkingStills, each: int = 6) -> Tensor:
    """How far a landmark network's measures move when the labels' move by one (7): it answers timidly.

    Slopes within clips of ``each`` stills, so that differences between people do not count.
    """
    samples = [rows[:: max(1, len(rows) // each)][:each] for rows in talking.rows]
    rows = np.concatenate(samples)
    group = np.repeat(np.arange(len(samples)), [len(p) for p in samples])
    read = []
    with torch.no_grad():
        for part in np.array_split(rows, max(1, len(rows) // 32)):
            crops = to_tensor([np.asarray(talking.stills.crops[i]) for i in part])
            squares = landmark_squares(talking.faces(part), crops.shape[2], network.config.size)
            read.append(mouth_measures(read_points(network, crops, squares)))

    def centred(values: FloatArray) -> FloatArray:
        means = np.stack([values[group == g].mean(0) for g in range(len(samples))])
        return np.asarray(values - means[group], np.float32)

    answers, true = centred(torch.cat(read).numpy()), centred(talking.shape[rows])
    gain = (answers * true).sum(0) / np.maximum((true * true).sum(0), 1e-6)
    return torch.from_numpy(gain.clip(0.3, 1.2).astype(np.float32))


def mouth_crop(crop: UInt8Image, points: FloatArray) -> UInt8Image:
    """The rectangle around the lips (478 3 landmarks, px)."""
    lips = np.asarray(points)[list(mesh.OUTER_LIPS), :2]
    low, high = np.floor(lips.min(0) - 6).astype(int), np.ceil(lips.max(0) + 7).astype(int)
    return np.asarray(crop)[max(0, low[1]) : high[1], max(0, low[0]) : high[0]]


def sharpness(rgb: UInt8Image) -> float:
    """Variance of the Laplacian of the grey picture (H W 3 uint8)."""
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var()) + 1e-6
