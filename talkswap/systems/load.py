"""Systems and speech features by preset; the only place that knows which system a preset holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talkswap.checkpoints import PresetFolder
from talkswap.systems.contract import SpeechSpec, Switches, System
from talkswap.types import Voice
from talkswap.voice.listen import MelFeatures, SpeechFeatures, listen
from talkswap.voice.windows import SpeechTrack

if TYPE_CHECKING:
    from talkswap.device import Device


def load_system(preset: PresetFolder, device: Device, switches: Switches) -> System:
    """The system of a preset, its weights verified and on the device.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    from talkswap.systems.swaptalk.system import SwapTalk

    return SwapTalk.load(preset, device, switches)


def load_listener(voice: Voice, speech: SpeechSpec, preset: PresetFolder, device: Device) -> SpeechTrack:
    """The windows of a voice that fit a system.

    Raises:
        WeightsMissingError, WeightsCorruptError: of the speech network, where there is one.
    """
    features: SpeechFeatures = MelFeatures()
    if speech.kind == "hubert":
        from talkswap.checkpoints import verify
        from talkswap.voice.hubert import HubertFeatures

        folder = verify(preset, "hubert/model.safetensors").parent
        features = HubertFeatures(folder, device.place)
    return listen(voice, features, speech.length)
