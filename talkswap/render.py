"""RenderPlan to RenderReport: the corridor, in reading order.

    target clip - reader - track - system - paste - writer - mux - output
    photo ----- analyse - encode_source ---^
    voice ----- load - features - windows -^

Reader, face analysis, network and encoder work ahead of each other (:mod:`talkswap.pipeline`); nothing holds a clip.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.checkpoints import PresetFolder, find_preset, resolve_auto, weight_hashes
from talkswap.device import Device, choose_device, network_threads
from talkswap.errors import DeviceError, NoTargetFaceError, UsageError
from talkswap.faces.align import transform_points, warp_crop
from talkswap.faces.analyze import FaceAnalyser, load_analyser
from talkswap.faces.paste import paste
from talkswap.faces.people import FaceChooser, Person, SelectConfig
from talkswap.faces.track import FaceTracker
from talkswap.media.codecs import EncoderSettings, check_encoder
from talkswap.media.index import FrameIndex, index_frames
from talkswap.media.mux import mux, staging_folder
from talkswap.media.probe import probe
from talkswap.media.reader import ClipReader
from talkswap.media.timeline import Timeline, plan_timeline
from talkswap.media.writer import VideoWriter
from talkswap.people import face_width, people_in_clip
from talkswap.pipeline import Stopwatch, ahead, batched, closing_source, each, side_by_side
from talkswap.source import read_photo, source_face
from talkswap.systems.contract import ClipState, SourceState, Switches, System
from talkswap.systems.load import load_listener, load_system
from talkswap.types import (
    AlignedFace,
    ClipInfo,
    FloatArray,
    Frame,
    ProgressEvent,
    RenderPlan,
    RenderReport,
    UInt8Image,
    Voice,
)
from talkswap.voice.load import load_voice, shift_voice
from talkswap.voice.windows import SpeechTrack

Report = Callable[[ProgressEvent], None]

AHEAD = 6  # finished frames between two stages
SIMILARITY_EVERY = 10  # frames between two measurements of identity
SMALL_FACE = 64.0  # px: below, a source photo or a target face gives a poor result, and the user is told


@dataclass(frozen=True)
class Prepared:
    """Everything a render needs, checked before the first frame is made."""

    plan: RenderPlan
    info: ClipInfo
    index: FrameIndex
    voice: Voice
    timeline: Timeline
    preset: PresetFolder
    device: Device
    analyser: FaceAnalyser
    system: System
    listener: SpeechTrack
    source: SourceState | None
    people: list[Person]
    person: Person | None  # None where nothing is changed
    warnings: list[str]


@dataclass(frozen=True)
class Work:
    """One frame on its way; ``face`` is None where the frame passes through untouched."""

    frame: Frame
    face: AlignedFace | None = None
    fade: float = 1.0
    crop: UInt8Image | None = None  # the system's answer


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


def encoder_settings(plan: RenderPlan) -> EncoderSettings:
    """The one lossy encode, as the plan wants it."""
    return EncoderSettings(encoder=plan.encoder, crf=plan.crf)


def prepare(plan: RenderPlan, tell: Report) -> Prepared:
    """Check and open everything; the cheap checks come first, so that a wrong path is named at once."""
    check_encoder(plan.encoder, plan.output, encoder_settings(plan))
    warnings: list[str] = []
    info = probe(plan.target)
    index = index_frames(info)
    voice = choose_voice(plan, info, index)
    photo = read_photo(plan.source) if plan.swap and plan.source is not None else None
    if plan.swap and photo is None:
        raise UsageError("a face swap needs a source photo", "give one with --source, or use --no-swap")
    timeline = plan_timeline(index.times, index.last_duration, voice.seconds, plan.fit)
    warnings += timeline.warnings
    device = choose_device(plan.device)
    if plan.weights is not None:
        preset = find_preset(plan.preset, plan.weights)
        tell(ProgressEvent("prepare", 0, 0, f"preset {preset.name}: {plan.weights}"))
    elif plan.preset == "auto":
        resolution = resolve_auto()
        preset = resolution.preset
        tell(ProgressEvent("prepare", 0, 0, f"preset {preset.name}: {resolution.reason}"))
    else:
        preset = find_preset(plan.preset)
    tell(ProgressEvent("prepare", 0, 0, f"device {device.name}: {device.reason}"))
    analyser = load_analyser(preset.analyser, preset, device.name)
    switches = Switches(plan.swap, plan.sync, plan.order == "swap-sync", plan.mode == "self")
    system = load_system(preset, device, switches)
    source = None
    if photo is not None and plan.source is not None:
        face, size = source_face(photo, analyser, system.crop.size, plan.source)
        if size < SMALL_FACE:
            warnings.append(f"the face in {plan.source} is only {size:.0f} px wide, the result will lack detail")
        source = system.encode_source(face)
    people, person = [], None
    if plan.swap or plan.sync:
        people = people_in_clip(info, index, analyser)
        person = choose_person(people, plan, analyser)
        if face_width(person) < SMALL_FACE:
            warnings.append(f"the target's face is only {face_width(person):.0f} px wide")
    return Prepared(
        plan, info, index, voice, timeline, preset, device, analyser, system,
        load_listener(voice, system.speech, preset, device), source, people, person, warnings,
    )  # fmt: skip


def choose_voice(plan: RenderPlan, info: ClipInfo, index: FrameIndex) -> Voice:
    """The voice of the plan, or the target's own sound on the picture's clock; silence where neither is wanted.

    Raises:
        UsageError: lips are to follow a voice, and there is none.
    """
    if plan.audio is not None:
        return load_voice(plan.audio)
    if info.has_audio:
        return shift_voice(load_voice(plan.target), info.audio_offset)
    if plan.sync:
        raise UsageError("the target has no sound of its own and no voice was given", "name a voice with --audio")
    return Voice(np.zeros(max(1, round(index.duration * 16000)), np.float32), 16000)


def choose_person(people: list[Person], plan: RenderPlan, analyser: FaceAnalyser) -> Person:
    """Whose face is changed: the most prominent, or the one that ``--face`` names.

    Raises:
        NoTargetFaceError: nobody is there, or not the one asked for.
    """
    if not people:
        raise NoTargetFaceError(f"no face was found in {plan.target}", "choose a clip that shows a face")
    if plan.face is None:
        return people[0]
    if plan.face.isdecimal() and not Path(plan.face).exists():
        if int(plan.face) >= len(people):
            raise NoTargetFaceError(
                f"there is no face {plan.face} in {plan.target}, only 0 to {len(people) - 1}",
                "list them with `talkswap faces`",
            )
        return people[int(plan.face)]
    photo = read_photo(Path(plan.face))
    face, _ = source_face(photo, analyser, 320, Path(plan.face))
    wanted = analyser.embed(face.crop, face.landmarks)
    known = [(float(p.embedding @ wanted), -p.index, p) for p in people if p.embedding is not None]
    likeness, _, best = max(known, key=lambda one: one[:2], default=(-1.0, 0, people[0]))
    if likeness < SelectConfig().least_likeness:
        raise NoTargetFaceError(
            f"the person of {plan.face} was not found in {plan.target}", "list who is there with `talkswap faces`"
        )
    return best


class Corridor:
    """The frames of one render, from the target's picture to the finished one."""

    def __init__(self, ready: Prepared, stopwatch: Stopwatch) -> None:
        self.ready, self.stopwatch = ready, stopwatch
        self.faceless: list[int] = []  # output indices that passed through
        self.turned = 0
        self.similarities: list[float] = []
        self.damaged = 0
        self.size = ready.plan.batch_size or batch_size(ready.device, ready.info)
        self.passive = ready.person is None
        self.tracker = FaceTracker(ready.analyser, embed=ready.analyser.embed)
        self.choose = FaceChooser(ready.person.embedding if ready.person is not None else None)

    def frames(self) -> Iterator[Work]:
        """Finished frames in order of time; each stage in its own thread, a bounded number of frames between."""
        with ClipReader(self.ready.info, self.ready.index) as reader:
            read = self.stopwatch.timed("read", reader.frames_for(self.ready.timeline))
            found = each(ahead(read, AHEAD, "read"), self._look)
            made = self._make(batched(ahead(found, max(AHEAD, self.size), "faces"), self.size))
            with closing_source(ahead(self._paste(ahead(made, 2, "network")), AHEAD, "paste")) as finished:
                yield from finished
            self.damaged = reader.damaged

    def _look(self, frame: Frame) -> Work:
        """Where the person's face is in a frame, cut out for the system."""
        size = self.ready.system.crop.size
        with self.stopwatch.measure("faces"):
            tracked = None if self.passive else self.choose(self.tracker.update(frame), *frame.rgb.shape[:2])
            if tracked is None or tracked.fade <= 0:
                self.faceless.append(frame.index)
                return Work(frame)
            self.turned += tracked.fade < 1
            affine = tracked.affine(size)
            points = transform_points(affine, tracked.landmarks)
            face = AlignedFace(warp_crop(frame.rgb, affine, size), affine, points, frame.index)
            return Work(frame, face, tracked.fade)

    def _make(self, batches: Iterator[list[Work]]) -> Iterator[list[Work]]:
        """The system's answers, some batches side by side; the first one alone, since it may set the reference."""
        state = ClipState()
        with network_threads(self.ready.device) as workers, closing_source(batches) as iterator:
            for batch in iterator:
                yield self._answer(batch, state)
                if any(work.face is not None for work in batch):
                    break
            yield from side_by_side(iterator, partial(self._answer, state=state), workers)

    def _answer(self, batch: list[Work], state: ClipState) -> list[Work]:
        ready = self.ready
        with self.stopwatch.measure("network"):
            faces = [w.face for w in batch if w.face is not None]
            if not faces:
                return batch
            times = [w.frame.time for w in batch if w.face is not None]
            crops = ready.system.render(ready.source, faces, ready.listener.at(times), state)
            self._compare(faces, crops)
            answers = iter(crops)
            return [dataclasses.replace(w, crop=next(answers)) if w.face is not None else w for w in batch]

    def _compare(self, faces: list[AlignedFace], crops: list[UInt8Image]) -> None:
        source = self.ready.source
        chosen = [c for f, c in zip(faces, crops, strict=True) if f.index % SIMILARITY_EVERY == 0]
        if source is not None and chosen:
            self.similarities += self.ready.system.similarity(source, chosen)

    def _paste(self, batches: Iterator[list[Work]]) -> Iterator[Work]:
        with closing_source(batches) as iterator:
            for work in chain.from_iterable(iterator):
                if work.face is not None and work.crop is not None:
                    with self.stopwatch.measure("paste"):
                        mask: FloatArray = self.ready.system.mask(work.face)
                        paste(
                            work.frame.rgb, work.crop, work.face.affine, mask,
                            target_crop=work.face.crop, fade=work.fade, in_place=True,
                        )  # fmt: skip
                yield work

    def check(self) -> None:
        """Raise when the clip had no face at all: then nothing was dubbed, and saying so is better than a copy."""
        if not self.passive and len(self.faceless) == len(self.ready.timeline):
            raise NoTargetFaceError(
                f"the chosen face was found in no frame of {self.ready.plan.target}",
                "list who is there with `talkswap faces`",
            )

    def intervals(self) -> list[tuple[float, float]]:
        """Stretches without the face, in seconds of the output."""
        timeline = self.ready.timeline
        ends = [*timeline.times[1:], timeline.duration]
        spans: list[tuple[float, float]] = []
        last = -2
        for number in self.faceless:
            if number == last + 1 and spans:
                spans[-1] = (spans[-1][0], float(ends[number]))
            else:
                spans.append((float(timeline.times[number]), float(ends[number])))
            last = number
        return spans

    def report(self, seconds: float) -> RenderReport:
        """What was done."""
        from talkswap.environment import peak_memory_mb, versions

        ready, plan = self.ready, self.ready.plan
        warnings = list(ready.warnings)
        count = len(ready.timeline)
        if self.faceless and not self.passive:
            warnings.append(f"{len(self.faceless)} of {count} frames show no such face and passed through untouched")
        if self.turned:
            warnings.append(f"in {self.turned} frames the head turns so far that the change is faded out")
        if self.damaged:
            warnings.append(f"{self.damaged} frames of {plan.target} are damaged")
        duration = float(ready.timeline.duration)
        return RenderReport(
            output=plan.output,
            frames_in=len(ready.index.times),
            frames_out=count,
            seconds=seconds,
            video_seconds=duration,
            real_time_factor=seconds / duration,
            preset=ready.preset.name,
            device=ready.device.name,
            faceless=self.intervals() if not self.passive else [],
            faceless_frames=len(self.faceless) if not self.passive else 0,
            identity_similarity=float(np.mean(self.similarities)) if self.similarities else None,
            timings=dict(self.stopwatch.seconds),
            peak_memory_mb=peak_memory_mb(),
            warnings=warnings,
            weights=weight_hashes(ready.preset),
            versions=versions(),
            plan=dataclasses.asdict(plan),
        )


def batch_size(device: Device, info: ClipInfo) -> int:
    """Frames per network call: a few on a CPU, more where the GPU's memory holds them and the pictures are not huge.

    About six batches of whole pictures are on their way at any time, so a batch's pictures stay below 128 MB.
    """
    if device.name == "cpu":
        return 4
    pictures = 2**27 // (info.width * info.height * 3)
    return int(max(1, min(64, pictures, max(4, device.memory_gb // 0.25))))
