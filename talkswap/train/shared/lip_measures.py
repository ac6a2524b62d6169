"""What counts in the loss of the stage ``sync-former``: points of the mesh by weight, and a few measures of the lips."""

import numpy as np
import torch
from torch import Tensor

from talkswap.faces.mesh import INNER_LIPS, OUTER_LIPS, POINTS, SKIN_POINTS, mean_face

MEASURES: tuple[tuple[tuple[int, ...], tuple[int, ...], int, float], ...] = (
    # points less points, along an axis, and the weight
    ((87, 14, 317), (82, 13, 312), 1, 3.0),  # opening
    ((291,), (61,), 0, 1.0),  # width
    ((152,), (), 1, 1.0),  # jaw
    ((17,), (), 1, 1.0),  # lower lip
    ((0,), (), 1, 1.0),  # upper lip
    ((0, 17), (), 2, 0.5),  # forward
)


def point_weights(upper: float, lips: float) -> Tensor:
    """Weight (478) of each point in the loss: the lips, the rest below the nose's tip, the rest; mean 1."""
    y = mean_face().points[:, 1]
    step = np.clip((y - 0.55) / 0.25, 0, 1)
    weight = upper + (1 - upper) * step * step * (3 - 2 * step)
    weight[[*INNER_LIPS, *OUTER_LIPS]] = lips
    weight[SKIN_POINTS:] = 0.02  # speech does not move the eyes
    return torch.from_numpy((weight / weight.mean()).astype(np.float32))


def measure_matrix() -> Tensor:
    """What turns flat displacements (3P) into the lips' measures (M): 3P M."""
    matrix = torch.zeros(POINTS, 3, len(MEASURES))
    for number, (plus, minus, axis, _) in enumerate(MEASURES):
        matrix[list(plus), axis, number] += 1 / len(plus)
        if minus:
            matrix[list(minus), axis, number] -= 1 / len(minus)
    return matrix.flatten(0, 1)


def centred(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values (B T M) less their mean over present frames (B T), that mean (B M), and their deviation (B M)."""
    share = (weight / weight.sum(1, keepdim=True).clamp(min=1))[..., None]
    mean = (values * share).sum(1)
    less = values - mean[:, None]
    return less, mean, ((less * less * share).sum(1) + 1e-6).sqrt()
