"""The guide: a source's face laid over a target crop by geometry alone.

The source's skin is warped onto the target's mesh with some of the source's proportions.  The target's light, inner
mouth and shut eyelids stay, and so does hair in front of either forehead.  The guide needs no weights.  It makes
training pairs and, at render time, a network's input, so one crop must cost a few milliseconds.

The file follows one crop: proportions, colour, and :class:`FaceGuide`, which puts them together with what moves by
itself (:mod:`talkswap.faces.expression`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from talkswap.faces.expression import LEFT_IRIS, RIGHT_IRIS, closing, gaze, keep_lids, keep_mouth, turn_eyes
from talkswap.faces.geometry import neighbour_weights, spatial_similarity
from talkswap.faces.mask import face_mask
from talkswap.faces.measures import eye_openings
from talkswap.faces.mesh import (
    FACE_OVAL,
    INNER_LIPS,
    LEFT_EYE_RING,
    OUTER_LIPS,
    POINTS,
    RIGHT_EYE_RING,
    MeshTexture,
    TexturePyramid,
    mean_face,
)
from talkswap.types import FloatArray, UInt8Image

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
LEFT_BROW = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)  # left in the picture
RIGHT_BROW = (300, 293, 334, 296, 336, 285, 295, 282, 283, 276)
FOREHEAD = (
    21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 301, 298, 333, 299, 337, 151, 108, 69, 104, 68, 71,
)  # fmt: skip


@dataclass(frozen=True)
class GuideConfig:
    """What the guide takes from the source and what stays the target's."""

    shape: float = 0.9  # share of the source's proportions; 0 = the target's
    light: float = 0.16  # sigma over which the target's light is taken, as a share of the crop's side
    light_limit: float = 2.2  # largest gain, and one over the smallest
    colour: float = 1.0  # share of the target's colour and light
    hair: float = 1.0  # how far hair on the target's forehead stays in front; 0 = covered
    own_hair: float = 1.9  # how far from the skin's mean a colour may be and still be skin: in the source, ...
    their_hair: float = 2.6  # ... and in the target; a colour farther by 1 is hair
    gaze: float = 1.0  # share of the target's direction of gaze; 0 = the source's
    gaze_limit: float = 0.2  # widths of the eye: a larger shift is a wrong iris, not a glance
    lids: float = 1.0  # share of the target's own eyelids where its eyes are shut
    shut: tuple[float, float] = (0.4, 0.2)  # of the source's eye opening: where an eye begins to shut, and is shut
    mouth: float = 1.0  # share of the target's teeth and tongue between its lips
    grid: int = 80  # cells on which colours are compared
    flatten: tuple[float, float] = (1.2, 0.9)  # gain from which contrast is lowered, and the power by which
    sharpen: float = 1.0  # unsharp masking of enlarged skin, per doubling of its size
    bare: float = 0.8  # how far the target's forehead stays where hair covers the photo's


@dataclass(frozen=True)
class Guided:
    """A guide, and where the source's skin lies in it."""

    crop: UInt8Image  # S S 3
    mask: FloatArray  # S S in [0, 1]: where the source's skin lies
    landmarks: FloatArray  # 478 3: the mesh that the source's skin was laid on, px of the crop
    plain: FloatArray  # G G in [0, 1]: where source and target both have the colour of skin
    colours: FloatArray  # G G 3: the source's skin, coarsely
    target_colours: FloatArray  # G G 3: the target's crop, coarsely
    share: FloatArray  # G G in [0, 1]: the mask, coarsely


@lru_cache(maxsize=1)
def rigid_weights() -> FloatArray:
    """Weight (478) of each point where a pose is fitted: what neither speech nor a blink moves."""
    points = mean_face().points
    weight = np.zeros(POINTS, np.float32)
    weight[:468] = np.clip((0.75 - points[:468, 1]) / 0.2, 0, 1)  # above the upper lip
    weight[list(FACE_OVAL)] *= 0.3
    for ring in (LEFT_EYE_RING, RIGHT_EYE_RING):
        weight[list(ring)] *= 0.3
    return weight


@dataclass(frozen=True)
class Pose:
    """canonical = (px - shift) @ turn / scale."""

    turn: FloatArray  # 3 3
    scale: float  # px per eye distance
    shift: FloatArray  # 3

    def undo(self, landmarks: FloatArray) -> FloatArray:
        """Landmarks (478 3, px) turned to the front, in eye distances."""
        return np.asarray((np.asarray(landmarks, np.float32) - self.shift) @ self.turn / self.scale, np.float32)


def fit_pose(landmarks: FloatArray) -> Pose:
    """The similarity that takes the mean face to a face's landmarks (478 3), by weighted least squares."""
    mean, points = mean_face().points.astype(np.float64), np.asarray(landmarks, np.float64)
    scale, turn, shift = spatial_similarity(mean, points, rigid_weights().astype(np.float64))
    return Pose(turn.astype(np.float32), scale, shift.astype(np.float32))


def canonical_shape(landmarks: FloatArray) -> FloatArray:
    """A face's mesh turned to the front, in eye distances (478 3)."""
    return fit_pose(landmarks).undo(landmarks)


@lru_cache(maxsize=1)
def _shape_weights() -> tuple[FloatArray, FloatArray]:
    """(478: how far a point may follow the source's proportions, 478 478: which points move as one piece).

    The outline stays (behind it lies the target's background), eyes and mouth move as rigid pieces (their opening is
    the target's), and what lies below the mouth only follows the mouth.
    """
    points = mean_face().points
    oval = points[list(FACE_OVAL), :2]
    distance = np.sqrt(((points[:, None, :2] - oval[None]) ** 2).sum(2)).min(1)
    free = np.clip(distance / 0.35, 0, 1)
    free *= np.clip((1.75 - points[:, 1]) / 0.5, 0, 1)  # fades toward the chin
    pieces = np.eye(POINTS, dtype=np.float32)
    mouth_height = points[list(OUTER_LIPS), 1].mean()
    mouth = np.zeros(POINTS, bool)
    mouth[[*OUTER_LIPS, *INNER_LIPS]] = True
    near_mouth = (np.hypot(points[:, 0] / 0.62, (points[:, 1] - mouth_height) / 0.36) < 1) | mouth
    near_mouth |= (points[:, 1] > mouth_height) & (distance > 0.05)
    groups = [near_mouth]
    for ring, iris in ((LEFT_EYE_RING, LEFT_IRIS), (RIGHT_EYE_RING, RIGHT_IRIS)):
        centre = points[list(ring), :2].mean(0)
        eye = np.hypot((points[:, 0] - centre[0]) / 0.32, (points[:, 1] - centre[1]) / 0.15) < 1
        eye[[*ring, *iris]] = True
        groups.append(eye)
    anchor_rings: tuple[tuple[int, ...], ...] = (OUTER_LIPS, LEFT_EYE_RING, RIGHT_EYE_RING)
    for number, group in enumerate(groups):
        anchors = np.zeros(POINTS, np.float32)
        anchors[list(anchor_rings[number])] = 1
        pieces[group] = anchors / anchors.sum()
    # Between a piece and the skin around it the motion changes softly; rings, irises and lips stay exact.
    near = neighbour_weights(points, 0.07)
    solid = np.zeros(POINTS, bool)
    for fixed in (*anchor_rings, LEFT_IRIS, RIGHT_IRIS, INNER_LIPS):
        solid[list(fixed)] = True
    smooth = near.astype(np.float32) @ pieces
    pieces = np.where(solid[:, None], pieces, smooth).astype(np.float32)
    return free.astype(np.float32), pieces


def lend_shape(
    source_shape: FloatArray, target_landmarks: FloatArray, share: float, target_shape: FloatArray | None = None
) -> FloatArray:
    """The target's mesh with a share of the source's proportions; pose, outline, eyelids and lips stay the target's.

    Args:
        source_shape: 478 3, :func:`canonical_shape` of the source.
        target_landmarks: 478 3, px.
        share: 0 = the target's mesh, 1 = the source's proportions inside the outline.
        target_shape: 478 3, the target's canonical shape averaged over its clip; then the target's moving brows and
            cheeks keep their whole movement.  None: this picture's own.

    Returns:
        478 3, px.
    """
    if share == 0:
        return np.asarray(target_landmarks, np.float32)
    pose = fit_pose(target_landmarks)
    own = pose.undo(target_landmarks) if target_shape is None else target_shape
    free, pieces = _shape_weights()
    move = (pieces @ (source_shape - own)) * (share * free[:, None])
    return np.asarray(target_landmarks + pose.scale * move @ pose.turn.T, np.float32)


def filled(landmarks: FloatArray, rings: tuple[tuple[int, ...], ...], grid: int, scale: float) -> FloatArray:
    """The convex hulls of rings on a coarse grid (grid grid, [0, 1]); ``scale`` is cells per px."""
    picture = np.zeros((grid, grid), np.uint8)
    cells = np.round(((landmarks[:, :2] + 0.5) * scale - 0.5) * 16).astype(np.int32)
    for ring in rings:
        cv2.fillPoly(picture, [cv2.convexHull(cells[list(ring)])], 255, lineType=cv2.LINE_AA, shift=4)
    return picture.astype(np.float32) / np.float32(255)


def plain_skin(landmarks: FloatArray, grid: int, scale: float) -> FloatArray:
    """Where plain skin is expected: the face without brows, eyes and lips (grid grid, [0, 1])."""
    face = filled(landmarks, (FACE_OVAL,), grid, scale)
    parts = filled(landmarks, (LEFT_BROW, RIGHT_BROW, LEFT_EYE_RING, RIGHT_EYE_RING, OUTER_LIPS), grid, scale)
    return np.asarray(cv2.erode(face, np.ones((5, 5))) * (1 - cv2.dilate(parts, np.ones((3, 3)))), np.float32)


def on_grid(landmarks: FloatArray, scale: float) -> FloatArray:
    """Landmarks (478 3, px) in cells, ``scale`` of them per px; the first cell's centre is 0, as the first px's is."""
    cells = np.asarray(landmarks, np.float32) * np.float32(scale)
    cells[:, :2] += 0.5 * scale - 0.5
    return cells


def coarse(picture: UInt8Image | FloatArray, grid: int) -> FloatArray:
    """A picture's mean over each cell of a grid (grid grid ...)."""
    # Cells of broken px are slow to average: a bilinear step to whole ones sees nearly the same.
    if 2 * grid < picture.shape[0] < 6 * grid and picture.shape[0] % grid:
        half = cv2.resize(picture, (2 * grid, 2 * grid), interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.resize(half, (grid, grid), interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.resize(picture, (grid, grid), interpolation=cv2.INTER_AREA), np.float32)


def skin_distance(small: FloatArray, skin: FloatArray, centre: FloatArray) -> FloatArray:
    """How far each cell's colour is from the face's own skin (grid grid, squared deviations).

    Compared are the weighted mean colour of the middle of the face and each cell, brightness counting less than hue on
    the bright side: a highlight is skin, dark hair is not.
    """
    weight = skin * centre
    total = float(weight.sum()) + 1e-3
    mean = np.einsum("hwc,hw->c", small, weight) / total
    difference = small - mean
    spread = np.sqrt(np.einsum("hwc,hw->c", difference * difference, weight) / total) + 12.0
    scaled = difference / spread
    darker = np.minimum(scaled.mean(2), 0)
    hue = scaled - scaled.mean(2, keepdims=True)
    return np.asarray(darker * darker * 0.45 + np.einsum("hwc,hwc->hw", hue, hue) * 0.25, np.float32)


def skin_likeness(small: FloatArray, skin: FloatArray, centre: FloatArray, ease: float) -> FloatArray:
    """How much each cell's colour is like skin (grid grid, [0, 1]): 0 from :func:`skin_distance` ``ease`` on."""
    return np.asarray(np.clip(ease - skin_distance(small, skin, centre), 0, 1), np.float32)


def flat_curve(mean: FloatArray, target_mean: FloatArray, exponent: float) -> UInt8Image:
    """A tone curve per channel (256 3) that keeps a mean colour, lowers the contrast around it, and leaves highlights room.

    Args:
        mean: 3, of the face.
        target_mean: 3, what a gain makes of it later.
        exponent: of the contrast, in (0, 1]; 1 changes nothing.
    """
    middle = np.maximum(mean, 1)
    levels = middle * (np.arange(256)[:, None] / middle) ** exponent  # 256 3
    room = np.maximum(middle * (250 / np.maximum(target_mean, 1) - 1), 1)  # up to what the gain takes to white
    above = np.maximum(levels - middle, 0)
    shoulder = above / (1 + above / room) - above
    levels += min(1.0, 4 * (1 - exponent)) * shoulder
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


class FaceGuide:
    """One source, prepared once, laid over many target crops.

    Args:
        source_rgb: H W 3 uint8, a picture of the source; the more px, the more detail reaches a large target.
        source_landmarks: 478 3 in px of ``source_rgb``.
        cover: G G in [0, 1] over ``source_rgb``: where the skin was filled, being covered in the photo
            (:func:`talkswap.faces.skin_fill.bare_face`); None = nowhere.
    """

    def __init__(
        self,
        source_rgb: UInt8Image,
        source_landmarks: FloatArray,
        config: GuideConfig | None = None,
        cover: FloatArray | None = None,
    ) -> None:
        self.config = config or GuideConfig()
        self.texture = TexturePyramid(source_rgb, source_landmarks)
        self.cover: MeshTexture | None = None
        if cover is not None and float(cover.max()) > 0:
            points = on_grid(source_landmarks, cover.shape[0] / source_rgb.shape[0])
            shares = np.asarray(np.rint(cv2.cvtColor(cover.astype(np.float32), cv2.COLOR_GRAY2RGB) * 255), np.uint8)
            self.cover = MeshTexture(shares, points)
        self.shape = canonical_shape(source_landmarks)
        self.gaze = gaze(np.asarray(source_landmarks, np.float32))
        self.openings = eye_openings(source_landmarks)

    def lay(
        self, target_crop: UInt8Image, target_landmarks: FloatArray, target_shape: FloatArray | None = None
    ) -> Guided:
        """The source's face over a target crop.

        Args:
            target_crop: S S 3 uint8.
            target_landmarks: 478 3 in px of the crop.
            target_shape: see :func:`lend_shape`.
        """
        skin = self.skin(target_crop, target_landmarks, target_shape)
        crop = np.asarray(cv2.blendLinear(skin.crop, target_crop, skin.mask, 1 - skin.mask), np.uint8)
        return replace(skin, crop=crop)

    def skin(
        self, target_crop: UInt8Image, target_landmarks: FloatArray, target_shape: FloatArray | None = None
    ) -> Guided:
        """As :meth:`lay`, the source's skin alone: what lies outside the mask has no meaning."""
        config, size = self.config, target_crop.shape[0]
        # The source's skin on the target's mesh, as far as both masks reach.
        landmarks = lend_shape(self.shape, target_landmarks, config.shape, target_shape)
        rgb, valid = self.texture.warp(landmarks, size, config.sharpen)
        mask = np.minimum(face_mask(target_landmarks, size), valid)
        # Where both show plain skin, colours are comparable; on the forehead the rest is hair.
        grid = min(config.grid, size)
        ours, theirs = (coarse(picture, grid) for picture in (rgb, target_crop))
        present = coarse(mask, grid)
        scale = grid / size
        skin = plain_skin(target_landmarks, grid, scale) * (present > 0.5)
        forehead = filled(target_landmarks, (FOREHEAD,), grid, scale)
        ours_skin = np.clip(config.own_hair - skin_distance(ours, skin, 1 - forehead), 0, 1)
        theirs_far = skin_distance(theirs, skin, 1 - forehead)
        theirs_skin = np.clip(config.their_hair - theirs_far, 0, 1)
        if config.hair:
            shown = cv2.blur(ours_skin * theirs_skin, (3, 3))
            keep = 1 - config.hair * cv2.blur(forehead, (5, 5)) * (1 - shown)
            if self.cover is not None:
                theirs_cells, ours_cells = on_grid(target_landmarks, scale), on_grid(landmarks, scale)
                keep *= 1 - config.bare * self._covered_forehead(theirs_cells, ours_cells, forehead, theirs_skin)
            keep = np.asarray(keep, np.float32)
            mask = mask * cv2.resize(keep, (size, size), interpolation=cv2.INTER_LINEAR)
            present = present * keep
        if config.colour:
            weight = skin * ours_skin * theirs_skin
            rgb, ours = self._relit(rgb, ours, theirs, weight)
        # What moves by itself in the target stays the target's: glance, blink and teeth.
        if config.gaze:
            change = np.clip(gaze(target_landmarks) - self.gaze, -config.gaze_limit, config.gaze_limit)
            rgb = turn_eyes(rgb, landmarks, self.gaze, self.gaze + config.gaze * change)
        if config.lids:
            shares = config.lids * closing(eye_openings(target_landmarks), self.openings, config.shut)
            rgb = keep_lids(rgb, landmarks, target_crop, target_landmarks, shares)
        if config.mouth:
            rgb = keep_mouth(rgb, landmarks, target_crop, target_landmarks, config.mouth)
        # coloured hair may pass for skin where it is only to be covered; as a measure of the light it must not
        plain = np.asarray(ours_skin * np.clip(config.own_hair - theirs_far, 0, 1), np.float32)
        return Guided(rgb, np.ascontiguousarray(mask, np.float32), landmarks, plain, ours, theirs, present)

    def _covered_forehead(
        self, target: FloatArray, landmarks: FloatArray, forehead: FloatArray, theirs_skin: FloatArray
    ) -> FloatArray:
        """Where the target shows a bare forehead and the photo none (grid grid, [0, 1]).

        Real skin beats invented skin; the target's brows are no skin, and stay covered.
        """
        assert self.cover is not None
        grid = theirs_skin.shape[0]
        cover = self.cover.warp(landmarks, grid)[0][:, :, 0].astype(np.float32) / 255
        brows = filled(target, (LEFT_BROW, RIGHT_BROW, LEFT_EYE_RING, RIGHT_EYE_RING), grid, 1)
        brows = np.maximum(brows, filled(landmarks, (LEFT_BROW, RIGHT_BROW), grid, 1))
        bare = cv2.erode(np.asarray(theirs_skin, np.float32), np.ones((3, 3))) * (
            1 - cv2.dilate(brows, np.ones((5, 5)))
        )
        return np.asarray(cv2.blur(cover * bare * cv2.blur(forehead, (5, 5)), (5, 5)), np.float32)

    def _relit(
        self, rgb: UInt8Image, ours: FloatArray, theirs: FloatArray, weight: FloatArray
    ) -> tuple[UInt8Image, FloatArray]:
        """``rgb`` and ``ours`` in the target's colour and light: one gain per channel for the whole face, and a smooth gain
        of brightness for where the light falls.

        Colour is matched once and not from place to place: coloured hair or clothes at the border would tint a cheek.
        """
        config, grid = self.config, ours.shape[0]
        sigma = config.light * grid
        total = weight.sum() + 1e-3
        means = [np.einsum("hwc,hw->c", p, weight) / total for p in (ours, theirs)]
        # A dark face made bright would get glaring highlights and grey shadows: its contrast is lowered, around its mean.
        begin, power = config.flatten
        brighter = float((means[1] @ LUMA + 2) / (means[0] @ LUMA + 2))
        if brighter > begin:
            curve = flat_curve(means[0], means[1], (brighter / begin) ** -power)
            rgb = np.asarray(cv2.LUT(rgb, curve[None]), np.uint8)
            ours = np.asarray(cv2.LUT(np.clip(np.rint(ours), 0, 255).astype(np.uint8), curve[None]), np.float32)
        colour = ((means[1] + 2) / (means[0] + 2)).astype(np.float32)  # 3
        prior = 0.03  # where a wide kernel sees little skin, the whole face's mean counts
        # a few levels keep a black crop from dividing by nothing
        sums = np.stack([(ours * colour) @ LUMA * weight, theirs @ LUMA * weight, weight], 2)
        sums = cv2.GaussianBlur(sums.astype(np.float32), (0, 0), sigma)
        extra, norm = prior * float(means[1] @ LUMA), sums[:, :, 2] + prior
        light, their_light = ((sums[:, :, k] + extra) / norm for k in (0, 1))
        shading = np.clip((their_light + 4) / (light + 4), 1 / config.light_limit, config.light_limit)
        gain = np.asarray(1 + config.colour * (shading[:, :, None] * colour - 1), np.float32)
        large = cv2.resize(gain, rgb.shape[:2], interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.multiply(rgb, large, dtype=cv2.CV_8U), np.uint8), np.clip(ours * gain, 0, 255)
