"""What is between the lips: teeth that a person has shown, laid where skull and jaw are now.

Upper teeth stay with the skull, lower teeth and tongue go with the jaw, and behind both lies the dark.  Open mouths of
the person fill two layers (:mod:`talkswap.animation.teeth`): one in the coordinates of the skull, one in those of the jaw.  A frame takes
both layers through its pose, so that teeth keep their size at any opening and nothing is stretched.

Coordinates: a *plane* parallel to the face through the middle of the mouth, in the pose-free space of the mesh
(:func:`talkswap.faces.guide.canonical_shape`); one unit is the distance between the eyes, ``scale`` px of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from talkswap.animation.teeth import LUMA, MouthView, draw_teeth, lower_layer, upper_layer, view_mouth
from talkswap.faces.guide import Pose, canonical_shape, fit_pose
from talkswap.faces.mesh import INNER_LIPS, OUTER_LIPS, mean_face
from talkswap.faces.warp import Patch
from talkswap.types import FloatArray, UInt8Image

UPPER, LOWER = 13, 14  # middle of the upper and of the lower lip's inner border
CORNERS = (78, 308)
SKIN = (164, 2, 206, 426, 57, 287, 43, 273, 83, 313, 18, 200, 182, 406)  # around the lips: it tells the light


@dataclass(frozen=True)
class MouthConfig:
    """How the two layers are filled and shown."""

    side: float = 1.2  # of the plane, in eye distances
    scale: tuple[float, float] = (60.0, 240.0)  # least and most px per eye distance; between them the clip's own
    least_opening: float = 0.03  # eye distances: a smaller opening shows no teeth
    oversampling: float = 1.25  # of a layer's px, so that taking it to the picture blurs little
    lip_border: float = 1 / 70  # eye distances inside of the lips that are never taken for teeth
    hint: float = 0.04  # eye distances under the upper lip at rest, to the end of teeth that nobody has shown
    tooth: tuple[float, float, float] = (0.9, 1.3, 1.25)  # of the lips' red, green and blue: such teeth
    least_exposure: float = 0.6  # of the teeth that the person shows at an opening
    shadow: float = 0.5  # of the light that the upper teeth take from what lies behind them
    shadow_reach: float = 0.04  # eye distances
    teeth_slip: float = 0.06  # eye distances by which teeth may leave the skull for that
    gain: tuple[float, float] = (0.7, 1.0)  # by which the frame's light changes the layers: brighter ones would glare
    whole: float = 0.3  # share from which the frame's own teeth are covered: two rows of teeth don't mix
    closing: tuple[float, float] = (0.5, 2.5)  # px between the lips: below the first nothing shows, from the second all
    darkest: float = 0.3  # of the lips' colour: the dark is at most that bright
    lit: float = 0.5  # of the lips' colour: what lies behind their border
    tongue: tuple[float, float, float] = (0.62, 0.47, 0.5)  # of the lips' red, green and blue


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
class InnerMouth:
    """A person's teeth and the dark behind them, ready to be shown in any frame.

    Args:
        mouths: open mouths of the person, in any order; each layer comes from the best of them.  Without any it's dark,
            with a hint of upper teeth.
        lips: RGB of the lips where no mouth tells it.
    """

    mouths: Sequence[OpenMouth]
    config: MouthConfig = field(default_factory=MouthConfig)

    def __post_init__(self) -> None:
        config = self.config
        poses = [fit_pose(mouth.landmarks) for mouth in self.mouths]
        shapes = [canonical_shape(mouth.landmarks) for mouth in self.mouths]
        eyes = float(np.median([pose.scale for pose in poses])) if poses else config.scale[0]
        self.scale = float(np.clip(eyes * config.oversampling, *config.scale))
        self.side = round(config.side * self.scale)
        corners = [shape[[UPPER, LOWER, *CORNERS]].mean(0) for shape in shapes]
        # without a mouth the plane lies where the mean face has its own: there the dark is painted
        corners = corners or [mean_face().points[[UPPER, LOWER, *CORNERS]].mean(0)]
        self.origin: FloatArray = np.mean(corners, 0, dtype=np.float32)
        self.jaw_row = round(0.6 * self.side)  # of the jaw's layer: where the lower lip's inner border lies
        turns = np.array([pose.turn[0, 2] for pose in poses])
        aside = np.abs(turns - np.median(turns)) if len(turns) else turns  # a turned mouth fits the plane badly
        views: list[tuple[int, MouthView]] = []
        for k in range(len(self.mouths)):
            opening = float(shapes[k][LOWER, 1] - shapes[k][UPPER, 1])
            if opening > config.least_opening:
                picture = self._to_plane(self.mouths[k], poses[k])
                view = view_mouth(picture, self._inside(shapes[k]), self.scale)
                if view is not None:
                    views.append((k, view))
        lips = [_colour_at(self.mouths[k], OUTER_LIPS) for k, _ in views]
        lip = np.mean(lips, 0) if lips else np.array([150.0, 90.0, 85.0])
        self.lip: FloatArray = lip.astype(np.float32)
        between = [view.picture[view.inside > 0.9] for _, view in views]
        darks = [np.percentile(colours, 10, axis=0) for colours in between if len(colours) > 20]
        self.dark: FloatArray = np.minimum(np.mean(darks, 0) if darks else lip, lip * config.darkest).astype(np.float32)
        self.tongue: FloatArray = (lip * np.array(config.tongue)).astype(np.float32)
        self.edge: float | None = None  # row at which the upper teeth end, in the middle
        self.shadow = np.zeros((self.side, self.side), np.float32)  # that they throw on what lies behind
        empty = np.zeros((self.side, self.side), np.float32)
        black = np.zeros((self.side, self.side, 3), np.float32)
        self.upper, self.upper_cover, self.lower, self.lower_cover = black, empty, black, empty
        if views:
            k, view = max(views, key=lambda item: item[1].length - 0.3 * aside[item[0]])
            if view.length > 0:
                self.upper, self.upper_cover = upper_layer(view)
                self.edge = float(view.edge[self.side // 2])
                reach = config.shadow_reach * self.scale
                below = cv2.warpAffine(
                    self.upper_cover, np.array([[1, 0, 0], [0, 1, reach / 2]]), (self.side, self.side)
                )
                self.shadow = np.asarray(config.shadow * cv2.GaussianBlur(below, (0, 0), reach), np.float32)
            # how much of the upper teeth the person shows at which opening
            shown = sorted((self.mouths[k].opening, view.length) for k, view in views)
            self.exposure = np.array([(0.0, 0.0), *shown], np.float32).T
            k, view = max(views, key=lambda item: item[1].depth - 0.3 * aside[item[0]])
            self.lower, self.lower_cover = self._on_the_jaw(*lower_layer(view, self.scale), shapes[k])
        else:
            end = self._rows(mean_face().points)[0] + config.hint * self.scale
            self.edge, self.exposure = end, np.array([(0, 0.06, 0.3), (0, config.hint, 1.5 * config.hint)], np.float32)
            self.upper, self.upper_cover = draw_teeth(self.side, self.scale, end, lip * np.array(config.tooth))
        self.tongue_share = 0.0 if views else 0.9  # of the opening that a tongue fills which nobody has shown
        rows = np.flatnonzero(self.lower_cover[: self.jaw_row, self.side // 2] > 0.5)
        self.jaw_depth = (
            float(self.jaw_row - rows[0]) if len(rows) else 0.0
        )  # px of the jaw's layer above the lower lip
        seen = [float(_colour_at(self.mouths[k], SKIN) @ LUMA) for k, _ in views]
        self.light = float(np.mean(seen)) if seen else None  # of the skin near the mouths

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
        shown = min(1.0, share / self.config.whole) * float(np.clip((gap - low) / (high - low), 0, 1))
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
        size = (x1 - x0, y1 - y0)
        plane = self._compose(shape, self._gain(rgb, landmarks))
        picture = cv2.warpAffine(plane, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
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

    def _inside(self, shape: FloatArray) -> FloatArray:
        """Where the plane (S S in [0, 1]) lies between the lips of a shape."""
        ring = (shape[list(INNER_LIPS), :2] - self.origin[:2]) * self.scale + self.side / 2
        inside = filled_ring(ring, (self.side, self.side))
        # landmarks are off by a px or so: the lips' own border must not get in
        times = max(1, round(self.scale * self.config.lip_border))
        return np.asarray(cv2.erode(inside, np.ones((3, 3)), iterations=times), np.float32)

    def _on_the_jaw(self, colour: FloatArray, cover: FloatArray, shape: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A layer moved so that the lower lip of its shape lies at the jaw's row."""
        shift = np.array([[1, 0, 0], [0, 1, self.jaw_row - round(self._rows(shape)[1])]], np.float64)
        size = (self.side, self.side)
        moved = [cv2.warpAffine(layer, shift, size, borderMode=cv2.BORDER_REPLICATE) for layer in (colour, cover)]
        return np.asarray(moved[0], np.float32), np.asarray(moved[1], np.float32)

    def _teeth_shift(self, top: float, gap: float) -> float:
        """Rows by which the upper teeth hang lower than the skull has them.

        A voice's upper lip rises less than a smiling person's.  It would hide teeth that the person shows all the time, so
        these follow it a little: as far as half of what was seen at such an opening.
        """
        if self.edge is None:
            return 0.0
        usual = float(np.interp(gap / self.scale, self.exposure[0], self.exposure[1]))
        low = top + self.config.least_exposure * usual * self.scale - self.edge
        return float(np.clip(low, 0, self.config.teeth_slip * self.scale))

    def _gain(self, rgb: UInt8Image, landmarks: FloatArray) -> float:
        """How much brighter the skin around the mouth is than where the layers come from."""
        if self.light is None:
            return 1.0
        height, width = rgb.shape[:2]
        places = np.round(landmarks[list(SKIN), :2]).astype(int)
        inside = ((places >= 0) & (places < (width, height))).all(1)
        if not inside.any():
            return 1.0
        light = float((rgb[places[inside, 1], places[inside, 0]].mean(0) @ LUMA) / max(self.light, 1.0))
        return float(np.clip(light, *self.config.gain))

    def _compose(self, shape: FloatArray, gain: float) -> UInt8Image:
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
        # a tongue rises behind the lower teeth, in wide mouths and in the middle
        reach = max(0.16 * scale, self.tongue_share * gap)
        rise = np.clip(1 - (bottom - self.jaw_depth - rows) / reach, 0, 1) ** 1.5 * min(gap / scale / 0.15, 1.0)
        tongue = 0.75 * rise * np.clip(1 - ((columns - side / 2) / (0.3 * scale)) ** 2, 0, 1)
        # a narrow opening lets in light from the lips all over, a wide one at its border
        ring = (shape[list(INNER_LIPS), :2] - self.origin[:2]) * scale + (side / 2, side / 2 - first)
        border = 1 - cv2.GaussianBlur(filled_ring(ring, (last - first, side)), (0, 0), 0.03 * scale)
        lit = np.clip(1.4 * np.asarray(border, np.float32) - 0.2, 0, 1)[:, :, None]
        picture = self.dark + (self.tongue - self.dark) * tongue[:, :, None]
        picture += (self.lip * self.config.lit - picture) * lit
        shift = np.array([[1, 0, 0], [0, 1, bottom - self.jaw_row - first]], np.float64)
        size = (side, last - first)
        jaw = cv2.warpAffine(self.lower, shift, size, borderMode=cv2.BORDER_REPLICATE)
        share = np.asarray(cv2.warpAffine(self.lower_cover, shift, size), np.float32)[:, :, None]
        picture += (jaw - picture) * share
        shift[1, 2] = self._teeth_shift(top, gap) - first
        shadow = cv2.warpAffine(self.shadow, shift, size, borderMode=cv2.BORDER_REPLICATE)
        picture *= 1 - np.asarray(shadow, np.float32)[:, :, None]
        teeth = cv2.warpAffine(self.upper, shift, size, borderMode=cv2.BORDER_REPLICATE)
        share = np.asarray(cv2.warpAffine(self.upper_cover, shift, size, borderMode=cv2.BORDER_REPLICATE), np.float32)
        picture += (teeth - picture) * share[:, :, None]
        # lips throw a shadow on what lies behind them, the more the less they are open
        shade = 0.45 + 0.45 * min(gap / scale / 0.06, 1.0) + 0.1 * min(gap / scale / 0.15, 1.0)
        shadow = np.clip(0.75 + 0.25 * (rows - top) / (0.035 * scale), 0.75, 1)
        picture *= gain * shade * shadow[:, :, None]
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
