"""Whether a stage learns, asked in a way that no order of rounding decides: one set of samples before and after."""

from __future__ import annotations

import numpy as np
import torch

from talkswap.train.stage import Stage

FAR = 10**6  # numbers of batches from here on are not drawn by a short run


def fixed_figure(stage: Stage, name: str = "loss", batches: int = 4) -> float:
    """Mean of one figure of :meth:`Stage.loss` over a fixed set of batches; it leaves the network as it was.

    A row of a run's curve is taken from samples of its own, so two rows differ by the draw as well as by the training.
    The same samples and the same dropout show the training alone.
    """
    state = {key: value.clone() for key, value in stage.network.state_dict().items()}
    values = []
    stage.network.train()
    with torch.no_grad():
        for number in range(FAR, FAR + batches):
            torch.manual_seed(number)
            loss, figures = stage.loss(stage.batch(number), FAR)
            values.append(float(loss if name == "loss" else figures[name]))
    stage.network.load_state_dict(state)
    return float(np.mean(values))
