"""The portrait: what the first look at a clip learns of one of its people, before any frame is made.

Style-SyncFormer (ReSyncer 3.1) speaks from a person's *template*, their shape with closed lips, in the *style* of up to 90
displacements from it.  The frames that show the person best lend the rest: frontal views of the face, and open mouths.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from talkswap.animation.mouth import LOWER, UPPER, OpenMouth, cut_mouth
from talkswap.animation.space import lip_opening, pose_free, template_of
from talkswap.faces.guide import canonical_shape, filled, rigid_weights
from talkswap.faces.measures import degrees_from_front, sharpness
from talkswap.faces.mesh import FACE_OVAL, OUTER_LIPS, POINTS, mean_face
from talkswap.faces.track import TrackedFace
from talkswap.types import AlignedFace, FloatArray, Frame, UInt8Image

RATE = 25  # displacements of a style per second: the rate at which Style-SyncFormer was trained


@lru_cache(maxsize=1)
def usual_opening() -> FloatArray:
    """Displacement per unit of lip opening (478 3), by least squares over the faces of the stored mean face."""
    face = mean_face()
    components = face.components.reshape(-1, POINTS, 3)  # K P 3
    small = 0.1 * face.deviations[:, None, None] * components
    gain = 10 * (lip_opening(face.points + small) - lip_opening(face.points[None]))  # K, per standard deviation
    return np.asarray(np.einsum("k,kpc->pc", gain * face.deviations, components) / (gain @ gain), np.float32)


def usual_template() -> FloatArray:
    """The mean face with its lips closed (478 3): the template of somebody of whom nothing is known."""
    points = mean_face().points
    return np.asarray(points - lip_opening(points[None])[0] * usual_opening(), np.float32)


@dataclass(frozen=True)
class Portrait:
    """One person of a clip.  Everything after ``reference`` may be left out."""

    reference: AlignedFace  # from the first frame in which the look saw this person
    template: FloatArray = field(default_factory=usual_template)  # 478 3, pose-free, closed lips
    style: FloatArray = field(default_factory=lambda: np.zeros((0, POINTS, 3), np.float32))
    """S 478 3, S <= 90: displacements from the template while the person speaks, :data:`RATE` per second."""
    references: tuple[AlignedFace, ...] = ()  # up to eight, frontal and sharp, the best first
    mouths: tuple[OpenMouth, ...] = ()  # up to eight, spread by opening and pose, at the frame's own resolution
    rest: float = 0.02  # opening that the landmark network reads on the person's shut lips, eye distances


@dataclass(frozen=True)
class PortraitConfig:
    """What counts as a good view of a person, and how much of it is kept."""

    size: int = 320  # px of the crops
    least_score: float = 0.6  # of a face whose mesh counts
    widest_turn: float = 35.0  # degrees from the front: a mesh turned farther tells a shape badly
    covered: float = 0.3  # mean likelihood that something is in front of the lips, from which the mesh there is a guess
    frontal: float = 25.0  # degrees: a reference is turned no farther
    outlier: float = 5.0  # robust deviations from the person's usual upper face: landmarks that slipped
    gap: float = 0.1  # seconds between frames that a displacement may be interpolated over
    rows: int = 90  # of a style
    stretch: int = 30  # rows that are judged together: speech or not
    still: float = 0.008  # deviation of the lip opening in a stretch, in eye distances: below it nobody speaks
    widest_rest: float = 0.04  # lip opening, in eye distances, that may still be shut lips
    least_rows: int = 12  # a style of fewer is none
    most: int = 8  # references, and open mouths
    blur: float = 0.6  # share of the sharpest view's sharpness that others need
    openings: tuple[float, ...] = (0.03, 0.06, 0.1, 0.15, 0.2, 0.26, 0.33)  # eye distances: cells of open mouths ...
    turns: tuple[float, ...] = (-10.0, 10.0)  # degrees aside: ... and of their poses


class PortraitCollector:
    """Gathers the portrait of one person, frame by frame; its memory doesn't grow with the clip.

    Args:
        reference: from the first frame in which the look saw the person.
        opening_axis: 478 3, displacement per unit of lip opening, as the motion network was trained with; None takes
            that of the mean face.
        config: see :class:`PortraitConfig`.
        cover: how likely each spot of an aligned crop is covered, such as
            :class:`~talkswap.faces.occlusion.OcclusionReader`; None takes all faces as free.
    """

    def __init__(
        self,
        reference: AlignedFace,
        opening_axis: FloatArray | None = None,
        config: PortraitConfig | None = None,
        cover: Callable[[UInt8Image], FloatArray] | None = None,
    ) -> None:
        self.reference, self.cover = reference, cover
        self.axis = usual_opening() if opening_axis is None else opening_axis
        self.config = config or PortraitConfig()
        self.landmarks: list[FloatArray] = []  # 478 3 px, of every frame with the face
        self.good: list[bool] = []  # whether the view of that frame tells the shape
        self.times: list[tuple[int, float]] = []  # number of the window, and seconds
        # Only the best view stays of each part of the clip, and of each kind of open mouth.
        self._views: dict[int, tuple[float, AlignedFace]] = {}  # by part: quality, face
        self._mouths: dict[tuple[int, int], tuple[float, float, OpenMouth]] = {}  # by cell: quality, sharpness, mouth

    def add(self, frame: Frame, face: TrackedFace, window: int, part: int) -> None:
        """Add a frame that shows the person.

        Args:
            frame: at the clip's own resolution.
            face: the person's, in that frame.
            window: frames of one number follow each other.
            part: of the frames that are looked at, an eighth or so; each lends at most one reference.
        """
        config = self.config
        aside, up = degrees_from_front(face.landmarks)
        turn = float(np.hypot(aside, up))
        good = face.face.score >= config.least_score and turn <= config.widest_turn
        view = face.align(frame, config.size)
        hidden = 0.0  # of the face
        if good and self.cover is not None:
            likelihood = self.cover(view.crop)  # G G
            grid = len(likelihood)
            lips, oval = (filled(view.landmarks, (ring,), grid, grid / config.size) for ring in (OUTER_LIPS, FACE_OVAL))
            good = float((likelihood * lips).sum()) <= config.covered * float(lips.sum())
            hidden = float((likelihood * oval).sum()) / max(float(oval.sum()), 1e-6)
        self.landmarks.append(np.asarray(face.landmarks, np.float32))
        self.good.append(good)
        self.times.append((window, float(frame.time)))
        if not good:
            return
        if turn <= config.frontal:
            quality = sharpness(view.crop) * (1 - turn / 90) * (1 - hidden)
            if part not in self._views or quality > self._views[part][0]:
                self._views[part] = quality, view
        opening = float(np.diff(canonical_shape(face.landmarks)[[UPPER, LOWER], 1])[0])
        if opening >= config.openings[0]:
            cell = int(np.digitize(opening, config.openings)), int(np.digitize(aside, config.turns))
            mouth = cut_mouth(frame.rgb, np.asarray(face.landmarks, np.float32))
            sharp = sharpness(mouth.patch.rgb)
            quality = sharp * (1 - turn / 90)
            if cell not in self._mouths or quality > self._mouths[cell][0]:
                self._mouths[cell] = quality, sharp, mouth

    def finish(self) -> Portrait:
        """The portrait, of whatever was seen."""
        shapes = self._shapes()  # T 478 3
        usable = self._usable(shapes)
        if not usable.any():
            own = pose_free(self.reference.landmarks[None])
            return Portrait(self.reference, template_of(own, self.axis) if np.isfinite(own).all() else usual_template())
        template = template_of(shapes[usable], self.axis)
        style = self._style(shapes - template, usable)
        views = sorted(self._views.items(), key=lambda item: (-item[1][0], item[0]))
        sharp = [view for _, (quality, view) in views if quality >= self.config.blur * views[0][1][0]]
        mouths = self._spread_mouths()
        # Somebody who talks shuts the lips now and then; whoever never does must not be sewn up.
        shut = float(np.percentile(lip_opening(shapes[usable]), 5))
        rest = float(np.clip(shut, 0, self.config.widest_rest))
        return Portrait(self.reference, template, style, tuple(sharp[: self.config.most]), mouths, rest)

    @property
    def usable_frames(self) -> int:
        """Frames whose mesh tells the person's shape."""
        return int(self._usable(self._shapes()).sum())

    def _shapes(self) -> FloatArray:
        return pose_free(np.stack(self.landmarks)) if self.landmarks else np.zeros((0, POINTS, 3), np.float32)

    def _usable(self, shapes: FloatArray) -> NDArray[np.bool_]:
        """Which frames (T) show the person well, with an upper face that is like the others'."""
        usable = np.array(self.good, bool) & np.isfinite(shapes).all((1, 2))
        if usable.any():
            weight = rigid_weights() / rigid_weights().sum()
            off = np.sqrt((((shapes - np.median(shapes[usable], 0)) ** 2).sum(2) * weight).sum(1))  # T
            usual = np.median(off[usable])
            deviation = 1.4826 * np.median(np.abs(off[usable] - usual))
            usable &= off <= usual + self.config.outlier * deviation + 0.01
        return usable

    def _style(self, displacements: FloatArray, usable: NDArray[np.bool_]) -> FloatArray:
        """Displacements at :data:`RATE` per second from the stretches in which the lips move."""
        config, numbers = self.config, np.array([window for window, _ in self.times])
        seconds = np.array([time for _, time in self.times])
        stretches: list[FloatArray] = []
        for number in sorted(set(numbers[usable].tolist())):
            rows = np.flatnonzero(usable & (numbers == number))
            resampled = at_rate(displacements[rows], seconds[rows], RATE, config.gap)
            stretches += [resampled[k : k + config.stretch] for k in range(0, len(resampled), config.stretch)]
        moves = [float(lip_opening(usual_template() + stretch).std()) for stretch in stretches]
        order = [k for k in np.argsort([-move for move in moves], kind="stable") if moves[k] >= config.still]
        chosen: list[int] = []
        for k in order:  # the liveliest first, up to the rows of a style; then in the clip's own order
            if sum(len(stretches[c]) for c in chosen) < config.rows:
                chosen.append(int(k))
        style = np.concatenate([stretches[k] for k in sorted(chosen)] or [np.zeros((0, POINTS, 3), np.float32)])
        return np.asarray(style[: config.rows] if len(style) >= config.least_rows else style[:0], np.float32)

    def _spread_mouths(self) -> tuple[OpenMouth, ...]:
        """Sharp open mouths, each as different from those before it as there are, the widest first."""
        best = max((sharp for _, sharp, _ in self._mouths.values()), default=0.0)
        mouths = [m for _, (_, sharp, m) in sorted(self._mouths.items()) if sharp >= self.config.blur * best]
        if not mouths:
            return ()
        # One step is 0.1 eye distances of opening, or 15 degrees of pose.
        places = np.array([[m.opening * 10, *(np.array(degrees_from_front(m.landmarks)) / 15)] for m in mouths])
        chosen = [int(np.argmax(places[:, 0] - np.linalg.norm(places[:, 1:], axis=1) / 2))]
        while len(chosen) < min(self.config.most, len(mouths)):
            away = np.linalg.norm(places[:, None] - places[None, chosen], axis=2).min(1)
            chosen.append(int(np.argmax(away)))
        return tuple(mouths[k] for k in sorted(chosen, key=lambda k: -places[k, 0]))


def at_rate(rows: FloatArray, seconds: NDArray[np.float64], rate: int, gap: float) -> FloatArray:
    """Rows (T ...) of growing times, interpolated to ``rate`` per second; a gap of more than ``gap`` s is left out."""
    resampled = [rows[:0]]
    for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(seconds) > gap) + 1):
        if len(run) < 2:  # a single frame tells no movement
            continue
        times = seconds[run]
        grid = times[0] + np.arange(int((times[-1] - times[0]) * rate + 1e-6) + 1) / rate
        high = np.searchsorted(times, grid - 1e-6).clip(1, len(times) - 1)
        share = (grid - times[high - 1]) / (times[high] - times[high - 1])
        share = share.clip(0, 1).astype(np.float32)[:, None, None]
        resampled.append(rows[run[high - 1]] * (1 - share) + rows[run[high]] * share)
    return np.asarray(np.concatenate(resampled), np.float32)
