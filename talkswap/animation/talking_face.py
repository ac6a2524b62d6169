"""One person of a clip whose face speaks, painted at the picture's own resolution.

A frame goes through at most three steps: the frame's own skin moves with the spoken mesh; over it, with a swap, the photo's
skin is laid in the frame's light; and between the lips come the person's own teeth.  What comes out is the *guide*: good
enough to be the result, and the first input of the networks that refine it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from talkswap.animation.lip_border import true_border
from talkswap.animation.mouth import InnerMouth
from talkswap.animation.space import LIP_ROWS, lip_opening
from talkswap.animation.spoken import SpeechSpace, SpokenMesh, speak, true_lips, voiced_lips
from talkswap.faces.guide import FaceGuide, Pose, fit_pose
from talkswap.faces.mesh import INNER_LIPS
from talkswap.faces.paste import colour_field
from talkswap.faces.warp import Patch, SkinConfig, move_skin
from talkswap.types import FloatArray, UInt8Image

MARGIN = 1.9  # side of the square that a swap works on, in sides of the face's box: as an FFHQ crop, in whose sides the
# guide measures how far light and colour reach


LIPS = [*INNER_LIPS, *(point for upper, lower, _ in LIP_ROWS for point in (*upper, *lower))]
TEETH_BORDER = 0.01  # eye distances next to open lips that may be teeth: landmarks are off by a px or so


@dataclass(frozen=True)
class Painted:
    """A painted face."""

    patch: Patch  # what changes of the picture
    landmarks: FloatArray  # 478 3, px of the picture: the mesh that was painted
    mask: FloatArray  # h w of the patch, [0, 1]: where the photo's skin lies; without a swap all of it counts


class TalkingFace:
    """Paints one person's frames; two calls never depend on each other.

    Args:
        template: 478 3, the person's shape with closed lips, pose-free; None where the lips stay the frame's.
        space: what speech can do to a mesh; None likewise.
        mouth: the person's teeth.
        source: the photo's skin; None without a swap.
        strength: 0 leaves the frame's own mouth, 1 gives the voice's, up to 1.5 makes it larger.
        rest: opening that the landmark network reads on this person's shut lips, eye distances.
    """

    def __init__(
        self,
        template: FloatArray | None,
        space: SpeechSpace | None,
        mouth: InnerMouth | None,
        source: FaceGuide | None,
        strength: float = 1.0,
        rest: float = 0.02,
    ) -> None:
        self.rest = rest
        self.template, self.space, self.mouth, self.source, self.strength = template, space, mouth, source, strength
        self.skin = SkinConfig()

    def paint(
        self, rgb: UInt8Image, landmarks: FloatArray, displacement: FloatArray | None, gate: float = 1.0
    ) -> Painted | None:
        """The face of a frame.

        Args:
            rgb: H W 3 uint8, the frame; not changed.
            landmarks: 478 3, px.
            displacement: 478 3, what the voice adds to the template at the frame's time; None leaves the frame's lips.
            gate: how far the lips follow the voice, [0, 1]; at 0 they stay the frame's.

        Returns:
            None where nothing changes, or the face lies outside the picture.
        """
        spoken = self._speak(landmarks, displacement, gate)
        moved = None if spoken is None else self._move(rgb, landmarks, spoken)
        if self.source is None:
            if moved is None or spoken is None:
                return None
            corner = np.array([moved.x, moved.y, 0], np.float32)
            pose = Pose(spoken.pose.turn, spoken.pose.scale, spoken.pose.shift - corner)
            self._show_mouth(moved.rgb, spoken.shape, pose, spoken.landmarks - corner, gate)
            return Painted(moved, spoken.landmarks, np.ones(moved.rgb.shape[:2], np.float32))
        mesh = np.asarray(landmarks, np.float32) if spoken is None else spoken.landmarks
        return self._swap(rgb, moved, mesh, speaks=spoken is not None, gate=gate)

    def _speak(self, landmarks: FloatArray, displacement: FloatArray | None, gate: float) -> SpokenMesh | None:
        strength = self.strength * gate
        if displacement is None or self.template is None or self.space is None or strength <= 0:
            return None
        return speak(landmarks, self.template, displacement, self.space, strength)

    def _move(self, rgb: UInt8Image, landmarks: FloatArray, spoken: SpokenMesh) -> Patch | None:
        """The frame's own skin on the spoken mesh; teeth next to its lips stay behind."""
        own_shape = spoken.pose.undo(landmarks)
        own = _placed(true_lips(own_shape, self.rest, TEETH_BORDER), spoken.pose, np.asarray(landmarks, np.float32))
        opening = float(lip_opening(own_shape[None])[0])
        # A shut mouth has a line, and nothing between the lips; there the colour would tell nothing.
        share = float(np.clip((opening - 0.9 * self.rest) / 0.015, 0, 1))
        if share > 0:
            own = true_border(rgb, own, share)
        return move_skin(
            rgb,
            own,
            _placed(voiced_lips(spoken.shape, self.rest), spoken.pose, spoken.landmarks),
            self.skin,
        )

    def _show_mouth(self, rgb: UInt8Image, shape: FloatArray, pose: Pose, landmarks: FloatArray, gate: float) -> None:
        if self.mouth is not None:
            shape = voiced_lips(shape, self.rest)
            self.mouth.show(rgb, shape, pose, _placed(shape, pose, landmarks), min(1.0, self.strength) * gate)

    def _swap(
        self, rgb: UInt8Image, moved: Patch | None, mesh: FloatArray, speaks: bool, gate: float
    ) -> Painted | None:
        """The photo's skin over a frame whose own skin has moved already."""
        assert self.source is not None
        low, high = mesh[:, :2].min(0), mesh[:, :2].max(0)
        side = int(np.ceil(float((high - low).max()) * MARGIN))
        x, y = (int(v) for v in np.round((low + high) / 2 - side / 2))
        height, width = rgb.shape[:2]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
        if x0 >= x1 or y0 >= y1 or side < 16:
            return None
        # The patch covers both: the square of the swap and what the own skin moved beyond it, such as the neck.
        if moved is not None:
            rows, columns = moved.place
            px0, py0 = min(x0, columns.start), min(y0, rows.start)
            px1, py1 = max(x1, columns.stop), max(y1, rows.stop)
        else:
            px0, py0, px1, py1 = x0, y0, x1, y1
        below = rgb[py0:py1, px0:px1].copy()
        if moved is not None:
            rows, columns = moved.place
            below[rows.start - py0 : rows.stop - py0, columns.start - px0 : columns.stop - px0] = moved.rgb
        inside = (slice(y0 - py0, y1 - py0), slice(x0 - px0, x1 - px0))
        square = cv2.copyMakeBorder(below[inside], y0 - y, y + side - y1, x0 - x, x + side - x1, cv2.BORDER_REPLICATE)
        points = mesh - np.array([x, y, 0], np.float32)
        skin = self.source.skin(np.asarray(square, np.uint8), np.asarray(points, np.float32))
        # where hair hangs over the border, its colour says nothing about the light
        field = colour_field(skin.colours, skin.target_colours, skin.share, free=skin.plain, size=side)
        fitted = np.asarray(cv2.add(skin.crop, field, dtype=cv2.CV_8U), np.uint8)
        blended = np.asarray(cv2.blendLinear(fitted, square, skin.mask, 1 - skin.mask), np.uint8)
        if speaks:
            pose = fit_pose(skin.landmarks)
            self._show_mouth(blended, pose.undo(skin.landmarks), pose, np.asarray(skin.landmarks, np.float32), gate)
        cut = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        below[inside] = blended[cut]
        mask = np.zeros(below.shape[:2], np.float32)
        mask[inside] = skin.mask[cut]
        laid = np.asarray(skin.landmarks + np.array([x, y, 0], np.float32), np.float32)
        return Painted(Patch(below, px0, py0), laid, mask)


def _placed(shape: FloatArray, pose: Pose, points: FloatArray) -> FloatArray:
    """Px of the points (478 3), of which only the lips are taken from a shape."""
    placed = points.copy()
    placed[LIPS] = pose.scale * shape[LIPS] @ pose.turn.T + pose.shift
    return placed
