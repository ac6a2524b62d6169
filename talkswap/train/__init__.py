"""Every network of talkswap is trained here: one loop, one file per stage."""

from talkswap.train.stages import STAGES, configure, stage_config, train

__all__ = ["STAGES", "configure", "stage_config", "train"]
