"""Real-time factor: seconds of work for a second of video (WavSyncSwap, table 3); below 1 keeps up with playing.

Ours is the whole render's, from reading the clip to the finished file, as `talkswap render` reports it; the paper's is
a network's alone, on a V100.  It means something only beside the machine that the report names.
"""

from __future__ import annotations

from talkswap.errors import TrainingDataError
from talkswap.evaluation.metric import Metric

METRIC = Metric(
    key="rtf",
    label="RTF",
    better="lower",
    about="Seconds of the whole render for a second of video, on the machine that the report names",
    paper="WavSyncSwap table 3",
)


def real_time_factor(seconds: float, video_seconds: float) -> float:
    """Wall time of a render over the length of its video.

    Raises:
        TrainingDataError: the video has no length.
    """
    if video_seconds <= 0:
        raise TrainingDataError(f"a video of {video_seconds:g} seconds has no real-time factor", "look at the clip")
    return seconds / video_seconds
