"""Head pose: by how many degrees a result's head is turned otherwise than the truth's.

The rotation is that of the mean face through the points which neither speech nor blinks move
(:func:`talkswap.faces.track.head_rotation`).  With x right, y down and z away from the viewer it is written as

    R = Y(yaw) X(pitch) Z(roll)

yaw positive where the nose points to the picture's right, pitch positive where it points up, roll positive where the
head leans clockwise.  The error of the whole pose is the angle of the one rotation that leads from the truth's to the
result's.  ReSyncer's table 2 has a pose error too, by a pretrained network of its own: the two are not comparable.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from talkswap.evaluation.arrays import check_landmarks, check_pair, has_face
from talkswap.evaluation.metric import Metric
from talkswap.faces.track import head_rotation
from talkswap.types import FloatArray

POSE = Metric(
    key="pose",
    label="Pose error",
    better="lower",
    unit="degrees",
    about="Angle between the result's and the truth's head rotation",
    needs_truth=True,
)
YAW = Metric("yaw", "Yaw error", "lower", "degrees", "Difference of turning aside", needs_truth=True)
PITCH = Metric("pitch", "Pitch error", "lower", "degrees", "Difference of nodding", needs_truth=True)
ROLL = Metric("roll", "Roll error", "lower", "degrees", "Difference of leaning", needs_truth=True)


def angles(rotation: FloatArray) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees of a head rotation (3 3)."""
    matrix = np.asarray(rotation, np.float64)
    forward = -matrix[:, 2]  # out of the face, toward the viewer
    yaw = np.arctan2(forward[0], -forward[2])
    pitch = np.arctan2(-forward[1], np.hypot(forward[0], forward[2]))
    # What is left once yaw and pitch are undone: where the face's own x axis lies in the plane that it looks along.
    right = np.array([np.cos(yaw), 0, np.sin(yaw)])
    down = np.array([np.sin(pitch) * np.sin(yaw), np.cos(pitch), -np.sin(pitch) * np.cos(yaw)])
    roll = np.arctan2(down @ matrix[:, 0], right @ matrix[:, 0])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def angle_between(first: FloatArray, second: FloatArray) -> float:
    """Degrees of the rotation that leads from one rotation (3 3) to another, 0 to 180."""
    change = np.asarray(second, np.float64) @ np.asarray(first, np.float64).T
    # sine and cosine together: the arc cosine alone is blind below a tenth of a degree in float32
    axis = np.array([change[2, 1] - change[1, 2], change[0, 2] - change[2, 0], change[1, 0] - change[0, 1]])
    return float(np.degrees(np.arctan2(np.linalg.norm(axis), np.trace(change) - 1)))


def pose_errors(result: FloatArray, truth: FloatArray) -> FloatArray:
    """Errors of the head pose in each frame.

    Args:
        result: N 478 3, px of any picture, nan where no face is.
        truth: N 478 3, px of the same picture.

    Returns:
        N 4, degrees, none negative: whole pose, yaw, pitch, roll; nan where either has no face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    check_landmarks(result)
    check_pair(result, truth)
    errors: NDArray[np.float32] = np.full((len(result), 4), np.nan, np.float32)
    for index in np.flatnonzero(has_face(result) & has_face(truth)):
        made, wanted = head_rotation(result[index]), head_rotation(truth[index])
        apart = np.array(angles(made)) - np.array(angles(wanted))
        errors[index, 0] = angle_between(wanted, made)
        errors[index, 1:] = np.abs((apart + 180) % 360 - 180)
    return errors
