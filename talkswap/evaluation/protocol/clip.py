"""One finished clip compared with its target: every metric that a single result has.

Figures of a whole set (FID, ID Retrieve) need more than one result and are left out.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talkswap.checkpoints.presets import find_preset
from talkswap.errors import NoAudioError, NoTargetFaceError, NoVideoError, UnreadableMediaError
from talkswap.evaluation.judges import observe
from talkswap.evaluation.judges.judges import JudgeFiles, load_judges
from talkswap.evaluation.protocol.measure import Case, columns, measure
from talkswap.evaluation.protocol.methods import Setup
from talkswap.evaluation.results import Column
from talkswap.faces.analyse import FaceAnalyser, load_analyser
from talkswap.media.probe import probe
from talkswap.media.sound import load_voice
from talkswap.systems.registry import requirements
from talkswap.types import Voice


@dataclass(frozen=True)
class ClipPlan:
    """A finished clip to score."""

    result: Path
    target: Path
    source: Path | None = None  # photo; None: no face was swapped in
    audio: Path | None = None  # voice that drove the lips, as the clip of its speaker or as sound; None: the target's
    size: int = 320  # px of the crops
    setup: Setup = Setup()
    judges: JudgeFiles = JudgeFiles()


@dataclass(frozen=True)
class ClipScore:
    """The figures of a finished clip."""

    setting: str  # "self": the target's own voice, so that the truth of every frame is known; else "cross"
    frames: int
    values: dict[str, float]  # metric key -> value
    missing: dict[str, str]  # metric key -> why it has none
    columns: tuple[Column, ...]  # of the values and of what is missing


def score_clip(plan: ClipPlan) -> ClipScore:
    """Score one result.

    Raises:
        InputMissingError, UnreadableMediaError, NoVideoError: a file is missing, or of another kind.
        NoAudioError: the result has no sound.
        NoSourceFaceError, NoTargetFaceError: there is no face in the photo, in the target, or in the result.
        WeightsMissingError, WeightsCorruptError: of the analyser or of a judge.
    """
    for path in (plan.result, plan.target):
        probe(path)  # the cheap checks come first
    preset = find_preset(plan.setup.preset, plan.setup.weights, requirements())
    analyser = load_analyser(preset.analyser, preset)
    photo = None
    if plan.source is not None:
        photo = observe.open_photo(plan.source.name, plan.source.stem, plan.source, analyser, plan.size)
    # Before the slow part: a clip without sound gets no figure of lip sync.
    if not len(observe.sound_of(plan.result).samples):
        raise NoAudioError(f"{plan.result} has no sound", "the metrics of lip-sync need it")
    # The crops are large and only needed while the metrics run.
    with tempfile.TemporaryDirectory(prefix="talkswap-eval-") as name:
        folder = Path(name)
        track = observe.track_clip(plan.target, analyser, plan.size)
        whole = observe.observe_truth(plan.target, own_sound(plan.target), track, plan.size, folder)
        result = observe.observe_result(plan.result, whole, analyser, folder)
        voiced = whole if plan.audio is None else voice_clip(plan.audio, analyser, plan.size)
        # With the target's own voice, the target's frames are the truth of every motion.
        setting = "self" if plan.audio is None else "cross"
        case = Case(setting, result, observe.matched_truth(whole, result, folder), voiced, photo, True, 0.0, 0.0)
        judges = load_judges(plan.judges)
        values, missing = measure(case, judges)
        count = len(result.times)
    # Figures of a whole set have no column here.
    shown = tuple(column for column in columns(judges) if column.metric.key in values | missing)
    return ClipScore(setting, count, values, missing, shown)


def own_sound(target: Path) -> Voice:
    """The target's own sound; silence if it has none, since a voice may have been laid on a silent clip."""
    try:
        return observe.sound_of(target)
    except NoAudioError:
        return Voice(np.zeros(0, np.float32), 16000)


def voice_clip(audio: Path, analyser: FaceAnalyser, size: int) -> observe.Observation | None:
    """The clip that a voice was spoken in; None if it shows nobody, or is sound alone.

    Raises:
        InputMissingError, NoAudioError, UnreadableMediaError: its sound can't be read.
    """
    voice = load_voice(audio)
    try:
        return observe.observe_truth(audio, voice, observe.track_clip(audio, analyser, size), size, None)
    except (NoVideoError, NoTargetFaceError, UnreadableMediaError):
        return None
