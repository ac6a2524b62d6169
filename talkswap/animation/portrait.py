"""The portrait: what the first look at a clip learns of one of its people, before any frame is made.

Style-SyncFormer (ReSyncer 3.1) speaks from a person's *template*, their shape with closed lips, in the *style* of up to 90
displacements from it.  The frames that show the person best lend the rest: frontal views of the face, and open mouths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from talkswap.animation.mouth import OpenMouth
from talkswap.animation.space import lip_opening
from talkswap.faces.mesh import POINTS, mean_face
from talkswap.types import AlignedFace, FloatArray

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
