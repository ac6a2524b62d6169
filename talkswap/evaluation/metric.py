"""What a metric says of itself, so that tables, reports and tests treat all of them alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """One column of a table; the file that holds it also holds the function that computes it."""

    key: str  # in report.json: "lse_c"
    label: str  # in tables: "LSE-C"
    better: Better
    unit: str = ""  # "dB", "px", "degrees"; empty for pure numbers
    about: str = ""  # one sentence without a full stop: what it measures, on what
    network: str = ""  # kind of network it judges with: "inception", "syncnet", "identity"; empty for none
    needs_truth: bool = False  # only where the true frames are known (self-driven)
    paper: str = ""  # where the figure stands: "SwapTalk table I, eq. 17"


@dataclass(frozen=True)
class Judge:
    """The network that a metric judged with; figures of two judges never share a column."""

    kind: str  # as Metric.network
    name: str  # "syncnet_v2", "compact sync expert"
    comparable: bool  # whether its figures may be held against published ones
    sha256: str = ""  # of its file
    note: str = ""  # what a reader of its column must know, one sentence without a full stop
