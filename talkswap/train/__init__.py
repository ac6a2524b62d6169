"""Every network of talkswap is trained here: one loop, one file per stage."""

from talkswap.train.stages import STAGES, configure, train

__all__ = ["STAGES", "configure", "train"]
