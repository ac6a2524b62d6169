"""Systems and speech features by name and preset; the only place that knows which systems there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talkswap.checkpoints import PresetFolder
from talkswap.systems.contract import SpeechSpec, Switches, System
from talkswap.types import Voice
from talkswap.voice.features import MelFeatures, SpeechFeatures, listen
from talkswap.voice.windows import SpeechTrack

if TYPE_CHECKING:
    from talkswap.device import Device


def load_system(preset: PresetFolder, device: Device, switches: Switches, name: str = "swaptalk") -> System:
    """A system, its weights verified and on the device.

    Args:
        preset: whose networks ``swaptalk`` is made of; the cascades have parts of their own.
        device: where the networks run; the cascades' run on the CPU.
        switches: which parts work.
        name: ``swaptalk``, or one of :data:`talkswap.systems.cascade.parts.CASCADES`.

    Raises:
        UsageError: there is no such system.
        WeightsMissingError, WeightsCorruptError.
    """
    if name == "swaptalk":
        from talkswap.systems.swaptalk.system import SwapTalk

        return SwapTalk.load(preset, device, switches)
    from talkswap.systems.cascade.system import Cascade

    return Cascade.load(name, switches)


def load_listener(voice: Voice, speech: SpeechSpec, preset: PresetFolder, device: Device) -> SpeechTrack:
    """The windows of a voice that fit a system.

    Raises:
        WeightsMissingError, WeightsCorruptError: of the speech network, where there is one.
    """
    if speech.kind == "wav2lip":
        from talkswap.systems.cascade.networks import Wav2LipMel

        return listen(voice, Wav2LipMel(), speech.length, gate=False)  # as published: it hears everything
    features: SpeechFeatures = MelFeatures()
    if speech.kind == "hubert":
        from talkswap.checkpoints import verify
        from talkswap.voice.hubert import HubertFeatures

        folder = verify(preset, "hubert/model.safetensors").parent
        features = HubertFeatures(folder, device.place)
    return listen(voice, features, speech.length)
