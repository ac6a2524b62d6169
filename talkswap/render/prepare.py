"""What a render needs before its first frame: inputs opened and checked, networks loaded, people found.

The cheap checks come first, so that a wrong path is named at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from talkswap.checkpoints import PresetFolder, find_preset, network_folder, resolve_auto
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
from talkswap.media.streams import MIXES
from talkswap.media.timeline import Timeline, plan_timeline
from talkswap.render.look import face_width, people_in_clip
from talkswap.render.people import SMALL_FACE, Role, Wardrobe, find_people, read_photos, read_voices, together, wishes
from talkswap.systems.contract import Switches, System
from talkswap.systems.registry import load_listener, load_system
from talkswap.types import ClipInfo, ProgressEvent, RenderPlan, Voice
from talkswap.voice.activity import SpeechGate
from talkswap.voice.load import load_voice, shift_voice
from talkswap.voice.windows import SpeechTrack

Report = Callable[[ProgressEvent], None]

SILENCES = ("neutral", "original")
MODES, ORDERS = ("cross", "self"), ("swap-sync", "sync-swap")
SOUND_HZ = 48000  # samples per second of voices that are mixed


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
    people: list[Person]
    roles: tuple[Role, ...]  # who is changed; empty where nothing is
    occlusion: OcclusionReader | None
    sound: tuple[Path, ...]  # files that are heard together in the output; empty: the target's own, or silence
    warnings: list[str]


def silence_like(voice: Voice) -> Voice:
    """Silence as long as a voice, in no memory."""
    return Voice(np.broadcast_to(np.float32(0), len(voice.samples)), voice.hz)


def encoder_settings(plan: RenderPlan) -> EncoderSettings:
    """The one lossy encode, as the plan wants it."""
    return EncoderSettings(encoder_for(plan.encoder, plan.output), plan.crf, plan.encoder_preset, plan.pixel_format)


def prepare(plan: RenderPlan, tell: Report, keep_voice: bool = True) -> Prepared:
    """Check and open everything; the cheap checks come first, so that a wrong path is named at once.

    Args:
        plan: what to render.
        tell: takes what is decided on the way.
        keep_voice: whether the voice's samples, 64 kB a second, are kept when the systems have heard them; without, only
            its length is, and silence stands in its place.  Where the voice itself goes into the output, it is silence.
    """
    settings = encoder_settings(plan)
    check_encoder(settings.encoder, plan.output, settings)
    find_ffmpeg()  # the last step needs it
    warnings: list[str] = []
    info = probe(plan.target)
    warnings += _picture_settings(settings, plan, info, tell)
    index, beyond = cut(index_frames(info), plan.start, plan.end)
    warnings += [beyond] if beyond else []
    if plan.batch_size < 0:
        raise UsageError(f"batches of {plan.batch_size} frames cannot be made", "give 0 for the device's own choice")
    if plan.audio_mix not in MIXES:
        raise UsageError(f"there is no audio mix called '{plan.audio_mix}'", f"choose one of {', '.join(MIXES)}")
    for name, value, known in (("mode", plan.mode, MODES), ("order", plan.order, ORDERS)):
        if value not in known:
            raise UsageError(f"there is no {name} called '{value}'", f"choose one of {', '.join(known)}")
    if plan.silence not in SILENCES:
        raise UsageError(f"there is no silence {plan.silence}", f"choose one of: {', '.join(SILENCES)}")
    asked = wishes(plan)
    photos, voices = read_photos(asked), read_voices(asked)
    voice = choose_voice(plan, info, index, voices)
    own_sound = plan.audio is None and not voices
    timeline = plan_timeline(index.times, index.last_duration, voice.seconds, plan.fit, own_sound)
    warnings += timeline.warnings
    if not (keep_voice or plan.swap or plan.sync):
        voice = silence_like(voice)  # before there are networks in memory
    if timeline.note:
        tell(ProgressEvent("prepare", 0, 0, f"fit {plan.fit}: {timeline.note}"))
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
    system = load_system(preset, device, switches, plan.system)
    people: list[Person] = []
    roles: tuple[Role, ...] = ()
    if plan.swap or plan.sync:
        wardrobe = Wardrobe(photos, analyser, system)
        dressed = [wardrobe(wish.photos) if wish.photos else ((), None) for wish in asked]
        for (paths, _), wish in zip(dressed, asked, strict=True):
            if len(paths) > 1:
                told = f"of {len(paths)} photos the skin is that of {paths[0]}, the identity the mean of all"
                tell(ProgressEvent("prepare", 0, 0, told if wish.who is None else f"face {wish.who}: {told}"))
        warnings += wardrobe.warnings
        people = people_in_clip(info, index, analyser)
        found = find_people(people, asked, plan.target, analyser)
        listeners = Listeners(
            plan, voice, voices, partial(load_listener, speech=system.speech, preset=preset, device=device)
        )
        roles = tuple(
            Role(person, paths, source, wish.voice, *listeners(wish.voice))
            for person, (paths, source), wish in zip(found, dressed, asked, strict=True)
        )
        small = [face_width(role.person) for role in roles if face_width(role.person) < SMALL_FACE]
        warnings += [f"the target's face is only {width:.0f} px wide" for width in small]
    return Prepared(
        plan, info, index, voice if keep_voice else silence_like(voice), timeline, preset, device, analyser, system,
        people, roles,
        load_occlusion_reader(plan, preset, device, tell) if roles else None,
        (plan.audio,) if plan.audio is not None else tuple(voices), warnings,
    )  # fmt: skip


def _picture_settings(settings: EncoderSettings, plan: RenderPlan, info: ClipInfo, tell: Report) -> list[str]:
    """Tell which encoder was chosen and in which depth it writes; warn of bits that are lost.

    Raises:
        EncoderError: the encoder cannot write pictures of this clip's size or depth.
    """
    written = pixel_format_for(settings, info.width, info.height, info.bits)
    if settings.encoder != plan.encoder and plan.output.suffix.lower() == ".webm":
        tell(ProgressEvent("prepare", 0, 0, f"encoder {settings.encoder}: the one for .webm files"))
    if not is_deep(written):
        return [f"{plan.target} has {info.bits} bits, {settings.encoder} writes 8"] if info.bits > 8 else []
    if info.bits > 8:
        check_encoder(settings.encoder, plan.output, settings, info.bits)
        tell(ProgressEvent("prepare", 0, 0, f"pixel format {written}: {plan.target.name} has {info.bits} bits"))
    return [f"{plan.target} has {info.bits} bits, 10 are written"] if info.bits > 10 else []


def load_occlusion_reader(
    plan: RenderPlan, preset: PresetFolder, device: Device, tell: Report
) -> OcclusionReader | None:
    """What finds hands and microphones, or None where the plan or the preset is without; the latter is said.

    Raises:
        WeightsCorruptError: the file is damaged.
    """
    if not plan.occlusion:
        return None
    try:
        folder = network_folder(preset, OCCLUSION)
    except WeightsMissingError:
        line = f"the {preset.name} preset has no occlusion network: what is in front of a face is painted over"
        tell(ProgressEvent("prepare", 0, 0, line))
        return None
    return OcclusionReader(load_occlusion(folder, device.name), device.dtype)


def output_sound(ready: Prepared) -> Path | Voice | None:
    """What is heard in the output, for :func:`talkswap.media.mux.mux`: the voice's file, several voices together, None
    for the target's own sound as it is, or silence where it has none."""
    if len(ready.sound) > 1:
        # Read anew at a rate for ears; on load_voice's clock, so that lips and sound keep to the same moments.
        return together([load_voice(path, SOUND_HZ) for path in ready.sound])
    if ready.sound:
        return ready.sound[0]
    return None if ready.info.has_audio else ready.voice


class Listeners:
    """What each person hears: their own voice, else everybody's; where others have voices, silence.

    Args:
        plan: says what happens in silence.
        common: the voice of the whole render.
        own: voices of single people.
        listen: makes the windows of one voice.
    """

    def __init__(
        self, plan: RenderPlan, common: Voice, own: Mapping[Path, Voice], listen: Callable[[Voice], SpeechTrack]
    ) -> None:
        silent = Voice(np.zeros_like(common.samples), common.hz)
        self.heard: dict[Path | None, Voice] = {path: voice for path, voice in own.items()}
        self.heard[None] = silent if own and plan.audio is None else common
        self.gated = plan.silence == "original" and plan.sync
        self.listen = listen
        self._made: dict[Path | None, tuple[SpeechTrack, SpeechGate | None]] = {}

    def __call__(self, voice: Path | None) -> tuple[SpeechTrack, SpeechGate | None]:
        """The windows of a voice (None = the common one), and the gate where silence shows the target's own mouth."""
        if voice not in self._made:
            heard = self.heard[voice]
            self._made[voice] = self.listen(heard), SpeechGate(heard.samples) if self.gated else None
        return self._made[voice]


def choose_voice(plan: RenderPlan, info: ClipInfo, index: FrameIndex, own: Mapping[Path, Voice] | None = None) -> Voice:
    """The voice of the plan, or those of its people together, or the target's own sound on the picture's clock; silence
    where none is wanted.

    Raises:
        UsageError: lips are to follow a voice, and there is none.
    """
    if plan.audio is not None:
        return load_voice(plan.audio)
    if own:
        return together(list(own.values()))
    if info.has_audio:
        voice = shift_voice(load_voice(plan.target), info.audio_offset - index.start)
        if not index.partial:
            return voice
        samples = voice.samples[: round(index.duration * voice.hz)]
        return Voice(samples if len(samples) else np.zeros(1, np.float32), voice.hz)
    if plan.sync:
        raise UsageError("the target has no sound of its own and no voice was given", "name a voice with --audio")
    return Voice(np.zeros(max(1, round(index.duration * 16000)), np.float32), 16000)
