"""The layers of teeth that open mouths give."""

from __future__ import annotations

import numpy as np

from talkswap.animation.teeth import MouthView, upper_layer


def test_a_highlight_on_a_tooth_is_not_drawn_upward_as_a_bar() -> None:
    side = 120
    picture = np.full((side, side, 3), (120, 60, 70), np.float32)  # lips
    inside = np.zeros((side, side), np.float32)
    inside[50:70, 30:90] = 1
    picture[50:70, 30:90] = 180  # teeth
    picture[62:66, 58:61] = 250
    edge, top = np.full(side, 69, np.float32), np.full(side, 50, np.float32)
    colour, cover = upper_layer(MouthView(picture, inside, edge, top, 0.2, 0.0))
    behind = colour[30, 35:85]  # 50 3: what is hidden by the upper lip, along the arch
    assert cover[30, 59] > 0.9 and np.ptp(behind, axis=0).max() < 4
