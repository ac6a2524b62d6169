"""Training views for the occlusion network: portraits in the aligned crop, with things held before them."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from talkswap.data.face_views import STORED, StoredFaces, degrade, motion_kernel, relight
from talkswap.data.occluders import TRAINED, Draw, Materials, Occluder
from talkswap.faces.geometry import transform_points
from talkswap.faces.mask import LEFT_HALF, MOUTH, RIGHT_HALF
from talkswap.types import FloatArray, UInt8Image

BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
CHEEK_POINTS = (50, 205, 280, 425, 117, 346)


@dataclass(frozen=True)
class CoverConfig:
    """How the views are drawn."""

    size: int = 128  # px
    empty: float = 0.25  # share of views with nothing in front
    second: float = 0.2  # share of the others with a second thing
    shadows: float = 0.3  # share of views with a shadow or a stain of light that covers nothing
    shift: float = 0.03  # of the side: how badly the crop is aligned
    scale: float = 0.06
    roll: float = 6.0  # degrees
    fringe: float = 60.0  # levels of colour from the cheeks' at which a forehead may be hair, and is not counted


@dataclass(frozen=True)
class CoveredView:
    """One view and what is known of it."""

    picture: UInt8Image  # S S 3
    covered: FloatArray  # S S in [0, 1]
    counted: FloatArray  # S S in [0, 1]: the face, without what may be hair of its own


class CoveredFaces:
    """Makes views of stored faces.

    Args:
        mirror: 478 indices: the point on the other half of the face.
    """

    def __init__(self, config: CoverConfig, faces: StoredFaces, materials: Materials, mirror: np.ndarray) -> None:
        self.config, self.faces, self.materials, self.mirror = config, faces, materials, mirror
        self._kinds = [draw for draw, _ in TRAINED.values()]
        shares = np.array([share for _, share in TRAINED.values()])
        self._cumulative = np.cumsum(shares / shares.sum())

    def bare(self, index: int, generator: np.random.Generator) -> tuple[UInt8Image, FloatArray]:
        """One stored face as a render's crop shows it, nothing in front, and its points (478 3, px)."""
        config = self.config
        # One warp from the stored crop to the view: two would blur it twice.
        ratio = config.size / STORED
        scale = ratio * (1 + generator.uniform(-config.scale, config.scale))
        turn: np.ndarray = cv2.getRotationMatrix2D((0, 0), generator.uniform(-config.roll, config.roll), scale)
        middle = (config.size - 1) / 2
        shift = generator.uniform(-config.shift, config.shift, 2) * config.size
        turn[:, 2] = middle + shift - turn[:, :2] @ np.full(2, (STORED - 1) / 2)
        square = (config.size, config.size)
        picture = cv2.warpAffine(
            self.faces.picture(index), turn, square, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        points = transform_points(turn, self.faces.landmarks[index])
        if generator.random() < 0.5:
            picture = np.ascontiguousarray(picture[:, ::-1])
            points = points[self.mirror]
            points[:, 0] = config.size - 1 - points[:, 0]
        return np.asarray(picture, np.uint8), points

    def face(self, picture: UInt8Image, points: FloatArray) -> FloatArray:
        """Where answers count (S S): inside the mesh, but not where the forehead differs from the cheeks.

        A fringe is in front of the face too, but is not labelled: to call it free would teach the opposite.
        """
        size = self.config.size
        cells = np.round(points[:, :2] * 16).astype(np.int32)
        inside = np.zeros((size, size), np.uint8)  # S S
        for ring in (LEFT_HALF, RIGHT_HALF, MOUTH):
            cv2.fillPoly(inside, [cells[list(ring)]], 255, lineType=cv2.LINE_AA, shift=4)
        counted = np.asarray(inside.astype(np.float32) / 255, np.float32)
        above = int(np.clip(points[list(BROWS), 1].min(), 0, size))
        if above > 0:
            # Cheeks are skin in every picture, whatever the light.
            cheeks = points[list(CHEEK_POINTS), :2].round().astype(int).clip(0, size - 1)
            tone = np.median(picture[cheeks[:, 1], cheeks[:, 0]].astype(np.float32), 0)
            away = np.abs(picture[:above].astype(np.float32) - tone).max(2)
            counted[:above] *= away < self.config.fringe
        return counted

    def place(self, points: FloatArray, generator: np.random.Generator) -> np.ndarray:
        """Where something is held: around a random point of the face, the mouth and chin more often."""
        # Hands, cups and microphones are held before the mouth; the mouth is also what matters.
        if generator.random() < 0.35:
            at = points[[13, 152, 61, 291, 200][int(generator.integers(5))], :2]
        else:
            at = points[int(generator.integers(468)), :2]
        return np.asarray(at + generator.normal(0, 0.06 * self.config.size, 2), np.float64)

    def finish(self, thing: Occluder, generator: np.random.Generator) -> Occluder:
        """Light, softness and motion of something that was drawn."""
        rgb, coverage = np.clip(thing.rgb, 0, 255).astype(np.uint8), thing.coverage
        if generator.random() < 0.5:
            rgb = relight(rgb, generator)
        if generator.random() < 0.3:
            sigma = generator.uniform(0.5, 3.0)  # nearer than the face, and out of focus
            coverage = np.asarray(cv2.GaussianBlur(coverage, (0, 0), sigma), np.float32)
            rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), np.uint8)
        if generator.random() < 0.25:
            kernel = motion_kernel(15, generator)
            coverage = np.asarray(cv2.filter2D(coverage, -1, kernel), np.float32)
            rgb = np.asarray(cv2.filter2D(rgb, -1, kernel), np.uint8)
        if generator.random() < 0.05:
            coverage = coverage * np.float32(generator.uniform(0.75, 1))  # a thin veil
        return Occluder(rgb.astype(np.float32), np.asarray(coverage, np.float32))

    def cast(self, picture: np.ndarray, shape: FloatArray, generator: np.random.Generator) -> np.ndarray:
        """A shadow of a shape (S S in [0, 1]) that falls beside it; it hides nothing and is not marked."""
        size = self.config.size
        # Light falls from anywhere, so the shadow does too; now and then it's a stain of light.
        shift = generator.normal(0, 0.05 * size, 2)
        shadow = cv2.warpAffine(shape, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (size, size))
        soft = cv2.GaussianBlur(shadow, (0, 0), generator.uniform(1, 8))
        strength = generator.uniform(0.2, 0.6) if generator.random() < 0.85 else -generator.uniform(0.1, 0.4)
        return np.asarray(np.clip(picture * (1 - strength * soft[..., None]), 0, 255), np.float32)

    def cover(
        self, index: int, generator: np.random.Generator, kinds: list[Draw] | None = None, degraded: bool = True
    ) -> CoveredView:
        """A view of one stored face with something in front.

        Args:
            kinds: which things; None for the trained ones in their shares, empty for none.
            degraded: whether the camera is bad now and then.
        """
        bare, points = self.bare(index, generator)
        picture: np.ndarray = bare.astype(np.float32)
        covered = np.zeros(bare.shape[:2], np.float32)  # S S
        # A shadow alone must not count as covered: without such views the network takes any dark edge for a hand.
        if generator.random() < self.config.shadows:
            kind = self._kinds[int(generator.integers(len(self._kinds)))]
            shape = kind(self.materials, index, self.place(points, generator), generator).coverage
            picture = self.cast(picture, shape, generator)
        if kinds is None:
            count = 0 if generator.random() < self.config.empty else 1 + int(generator.random() < self.config.second)
            indices = [int(np.searchsorted(self._cumulative, generator.random())) for _ in range(count)]
            kinds = [self._kinds[min(i, len(self._kinds) - 1)] for i in indices]
        for kind in kinds:
            thing = self.finish(kind(self.materials, index, self.place(points, generator), generator), generator)
            if generator.random() < 0.5:
                picture = self.cast(picture, thing.coverage, generator)
            picture = picture + (thing.rgb - picture) * thing.coverage[..., None]
            # Several things in front of each other cover as much as all of them together.
            covered = covered + (1 - covered) * thing.coverage
        # A thing on a fringe is certain, though the bare fringe isn't.
        counted = np.maximum(self.face(bare, points), (covered > 0.5) * self.inside(points))
        view = np.clip(picture, 0, 255).astype(np.uint8)
        if degraded:
            view = degrade(view, generator)
            if generator.random() < 0.6:
                view = relight(view, generator)
        return CoveredView(view, covered.astype(np.float32), counted.astype(np.float32))

    def inside(self, points: FloatArray) -> FloatArray:
        """The whole mesh as 0 or 1 (S S): what is covered counts on a fringe too."""
        size = self.config.size
        mask = np.zeros((size, size), np.uint8)  # S S
        cells = points[:, :2].round().astype(np.int32)
        for ring in (LEFT_HALF, RIGHT_HALF, MOUTH):
            cv2.fillPoly(mask, [cells[list(ring)]], 1)
        return mask.astype(np.float32)

    def draw(self, generator: np.random.Generator) -> CoveredView:
        """One random view."""
        return self.cover(self.faces.draw(generator), generator)


def score_views(config: CoverConfig) -> CoverConfig:
    """The same for scores: well aligned, one thing at a time."""
    return replace(config, empty=0.0, second=0.0, shadows=0.0)
