"""Delta-Sync: how far a result's sync confidence lies from the truth's (ReSyncer, section 4.1).

    delta-Sync = |LSE-C(result) - LSE-C(truth)|

A confidence above the truth's says only that a network pleases the judge better than a real mouth does; this figure
counts it as an error like one below.  Where the voice is another clip's, that clip with its own voice is the truth.
"""

from __future__ import annotations

from talkswap.evaluation.metric import Metric
from talkswap.evaluation.sync_confidence import SyncScore

METRIC = Metric(
    key="delta_sync",
    label="ΔSync",
    better="lower",
    about="Distance of LSE-C from that of the clip the voice comes from",
    network="syncnet",
    paper="ReSyncer tables 1, 3 and 5",
)


def delta_sync(result: SyncScore, truth: SyncScore) -> float:
    """Distance of two confidences of one judge."""
    return abs(result.confidence - truth.confidence)
