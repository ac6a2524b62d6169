"""The portrait of a person: what is there where the look learned nothing."""

import numpy as np

from talkswap.animation.portrait import Portrait
from talkswap.animation.space import lip_opening
from talkswap.systems import contract
from talkswap.types import AlignedFace


def test_a_portrait_of_nothing_but_a_reference_can_speak():
    crop = np.zeros((8, 8, 3), np.uint8)
    portrait = contract.Portrait(AlignedFace(crop, np.eye(2, 3, dtype=np.float32), np.zeros((478, 3), np.float32), 0))
    assert contract.Portrait is Portrait
    assert portrait.template.shape == (478, 3) and abs(float(lip_opening(portrait.template[None])[0])) < 0.01
    assert portrait.style.shape == (0, 478, 3)
    assert portrait.references == portrait.mouths == ()
