"""What a render needs before its first frame: the clip, the voices, the networks and the people.

Four builders, one for each.  Cheap checks come first, so that a wrong path is named before a network is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np

from talkswap.animation.motion import load_sync_former
from talkswap.animation.sync_former import SyncFormer
from talkswap.checkpoints.preset_folder import PresetFolder, network_folder, weight_hashes
from talkswap.checkpoints.presets import find_preset, resolve_auto
from talkswap.device import Device, choose_device
from talkswap.errors import UsageError, WeightsMissingError
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.faces.occlusion import NAME as OCCLUSION
from talkswap.faces.occlusion import OcclusionReader, load_occlusion
from talkswap.faces.people import Person
from talkswap.media.codecs import EncoderSettings, check_encoder, encoder_for, is_deep, pixel_format_for
from talkswap.media.index import FrameIndex, cut, index_frames
from talkswap.media.probe import probe
from talkswap.media.program import find_ffmpeg
from talkswap.media.sound import load_voice, shift_voice
from talkswap.media.timeline import Timeline, plan_timeline
from talkswap.render.look import people_in_clip
from talkswap.render.painter import Painter, VoiceMotion
from talkswap.render.people import PersonRequest, Subject, find_people, person_requests
from talkswap.render.portraits import make_portraits, shortcomings, style_clip, style_of
from talkswap.render.segments import work_folder
from talkswap.render.source import SMALL_FACE, SourceEncoder, guide_of, read_photo
from talkswap.systems.contract import Portrait, SpeechFeatures, System
from talkswap.systems.registry import load_system, requirements
from talkswap.types import ClipInfo, ProgressEvent, RenderPlan, UInt8Image, Voice
from talkswap.voice.activity import SpeechGate

Report = Callable[[ProgressEvent], None]

SOUND_HZ = 48000  # samples per second of voices that are mixed


@dataclass(frozen=True)
class Clip:
    """The target, cut to the plan's start and end."""

    info: ClipInfo
    index: FrameIndex


@dataclass(frozen=True)
class Voices:
    """Who says what."""

    common: Voice  # of everybody without a voice of their own; its length decides the output's
    own: Mapping[Path, Voice]  # of single people
    sound: tuple[Path, ...]  # files that are heard together in the output; empty: the target's own sound, or silence
    seconds: Fraction  # length of what is heard


@dataclass(frozen=True)
class Networks:
    """Whatever needs weights."""

    preset: PresetFolder
    device: Device
    analyser: FaceAnalyser
    system: System
    motion: SyncFormer | None  # moves the guide's mouth; None where the system works without a guide
    occlusion: OcclusionReader | None  # finds hands and microphones; None where the plan or the preset is without


@dataclass(frozen=True)
class People:
    """Who is in the clip, and whose face is changed."""

    everybody: tuple[Person, ...] = ()  # the most prominent first
    subjects: tuple[Subject, ...] = ()  # empty where nothing is changed


@dataclass(frozen=True)
class Prepared:
    """Everything a render needs, checked before the first frame is made."""

    plan: RenderPlan
    clip: Clip
    timeline: Timeline
    voices: Voices
    networks: Networks
    people: People
    warnings: tuple[str, ...]


class Log:
    """What the user is told on the way: lines at once, warnings at the end as well."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.warnings: list[str] = []

    def __call__(self, line: str) -> None:
        self.report(ProgressEvent("prepare", 0, 0, line))


def prepare(plan: RenderPlan, report: Report, keep_voice: bool = True) -> Prepared:
    """Check and open everything that a render needs.

    Args:
        plan: what to render.
        report: takes what is decided on the way.
        keep_voice: whether the voice's samples, 64 kB a second, are kept after the system has heard them.  Without,
            silence of the same length stands in their place; what goes into the output is read from the files again.

    Raises:
        TalkswapError: one of its children for every failure named in :mod:`talkswap.errors`.
    """
    log = Log(report)
    settings = encoder_settings(plan)
    check_encoder(settings.encoder, plan.output, settings)
    if note := find_ffmpeg().note:  # the last step needs it
        log(f"ffmpeg: {note}")
    clip = open_clip(plan, settings, log)
    check_choices(plan)
    requests = person_requests(plan)
    photos = {path: read_photo(path) for path in dict.fromkeys(p for request in requests for p in request.photos)}
    if (clip_of_style := style_clip(plan)) is not None:
        probe(clip_of_style)  # a wrong path is named now; it's looked at when there are networks
    voices = read_voices(plan, clip, requests)
    own_sound = not voices.sound
    timeline = plan_timeline(clip.index.times, clip.index.last_duration, voices.seconds, plan.fit, own_sound)
    log.warnings += timeline.warnings
    if timeline.note:
        log(f"fit {plan.fit}: {timeline.note}")
    dubbed = plan.swap or plan.sync
    if not (keep_voice or dubbed):
        voices = silenced(voices)  # before there are networks in memory
    networks = load_networks(plan, dubbed, log)
    people = find_subjects(plan, clip, requests, photos, voices, networks, log) if dubbed else People()
    voices = voices if keep_voice else silenced(voices)
    return Prepared(plan, clip, timeline, voices, networks, people, tuple(log.warnings))


def encoder_settings(plan: RenderPlan) -> EncoderSettings:
    """The one lossy encode, as the plan asks for it."""
    return EncoderSettings(encoder_for(plan.encoder, plan.output), plan.crf, plan.encoder_preset, plan.pixel_format)


def check_choices(plan: RenderPlan) -> None:
    """Hold the plan's words and numbers against what its fields allow.

    Raises:
        UsageError: a word is unknown, or a number too small.
    """
    hints = get_type_hints(RenderPlan)
    for field in fields(plan):
        value, name = getattr(plan, field.name), field.name.replace("_", " ")
        if get_origin(hints[field.name]) is Literal and value not in get_args(hints[field.name]):
            choices = ", ".join(get_args(hints[field.name]))
            raise UsageError(f"there is no {name} called '{value}'", f"choose one of {choices}")
        if value is not None and "minimum" in field.metadata and value < field.metadata["minimum"]:
            raise UsageError(f"the {name} cannot be {value}", f"give at least {field.metadata['minimum']}")
        if value is not None and "maximum" in field.metadata and not value <= field.metadata["maximum"]:
            raise UsageError(f"the {name} cannot be {value}", f"give at most {field.metadata['maximum']}")


# --- the clip


def open_clip(plan: RenderPlan, settings: EncoderSettings, log: Log) -> Clip:
    """Read what the target says of itself and where its frames lie; say how its pictures will be written.

    Raises:
        InputMissingError, UnreadableMediaError, NoVideoError: the target.
        EncoderError: the encoder cannot write pictures of this clip's size or depth.
    """
    info = probe(plan.target)
    pixel_format = pixel_format_for(settings, info.width, info.height, info.bits)
    if settings.encoder != plan.encoder and plan.output.suffix.lower() == ".webm":
        log(f"encoder {settings.encoder}: the one for .webm files")
    if not is_deep(pixel_format):
        if info.bits > 8:
            log.warnings.append(f"{plan.target} has {info.bits} bits, {settings.encoder} writes 8")
    elif info.bits > 8:
        check_encoder(settings.encoder, plan.output, settings, info.bits)
        log(f"pixel format {pixel_format}: {plan.target.name} has {info.bits} bits")
        if info.bits > 10:
            log.warnings.append(f"{plan.target} has {info.bits} bits, 10 are written")
    index, beyond = cut(index_frames(info), plan.start, plan.end)
    log.warnings += [beyond] if beyond else []
    return Clip(info, index)


# --- the voices


def read_voices(plan: RenderPlan, clip: Clip, requests: list[PersonRequest]) -> Voices:
    """The voice of the plan, or those of its people together, or the target's own sound on the picture's clock; silence
    where no lips are to move.

    Raises:
        InputMissingError, UnreadableMediaError, NoAudioError: a voice cannot be read.
        UsageError: lips are to follow a voice, and there is none.
    """
    paths = dict.fromkeys(request.voice for request in requests if request.voice is not None)
    own = {path: load_voice(path) for path in paths}
    if plan.audio is not None:
        voice = load_voice(plan.audio)
        return Voices(voice, own, (plan.audio,), voice.seconds)
    if own:
        together = mix(list(own.values()))
        # Whoever has no voice of their own is silent while the others speak.
        return Voices(Voice(np.zeros_like(together.samples), together.hz), own, tuple(own), together.seconds)
    index = clip.index
    if clip.info.has_audio:
        voice = shift_voice(load_voice(plan.target), clip.info.audio_offset - index.start)
        if index.partial:
            samples = voice.samples[: round(index.duration * voice.hz)]
            voice = Voice(samples if len(samples) else np.zeros(1, np.float32), voice.hz)
        return Voices(voice, own, (), voice.seconds)
    if plan.sync:
        raise UsageError("the target has no sound of its own and no voice was given", "name a voice with --audio")
    voice = Voice(np.zeros(max(1, round(index.duration * 16000)), np.float32), 16000)
    return Voices(voice, own, (), voice.seconds)


def mix(voices: list[Voice]) -> Voice:
    """Some voices heard at once, as long as the longest, turned down where they would clip; all at one rate."""
    longest = max(len(voice.samples) for voice in voices)
    total = np.zeros(longest, np.float32)
    for voice in voices:
        total[: len(voice.samples)] += voice.samples
    return Voice(total / np.float32(max(1.0, float(np.abs(total).max(initial=0)))), voices[0].hz)


def silence_like(voice: Voice) -> Voice:
    """Silence as long as a voice, in no memory."""
    return Voice(np.broadcast_to(np.float32(0), len(voice.samples)), voice.hz)


def silenced(voices: Voices) -> Voices:
    """The same voices without their samples."""
    return Voices(silence_like(voices.common), {}, voices.sound, voices.seconds)


def output_sound(prepared: Prepared) -> Path | Voice | None:
    """What is heard in the output, for :func:`talkswap.media.mux.mux`: the voice's file, several voices together, None
    for the target's own sound as it is, or silence where it has none."""
    voices = prepared.voices
    if len(voices.sound) > 1:
        # Read again at a rate for ears; on load_voice's clock, so that lips and sound keep to the same moments.
        return mix([load_voice(path, SOUND_HZ) for path in voices.sound])
    if voices.sound:
        return voices.sound[0]
    return None if prepared.clip.info.has_audio else voices.common


# --- the networks


def load_networks(plan: RenderPlan, dubbed: bool, log: Log) -> Networks:
    """The preset's networks on the plan's device.

    Raises:
        DeviceError: the device cannot be had.
        WeightsMissingError, WeightsCorruptError, DependencyError: the preset cannot render.
    """
    device = choose_device(plan.device)
    needs = requirements(plan.system)
    if plan.weights is not None:
        preset, reason = find_preset(plan.preset, plan.weights, needs), str(plan.weights)
    elif plan.preset == "auto":
        resolution = resolve_auto(needs)
        preset, reason = resolution.preset, resolution.reason
    else:
        preset, reason = find_preset(plan.preset, requirements=needs), ""
    if reason:
        log(f"preset {preset.name}: {reason}")
    if preset.notice:
        log(preset.notice)
    log(f"device {device.name}: {device.reason}")
    analyser = load_analyser(preset.analyser, preset, device.name)
    system = load_system(preset, device, plan.system, plan.options)
    guide_options = {"--lip-strength": plan.lip_strength != 1, "--style-from": style_clip(plan) is not None}
    if not system.guided and any(guide_options.values()):
        flag = next(flag for flag, given in guide_options.items() if given)
        raise UsageError(
            f"{plan.system} works without a guide here, and {flag} is the guide's",
            "leave it out, or use the compact preset's own settings",
        )
    motion = load_sync_former(preset, device, log) if system.guided and plan.sync else None
    occlusion = load_occlusion_reader(preset, device, log) if dubbed and plan.occlusion else None
    return Networks(preset, device, analyser, system, motion, occlusion)


def load_occlusion_reader(preset: PresetFolder, device: Device, log: Callable[[str], None]) -> OcclusionReader | None:
    """What finds hands and microphones; a preset without it is named.

    Raises:
        WeightsCorruptError: the file is damaged.
    """
    try:
        folder = network_folder(preset, OCCLUSION)
    except WeightsMissingError:
        log(f"the {preset.name} preset has no occlusion network: what is in front of a face is painted over")
        return None
    return OcclusionReader(load_occlusion(folder, device.name), device.dtype)


# --- the people


def find_subjects(
    plan: RenderPlan,
    clip: Clip,
    requests: list[PersonRequest],
    photos: Mapping[Path, UInt8Image],
    voices: Voices,
    networks: Networks,
    log: Log,
) -> People:
    """Look through the clip for the people that the plan names, and begin their performances.

    Raises:
        NoSourceFaceError, NoTargetFaceError: a face is missing.
        UsageError: two names mean one person, or the clip of --style-from lends no style.
    """
    system, analyser = networks.system, networks.analyser
    encode = SourceEncoder(photos, analyser, system.crop.size, networks.occlusion)
    sources = [encode(request.photos) if request.photos else None for request in requests]
    for source, request in zip(sources, requests, strict=True):
        if source is not None and len(source.photos) > 1:
            line = (
                f"of {len(source.photos)} photos the skin is that of {source.photos[0]}, the identity the mean of all"
            )
            log(line if request.who is None else f"face {request.who}: {line}")
    log.warnings += encode.warnings
    everybody = people_in_clip(clip.info, clip.index, analyser, size=system.crop.size)
    chosen = find_people(everybody, requests, plan.target, analyser)
    portraits = [Portrait(person.first) for person in chosen]
    if networks.motion is not None:
        axis = networks.motion.opening_axis.cpu().numpy()
        portraits = make_portraits(
            chosen, everybody, clip.info, clip.index, analyser, axis, weight_hashes(networks.preset),
            work_folder(plan.output), log, plan.fresh, networks.occlusion,
        )  # fmt: skip
        if (clip_of_style := style_clip(plan)) is not None:
            style = style_of(clip_of_style, analyser, axis, networks.occlusion)
            portraits = [replace(portrait, style=style) for portrait in portraits]
    speech: dict[Path | None, tuple[SpeechFeatures | None, SpeechGate | None, VoiceMotion | None]] = {}
    subjects: list[Subject] = []
    for person, portrait, source, request in zip(chosen, portraits, sources, requests, strict=True):
        if request.voice not in speech:  # several people may share one
            voice = voices.common if request.voice is None else voices.own[request.voice]
            gated = plan.sync and plan.silence == "original"
            speech[request.voice] = (
                system.listen(voice) if plan.sync else None,
                SpeechGate(voice.samples) if gated else None,
                None if networks.motion is None else VoiceMotion(networks.motion, voice),
            )
        features, gate, motion = speech[request.voice]
        performance = system.begin(portrait, None if source is None else source.source, features, gate)
        painter = None
        if system.guided:
            skin = None if source is None else guide_of(source.source)
            painter = Painter(portrait, skin, motion, gate, plan.lip_strength)
            log.warnings += shortcomings(portrait, person.index) if motion is not None else []
        photos_of_source, identity = ((), None) if source is None else (source.photos, source.identity)
        subjects.append(Subject(person, photos_of_source, identity, request.voice, gate, performance, painter))
        if person.width < SMALL_FACE:
            log.warnings.append(f"the target's face is only {person.width:.0f} px wide")
    return People(tuple(everybody), tuple(subjects))
