"""RenderPlan to RenderReport: the corridor, in reading order.

    target clip - reader - track - system - paste - writer - mux - output
    photo ----- analyse - encode_source ---^
    voice ----- load - features - windows -^

Reader, face analysis, network and encoder work ahead of each other (:mod:`talkswap.render.pipeline`); nothing holds a clip.
The picture is made in closed segments (:mod:`talkswap.render.segments`), so that an interrupted render goes on.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from itertools import pairwise
from typing import Any

from talkswap.checkpoints.presets import weight_hashes
from talkswap.device import processor, versions
from talkswap.errors import DeviceError, TalkswapError
from talkswap.media.join import Piece, join, picture_ending
from talkswap.media.mux import mux
from talkswap.media.output import check_output
from talkswap.media.writer import VideoWriter
from talkswap.provenance.stamp import Places, Stamp
from talkswap.render.corridor import Corridor, Tally, batch_size
from talkswap.render.forecast import forecast, frontal_share
from talkswap.render.look import face_width
from talkswap.render.pipeline import Stopwatch, closing_source
from talkswap.render.plan_file import deciding, plan_to_json
from talkswap.render.prepare import Prepared, Report, encoder_settings, output_sound, prepare
from talkswap.render.segments import Span, WorkFolder, cut_spans, digest, finished_frames, unfinished_work
from talkswap.types import ProgressEvent, RenderPlan, RenderReport

__all__ = ["plan_summary", "prepare", "render"]


def render(plan: RenderPlan, progress: Report | None = None) -> RenderReport:
    """Dub one clip.

    Args:
        plan: inputs and settings.
        progress: called from time to time with what is done of the whole.

    Raises:
        TalkswapError: one of its children for every failure named in :mod:`talkswap.errors`; the output is
            then as it was before.
    """
    try:
        return _render(plan, progress)
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's; torch is not imported for its name alone
            raise DeviceError("the GPU's memory is too small for this render", "use --device cpu") from error
        raise


def _render(plan: RenderPlan, progress: Report | None) -> RenderReport:
    started = time.perf_counter()
    tell = progress or (lambda event: None)
    stopwatch = Stopwatch()
    with WorkFolder(plan.output, plan.overwrite, lambda line: tell(ProgressEvent("prepare", 0, 0, line))) as folder:
        with stopwatch.measure("prepare"):
            prepared = prepare(plan, tell, keep_voice=False)
            ingredients = deciding_all(prepared)
            size = folder.begin(
                ingredients, plan.batch_size or batch_size(prepared.networks.device, prepared.clip.info), plan.fresh
            )
        between = picture_ending(encoder_settings(plan).encoder)
        spans = cut_spans(prepared.timeline, plan.segment_seconds, size)
        first = folder.take_up(spans, between)
        say = partial(ProgressEvent, "prepare", 0, 0)
        stamp = Stamp(plan, ingredients, digest(ingredients), lambda line: tell(say(line)), folder.path)
        corridor = Corridor(prepared, stopwatch, size, first, stamp)
        before = list(folder.finished)
        if first == len(prepared.timeline):
            corridor.tally = Tally(**before[-1]["tally"])
            stamp.places = Places.from_json(before[-1]["places"])
        else:
            corridor.tally.similarities += [one for facts in before for one in facts["similarities"]]
            corridor.tally.warnings += before[-1]["warnings"] if before else []
            _make_segments(corridor, folder, spans[len(before) :], tell)
        try:
            corridor.check()
        except TalkswapError:
            folder.forget()  # the same command would only find the same
            raise
        with stopwatch.measure("mux"):
            encoded = folder.path / f"picture{between}"
            pieces = [Piece(folder.file(span), span.first, span.last) for span in spans]
            join(pieces, encoded, prepared.timeline.times, prepared.timeline.duration, prepared.clip.info.time_base)
            finished = mux(
                encoded,
                output_sound(prepared),
                plan.target,
                plan.output,
                prepared.timeline.times,
                prepared.timeline.duration,
                audio_mix=plan.audio_mix,
                index=prepared.clip.index,
                overwrite=plan.overwrite,
                within=folder.path,
                metadata=stamp.tags,
                finishing=stamp,
            )
            provenance = stamp.finish()
    for facts in before:
        for stage, seconds in facts["timings"].items():
            stopwatch.seconds[stage] = stopwatch.seconds.get(stage, 0.0) + seconds
    report = corridor.report(time.perf_counter() - started + sum(facts["seconds"] for facts in before))
    return dataclasses.replace(
        report,
        weights=ingredients["weights"],
        resumed_frames=first,
        warnings=[*report.warnings, *finished.warnings, *stamp.warnings],
        provenance=provenance,
        streams=list(finished.streams),
    )


def deciding_all(prepared: Prepared) -> dict[str, Any]:
    """Everything that decides a render's frames, by name, in JSON's own types: plan, weights, machine, versions."""
    return {
        **deciding(prepared.plan),
        "encoder": dataclasses.asdict(encoder_settings(prepared.plan)),
        "weights": weight_hashes(prepared.networks.preset),
        "preset": prepared.networks.preset.name,
        "device": f"{prepared.networks.device.name}, {prepared.networks.device.reason}",
        "processor": processor(),
        "versions": versions(),
    }


def _make_segments(corridor: Corridor, folder: WorkFolder, spans: list[Span], tell: Report) -> None:
    """Make the frames that are still to be made, each segment by an encoder of its own into a file of its own."""
    prepared, stopwatch = corridor.prepared, corridor.stopwatch
    total, ends = len(prepared.timeline), [*prepared.timeline.times, prepared.timeline.duration]
    settings = encoder_settings(prepared.plan)
    began, before, told = time.perf_counter(), dict(stopwatch.seconds), len(corridor.tally.warnings)
    with closing_source(corridor.frames()) as works:
        for span in spans:
            start = ends[span.first]
            similarities: list[float] = []
            with VideoWriter(folder.part(span), prepared.clip.info, settings, ends[span.last] - start) as writer:
                for work in works:
                    index = work.frame.index
                    if index < span.first:
                        tell(ProgressEvent("catching up", index + 1, span.first))
                        continue
                    with stopwatch.measure("encode"):
                        writer.write(work.frame.rgb, work.frame.time - start, work.frame.fine)
                    similarities += work.similarities
                    told = _tell_warnings(corridor.tally, told, tell)
                    tell(ProgressEvent("render", index + 1, total))
                    if index + 1 == span.last:
                        break
            complete = span is spans[-1] and next(works, None) is None  # the end of the corridor: all is counted
            now, timings = time.perf_counter(), dict(stopwatch.seconds)
            folder.finish(
                span,
                {
                    "seconds": now - began,
                    "timings": {stage: seconds - before.get(stage, 0.0) for stage, seconds in timings.items()},
                    "similarities": similarities,
                    "warnings": list(corridor.tally.warnings),
                    "tally": dataclasses.asdict(corridor.tally) if complete else None,
                    "places": corridor.stamp.places.to_json() if complete and corridor.stamp is not None else None,
                },
            )
            began, before = now, timings


def _tell_warnings(tally: Tally, told: int, tell: Report) -> int:
    """Say what a system had to do otherwise, at once and only once; returns how much has been said."""
    for warning in tally.warnings[told:]:
        tell(ProgressEvent("render", 0, 0, warning))
        told += 1
    return told


def plan_summary(plan: RenderPlan) -> dict[str, Any]:
    """What a render would do (``--dry-run``); all inputs are checked as for a render, some frames are made to measure
    the time, nothing is kept."""
    check_output(plan.output, plan.overwrite)
    began = time.perf_counter()
    prepared = prepare(plan, lambda event: None)
    ingredients = deciding_all(prepared)
    prepared_in = time.perf_counter() - began
    left = {} if plan.fresh else unfinished_work(plan.output)
    made = finished_frames(plan.output) if left.get("digest") == digest(ingredients) else 0
    frontal = frontal_share(prepared)
    info, warnings = prepared.clip.info, list(prepared.warnings)
    needs = forecast(prepared, prepared_in, made)
    for what in ("memory", "disk"):
        if needs[f"{what}_free_mb"] is not None and needs[f"{what}_needed_mb"] > needs[f"{what}_free_mb"]:
            warnings.append(f"the {what} may be too small: {needs[f'{what}_needed_mb']} MB are needed")
    return {
        "plan": plan_to_json(plan),
        "frames": len(prepared.timeline),
        "seconds": float(prepared.timeline.duration),
        "frames_finished": made,
        "size": [info.width, info.height],
        "rate": {"frames_per_second": float(info.rate), "exact": str(info.rate), "varies": _varies(prepared)},
        "clip_seconds": float(prepared.clip.index.duration),
        "voice_seconds": float(prepared.voices.seconds),
        "fit": prepared.timeline.told,
        "preset": prepared.networks.preset.name,
        "device": f"{prepared.networks.device.name} ({prepared.networks.device.reason})",
        "people": [
            {"index": p.index, "share": round(p.share, 3), "face_px": round(face_width(p))}
            for p in prepared.people.everybody
        ],
        "faces": [subject.to_json() for subject in prepared.people.subjects],
        "frontal_share": None if frontal is None else round(frontal, 3),
        **needs,
        "warnings": warnings,
    }


def _varies(prepared: Prepared) -> bool:
    """Whether the frames' lengths differ by more than a tick of the clip's clock."""
    steps = [after - before for before, after in pairwise(prepared.clip.index.times)]
    return bool(steps) and max(steps) - min(steps) > prepared.clip.info.time_base
