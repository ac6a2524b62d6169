"""RenderPlan to RenderReport: the corridor, in reading order.

    target clip - reader - track - system - paste - writer - mux - output
    photo ----- analyse - encode_source ---^
    voice ----- load - features - windows -^

Reader, face analysis, network and encoder work ahead of each other (:mod:`talkswap.pipeline`); nothing holds a clip.
"""

from __future__ import annotations

import dataclasses
import time
from fractions import Fraction
from typing import Any

from talkswap.corridor import Corridor
from talkswap.errors import DeviceError
from talkswap.media.mux import mux, staging_folder
from talkswap.media.writer import VideoWriter
from talkswap.people import face_width
from talkswap.pipeline import Stopwatch, closing_source
from talkswap.preparation import Report, encoder_settings, prepare
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
    with staging_folder(plan.output, plan.overwrite) as staging:
        with stopwatch.measure("prepare"):
            ready = prepare(plan, tell)
        # the frames' own times fit an mp4's clock exactly; ffv1 alone does not go into one
        encoded = staging / ("picture.mkv" if plan.encoder == "ffv1" else "picture.mp4")
        corridor = Corridor(ready, stopwatch)
        settings = encoder_settings(plan)
        with (
            VideoWriter(encoded, ready.info, settings, ready.timeline.duration) as writer,
            closing_source(corridor.frames()) as works,
        ):
            for work in works:
                with stopwatch.measure("encode"):
                    writer.write(work.frame.rgb, work.frame.time)
                tell(ProgressEvent("render", work.frame.index + 1, len(ready.timeline)))
        corridor.check()
        with stopwatch.measure("mux"):
            mux(
                encoded,
                plan.audio or (plan.target if ready.info.has_audio else ready.voice),
                plan.target,
                plan.output,
                ready.timeline.times,
                ready.timeline.duration,
                voice_offset=Fraction(0) if plan.audio is not None else ready.info.audio_offset,
                overwrite=plan.overwrite,
            )
    return corridor.report(time.perf_counter() - started)


def plan_summary(plan: RenderPlan) -> dict[str, Any]:
    """What a render would do (``--dry-run``); all inputs are checked as for a render, nothing is written."""
    from talkswap.media.mux import check_output

    check_output(plan.output, plan.overwrite)
    ready = prepare(plan, lambda event: None)
    return {
        "plan": dataclasses.asdict(plan),
        "frames": len(ready.timeline),
        "seconds": float(ready.timeline.duration),
        "voice_seconds": float(ready.voice.seconds),
        "fit": ready.timeline.note or (ready.timeline.warnings[0] if ready.timeline.warnings else "equal lengths"),
        "preset": ready.preset.name,
        "device": f"{ready.device.name} ({ready.device.reason})",
        "people": [
            {"index": p.index, "share": round(p.share, 3), "face_px": round(face_width(p))} for p in ready.people
        ],
        "face": None if ready.person is None else ready.person.index,
        "warnings": ready.warnings,
    }
