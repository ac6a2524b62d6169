"""The guide: a source's face laid over a target crop by geometry alone.

The source's skin is warped onto the target's mesh with some of the source's proportions.  The target's light, inner
mouth and shut eyelids stay, and so does hair in front of either forehead.  The guide needs no weights.  It makes
training pairs and, at render time, a network's input, so one crop must cost a few milliseconds.

The file follows one crop: proportions, colour, mouth, eyes, and :class:`FaceGuide`, which puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from talkswap.faces.geometry import EYE_CORNERS, neighbour_weights, smooth_step, spatial_similarity
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
    inner_mouth_mask,
    mean_face,
    ring_mask,
)
from talkswap.types import FloatArray, UInt8Image

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
LEFT_IRIS, RIGHT_IRIS = (468, 469, 470, 471, 472), (473, 474, 475, 476, 477)
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


@dataclass(frozen=True)
class Guided:
    """A guide, and where the source's skin lies in it."""

    crop: UInt8Image  # S S 3
    mask: FloatArray  # S S in [0, 1]: where the source's skin lies
    landmarks: FloatArray  # 478 3: the mesh that the source's skin was laid on, px of the crop
    plain: FloatArray  # G G in [0, 1]: where source and target both have the colour of skin


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


def skin_likeness(small: FloatArray, skin: FloatArray, centre: FloatArray, ease: float) -> FloatArray:
    """How much each cell's colour is like the face's own skin (grid grid, [0, 1]).

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
    far = darker * darker * 0.45 + (hue * hue).sum(2) * 0.25
    return np.asarray(np.clip(ease - far, 0, 1), np.float32)


def keep_mouth(
    rgb: UInt8Image, landmarks: FloatArray, target_crop: UInt8Image, target_landmarks: FloatArray, share: float = 1.0
) -> UInt8Image:
    """The warped face with the target's own teeth and tongue between its lips, moved along with the mouth.

    Args:
        rgb: S S 3 uint8, skin laid on ``landmarks`` (478 3); changed in place.
        target_crop: S S 3 uint8, with ``target_landmarks`` (478 3).
        share: 0 leaves what the source had there.
    """
    ring = list(INNER_LIPS)
    size = rgb.shape[0]
    low, high = landmarks[ring, :2].min(0), landmarks[ring, :2].max(0)
    side = int(np.ceil((high - low).max())) + 8
    x, y = (int(v) for v in np.floor((low + high) / 2 - side / 2))
    if high[1] - low[1] < 1.0 or x < 0 or y < 0 or x + side > size or y + side > size:
        return rgb  # closed, or cut off by the picture's edge
    move = (landmarks[ring, :2] - target_landmarks[ring, :2]).mean(0)
    matrix = np.array([[1, 0, x - move[0]], [0, 1, y - move[1]]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    own = cv2.warpAffine(target_crop, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = share * inner_mouth_mask(landmarks[:, :2] - np.array([x, y], np.float32), side)
    area = np.ascontiguousarray(rgb[y : y + side, x : x + side])
    rgb[y : y + side, x : x + side] = cv2.blendLinear(np.asarray(own, np.uint8), area, inside, 1 - inside)
    return rgb


def gaze(landmarks: FloatArray) -> FloatArray:
    """Where each iris lies between its eye's corners (2; 0 = left corner in the picture, 1 = right)."""
    places = []
    for iris, (left, right) in zip((LEFT_IRIS, RIGHT_IRIS), EYE_CORNERS, strict=True):
        axis = landmarks[right, :2] - landmarks[left, :2]
        along = (landmarks[list(iris), :2].mean(0) - landmarks[left, :2]) @ axis
        places.append(along / max(float(axis @ axis), 1e-6))
    return np.asarray(places, np.float32)


def turn_eyes(rgb: UInt8Image, landmarks: FloatArray, before: FloatArray, after: FloatArray) -> UInt8Image:
    """Shift both irises sideways inside their lids.

    Args:
        rgb: S S 3 uint8, changed in place.
        landmarks: 478 3, px, of the lids.
        before, after: :func:`gaze` of the picture, and the one that it gets.
    """
    size = rgb.shape[0]
    for eye, (ring, (left, right)) in enumerate(zip((LEFT_EYE_RING, RIGHT_EYE_RING), EYE_CORNERS, strict=True)):
        lids = landmarks[list(ring), :2]
        low, high = lids.min(0), lids.max(0)
        side = int(np.ceil((high - low).max())) + 6
        x, y = (int(v) for v in np.floor((low + high) / 2 - side / 2))
        axis = landmarks[right, :2] - landmarks[left, :2]
        square = max(float(axis @ axis), 1e-6)
        shift = float(after[eye] - before[eye])
        if abs(shift) * np.sqrt(square) < 0.4 or x < 0 or y < 0 or x + side > size or y + side > size:
            continue
        columns, rows = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
        along = ((columns + x - landmarks[left, 0]) * axis[0] + (rows + y - landmarks[left, 1]) * axis[1]) / square
        peak = float(np.clip(after[eye], 0.2, 0.8))
        # The shift is whole at the iris and fades to nothing at both corners, so that the lids stay.
        share = np.clip(np.minimum(along / peak, (1 - along) / (1 - peak)), 0, 1) * shift
        area = np.ascontiguousarray(rgb[y : y + side, x : x + side])
        moved = cv2.remap(
            area, columns - share * axis[0], rows - share * axis[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        inside = ring_mask(landmarks[:, :2] - np.array([x, y], np.float32), (ring,), side, 1.0)
        rgb[y : y + side, x : x + side] = cv2.blendLinear(np.asarray(moved, np.uint8), area, inside, 1 - inside)
    return rgb


def closing(openings: FloatArray, usual: FloatArray, shut: tuple[float, float]) -> FloatArray:
    """How far each eye is shut (2; 0 = open, 1 = shut).

    Args:
        openings: 2, :func:`eye_openings` of the face.
        usual: 2, those of the face whose skin is laid on it.
        shut: shares of ``usual`` from which an eye begins to count as shut, and at which it is.
    """
    begin, end = shut
    return np.asarray(smooth_step(openings / np.maximum(usual, 1e-3), begin, end), np.float32)


def keep_lids(
    rgb: UInt8Image, landmarks: FloatArray, target_crop: UInt8Image, target_landmarks: FloatArray, shares: FloatArray
) -> UInt8Image:
    """The warped face with the target's own eyelids where these are shut, in the colour of the skin around them.

    An open eye's picture pressed into a slit is a dark bar, not a lid: the source's photo shows no shut one.

    Args:
        rgb: S S 3 uint8, skin laid on ``landmarks`` (478 3); changed in place.
        target_crop: S S 3 uint8, with ``target_landmarks`` (478 3).
        shares: 2, :func:`closing`: 0 leaves what the source had there.
    """
    size = rgb.shape[0]
    for share, ring, (left, right) in zip(shares, (LEFT_EYE_RING, RIGHT_EYE_RING), EYE_CORNERS, strict=True):
        axis = landmarks[right, :2] - landmarks[left, :2]
        width = float(np.hypot(*axis))
        middle = landmarks[list(ring), :2].mean(0)
        side = int(np.ceil(1.9 * width)) + 4
        x, y = (int(v) for v in np.floor(middle - side / 2))
        if share <= 0 or width < 4 or x < 0 or y < 0 or x + side > size or y + side > size:
            continue
        move = (landmarks[list(ring), :2] - target_landmarks[list(ring), :2]).mean(0)
        matrix = np.array([[1, 0, x - move[0]], [0, 1, y - move[1]]], np.float64)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        own = cv2.warpAffine(target_crop, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        around = np.zeros((side, side), np.float32)
        angle = float(np.degrees(np.arctan2(axis[1], axis[0])))
        box = ((float(middle[0] - x), float(middle[1] - y)), (1.3 * width, 0.56 * width), angle)
        cv2.ellipse(around, box, 1.0, -1, cv2.LINE_AA)
        inside = np.asarray(cv2.GaussianBlur(around, (0, 0), 0.07 * width), np.float32)
        area = np.ascontiguousarray(rgb[y : y + side, x : x + side])
        # The lid takes the colour of the skin that is laid around it: the two are compared along the rim.
        rim = (inside * (1 - inside)).astype(np.float64)
        theirs, ours = (np.einsum("hwc,hw->c", picture, rim) / rim.sum() for picture in (own, area))
        gain = np.clip((ours + 4) / (theirs + 4), 0.6, 1.6)
        own = cv2.transform(own, np.diag(gain))
        inside = inside * np.float32(share)
        rgb[y : y + side, x : x + side] = cv2.blendLinear(np.asarray(own, np.uint8), area, inside, 1 - inside)
    return rgb


class FaceGuide:
    """One source, prepared once, laid over many target crops.

    Args:
        source_rgb: H W 3 uint8, a picture of the source (its aligned crop serves well).
        source_landmarks: 478 3 in px of ``source_rgb``.
    """

    def __init__(self, source_rgb: UInt8Image, source_landmarks: FloatArray, config: GuideConfig | None = None) -> None:
        self.config = config or GuideConfig()
        self.texture = MeshTexture(source_rgb, source_landmarks)
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
        return Guided(crop, skin.mask, skin.landmarks, skin.plain)

    def skin(
        self, target_crop: UInt8Image, target_landmarks: FloatArray, target_shape: FloatArray | None = None
    ) -> Guided:
        """As :meth:`lay`, the source's skin alone: what lies outside the mask has no meaning."""
        config, size = self.config, target_crop.shape[0]
        # The source's skin on the target's mesh, as far as both masks reach.
        landmarks = lend_shape(self.shape, target_landmarks, config.shape, target_shape)
        rgb, valid = self.texture.warp(landmarks, size)
        mask = np.minimum(face_mask(target_landmarks, size), valid)
        # Where both show plain skin, colours are comparable; on the forehead the rest is hair.
        grid = min(config.grid, size)
        ours, theirs = (
            cv2.resize(p, (grid, grid), interpolation=cv2.INTER_AREA).astype(np.float32) for p in (rgb, target_crop)
        )
        present = cv2.resize(mask, (grid, grid), interpolation=cv2.INTER_AREA)
        scale = grid / size
        skin = plain_skin(target_landmarks, grid, scale) * (present > 0.5)
        middle = 1 - filled(target_landmarks, (FOREHEAD,), grid, scale)
        ours_skin = skin_likeness(ours, skin, middle, config.own_hair)
        theirs_skin = skin_likeness(theirs, skin, middle, config.their_hair)
        if config.hair:
            forehead = cv2.blur(1 - middle, (5, 5))
            shown = cv2.blur(ours_skin * theirs_skin, (3, 3))
            keep = 1 - config.hair * forehead * (1 - shown)
            mask = mask * cv2.resize(np.asarray(keep, np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        if config.colour:
            weight = skin * ours_skin * theirs_skin
            rgb = self._relit(rgb, ours, theirs, weight)
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
        plain = ours_skin * skin_likeness(theirs, skin, middle, config.own_hair)
        return Guided(rgb, np.ascontiguousarray(mask, np.float32), landmarks, plain)

    def _relit(self, rgb: UInt8Image, ours: FloatArray, theirs: FloatArray, weight: FloatArray) -> UInt8Image:
        """``rgb`` in the target's colour and light: one gain per channel for the whole face, and a smooth gain of brightness
        for where the light falls.

        Colour is matched once and not from place to place: coloured hair or clothes at the border would tint a cheek.
        """
        config, grid = self.config, ours.shape[0]
        sigma = config.light * grid
        total = weight.sum() + 1e-3
        means = [np.einsum("hwc,hw->c", p, weight) / total for p in (ours, theirs)]
        colour = (means[1] + 2) / (means[0] + 2)  # 3
        prior = 0.03  # where a wide kernel sees little skin, the whole face's mean counts
        norm = cv2.GaussianBlur(weight, (0, 0), sigma) + prior
        light = [
            (cv2.GaussianBlur((p @ LUMA) * weight, (0, 0), sigma) + prior * float(m @ LUMA)) / norm
            for p, m in zip((ours * colour.astype(np.float32), theirs), (means[1], means[1]), strict=True)
        ]
        # a few levels keep a black crop from dividing by nothing
        shading = np.clip((light[1] + 4) / (light[0] + 4), 1 / config.light_limit, config.light_limit)
        gain = 1 + config.colour * (shading[:, :, None] * colour - 1)
        large = cv2.resize(gain.astype(np.float32), rgb.shape[:2], interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.multiply(rgb, large, dtype=cv2.CV_8U), np.uint8)
