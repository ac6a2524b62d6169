"""A small world for tests of following: faces are discs whose colour is the person, and its analyser is a real one."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np

from talkswap.faces.mesh import mean_face
from talkswap.faces.people import FaceChooser
from talkswap.faces.track import FaceTracker, TrackConfig
from talkswap.types import Face, FloatArray, Frame, UInt8Image

COLOURS = {"anna": (250, 20, 20), "bert": (20, 250, 20), "cleo": (20, 20, 250)}
HEIGHT, WIDTH = 180, 320


def scene(seed: int, *people: tuple[str, float, float, float]) -> UInt8Image:
    """A background (never as saturated as a person) with discs: (name, x, y, radius)."""
    noise = np.random.default_rng(seed).integers(60, 190, (5, 8, 3), np.uint8)
    rgb = np.asarray(cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.uint8)
    for name, x, y, radius in people:
        cv2.circle(rgb, (round(x * 16), round(y * 16)), round(radius * 16), COLOURS[name], -1, cv2.LINE_8, 4)
    return rgb


def like(rgb: UInt8Image, colour: tuple[int, int, int]) -> UInt8Image:
    low, high = ([int(np.clip(c + d, 0, 255)) for c in colour] for d in (-11, 11))
    return np.asarray(cv2.inRange(rgb, np.array(low), np.array(high)), np.uint8)


class DiscAnalyser:
    """Finds discs of the known colours; follows one within its own radius."""

    name = "disc"

    def __init__(self) -> None:
        self.detected = 0
        self.followed = 0
        self.embedded = 0

    @staticmethod
    def _face(mask: np.ndarray) -> Face | None:
        y, x = np.nonzero(mask)
        if len(x) < 60:
            return None
        radius = np.sqrt(len(x) / np.pi)
        points = mean_face().points * (radius * 0.9) + np.array([x.mean(), y.mean() - radius * 0.3, 0])
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)
        return Face(box, 0.9, points.astype(np.float32))

    def detect(self, rgb: UInt8Image) -> list[Face]:
        self.detected += 1
        faces = []
        for colour in COLOURS.values():
            count, labels = cv2.connectedComponents(like(rgb, colour))
            faces += [f for k in range(1, count) if (f := self._face(labels == k)) is not None]
        return sorted(faces, key=lambda f: -float(f.box[2] - f.box[0]))

    def follow(self, rgb: UInt8Image, landmarks: FloatArray) -> Face | None:
        self.followed += 1
        low, high = landmarks[:, :2].min(0).astype(int), landmarks[:, :2].max(0).astype(int)
        near = np.zeros(rgb.shape[:2], bool)
        near[max(low[1], 0) : high[1], max(low[0], 0) : high[0]] = True
        sizes = {c: near & (like(rgb, c) > 0) for c in COLOURS.values()}
        seed = max(sizes.values(), key=lambda mask: mask.sum())
        if seed.sum() < 40:
            return None
        colour = next(c for c, mask in sizes.items() if mask is seed)
        _, labels = cv2.connectedComponents(like(rgb, colour))
        label = np.bincount(labels[seed]).argmax()
        return self._face(labels == label)

    def embed(self, rgb: UInt8Image, landmarks: FloatArray) -> FloatArray:
        self.embedded += 1
        x, y = landmarks[:, :2].mean(0).round().astype(int)
        colour = rgb[np.clip(y, 0, HEIGHT - 1), np.clip(x, 0, WIDTH - 1)].astype(np.float32)
        return colour / np.linalg.norm(colour)


def frames(pictures: list[UInt8Image], rate: int = 25) -> list[Frame]:
    return [Frame(rgb, Fraction(k, rate), k) for k, rgb in enumerate(pictures)]


def unit(*values: float) -> FloatArray:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def run(pictures: list[UInt8Image], config: TrackConfig | None = None, embed: bool = True) -> tuple[list, DiscAnalyser]:
    analyser = DiscAnalyser()
    tracker = FaceTracker(analyser, config, analyser.embed if embed else None)
    return [tracker.update(frame) for frame in frames(pictures)], analyser


def choose_all(results: list, chooser: FaceChooser) -> list[int | None]:
    chosen = [chooser(faces, HEIGHT, WIDTH) for faces in results]
    return [None if c is None else c.track_id for c in chosen]
