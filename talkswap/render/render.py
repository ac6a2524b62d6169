"""RenderPlan to RenderReport: the corridor, in reading order.

    target clip - reader - track ---- system - paste - writer - join - mux - output
    photo ----- analyse - Source ------^
    voice ----- load - SpeechFeatures -^

Reader, face analysis, network and encoder work ahead of each other (:mod:`talkswap.render.pipeline`); nothing holds a clip.
The picture is made in closed segments (:mod:`talkswap.render.resume`), so an interrupted render goes on where it stopped.
"""

import dataclasses
import time

from talkswap.errors import DeviceError, TalkswapError
from talkswap.media.mux import mux
from talkswap.media.writer import Piece, VideoWriter, join
from talkswap.provenance.stamp import Stamp
from talkswap.render.corridor import Corridor
from talkswap.render.pipeline import Stopwatch, closing_source
from talkswap.render.prepare import Report, encoder_settings, output_sound, prepare
from talkswap.render.resume import Resume, ingredients_of
from talkswap.render.segments import WorkFolder, digest
from talkswap.types import ProgressEvent, RenderPlan, RenderReport


def render_clip(plan: RenderPlan, progress: Report | None = None) -> RenderReport:
    """Dub one clip.

    Args:
        plan: inputs and settings.
        progress: called from time to time with what is done of the whole.

    Raises:
        TalkswapError: one of its children for every failure named in :mod:`talkswap.errors`; the output is
            then as it was before.
    """
    try:
        return _render(plan, progress or (lambda event: None))
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's; torch is not imported for its name alone
            raise DeviceError("the GPU's memory is too small for this render", "use --device cpu") from error
        raise


def _render(plan: RenderPlan, progress: Report) -> RenderReport:
    began, stopwatch = time.perf_counter(), Stopwatch()

    def log(line: str) -> None:
        progress(ProgressEvent("prepare", 0, 0, line))

    with WorkFolder(plan.output, plan.overwrite, log) as folder:
        # Open and check everything, then see what an interrupted run of the same render has left.
        with stopwatch.measure("prepare"):
            prepared = prepare(plan, progress, keep_voice=False)
            ingredients = ingredients_of(prepared)
            resume = Resume(folder, prepared, ingredients)
        stamp = Stamp(plan, ingredients, digest(ingredients), log, folder.path)
        corridor = Corridor(prepared, stopwatch, resume.size, resume.first, stamp)
        resume.restore(corridor)

        # The picture, segment by segment.
        if resume.left:
            _render_segments(corridor, resume, progress)
        try:
            corridor.check()
        except TalkswapError:
            folder.forget()  # the same command would only come to the same end
            raise

        # One file: the segments joined, then the sound, the other streams and the marks, in a single move.
        with stopwatch.measure("mux"):
            timeline, clip = prepared.timeline, prepared.clip
            picture = folder.path / f"picture{resume.ending}"
            pieces = [Piece(folder.file(span), span.first, span.last) for span in resume.spans]
            join(pieces, picture, timeline.times, timeline.duration, clip.info.time_base)
            output = mux(
                picture,
                output_sound(prepared),
                plan.target,
                plan.output,
                timeline.times,
                timeline.duration,
                audio_mix=plan.audio_mix,
                index=clip.index,
                overwrite=plan.overwrite,
                within=folder.path,
                metadata=stamp.tags,
                finishing=stamp,
            )
            provenance = stamp.finish()

    resume.add_timings(stopwatch)
    report = corridor.report(time.perf_counter() - began + resume.seconds)
    return dataclasses.replace(
        report,
        weights=ingredients["weights"],
        resumed_frames=resume.first,
        warnings=[*report.warnings, *output.warnings, *stamp.warnings],
        provenance=provenance,
        streams=list(output.streams),
    )


def _render_segments(corridor: Corridor, resume: Resume, progress: Report) -> None:
    """Render the frames that are left, each segment by an encoder of its own into a file of its own."""
    prepared, stopwatch, tally = corridor.prepared, corridor.stopwatch, corridor.tally
    total, ends = len(prepared.timeline), [*prepared.timeline.times, prepared.timeline.duration]
    settings, warnings = encoder_settings(prepared.plan), len(tally.warnings)
    with closing_source(corridor.frames()) as works:
        for span in resume.left:
            start = ends[span.first]
            similarities: list[float] = []
            part = resume.folder.part(span)
            with VideoWriter(part, prepared.clip.info, settings, ends[span.last] - start) as writer:
                for work in works:
                    index = work.frame.index
                    if index < span.first:  # of a finished segment; the tracker had to see it again
                        progress(ProgressEvent("catching up", index + 1, span.first))
                        continue
                    with stopwatch.measure("encode"):
                        writer.write(work.frame.rgb, work.frame.time - start, work.frame.fine)
                    similarities += work.similarities
                    for warning in tally.warnings[warnings:]:  # at once, and only once
                        progress(ProgressEvent("render", 0, 0, warning))
                    warnings = len(tally.warnings)
                    progress(ProgressEvent("render", index + 1, total))
                    if index + 1 == span.last:
                        break
            # Only at the corridor's end is everything counted.
            complete = span is resume.spans[-1] and next(works, None) is None
            resume.finish(span, corridor, similarities, complete)
