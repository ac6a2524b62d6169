"""How an interrupted render goes on: what decides its frames, which segments are left, and what the finished ones counted.

A segment's record holds what the report needs of it; the last segment's holds the whole tally as well, so that a render
that was interrupted in its final pass does not read the clip again.
"""

import dataclasses
import time
from typing import Any

from talkswap.checkpoints.preset_folder import weight_hashes
from talkswap.device import processor, versions
from talkswap.media.writer import picture_ending
from talkswap.provenance.stamp import Places
from talkswap.render.corridor import Corridor, Tally, batch_size
from talkswap.render.pipeline import Stopwatch
from talkswap.render.plan_file import deciding
from talkswap.render.prepare import Prepared, encoder_settings
from talkswap.render.segments import Span, WorkFolder, cut_spans


def ingredients_of(prepared: Prepared) -> dict[str, Any]:
    """Everything that decides a render's frames, by name, in JSON's own types: plan, weights, machine, versions."""
    networks = prepared.networks
    return {
        **deciding(prepared.plan),
        "encoder": dataclasses.asdict(encoder_settings(prepared.plan)),
        "weights": weight_hashes(networks.preset),
        "preset": networks.preset.name,
        "device": f"{networks.device.name}, {networks.device.reason}",
        "processor": processor(),
        "versions": versions(),
    }


class Resume:
    """The segments of one render: those that an interrupted run finished, and those that are left.

    Args:
        folder: the output's work folder.
        prepared: what is rendered.
        ingredients: what decides its frames; segments of anything else are cleared away.

    Raises:
        UsageError: the plan's segments have no length.
        OutputUnwritableError: the disk is full or fails.
    """

    def __init__(self, folder: WorkFolder, prepared: Prepared, ingredients: dict[str, Any]) -> None:
        plan = prepared.plan
        self.folder = folder
        self.ending = picture_ending(encoder_settings(plan).encoder)
        # A render goes on with the batches that it began with: a network may answer a little differently in others.
        size = plan.batch_size or batch_size(prepared.networks.device, prepared.clip.info)
        self.size = folder.begin(ingredients, size, plan.fresh)
        self.spans = cut_spans(prepared.timeline, plan.segment_seconds, self.size)
        self.first = folder.take_up(self.spans, self.ending)  # the frame with which the work goes on
        self.records = list(folder.finished)  # of the segments that were finished before this run
        self._clock, self._timings = time.perf_counter(), dict[str, float]()

    @property
    def left(self) -> list[Span]:
        """The segments that this run has to render."""
        return self.spans[len(self.records) :]

    @property
    def seconds(self) -> float:
        """Wall time of the finished segments."""
        return float(sum(record["seconds"] for record in self.records))

    def restore(self, corridor: Corridor) -> None:
        """Give a fresh corridor what the finished segments counted; its clock starts here."""
        if not self.left:
            corridor.tally = Tally(**self.records[-1]["tally"])
            if corridor.stamp is not None:
                corridor.stamp.places = Places.from_json(self.records[-1]["places"])
        elif self.records:
            corridor.tally.similarities += [one for record in self.records for one in record["similarities"]]
            corridor.tally.warnings += self.records[-1]["warnings"]
        self._clock, self._timings = time.perf_counter(), dict(corridor.stopwatch.seconds)

    def finish(self, span: Span, corridor: Corridor, similarities: list[float], complete: bool) -> None:
        """Bring a rendered segment to the disk with its record.

        Args:
            span: the segment, whose file is closed.
            corridor: it came from here.
            similarities: identity cosines that were measured in it.
            complete: whether the corridor has come to its end, so that its tally is the whole clip's.

        Raises:
            OutputUnwritableError: the disk is full or fails.
        """
        now, timings = time.perf_counter(), dict(corridor.stopwatch.seconds)
        record = {
            "seconds": now - self._clock,
            "timings": {stage: seconds - self._timings.get(stage, 0.0) for stage, seconds in timings.items()},
            "similarities": similarities,
            "warnings": list(corridor.tally.warnings),
            "tally": dataclasses.asdict(corridor.tally) if complete else None,
            "places": corridor.stamp.places.to_json() if complete and corridor.stamp is not None else None,
        }
        self.folder.finish(span, record)
        self._clock, self._timings = now, timings

    def add_timings(self, stopwatch: Stopwatch) -> None:
        """Count the finished segments' stages with this run's."""
        for record in self.records:
            for stage, seconds in record["timings"].items():
                stopwatch.seconds[stage] = stopwatch.seconds.get(stage, 0.0) + seconds
