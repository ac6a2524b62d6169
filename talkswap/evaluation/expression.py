"""Expression: by how much a result's face moves otherwise than the truth's, whoever's face it is.

Pose is taken out by laying each frame's steady points (forehead, temples, nose bridge, eye corners) on the mean
face's: one rotation, scale and shift in space.  Shape, and with it identity, is taken out by subtracting the clip's own
resting face, the median of each point over time.  What is left is how each point moves, averaged with its neighbours,
because noise differs from point to point and a moving muscle takes all of them along:

    E_t = 100 / P sum_p |G (result_tp - rest(result)_p) - G (truth_tp - rest(truth)_p)|       x and y, in eye distances

over the points of the skin inside the outline, which are those that expressions move.  Depth is left out because it is
the landmark network's guess, the outline because it slides over the skin as the head turns.  An expression that a clip
holds from its first frame to its last is part of its resting face and is not seen.

On 16 held-out clips: 0.08 where the same motion is given another person's shape; 0.9 where each point trembles by 1 % of
the eye distance; 2.0 for a face that does not move at all; 3.1 for the motion of another time, or of another clip.
ReSyncer's table 2 has an expression error too, by a pretrained network of its own: the two are not comparable.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from talkswap.evaluation.arrays import check_landmarks, check_pair, has_face
from talkswap.evaluation.metric import Metric
from talkswap.faces.mesh import FACE_OVAL, SKIN_POINTS, mean_face, similarity
from talkswap.faces.smooth import STEADY
from talkswap.types import FloatArray

METRIC = Metric(
    key="expression",
    label="Expression error",
    better="lower",
    unit="% of the eye distance",
    about="Difference between the result's and the truth's facial motion, pose and each face's own shape removed",
    needs_truth=True,
)

NEIGHBOURHOOD = 0.1  # eye distances, sigma of the weights by which neighbours count
LEAST_FRAMES = 5  # with a face, for a resting face to mean anything


@lru_cache(maxsize=1)
def _moving() -> NDArray[np.intp]:
    """Numbers of the skin's points inside the face's outline."""
    return np.setdiff1d(np.arange(SKIN_POINTS), np.array(FACE_OVAL))


@lru_cache(maxsize=1)
def _neighbours() -> NDArray[np.float64]:
    """P P, rows sum to one: how much each moving point's neighbours count."""
    points = mean_face().points[_moving()].astype(np.float64)
    squared = ((points[:, None] - points[None]) ** 2).sum(2)
    weights = np.exp(-squared / (2 * NEIGHBOURHOOD**2))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def upright(landmarks: FloatArray) -> NDArray[np.float64]:
    """The face without its pose, in the mean face's place: 478 3 to 478 3 in eye distances of the mean face."""
    points = np.asarray(landmarks, np.float64)
    steady = list(STEADY)
    reference = mean_face().points[steady].astype(np.float64)
    scale, rotation, shift = similarity(points[steady], reference)
    return scale * points @ rotation.T + shift


def motion(landmarks: FloatArray) -> NDArray[np.float64]:
    """How the skin moves about the clip's resting face.

    Args:
        landmarks: N 478 3, all of them with a face.

    Returns:
        N P 2, eye distances, x and y.
    """
    faces = np.array([upright(face)[_moving(), :2] for face in landmarks])
    return np.asarray(_neighbours() @ (faces - np.median(faces, axis=0)))


def expression_errors(result: FloatArray, truth: FloatArray) -> FloatArray:
    """Expression error of each frame.

    Args:
        result: N 478 3, px of any picture, nan where no face is; one person throughout.
        truth: N 478 3, px of any picture.

    Returns:
        N, percent of the eye distance; nan where either has no face, and everywhere in a clip with fewer than
        ``LEAST_FRAMES`` faces.

    Raises:
        TrainingDataError: shapes do not fit.
    """
    check_landmarks(result)
    check_pair(result, truth)
    errors = np.full(len(result), np.nan, np.float32)
    both = has_face(result) & has_face(truth)
    if int(both.sum()) >= LEAST_FRAMES:
        apart = motion(result[both]) - motion(truth[both])
        errors[both] = 100 * np.linalg.norm(apart, axis=2).mean(1)
    return errors
