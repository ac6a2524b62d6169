"""Training views for the landmark network: a face as a careless detector, a bad camera or a fast head would show it."""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from talkswap.data.portraits import CROP, read_picture
from talkswap.errors import TrainingDataError
from talkswap.faces.geometry import outer_eye_distance, transform_points
from talkswap.faces.landmarks import POINTS, affine_from_landmarks
from talkswap.types import FloatArray, UInt8Image

HELD_BACKGROUNDS = 50  # the first of backgrounds.tar, kept for scores
STORED = 160  # px: side at which crops are kept before augmentation


@dataclass(frozen=True)
class ViewConfig:
    """How hard the views are."""

    size: int = 128  # px
    shift: float = 0.12  # of the square's side
    scale: float = 0.18
    roll: float = 25.0  # degrees
    aspect: float = 0.06
    careful: float = 0.45  # share of views as good as when a face is followed: a third of the above
    negatives: float = 0.1  # share of views without a face


def check_enough(count: int, held: int, what: str, folder: Path) -> None:
    """Raise TrainingDataError where nothing would be left to train on beside what is held out for scores."""
    if count <= held:
        raise TrainingDataError(
            f"{folder} has {count} {what}, of which {held} are held out for scores", f"give it more than {held}"
        )


def read_backgrounds(scenes: Path, count: int = 0, skip: int = 0) -> list[UInt8Image]:
    """RGB photographs without faces from ``backgrounds.tar``, in the archive's order; ``count`` 0 = all after
    ``skip``."""
    path = scenes / "backgrounds.tar"
    if not path.is_file():
        raise TrainingDataError(f"no backgrounds at {path}", "point `scenes` at the folder that holds backgrounds.tar")
    pictures: list[UInt8Image] = []
    with tarfile.open(path) as tar:
        for position, member in enumerate(sorted((m for m in tar if m.isfile()), key=lambda m: m.name)):
            if position < skip or (count and len(pictures) >= count):
                continue
            picture = read_picture(tar, member)
            if picture is not None:
                pictures.append(picture)
    return pictures


def random_square(photos: list[UInt8Image], least: float, size: int, generator: np.random.Generator) -> UInt8Image:
    """A square (size size 3) out of a photograph, ``least`` of its shorter side at least."""
    photo = photos[int(generator.integers(len(photos)))]
    height, width = photo.shape[:2]
    side = max(2, int(min(height, width) * generator.uniform(least, 1)))
    y, x = int(generator.integers(0, height - side + 1)), int(generator.integers(0, width - side + 1))
    part = cv2.resize(photo[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(part, np.uint8)


def small_crops(folder: Path) -> UInt8Image:
    """A prepared folder's crops at ``STORED`` px (N S S 3, a memory map), made and kept beside them at the first
    call."""
    path = folder / f"crops-{STORED}.npy"
    crops = np.load(folder / "crops.npy", mmap_mode="r")
    if not path.is_file():
        small = (STORED, STORED)
        np.save(path, np.stack([cv2.resize(crop, small, interpolation=cv2.INTER_AREA) for crop in crops]))
    result: UInt8Image = np.load(path, mmap_mode="r")
    if len(result) != len(crops):
        raise TrainingDataError(f"{path} holds {len(result)} of {len(crops)} crops", "delete it to make it anew")
    return result


class StoredFaces:
    """FFHQ crops of prepared folders with their mesh points, drawn so that turned heads and open mouths are not
    rare.

    Args:
        shares: what part of all draws each named folder gets; the others keep their balance in what is left.

    Raises:
        TrainingDataError: a folder is not prepared.
        ValueError: a share is of a folder that is not among ``names``.
    """

    def __init__(self, cache: Path, names: tuple[str, ...], shares: Mapping[str, float] | None = None) -> None:
        self._pictures, self._owner, landmarks = [], [], []
        for position, name in enumerate(names):
            folder = cache / name
            if not (folder / "landmarks.npy").is_file():
                raise TrainingDataError(f"no prepared crops at {folder}", "run `talkswap data prepare` first")
            points = np.load(folder / "landmarks.npy").astype(np.float32)
            self._pictures.append(small_crops(folder))
            landmarks.append(points * (ratio := STORED / CROP))
            landmarks[-1][..., :2] += 0.5 * ratio - 0.5  # px centres
            # Which folder a face is in, and its place there.
            self._owner += [(position, index) for index in range(len(points))]
        self.landmarks: FloatArray = np.concatenate(landmarks)  # N 478 3, px of the picture
        if missing := set(shares or {}) - set(names):
            raise ValueError(f"shares of folders that are not read: {', '.join(sorted(missing))}")
        weight, owner = self._balance(), np.array([position for position, _ in self._owner])
        shares_by_position = {names.index(name): share for name, share in (shares or {}).items()}
        # Folders with a share get exactly that; the others keep their balance in what is left.
        rest = ~np.isin(owner, list(shares_by_position))
        weight[rest] *= (1 - sum(shares_by_position.values())) / max(float(weight[rest].sum()), 1e-12)
        for position, share in shares_by_position.items():
            weight[owner == position] *= share / float(weight[owner == position].sum())
        self._cumulative = np.cumsum(weight / weight.sum())

    def __len__(self) -> int:
        return len(self.landmarks)

    def _balance(self) -> FloatArray:
        """One over the root of how common a crop's turn, nod, mouth and eye opening are together."""
        p = self.landmarks
        eyes = outer_eye_distance(p[..., :2]) + 1e-6  # N
        left, right = p[:, 1, 0] - p[:, 234, 0], p[:, 454, 0] - p[:, 1, 0]
        turn = (left - right) / (np.abs(left + right) + 1e-6)
        nod = (p[:, 1, 1] - (p[:, 33, 1] + p[:, 263, 1]) / 2) / eyes  # N
        mouth = np.linalg.norm(p[:, 13, :2] - p[:, 14, :2], axis=1) / eyes
        blink = np.linalg.norm(p[:, 159, :2] - p[:, 145, :2], axis=1) / eyes
        # Coarse cells of turn, nod, mouth and eyes: most portraits are frontal with a shut mouth.
        cells = np.stack(
            [
                np.digitize(turn, [-0.6, -0.3, -0.1, 0.1, 0.3, 0.6]),
                np.digitize(nod, np.quantile(nod, [0.1, 0.5, 0.9])),
                np.digitize(mouth, [0.02, 0.08, 0.16, 0.28]),
                np.digitize(blink, [0.04, 0.07]),
            ],
            1,
        )
        _, inverse, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        # The root, since full balance would show a few rare faces over and over.
        weight = 1 / np.sqrt(counts[inverse.reshape(-1)] + 10.0)
        return (weight / weight.sum()).astype(np.float64)

    def picture(self, index: int) -> UInt8Image:
        """One crop, ``STORED`` px a side."""
        position, place = self._owner[index]
        return np.array(self._pictures[position][place])

    def draw(self, generator: np.random.Generator) -> int:
        """A balanced random index."""
        return min(int(np.searchsorted(self._cumulative, generator.random())), len(self) - 1)


def relight(picture: np.ndarray, generator: np.random.Generator) -> UInt8Image:
    """Exposure, gamma, white balance, saturation and a light from one side, for an S S 3 picture."""
    # One table a channel: gamma, exposure and white balance in one look-up.
    level = np.linspace(0, 1, 256)[:, None] ** generator.uniform(0.55, 1.7)
    gain = generator.uniform(0.6, 1.3) * generator.uniform(0.85, 1.15, 3)
    table = np.clip(level * gain * 255, 0, 255).astype(np.uint8).reshape(256, 1, 3)
    picture = cv2.LUT(picture, table)
    colour = 0.0 if generator.random() < 0.08 else generator.uniform(0.5, 1.35)
    # Saturation mixes the channels, which no table can do.
    picture = cv2.transform(picture, np.eye(3) * colour + (1 - colour) / 3)
    if generator.random() < 0.25:
        size = picture.shape[0]
        ramp = np.linspace(generator.uniform(0.35, 1), generator.uniform(0.8, 1.2), size, dtype=np.float32)
        if generator.random() < 0.5:
            ramp = ramp[::-1]
        across = ramp[None, :, None] if generator.random() < 0.8 else ramp[:, None, None]
        picture = np.clip(picture * across, 0, 255).astype(np.uint8)
    return np.asarray(picture, np.uint8)


def motion_kernel(longest: int, generator: np.random.Generator) -> FloatArray:
    """The blur of a motion in a straight line of 3 px to less than ``longest`` (L L, its sum 1)."""
    length = int(generator.integers(3, longest))
    kernel = np.zeros((length, length), np.float32)
    angle = generator.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    start, stop = (np.round(length / 2 - 0.5 + sign * reach).astype(int) for sign in (-1, 1))
    cv2.line(kernel, start.tolist(), stop.tolist(), 1.0, 1)
    return kernel / max(float(kernel.sum()), 1e-6)


def degrade(picture: np.ndarray, generator: np.random.Generator) -> UInt8Image:
    """Low resolution, blur (still or moving), noise and JPEG, each now and then."""
    size = picture.shape[0]
    if generator.random() < 0.25:
        small = int(generator.uniform(20, 90) * size / 128)
        # Down and up again, as in a clip that was scaled down once.
        shrunk = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)
    if generator.random() < 0.2:
        if generator.random() < 0.5:
            picture = cv2.GaussianBlur(picture, (0, 0), generator.uniform(0.4, 1.8))
        else:
            picture = cv2.filter2D(picture, -1, motion_kernel(10, generator))
    if generator.random() < 0.2:
        noise = generator.standard_normal(picture.shape, np.float32) * np.float32(generator.uniform(2, 16))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if generator.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(generator.integers(15, 80))]
        decoded: Any = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR)
        picture = decoded
    return np.asarray(picture, np.uint8)


class FaceViews:
    """Makes views of stored faces.

    Args:
        backgrounds: photographs without a face, for what lies around a crop and for negatives.
        mirror: 478 indices: the point on the other half of the face.
    """

    def __init__(
        self, config: ViewConfig, faces: StoredFaces, backgrounds: list[UInt8Image], mirror: np.ndarray
    ) -> None:
        self.config, self.faces, self.backgrounds, self.mirror = config, faces, backgrounds, mirror

    def _background(self, generator: np.random.Generator) -> UInt8Image:
        return random_square(self.backgrounds, 0.25, self.config.size, generator)

    def _place(self, points: FloatArray, generator: np.random.Generator) -> np.ndarray:
        """The affine (2 x 3) to a square that misses the face's own by a little."""
        config = self.config
        ease = 1 / 3 if generator.random() < config.careful else 1.0
        # The exact square first, then a miss as a detector or the frame before would make it.
        own = affine_from_landmarks(points, config.size).astype(np.float64)
        scale = 1 + ease * generator.uniform(-config.scale, config.scale * 1.1)
        turn = cv2.getRotationMatrix2D((0, 0), ease * generator.uniform(-config.roll, config.roll), scale)[:, :2]
        stretch = 1 + config.aspect * generator.uniform(-1, 1)
        turn = turn @ np.diag([stretch, 1 / stretch])
        middle = (config.size - 1) / 2
        shift = ease * generator.uniform(-config.shift, config.shift, 2) * config.size
        affine = turn @ own
        affine[:, 2] = turn @ (own[:, 2] - middle) + middle + shift
        return affine

    def _cover(self, view: np.ndarray, generator: np.random.Generator) -> None:
        """Hide a part: a box, a disc or a bar of colour or of background, sometimes where a hand or a microphone
        would be."""
        size = view.shape[0]
        mask = np.zeros((size, size), np.uint8)
        centre = generator.uniform(0.05, 0.95, 2) * size
        extent = generator.uniform(0.06, 0.24, 2) * size
        box = (
            (float(centre[0]), float(centre[1])),
            (float(extent[0]) * 2, float(extent[1]) * 2),
            float(generator.uniform(0, 180)),
        )
        if generator.random() < 0.5:
            cv2.ellipse(mask, box, 255, -1)
        else:
            cv2.fillPoly(mask, [cv2.boxPoints(box).astype(np.int32)], 255)
        if generator.random() < 0.5:
            fill = self._background(generator)
        else:
            fill = np.broadcast_to(generator.integers(0, 255, 3).astype(np.uint8), view.shape)
        inside = mask > 0
        view[inside] = fill[inside]

    def positive(self, index: int, generator: np.random.Generator) -> tuple[UInt8Image, FloatArray]:
        """View and points (478 3, px of the view) of one stored face."""
        size = self.config.size
        picture, points = self.faces.picture(index), self.faces.landmarks[index]
        affine = self._place(points, generator)
        view: np.ndarray
        # What lies around a crop is mirrored, photographed or black: the border must tell nothing.
        if generator.random() < 0.5:
            view = cv2.warpAffine(
                picture, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
            )
        else:
            view = self._background(generator) if generator.random() < 0.7 else np.zeros((size, size, 3), np.uint8)
            view = np.ascontiguousarray(view)
            cv2.warpAffine(
                picture, affine, (size, size), view, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
            )
        points = transform_points(affine, points)
        if generator.random() < 0.5:
            view = np.ascontiguousarray(view[:, ::-1])
            # In a mirror the left corner of the mouth is point 291 and no longer 61.
            points = points[self.mirror]
            points[:, 0] = size - 1 - points[:, 0]
        if generator.random() < 0.2:
            self._cover(view, generator)
        return np.asarray(view, np.uint8), points

    def clean(self, index: int, generator: np.random.Generator) -> tuple[UInt8Image, FloatArray]:
        """A view that is only badly centred, with its points (478 3, px of the view)."""
        picture, points = self.faces.picture(index), self.faces.landmarks[index]
        affine = self._place(points, generator)
        square = (self.config.size, self.config.size)
        view: np.ndarray = cv2.warpAffine(picture, affine, square, flags=cv2.INTER_LINEAR)
        return view, transform_points(affine, points)

    def negative(self, generator: np.random.Generator) -> UInt8Image:
        """A view without a usable face: background, or a stored face far out of place."""
        size = self.config.size
        if generator.random() < 0.6:
            return self._background(generator)
        index = self.faces.draw(generator)
        own = affine_from_landmarks(self.faces.landmarks[index], size).astype(np.float64)
        view = np.ascontiguousarray(self._background(generator))
        angle, middle = generator.uniform(0, 2 * np.pi), (size - 1) / 2
        # Half a face beside the square, or one far too small or large: what a lost track looks at.
        if generator.random() < 0.7:
            own[:, 2] += np.array([np.cos(angle), np.sin(angle)]) * generator.uniform(0.6, 0.9) * size
        else:
            scale = generator.uniform(0.15, 0.3) if generator.random() < 0.5 else generator.uniform(3, 5)
            own[:, :2] *= scale
            own[:, 2] = (own[:, 2] - middle) * scale + middle + generator.uniform(-0.3, 0.3, 2) * size
        picture = self.faces.picture(index)
        cv2.warpAffine(picture, own, (size, size), view, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
        return view

    def draw(self, generator: np.random.Generator) -> tuple[UInt8Image, FloatArray, bool]:
        """One view (S S 3), its points (478 3; zeros without a face) and whether there is a face."""
        face = generator.random() >= self.config.negatives
        if face:
            view, points = self.positive(self.faces.draw(generator), generator)
        else:
            view, points = self.negative(generator), np.zeros((POINTS, 3), np.float32)
        view = degrade(view, generator)
        if generator.random() < 0.8:
            view = relight(view, generator)
        return view, points, face


def shape_space(faces: StoredFaces, count: int) -> tuple[FloatArray, FloatArray, float]:
    """Mean shape and the leading directions of variation in the landmark network's square.

    Returns:
        (mean 478 3, basis 478 3 ``count`` scaled by the standard deviations, both in sides of the square with the
        origin at its centre; what the basis leaves out: mean distance in parts of the eye distance).
    """
    # In the network's own square all faces have one place, size and roll.
    shapes = np.stack([transform_points(affine_from_landmarks(p, 1), p) for p in faces.landmarks])  # N 478 3
    flat = shapes.reshape(len(shapes), -1).astype(np.float64)  # N 1434
    mean = flat.mean(0)
    centred = flat - mean
    if len(flat) < flat.shape[1]:  # fewer shapes than coordinates: the same directions, found sooner
        _, singular, rows = np.linalg.svd(centred, full_matrices=False)
        values, vectors = singular**2 / len(flat), rows.T
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred / len(flat))
    order = np.argsort(-values)[:count]
    basis = vectors[:, order]  # 1434 count
    rest = (centred - (centred @ basis) @ basis.T).reshape(shapes.shape)
    eyes = np.linalg.norm(shapes[:, 468] - shapes[:, 473], axis=1).mean()
    missing = float(np.linalg.norm(rest[:, :, :2], axis=2).mean() / eyes)
    # Scaled by the deviations, so that a coefficient of 1 is usual for every direction.
    scaled = basis * np.sqrt(np.maximum(values[order], 0))
    return mean.reshape(POINTS, 3).astype(np.float32), scaled.reshape(POINTS, 3, -1).astype(np.float32), missing
