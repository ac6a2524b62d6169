"""What is between the lips: teeth that a person has shown, laid where skull and jaw are now.

Upper teeth stay with the skull, lower teeth and tongue go with the jaw, and behind both lies the dark.  Some open mouths of
the person fill two layers, the widest first: one in the coordinates of the skull, one in those of the jaw.  A frame takes
both layers through its pose, so that teeth keep their size at any opening and nothing is stretched.

Coordinates: a *plane* parallel to the face through the middle of the mouth, in the pose-free space of the mesh
(:func:`talkswap.faces.guide.canonical_shape`); one unit is the distance between the eyes, ``scale`` px of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from talkswap.faces.guide import Pose, canonical_shape, fit_pose
from talkswap.faces.mesh import INNER_LIPS, OUTER_LIPS, mean_face
from talkswap.faces.warp import Patch
from talkswap.types import FloatArray, UInt8Image

UPPER, LOWER = 13, 14  # middle of the upper and of the lower lip's inner border
CORNERS = (78, 308)


@dataclass(frozen=True)
class MouthConfig:
    """How the two layers are filled and shown."""

    side: float = 1.2  # of the plane, in eye distances
    scale: tuple[float, float] = (60.0, 240.0)  # least and most px per eye distance; between them the clip's own
    most: int = 8  # open mouths that are used
    least_opening: float = 0.03  # eye distances: a smaller opening shows no teeth
    upper_share: float = 0.6  # of an open mouth from above that belongs to the skull
    closing: tuple[float, float] = (0.5, 2.5)  # px between the lips: below the first nothing shows, from the second all
    darkest: float = 0.3  # of the lips' colour: the dark is at most that bright
    tongue: tuple[float, float, float] = (0.55, 0.42, 0.45)  # of the lips' red, green and blue


@dataclass(frozen=True)
class OpenMouth:
    """One open mouth of a person, cut out of its frame."""

    patch: Patch
    landmarks: FloatArray  # 478 3, px of the picture that the patch was cut from

    @property
    def opening(self) -> float:
        """Distance of the lips' inner borders in eye distances, pose removed."""
        shape = canonical_shape(self.landmarks)
        return float(shape[LOWER, 1] - shape[UPPER, 1])


def cut_mouth(rgb: UInt8Image, landmarks: FloatArray, config: MouthConfig | None = None) -> OpenMouth:
    """The surroundings of the mouth that :class:`InnerMouth` needs of a frame.

    Args:
        rgb: H W 3 uint8.
        landmarks: 478 3, px.
    """
    config = config or MouthConfig()
    middle = landmarks[[UPPER, LOWER, *CORNERS], :2].mean(0)
    reach = config.side / 2 * fit_pose(landmarks).scale * 1.5  # a rolled head turns the plane's corners outward
    height, width = rgb.shape[:2]
    x0, y0 = (int(v) for v in np.floor(middle - reach).clip(0))
    x1, y1 = min(int(np.ceil(middle[0] + reach)), width), min(int(np.ceil(middle[1] + reach)), height)
    return OpenMouth(Patch(rgb[y0:y1, x0:x1].copy(), x0, y0), np.asarray(landmarks, np.float32))


def filled_ring(ring: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """An anti-aliased polygon (shape, [0, 1]) of corners N 2 in px."""
    picture = np.zeros(shape, np.uint8)
    cv2.fillPoly(picture, [np.round(ring * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    return picture.astype(np.float32) / np.float32(255)


@dataclass
class _Layer:
    """Colours gathered from several mouths; the first to cover a px keeps it."""

    colour: FloatArray  # S S 3, weighted by cover
    cover: FloatArray  # S S in [0, 1]

    @classmethod
    def empty(cls, side: int) -> _Layer:
        return cls(np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.float32))

    def add(self, picture: FloatArray, weight: FloatArray) -> None:
        share = np.minimum(weight, 1 - self.cover)
        self.colour += picture * share[:, :, None]
        self.cover += share

    def finished(self) -> tuple[FloatArray, FloatArray]:
        """Colour (S S 3), continued past its border, and cover (S S), eased at its border."""
        known = self.cover > 0.5
        colour = self.colour / np.maximum(self.cover, 1e-3)[:, :, None]
        if known.any() and not known.all():
            holes = (~known).astype(np.uint8)
            levels = np.clip(colour, 0, 255).astype(np.uint8)
            colour = np.asarray(cv2.inpaint(levels, holes, 2, cv2.INPAINT_TELEA), np.float32)
        return np.asarray(colour, np.float32), np.asarray(cv2.GaussianBlur(self.cover, (0, 0), 1.0), np.float32)


@dataclass
class InnerMouth:
    """A person's teeth and the dark behind them, ready to be shown in any frame.

    Args:
        mouths: open mouths of the person, in any order; the widest and least turned are used.  Without any the dark
            alone is shown.
        lips: RGB of the lips where no mouth tells it.
    """

    mouths: Sequence[OpenMouth]
    config: MouthConfig = field(default_factory=MouthConfig)

    def __post_init__(self) -> None:
        config = self.config
        poses = [fit_pose(mouth.landmarks) for mouth in self.mouths]
        shapes = [canonical_shape(mouth.landmarks) for mouth in self.mouths]
        eyes = float(np.median([pose.scale for pose in poses])) if poses else config.scale[0]
        self.scale = float(np.clip(eyes, *config.scale))
        self.side = round(config.side * self.scale)
        corners = [shape[[UPPER, LOWER, *CORNERS]].mean(0) for shape in shapes]
        # without a mouth the plane lies where the mean face has its own: there the dark is painted
        corners = corners or [mean_face().points[[UPPER, LOWER, *CORNERS]].mean(0)]
        self.origin: FloatArray = np.mean(corners, 0, dtype=np.float32)
        self.jaw_row = round(0.6 * self.side)  # of the jaw's layer: where the lower lip's inner border lies
        upper, lower = _Layer.empty(self.side), _Layer.empty(self.side)
        turns = np.array([pose.turn[0, 2] for pose in poses])
        openings = np.array([shape[LOWER, 1] - shape[UPPER, 1] for shape in shapes])
        # The plane fits a turned mouth badly: those near the person's usual pose go first.
        score = openings - 0.5 * np.abs(turns - np.median(turns)) if len(turns) else turns
        order = [int(k) for k in np.argsort(-score, kind="stable") if openings[k] > config.least_opening]
        darks, lips = [], []
        for k in order[: config.most]:
            mouth = self.mouths[k]
            picture = self._to_plane(mouth, poses[k])
            darks += self._gather(picture, shapes[k], upper, lower)
            lips.append(_colour_at(mouth, OUTER_LIPS))
        lip = np.mean(lips, 0) if lips else np.array([150.0, 90.0, 85.0])
        self.dark: FloatArray = np.minimum(np.mean(darks, 0) if darks else lip, lip * config.darkest).astype(np.float32)
        self.tongue: FloatArray = (lip * np.array(config.tongue)).astype(np.float32)
        self.upper, self.upper_cover = upper.finished()
        self.lower, self.lower_cover = lower.finished()
        self.teeth_row = self._end_of_teeth()

    def show(self, rgb: UInt8Image, shape: FloatArray, pose: Pose, landmarks: FloatArray, share: float = 1.0) -> None:
        """Fill the opening between the lips, in place.

        Args:
            rgb: H W 3 uint8, a picture (or a view of its part) whose skin already has the shape.
            shape: 478 3, the spoken mesh in pose-free space.
            pose: of the frame.
            landmarks: 478 3, the spoken mesh in px of ``rgb``.
            share: 0 leaves what is there.
        """
        gap = float(shape[LOWER, 1] - shape[UPPER, 1]) * pose.scale
        low, high = self.config.closing
        shown = share * float(np.clip((gap - low) / (high - low), 0, 1))
        ring = np.asarray(landmarks[list(INNER_LIPS), :2], np.float32)
        x0, y0 = np.floor(ring.min(0)).astype(int) - 2
        x1, y1 = np.ceil(ring.max(0)).astype(int) + 3
        x0, y0, x1, y1 = max(int(x0), 0), max(int(y0), 0), min(int(x1), rgb.shape[1]), min(int(y1), rgb.shape[0])
        if shown <= 0 or x0 >= x1 or y0 >= y1:
            return
        inside = filled_ring(ring - (x0, y0), (y1 - y0, x1 - x0))
        inside = np.asarray(cv2.GaussianBlur(inside, (0, 0), 0.8) * shown, np.float32)
        matrix = self._plane_to_picture(pose)
        matrix[:, 2] -= (x0, y0)
        picture = cv2.warpAffine(
            self._compose(shape), matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        area = np.ascontiguousarray(rgb[y0:y1, x0:x1])
        rgb[y0:y1, x0:x1] = cv2.blendLinear(np.asarray(picture, np.uint8), area, inside, 1 - inside)

    # --- the plane

    def _plane_to_picture(self, pose: Pose) -> FloatArray:
        """2 3, px of a layer to px of the picture."""

        def place(x: float, y: float) -> FloatArray:
            offset = np.array([(x - self.side / 2) / self.scale, (y - self.side / 2) / self.scale, 0.0])
            return np.asarray((pose.scale * (self.origin + offset) @ pose.turn.T + pose.shift)[:2])

        corner = place(0, 0)
        return np.stack([place(1, 0) - corner, place(0, 1) - corner, corner], 1).astype(np.float64)

    def _rows(self, shape: FloatArray) -> tuple[float, float]:
        """Rows of a layer at which the upper lip ends and the lower one begins, in the middle of the mouth."""
        upper, lower = ((float(shape[k, 1]) - float(self.origin[1])) * self.scale for k in (UPPER, LOWER))
        return upper + self.side / 2, lower + self.side / 2

    def _to_plane(self, mouth: OpenMouth, pose: Pose) -> FloatArray:
        matrix = self._plane_to_picture(pose)
        matrix[:, 2] -= (mouth.patch.x, mouth.patch.y)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        size = (self.side, self.side)
        return np.asarray(
            cv2.warpAffine(mouth.patch.rgb, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32
        )

    def _gather(self, picture: FloatArray, shape: FloatArray, upper: _Layer, lower: _Layer) -> list[FloatArray]:
        """Add what an open mouth shows to both layers; its dark colours, if it has any."""
        ring = (shape[list(INNER_LIPS), :2] - self.origin[:2]) * self.scale + self.side / 2
        inside = filled_ring(ring, (self.side, self.side))
        # landmarks are off by a px or so: the lips' own border must not get in
        inside = np.asarray(cv2.erode(inside, np.ones((3, 3)), iterations=max(1, round(self.scale / 70))), np.float32)
        top, bottom = float(ring[:, 1].min()), float(ring[:, 1].max())
        rows = np.arange(self.side, dtype=np.float32)[:, None]
        soft = max(1.5, 0.12 * (bottom - top))
        border = top + self.config.upper_share * (bottom - top)
        upper.add(picture, inside * np.clip((border + soft - rows) / (2 * soft), 0, 1))
        border = top + 0.5 * (bottom - top)
        share = inside * np.clip((rows - border + soft) / (2 * soft), 0, 1)
        shift = np.array([[1, 0, 0], [0, 1, self.jaw_row - self._rows(shape)[1]]], np.float64)
        size = (self.side, self.side)
        moved = cv2.warpAffine(picture, shift, size, borderMode=cv2.BORDER_REPLICATE)
        lower.add(np.asarray(moved, np.float32), np.asarray(cv2.warpAffine(share, shift, size), np.float32))
        shown = picture[inside > 0.9]
        return [np.percentile(shown, 10, axis=0)] if len(shown) > 20 else []

    def _end_of_teeth(self) -> float | None:
        """The row at which the upper teeth end: where the middle of the skull's layer turns from bright to dark."""
        middle = slice(self.side * 3 // 8, self.side * 5 // 8)
        rows = np.flatnonzero(self.upper_cover[:, middle].mean(1) > 0.5)
        if len(rows) == 0:
            return None
        light = self.upper[rows][:, middle].mean((1, 2))
        bright, dark = float(np.percentile(light, 90)), float(self.dark.mean())
        if bright < dark + 25:  # no teeth: the lip's shadow
            return float(rows[0] + 0.35 * len(rows))
        return float(rows[light > (bright + dark) / 2].max())

    def _compose(self, shape: FloatArray) -> UInt8Image:
        """The plane (S S 3) for a shape: dark and tongue, then the jaw's layer, then the skull's teeth."""
        side, scale = self.side, self.scale
        top, bottom = self._rows(shape)
        gap = max(bottom - top, 1.0)
        # only these rows can be seen
        first, last = max(0, int(top - 0.1 * scale)), min(side, int(bottom + 0.1 * scale) + 1)
        if first >= last:
            return np.zeros((side, side, 3), np.uint8)
        rows = np.arange(first, last, dtype=np.float32)[:, None]
        columns = np.arange(side, dtype=np.float32)[None]
        along = np.clip((rows - top) / gap, 0, 1)
        # a tongue shows in wide mouths only, low and in the middle
        tongue = np.clip((along - 0.55) / 0.4, 0, 1) ** 1.5 * min(gap / scale / 0.35, 1.0)
        tongue = 0.8 * tongue * np.clip(1 - ((columns - side / 2) / (0.3 * scale)) ** 2, 0, 1)
        picture = self.dark + (self.tongue - self.dark) * tongue[:, :, None]
        shift = np.array([[1, 0, 0], [0, 1, bottom - self.jaw_row - first]], np.float64)
        size = (side, last - first)
        jaw = cv2.warpAffine(self.lower, shift, size, borderMode=cv2.BORDER_REPLICATE)
        share = np.asarray(cv2.warpAffine(self.lower_cover, shift, size), np.float32)[:, :, None]
        picture += (jaw - picture) * share
        edge = (top if self.teeth_row is None else self.teeth_row) + 0.02 * scale
        soft = 0.02 * scale + 1
        share = (np.clip((edge + soft - rows) / (2 * soft), 0, 1) * self.upper_cover[first:last])[:, :, None]
        picture += (self.upper[first:last] - picture) * share
        # lips throw a shadow on what lies behind them, the more the less they are open
        shade = 0.72 + 0.28 * min(gap / scale / 0.18, 1.0)
        shadow = np.clip(0.7 + 0.3 * (rows - top) / (0.05 * scale), 0.7, 1)
        picture *= shade * shadow[:, :, None]
        whole = np.zeros((side, side, 3), np.uint8)
        whole[first:last] = np.clip(np.rint(picture), 0, 255)
        return whole


def _colour_at(mouth: OpenMouth, points: Sequence[int]) -> FloatArray:
    """Mean RGB of a mouth's patch at some of its landmarks."""
    height, width = mouth.patch.rgb.shape[:2]
    places = np.round(mouth.landmarks[list(points), :2] - (mouth.patch.x, mouth.patch.y)).astype(int)
    return np.asarray(
        mouth.patch.rgb[places[:, 1].clip(0, height - 1), places[:, 0].clip(0, width - 1)].mean(0), np.float32
    )
