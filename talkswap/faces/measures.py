"""What a face does, as numbers read from its mesh: how far mouth and eyes are open, how the head is turned.

Lengths are in distances between the outer eye corners, so that one value means the same for every face size.  Data,
training and evaluation compare such curves over time, hence :func:`pearson`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkswap.faces.geometry import outer_eye_distance, spatial_similarity
from talkswap.faces.mesh import STEADY, mean_face
from talkswap.types import FloatArray, UInt8Image

INNER_TOP, INNER_BOTTOM = (82, 13, 312), (87, 14, 317)  # the middles of the inner lips
MOUTH_PAIRS = ((61, 291), (0, 17), (2, 152), (2, 13), (14, 152), (78, 308))
"""Ends of the lengths in :func:`mouth_shape`: width, outer height, jaw, upper lip, lower lip, inner width."""
MOUTH_SPREAD = np.array([0.08, 0.04, 0.05, 0.06, 0.03, 0.05, 0.04], np.float32)
"""Unit of each mouth measure, in eye distances: about one standard deviation while speaking."""
FINE = 128  # px: side of the crop in which sharpness is compared
LID_MIDDLES = ((159, 145), (386, 374))  # upper and lower lid; left in the picture first


def pearson(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Pearson's correlation of two arrays of one shape; 0 where one of them doesn't vary."""
    a, b = first - first.mean(), second - second.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 1e-9 else 0.0


def mouth_opening(landmarks: FloatArray) -> FloatArray:
    """Distance of the inner lips in the picture plane.

    Args:
        landmarks: ... 478 2 or 3.

    Returns:
        ... in eye distances; 0 is closed, about 0.1 to 0.3 an open vowel.
    """
    plane = landmarks[..., :2]
    lips = plane[..., list(INNER_TOP), :].mean(-2) - plane[..., list(INNER_BOTTOM), :].mean(-2)
    return np.asarray(np.linalg.norm(lips, axis=-1) / np.maximum(outer_eye_distance(plane), 1e-6), np.float32)


def mouth_shape(landmarks: FloatArray) -> FloatArray:
    """Seven measures of the mouth in units of :data:`MOUTH_SPREAD`.

    The first is the opening itself, since closed lips are 0 for everybody.  The others are the lengths of
    :data:`MOUTH_PAIRS` in three dimensions, so that a turned head changes them little.  They are differences to the
    clip's own median, since faces differ in them at rest.

    Args:
        landmarks: T 478 3, nan where no face.

    Returns:
        T 7, nan where no face.
    """
    eyes = np.maximum(outer_eye_distance(landmarks), 1e-6)
    lengths = [np.linalg.norm(landmarks[:, a] - landmarks[:, b], axis=1) / eyes for a, b in MOUTH_PAIRS]
    rest = np.stack(lengths, 1)  # T 6
    if np.isfinite(rest).any():
        rest = rest - np.nanmedian(rest, 0)
    return (np.concatenate([mouth_opening(landmarks)[:, None], rest], 1) / MOUTH_SPREAD).astype(np.float32)


def eye_openings(landmarks: FloatArray) -> FloatArray:
    """How far each eye is open (... 2; left in the picture first), in eye distances.

    Args:
        landmarks: ... 478 3.
    """
    flat = np.asarray(landmarks, np.float32)[..., :2]
    lids = [np.linalg.norm(flat[..., top, :] - flat[..., bottom, :], axis=-1) for top, bottom in LID_MIDDLES]
    return np.asarray(np.stack(lids, -1) / np.maximum(outer_eye_distance(flat), 1e-6)[..., None], np.float32)


def head_rotation(landmarks: FloatArray) -> FloatArray:
    """3 3 rotation of the mean face that fits the points which neither speech nor blinks move."""
    steady = list(STEADY)
    shape = mean_face().points[steady].astype(np.float64)
    return np.asarray(spatial_similarity(shape, np.asarray(landmarks, np.float64)[steady])[1], np.float32)


def yaw_degrees(landmarks: FloatArray) -> float:
    """How far the head is turned aside, degrees; positive where the nose points to the picture's right."""
    return degrees_from_front(landmarks)[0]


def degrees_from_front(landmarks: FloatArray) -> tuple[float, float]:
    """How far the head is turned aside and lifted, degrees; positive to the picture's right and upward."""
    x, y, z = head_rotation(landmarks) @ np.array([0, 0, -1], np.float32)  # out of the face, toward the viewer
    return float(np.degrees(np.arctan2(x, -z))), float(np.degrees(np.arcsin(np.clip(-y, -1, 1))))


def sharpness(crop: UInt8Image) -> float:
    """Mean strength of a crop's finest edges, in levels, at a size at which crops can be compared."""
    small = cv2.resize(crop, (FINE, FINE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    inner = grey[FINE // 5 : -FINE // 5, FINE // 5 : -FINE // 5]  # the face without what is around it
    return float(np.abs(cv2.Laplacian(inner, cv2.CV_32F)).mean())


def blur(crop: UInt8Image) -> float:
    """Share of a crop's finest edges that further blurring leaves: about 0.3 where they are sharp, 0.6 where not.

    Unlike :func:`sharpness` it hardly depends on how much there is to see in a face.
    """
    small = cv2.resize(crop, (160, 160), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)[32:-32, 32:-32]
    edges, rest = (
        float(np.abs(cv2.Laplacian(picture, cv2.CV_32F)).mean())
        for picture in (grey.astype(np.float32), cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.2))
    )
    return rest / max(edges, 1e-6)
