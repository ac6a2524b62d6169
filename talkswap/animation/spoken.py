"""The spoken mesh: a frame's own mesh whose mouth, jaw and cheeks do what the voice says.

A frame's mesh is pose, person and expression.  The pose and the upper face stay.  Of the rest, what speech moves (the span of
the motion network's components) is taken off and the voice's displacement is put there; what speech doesn't move, such as
the outline of a turned head, stays the frame's own, so that jaw and neck still meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from talkswap.animation.space import LOWER_INNER, UPPER_INNER, meet_lips, move_inner_lips
from talkswap.faces.guide import Pose, fit_pose
from talkswap.faces.mesh import OUTER_LIPS, mean_face
from talkswap.types import FloatArray

OPEN = 0.12  # eye distances between the lips: from there on the landmark network reads the true opening
AMPLITUDE = 1.3  # of the movement between the lips: wide mouths are read a little too small
NOSE_TIP_BASE = 2  # under the nose: speech moves nothing above it


@dataclass(frozen=True)
class SpokenMesh:
    """A mesh that speaks."""

    shape: FloatArray  # 478 3, pose-free, eye distances
    pose: Pose  # of the frame
    landmarks: FloatArray  # 478 3, px


@lru_cache(maxsize=1)
def speech_share() -> FloatArray:
    """How far each point follows speech (478): 0 above the nose, 1 from halfway to the mouth, without a step."""
    height = mean_face().points[:, 1]
    nose, mouth = height[NOSE_TIP_BASE], height[list(OUTER_LIPS)].mean()
    share = np.clip((height - (nose - 0.05)) / (0.25 * (mouth - nose)), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


class SpeechSpace:
    """What speech can do to a mesh: the span of some displacements.

    Args:
        components: K 478 3, in any scale; they need not be orthogonal.
    """

    def __init__(self, components: FloatArray) -> None:
        rows = np.asarray(components, np.float64).reshape(len(components), -1)
        basis, spread, _ = np.linalg.svd(rows.T, full_matrices=False)
        self._basis = basis[:, spread > 1e-6 * spread.max()].astype(np.float32)  # 3P K, orthonormal

    def part_of(self, displacement: FloatArray) -> FloatArray:
        """The part (478 3) of a displacement that speech can make."""
        flat = displacement.ravel()
        return np.asarray((self._basis @ (self._basis.T @ flat)).reshape(-1, 3), np.float32)


def true_lips(shape: FloatArray, rest: float, outward: float = 0.0) -> FloatArray:
    """A shape (478 3) whose inner lips lie where a picture has them.

    The landmark network hardly ever says that lips touch: on shut ones it reads a small opening, and on wide ones the
    right one.

    Args:
        rest: what it reads on this person's shut lips, eye distances.
        outward: how far the borders of open lips move away from what lies between them, eye distances.
    """
    upper, lower = list(UPPER_INNER), list(LOWER_INNER)
    gap = np.maximum(shape[lower, 1] - shape[upper, 1], 0)  # 9
    # along the lips the reading falls to nothing at the corners, and so does its error
    middle = float(gap[3:6].mean())
    bow = np.minimum(gap / max(middle, 1e-4), 1.0)
    excess = np.minimum(bow * rest * float(np.clip((OPEN - middle) / (OPEN - rest), 0, 1)), gap)
    opening = gap - excess
    excess = excess - 2 * outward * np.clip((opening - 0.01) / 0.03, 0, 1)
    return _opened(shape, -excess)


def _opened(shape: FloatArray, more: FloatArray) -> FloatArray:
    """A shape whose inner lips lie farther apart by some lengths (9)."""
    half = np.zeros((len(more), 3), np.float32)
    half[:, 1] = more / 2
    return move_inner_lips(shape, -half, half)


def voiced_lips(shape: FloatArray, rest: float) -> FloatArray:
    """A shape (478 3) whose inner lips, once painted, read as far open as the voice asks.

    A painted mouth is read as any other: shut lips as ``rest``, wide ones truly.  Without a correction the voice's
    movement would lose a quarter between these two.  What the voice leaves open by less than half of ``rest`` is shut.
    """
    upper, lower = list(UPPER_INNER), list(LOWER_INNER)
    gap = np.maximum(shape[lower, 1] - shape[upper, 1], 0)  # 9
    middle = float(gap[3:6].mean())
    if middle < 1e-4:
        return true_lips(shape, rest)
    shut = rest / 2
    if middle <= shut:
        return _opened(shape, -gap)
    reading = rest + AMPLITUDE * (middle - shut)
    # the opening that is read so: true_lips, the other way round
    opening = reading if reading >= OPEN else (reading - rest) / (1 - rest / OPEN)
    return _opened(shape, gap * (opening / middle - 1))


def speak(
    landmarks: FloatArray, template: FloatArray, displacement: FloatArray, space: SpeechSpace, strength: float = 1.0
) -> SpokenMesh:
    """A frame's mesh with the voice's mouth.

    Args:
        landmarks: 478 3, px, the frame's mesh.
        template: 478 3, the person's shape with closed lips, pose-free.
        displacement: 478 3, what the voice adds to the template at the frame's time.
        space: what speech can do; the frame's own mouth is found in it.
        strength: 0 leaves the frame's own mouth, 1 gives the voice's, up to 1.5 makes it larger.
    """
    landmarks = np.asarray(landmarks, np.float32)
    pose = fit_pose(landmarks)
    own = pose.undo(landmarks)
    # beyond 1 the voice's movement grows, while the frame's own mouth is gone already
    voice_movement = displacement * max(strength, 1.0)
    change = voice_movement - space.part_of(own - template)
    shape = own + (min(strength, 1.0) * speech_share())[:, None] * change
    shape = meet_lips(shape) if strength > 0 else shape
    placed = pose.scale * shape @ pose.turn.T + pose.shift
    return SpokenMesh(shape.astype(np.float32), pose, np.asarray(placed, np.float32))
