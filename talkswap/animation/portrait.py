"""The portrait: what the first look at a clip learns of one of its people, before any frame is made.

Style-SyncFormer (ReSyncer 3.1) speaks from a person's *template*, their shape with closed lips, in the *style* of up to 90
displacements from it.  The frames that show the person best lend the rest: frontal views of the face, and open mouths.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from talkswap.animation.mouth import OpenMouth
from talkswap.faces.mesh import POINTS, mean_face
from talkswap.types import AlignedFace, FloatArray

RATE = 25  # displacements of a style per second: the rate at which Style-SyncFormer was trained


@dataclass(frozen=True)
class Portrait:
    """One person of a clip.  Everything after ``reference`` may be left out: a stranger's mesh, and nothing else known."""

    reference: AlignedFace  # from the first frame in which the look saw this person
    template: FloatArray = field(default_factory=lambda: mean_face().points.copy())  # 478 3, pose-free, closed lips
    style: FloatArray = field(default_factory=lambda: np.zeros((0, POINTS, 3), np.float32))
    """S 478 3, S <= 90: displacements from the template while the person speaks, :data:`RATE` per second."""
    references: tuple[AlignedFace, ...] = ()  # up to eight, frontal and sharp, the best first
    mouths: tuple[OpenMouth, ...] = ()  # up to eight, spread by opening and pose, at the frame's own resolution
