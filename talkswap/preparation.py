"""What a render needs before its first frame: inputs opened and checked, networks loaded, people found.

The cheap checks come first, so that a wrong path is named at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talkswap.checkpoints import PresetFolder, find_preset, resolve_auto
from talkswap.device import Device, choose_device
from talkswap.errors import NoTargetFaceError, UsageError
from talkswap.faces.analyze import FaceAnalyser, load_analyser
from talkswap.faces.people import Person, SelectConfig
from talkswap.media.codecs import EncoderSettings, check_encoder, encoder_for
from talkswap.media.index import FrameIndex, index_frames
from talkswap.media.part import cut
from talkswap.media.probe import probe
from talkswap.media.timeline import Timeline, plan_timeline
from talkswap.people import face_width, people_in_clip
from talkswap.source import read_photo, source_face
from talkswap.systems.contract import SourceState, Switches, System
from talkswap.systems.load import load_listener, load_system
from talkswap.types import ClipInfo, ProgressEvent, RenderPlan, Voice
from talkswap.voice.load import load_voice, shift_voice
from talkswap.voice.windows import SpeechTrack

Report = Callable[[ProgressEvent], None]

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


def encoder_settings(plan: RenderPlan) -> EncoderSettings:
    """The one lossy encode, as the plan wants it."""
    return EncoderSettings(encoder_for(plan.encoder, plan.output), plan.crf, plan.encoder_preset, plan.pixel_format)


def prepare(plan: RenderPlan, tell: Report) -> Prepared:
    """Check and open everything; the cheap checks come first, so that a wrong path is named at once."""
    settings = encoder_settings(plan)
    check_encoder(settings.encoder, plan.output, settings)
    warnings: list[str] = []
    info = probe(plan.target)
    index, beyond = cut(index_frames(info), plan.start, plan.end)
    warnings += [beyond] if beyond else []
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
        voice = shift_voice(load_voice(plan.target), info.audio_offset - index.start)
        if not index.partial:
            return voice
        samples = voice.samples[: round(index.duration * voice.hz)]
        return Voice(samples if len(samples) else np.zeros(1, np.float32), voice.hz)
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
