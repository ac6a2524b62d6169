"""What moves by itself in a face and stays the target's under another's skin: its glance, blinks and teeth."""

from __future__ import annotations

import cv2
import numpy as np

from talkswap.faces.geometry import EYE_CORNERS, smooth_step
from talkswap.faces.mesh import INNER_LIPS, LEFT_EYE_RING, RIGHT_EYE_RING, inner_mouth_mask, ring_mask
from talkswap.types import FloatArray, UInt8Image

LEFT_IRIS, RIGHT_IRIS = (468, 469, 470, 471, 472), (473, 474, 475, 476, 477)


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
