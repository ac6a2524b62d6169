"""One-Euro smoothing of landmarks and of the alignment square, in real time stamps.

The One-Euro filter (Casiez, Roussel and Vogel, CHI 2012) is a low-pass filter whose cutoff rises with speed: a still
face stops trembling, a fast mouth doesn't lag.  Three things make it fit a face.  The head's own motion is taken out
first, so that a nod doesn't open the filter for the lips.  Speeds are in eye distances per second, so that one
setting serves every face size.  A point's speed is averaged with its neighbours', so that noise, which differs from
point to point, doesn't pass for motion.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from talkswap.faces.geometry import ffhq_quad, neighbour_weights, planar_similarity
from talkswap.faces.mesh import STEADY, mean_face
from talkswap.types import FloatArray


@dataclass(frozen=True)
class OneEuroConfig:
    """The paper's rule, cutoff = ``cutoff`` + ``beta`` x speed, without the speed that noise alone makes."""

    cutoff: float  # Hz, at rest
    beta: float  # Hz per unit of speed
    speed_cutoff: float = 4.0  # Hz, of the filter on the speed itself
    floor: float = 0.0  # speed below which nothing counts as motion


@dataclass(frozen=True)
class SmoothConfig:
    """Filters of a tracked face.

    Tuned on eight talking clips kept out of training, with noise of 1% of the eye distance added to every point: the
    trembling of a still face falls to 30% (of the square: 3%), the mouth opening lags 8 ms, and the landmarks' error
    falls from 1.04% to 0.78%.
    """

    head: OneEuroConfig = field(default_factory=lambda: OneEuroConfig(0.5, 60.0, 5.0, 0.05))
    features: OneEuroConfig = field(default_factory=lambda: OneEuroConfig(1.0, 60.0, 5.0, 0.2))
    square: OneEuroConfig = field(default_factory=lambda: OneEuroConfig(0.3, 12.0, 3.0, 0.03))


class OneEuro:
    """The filter for a set of values that share one time stamp.

    Args:
        config: cutoffs.
        neighbours: N N rows of weights over which speeds are averaged; None treats each row alone.
    """

    def __init__(self, config: OneEuroConfig, neighbours: NDArray[np.float64] | None = None) -> None:
        self.config = config
        self.neighbours = neighbours
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next values pass unchanged."""
        self.time: float | None = None
        self.value = np.zeros((0, 0), np.float64)
        self.speed = np.zeros((0, 0), np.float64)

    def __call__(self, values: FloatArray, time: Fraction | float, unit: float = 1.0) -> FloatArray:
        """Filter values taken at one time.

        Args:
            values: N D, the D components of each of N motions.
            time: seconds; a time that doesn't run forward restarts the filter.
            unit: length, in the unit of ``values``, in which speed is measured.

        Returns:
            N D.
        """
        now, new = float(time), np.asarray(values, np.float64)
        if self.time is None or now <= self.time:
            self.time, self.value, self.speed = now, new, np.zeros_like(new)
            return np.asarray(new, np.float32)
        step = now - self.time
        self.speed = self.speed + _share(self.config.speed_cutoff, step) * ((new - self.value) / step - self.speed)
        motion = self.speed if self.neighbours is None else self.neighbours @ self.speed
        speed = np.linalg.norm(motion, axis=1, keepdims=True) / unit
        cutoff = self.config.cutoff + self.config.beta * np.maximum(speed - self.config.floor, 0)
        self.value = self.value + _share(cutoff, step) * (new - self.value)
        self.time = now
        return np.asarray(self.value, np.float32)


def _share(cutoff: float | NDArray[np.float64], step: float) -> float | NDArray[np.float64]:
    """Weight of the new value: 1 / (1 + tau / step) with tau = 1 / (2 pi cutoff)."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


@lru_cache(maxsize=1)  # all tracks share the one matrix of 2 MB
def _neighbours() -> NDArray[np.float64]:
    """478 478, rows sum to one: a Gaussian of 0.1 eye distances on the mean face."""
    return np.asarray(neighbour_weights(mean_face().points, 0.1), np.float64)


def head_motion(landmarks: FloatArray) -> tuple[complex, complex]:
    """(a, b) of the similarity ``a w + b`` in the complex plane that lays the mean face's steady points on this face.

    ``abs(a)`` is the head's size as an eye distance in px, its angle the roll; ``b`` is the middle of the eyes.
    """
    steady = list(STEADY)
    return planar_similarity(mean_face().points[steady], np.asarray(landmarks)[steady])


class LandmarkSmoother:
    """Smooths one face's landmarks from frame to frame."""

    def __init__(self, config: SmoothConfig | None = None) -> None:
        config = config or SmoothConfig()
        self.place = OneEuro(config.head)
        self.turn = OneEuro(config.head)
        self.features = OneEuro(config.features, _neighbours())

    def reset(self) -> None:
        """Forget everything; call it at a shot cut."""
        for part in (self.place, self.turn, self.features):
            part.reset()

    def __call__(self, landmarks: FloatArray, time: Fraction | float) -> FloatArray:
        """Smooth 478 3 landmarks (px) taken at ``time`` (s)."""
        # Filter the shape free of the head's motion, the motion by itself, and put both together again.
        a, b = head_motion(landmarks)
        points = np.asarray(landmarks, np.float64)
        local = ((points[:, 0] + 1j * points[:, 1]) - b) / a  # eye distances, upright, origin between the eyes
        unit = abs(a)
        shape = np.stack([local.real, local.imag, points[:, 2] / unit], 1)
        shape = self.features(np.asarray(shape, np.float32), time).astype(np.float64)
        place = self.place(np.array([[b.real, b.imag]]), time, unit)[0]
        turn = self.turn(np.array([[a.real, a.imag]]), time, unit)[0]
        flat = (shape[:, 0] + 1j * shape[:, 1]) * complex(*turn) + complex(*place)
        depth = shape[:, 2] * float(np.hypot(*turn))
        return np.stack([flat.real, flat.imag, depth], 1).astype(np.float32)


class SquareSmoother:
    """Smooths the alignment square, slower than the landmarks.

    A crop that lags a little costs nothing, since landmarks and paste-back go through the same affine.  A crop that
    trembles makes the network's output boil.
    """

    def __init__(self, config: SmoothConfig | None = None) -> None:
        config = config or SmoothConfig()
        self.centre = OneEuro(config.square)
        self.side = OneEuro(config.square)

    def reset(self) -> None:
        """Forget everything; call it at a shot cut."""
        self.centre.reset()
        self.side.reset()

    def __call__(self, landmarks: FloatArray, time: Fraction | float) -> tuple[FloatArray, FloatArray]:
        """The FFHQ square (see :func:`talkswap.faces.geometry.ffhq_quad`) of landmarks (px) taken at ``time`` (s)."""
        centre, x = ffhq_quad(landmarks)
        unit = max(float(np.hypot(*x)), 1e-6)
        return self.centre(centre[None], time, unit)[0], self.side(x[None], time, unit)[0]
