"""What a render will be like: who is in the clip, how long it takes, what it needs.

Time, memory and disk are measured, not looked up: a few frames of the clip itself, from where the face is largest, go
through the whole corridor and the encoder into a temporary file.  The other frames are taken to cost as much; those
without a face cost less.
"""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from talkswap.device import peak_memory_mb
from talkswap.faces.people import PeopleChooser
from talkswap.faces.track import FaceTracker, TrackConfig
from talkswap.media.output import check_output
from talkswap.media.timeline import Timeline
from talkswap.media.writer import VideoWriter, picture_ending
from talkswap.render.corridor import Corridor, batch_size
from talkswap.render.look import LookConfig, sample_frames
from talkswap.render.pipeline import Stopwatch, closing_source
from talkswap.render.plan_file import plan_to_json
from talkswap.render.prepare import Prepared, encoder_settings, prepare
from talkswap.render.resume import ingredients_of
from talkswap.render.segments import digest, finished_frames, unfinished_work
from talkswap.types import RenderPlan

PROBE_SECONDS = 4.0  # of work, after which no further batch is begun
PROBE_BATCHES = 6
COPIES = 3  # of the encoded picture on the disk at once: segments, joined, finished
FRONTAL = 30.0  # degrees of yaw up to which a face counts as seen from the front


@dataclass(frozen=True)
class Probe:
    """What some frames cost here."""

    frames: int
    seconds: float  # per frame, once the work flows
    start: float  # seconds until it does
    bytes: float  # of encoded picture, per frame


def probe_render(prepared: Prepared) -> Probe:
    """Make some frames of a clip and measure them.

    Raises:
        As :func:`talkswap.render.render.render_clip`.
    """
    size = prepared.plan.batch_size or batch_size(prepared.networks.device, prepared.clip.info)
    timeline = _best_part(prepared, PROBE_BATCHES * size)
    corridor = Corridor(replace(prepared, timeline=timeline), Stopwatch(), size)
    settings = encoder_settings(prepared.plan)
    began = time.perf_counter()
    marks: list[float] = []
    with tempfile.TemporaryDirectory(prefix="talkswap-probe-") as folder:
        encoded = Path(folder) / f"probe{picture_ending(settings.encoder)}"
        with (
            VideoWriter(encoded, prepared.clip.info, settings) as writer,
            closing_source(corridor.frames()) as works,
        ):
            for work in works:
                writer.write(work.frame.rgb, work.frame.time - timeline.times[0], work.frame.fine)
                marks.append(time.perf_counter() - began)
                if len(marks) % size == 0 and len(marks) > size and marks[-1] > PROBE_SECONDS:
                    break
        encoded_bytes = encoded.stat().st_size
    # The first batch fills the stages and warms the networks up; what comes after it is the pace.
    first = min(size, len(marks)) - 1
    rest = len(marks) - 1 - first
    pace = (marks[-1] - marks[first]) / rest if rest else marks[-1] / len(marks)
    return Probe(len(marks), pace, max(0.0, marks[first] - pace * (first + 1)), encoded_bytes / len(marks))


def _best_part(prepared: Prepared, frames: int) -> Timeline:
    """Some frames of the plan from where the face is seen best, or from its beginning."""
    whole = prepared.timeline
    best = prepared.people.subjects[0].person.time if prepared.people.subjects else Fraction(0)
    index = min(range(len(prepared.clip.index.times)), key=lambda i: abs(prepared.clip.index.times[i] - best))
    places = [place for place, picture in enumerate(whole.picture) if picture == index]
    first = max(0, min(places[0] if places else 0, len(whole) - frames))
    last = min(len(whole), first + max(1, frames))
    end = whole.times[last] if last < len(whole) else whole.duration
    return Timeline(whole.picture[first:last], whole.times[first:last], end)


def frontal_share(prepared: Prepared) -> float | None:
    """Share of the looked-at faces of the people that are changed whose yaw is below 30 degrees; None without any."""
    if not prepared.people.subjects:
        return None
    tracker = FaceTracker(
        prepared.networks.analyser, TrackConfig(detect_every=1, follow=False), prepared.networks.analyser.embed
    )
    choose = PeopleChooser([subject.person.embedding for subject in prepared.people.subjects])
    yaws: list[float] = []
    for frame in sample_frames(prepared.clip.info, prepared.clip.index, LookConfig()):
        faces = choose(tracker.update(frame), *frame.rgb.shape[:2])
        yaws += [abs(face.yaw) for face in faces if face is not None]
    return sum(yaw < FRONTAL for yaw in yaws) / len(yaws) if yaws else None


def free_memory_mb() -> float | None:
    """Memory that programs can have without swapping, in MB; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    names = getattr(os, "sysconf_names", {})
    if {"SC_PAGE_SIZE", "SC_AVPHYS_PAGES"} <= names.keys():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 1e6
    return None


def forecast(prepared: Prepared, preparation: float, finished: int) -> dict[str, Any]:
    """Time, memory and disk that a render needs, and what there is of them.

    Args:
        prepared: its inputs.
        preparation: seconds that preparing them took.
        finished: frames that an interrupted run has finished.
    """
    probe = probe_render(prepared)
    frames = len(prepared.timeline)
    free = free_memory_mb()
    sound = float(prepared.timeline.duration) * 2 * 128_000 / 8  # bytes: two channels as media.mux writes them
    needs = {
        "estimated_seconds": round(preparation + probe.start + probe.seconds * (frames - finished), 1),
        "estimated_from": f"{probe.frames} frames of this clip, rendered here just now",
        "seconds_per_frame": round(probe.seconds, 4),
        "memory_needed_mb": round(peak_memory_mb()),
        "memory_free_mb": None if free is None else round(free),
        "disk_needed_mb": round((COPIES * probe.bytes * frames + sound) / 1e6, 1),
        "disk_free_mb": round(shutil.disk_usage(prepared.plan.output.parent).free / 1e6),
    }
    if prepared.networks.device.name == "cuda":
        import torch

        needs["gpu_memory_needed_mb"] = round(torch.cuda.max_memory_reserved() / 1e6)
        needs["gpu_memory_free_mb"] = round(torch.cuda.mem_get_info()[0] / 1e6)
    return needs


def plan_summary(plan: RenderPlan) -> dict[str, Any]:
    """What a render would do (``--dry-run``); all inputs are checked as for a render, some frames are rendered to measure
    the time, nothing is kept."""
    check_output(plan.output, plan.overwrite)
    began = time.perf_counter()
    prepared = prepare(plan, lambda event: None)
    ingredients = ingredients_of(prepared)
    seconds = time.perf_counter() - began
    unfinished = {} if plan.fresh else unfinished_work(plan.output)
    finished = finished_frames(plan.output) if unfinished.get("digest") == digest(ingredients) else 0
    info, index, networks, people = prepared.clip.info, prepared.clip.index, prepared.networks, prepared.people
    frontal = frontal_share(prepared)
    needs, warnings = forecast(prepared, seconds, finished), list(prepared.warnings)
    for what in ("memory", "disk"):
        if needs[f"{what}_free_mb"] is not None and needs[f"{what}_needed_mb"] > needs[f"{what}_free_mb"]:
            warnings.append(f"the {what} may be too small: {needs[f'{what}_needed_mb']} MB are needed")
    # The rate varies where the frames' lengths differ by more than a tick of the clip's clock.
    steps = [after - before for before, after in pairwise(index.times)]
    varies = bool(steps) and max(steps) - min(steps) > info.time_base
    return {
        "plan": plan_to_json(plan),
        "frames": len(prepared.timeline),
        "seconds": float(prepared.timeline.duration),
        "frames_finished": finished,
        "size": [info.width, info.height],
        "rate": {"frames_per_second": float(info.rate), "exact": str(info.rate), "varies": varies},
        "clip_seconds": float(index.duration),
        "voice_seconds": float(prepared.voices.seconds),
        "fit": prepared.timeline.description,
        "preset": networks.preset.name,
        "device": f"{networks.device.name} ({networks.device.reason})",
        "people": [{"index": p.index, "share": round(p.share, 3), "face_px": round(p.width)} for p in people.everybody],
        "faces": [subject.to_json() for subject in people.subjects],
        "frontal_share": None if frontal is None else round(frontal, 3),
        **needs,
        "warnings": warnings,
    }
