"""Motion of the head, the face and the mouth, compared with the truth's.

*Landmark distance* is how far the points of the face, and of the mouth, lie from the truth's:

    LMD = 1/(T P) sum_t sum_p |result_tp - truth_tp|        (Chen et al. 2018), x and y only

SwapTalk aligns faces as FFHQ does and takes the mouth's points; its tables call that LMD.  Here it is **LMD-m**: the 20
points of the lips, with both mouths centred first, so that the figure measures shape and not position.  **LMD** is over
all 68 points as they lie in the crop.  Both are in px of the paper's 320 px crop.  The truth's landmarks place the crop,
so a face's size in the picture doesn't matter, and crops of another size are scaled.

The papers state neither scale nor centring, so compare the order of methods between papers, not the figures.
WavSyncSwap's table 1 has both columns; the row that SwapTalk's table I takes from it (3.161) is that paper's LMD,
although SwapTalk's own text speaks of the mouth.

*Pose error* is the angle between two head rotations.  A rotation is that of the mean face through the points that
neither speech nor blinks move (:func:`talkswap.faces.measures.head_rotation`).  With x right, y down and z away from the
viewer it is

    R = Y(yaw) X(pitch) Z(roll)

with positive yaw where the nose points to the picture's right, positive pitch where it points up and positive roll where
the head leans clockwise.  ReSyncer's table 2 has a pose error too, by a pretrained network of its own: the two are not
comparable.

*Expression error* compares how the skin moves about each face's own resting shape, so that it is the same for anybody's
face.  Pose is removed, each point is averaged with its neighbours (landmarks tremble), and the resting shape is the
clip's median.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.metric import PAPER_SIZE, Metric, check_landmarks, check_pair, has_face
from talkswap.faces import geometry, insightface, measures, mesh
from talkswap.types import FloatArray

LMD = Metric(
    "lmd", "LMD", "lower", unit="px", needs_truth=True, paper="WavSyncSwap table 1",
    about="Distance of 68 landmarks from the truth's in the aligned 320 px crop",
)  # fmt: skip
LMD_MOUTH = Metric(
    "lmd_m", "LMD-m", "lower", unit="px", needs_truth=True,
    paper="arXiv 2405.05636, tables I, III and V, there called LMD; WavSyncSwap table 1",
    about="Distance of the mouth's 20 landmarks from the truth's in the aligned 320 px crop, mouths centred",
)  # fmt: skip

POSE = Metric(
    "pose", "Pose error", "lower", unit="degrees", needs_truth=True,
    about="Angle between the result's and the truth's head rotation",
)  # fmt: skip
EXPRESSION = Metric(
    "expression", "Expression error", "lower", unit="% of the eye distance", needs_truth=True,
    about="Difference between the result's and the truth's facial motion, pose and each face's own shape removed",
)  # fmt: skip

MOUTH_OF_68 = insightface.MESH_OF_68[48:]  # outer lips, then inner
NEIGHBOURHOOD = 0.1  # eye distances, sigma of the weights by which neighbours count
LEAST_FRAMES = 5  # with a face, for a resting face to mean anything


def _distances(result: FloatArray, truth: FloatArray, points: tuple[int, ...], size: int, centred: bool) -> FloatArray:
    check_landmarks(result)
    check_pair(result, truth)
    if size < 1:
        raise TrainingDataError(f"a crop of {size} px holds no landmarks", "give the side of the crops in px")
    first, second = (face[:, list(points), :2].astype(np.float64) for face in (result, truth))  # N P 2
    # Centring removes the position of the mouth, which the head's pose decides.
    if centred:
        first, second = (face - face.mean(1, keepdims=True) for face in (first, second))
    distances: NDArray[np.float64] = np.linalg.norm(first - second, axis=2).mean(1)
    return np.asarray(distances * (PAPER_SIZE / size), np.float32)


def landmark_distance(result: FloatArray, truth: FloatArray, size: int) -> FloatArray:
    """LMD of each frame, over 68 points.

    Args:
        result: N 478 3, px of the truth's crop, nan where no face is.
        truth: N 478 3, px of the same crop.
        size: side of that crop, px.

    Returns:
        N, px of a 320 px crop; nan where either has no face.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    return _distances(result, truth, insightface.MESH_OF_68, size, centred=False)


def mouth_distance(result: FloatArray, truth: FloatArray, size: int) -> FloatArray:
    """LMD-m of each frame, over the lips' 20 points, both mouths centred.

    Arguments, answer and errors are those of :func:`landmark_distance`.
    """
    return _distances(result, truth, MOUTH_OF_68, size, centred=True)


def angles(rotation: FloatArray) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees of a head rotation (3 3)."""
    matrix = np.asarray(rotation, np.float64)
    # z points away from the viewer, so the face looks along the negative third axis.
    forward = -matrix[:, 2]  # out of the face, toward the viewer
    yaw = np.arctan2(forward[0], -forward[2])
    pitch = np.arctan2(-forward[1], np.hypot(forward[0], forward[2]))
    # Undo yaw and pitch; the roll is then the direction of the face's own x axis in the plane across its view.
    right = np.array([np.cos(yaw), 0, np.sin(yaw)])
    down = np.array([np.sin(pitch) * np.sin(yaw), np.cos(pitch), -np.sin(pitch) * np.cos(yaw)])
    roll = np.arctan2(down @ matrix[:, 0], right @ matrix[:, 0])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def angle_between(first: FloatArray, second: FloatArray) -> float:
    """Degrees of the rotation that leads from one rotation (3 3) to another, 0 to 180."""
    change = np.asarray(second, np.float64) @ np.asarray(first, np.float64).T
    # From sine and cosine together: the arc cosine alone loses everything below a tenth of a degree in float32.
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
        own, reference = measures.head_rotation(result[index]), measures.head_rotation(truth[index])
        difference = np.array(angles(own)) - np.array(angles(reference))
        errors[index, 0] = angle_between(reference, own)
        errors[index, 1:] = np.abs((difference + 180) % 360 - 180)  # the short way round
    return errors


@lru_cache(maxsize=1)
def moving_points() -> NDArray[np.intp]:
    """P: numbers of the skin's points inside the face's outline."""
    return np.setdiff1d(np.arange(mesh.SKIN_POINTS), np.array(mesh.FACE_OVAL))


@lru_cache(maxsize=1)
def smoothing() -> NDArray[np.float64]:
    """P P, rows sum to one: the weights by which each moving point is averaged with its neighbours."""
    return geometry.neighbour_weights(mesh.mean_face().points[moving_points()].astype(np.float64), NEIGHBOURHOOD)


def upright(landmarks: FloatArray) -> NDArray[np.float64]:
    """A face (478 3) turned and scaled onto the mean face, in eye distances of the mean face."""
    points = np.asarray(landmarks, np.float64)
    steady = list(mesh.STEADY)
    reference = mesh.mean_face().points[steady].astype(np.float64)
    # Steady points alone place the face; a fit to all points would absorb part of the expression.
    scale, rotation, shift = geometry.spatial_similarity(points[steady], reference)
    return scale * points @ rotation.T + shift


def motion(landmarks: FloatArray) -> NDArray[np.float64]:
    """How the skin moves about the clip's resting face.

    Args:
        landmarks: N 478 3, all of them with a face.

    Returns:
        N P 2, eye distances, x and y.
    """
    # The clip's median face is its resting shape: it cancels who the person is.
    faces = np.array([upright(face)[moving_points(), :2] for face in landmarks])
    return np.asarray(smoothing() @ (faces - np.median(faces, axis=0)))


def expression_errors(result: FloatArray, truth: FloatArray) -> FloatArray:
    """Expression error of each frame.

    Args:
        result: N 478 3, px of any picture, nan where no face is; one person throughout.
        truth: N 478 3, px of any picture.

    Returns:
        N, percent of the eye distance; nan where either has no face, and everywhere if fewer than ``LEAST_FRAMES``
        frames have one.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    check_landmarks(result)
    check_pair(result, truth)
    errors = np.full(len(result), np.nan, np.float32)
    # Result and truth must rest on the same frames, or their medians would differ for no reason of motion.
    both = has_face(result) & has_face(truth)
    if int(both.sum()) >= LEAST_FRAMES:
        difference = motion(result[both]) - motion(truth[both])
        errors[both] = 100 * np.linalg.norm(difference, axis=2).mean(1)
    return errors
