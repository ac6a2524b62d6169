"""The rows of table I: what each method makes of a pair.

A method turns a :class:`Task` into a finished clip, or says beforehand what it lacks on this machine; then its row reads
"not run" with the missing part's name, and nothing is guessed.  The cascades of the paper are made of other people's
published networks (:mod:`talkswap.systems.cascade`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from talkswap.checkpoints.presets import find_preset, weight_hashes
from talkswap.errors import NoAudioError, UsageError
from talkswap.files import file_sha256
from talkswap.media.index import index_frames
from talkswap.media.mux import mux
from talkswap.media.probe import probe
from talkswap.media.sound import load_voice
from talkswap.systems.cascade.parts import PARTS, STEPS, missing_parts, part_path, steps_of
from talkswap.types import RenderPlan

GROUND_TRUTH = "ground-truth"
UNCHANGED = "Clip as it was recorded, kept for comparison"


@dataclass(frozen=True)
class Setup:
    """Which networks a method works with."""

    preset: str = "auto"
    weights: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Task:
    """One pair for one method."""

    setting: str  # "self": the target's own voice, the first frame as reference; "cross": the source clip's voice
    photo: Path  # of the source
    target: Path  # clip without sound
    voice: Path  # that drives the lips
    own_voice: Path  # the target's own
    output: Path
    end: Fraction | None = None  # seconds of the target from which frames are left out


@dataclass(frozen=True)
class Made:
    """What a method did."""

    seconds: float  # wall time
    video_seconds: float
    timings: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """One row."""

    key: str
    label: str
    about: str
    make: Callable[[Task, Setup], Made]
    lacking: Callable[[Setup], str]  # why it cannot run here; "" = it can
    swaps: bool = True  # whether the source's face is put in: else its identity is not measured
    changes: bool = True  # False: the clip as it was
    choices: Mapping[str, str] = field(default_factory=dict)  # an ablation's own columns
    hashes: Callable[[Setup], dict[str, str]] = lambda setup: {}  # file -> sha256 of its networks


def plan_of(task: Task, setup: Setup, order: str = "swap-sync", swap: bool = True, sync: bool = True) -> RenderPlan:
    """The render of a pair; the result ends with the shorter of clip and voice, so that no frame lacks either."""
    return RenderPlan(
        source=task.photo if swap else None, target=task.target, audio=task.voice, output=task.output,
        preset=setup.preset, weights=setup.weights, device=setup.device, options={"mode": task.setting, "order": order}, swap=swap,
        sync=sync, fit="voice", end=task.end, overwrite=True,
        provenance=False,  # measured as the networks made it; the study's copies say of themselves what they are
    )  # fmt: skip


def run_plan(plan: RenderPlan) -> Made:
    """Render, and keep what a table needs of the report."""
    from talkswap.render.render import render

    done = render(plan)
    return Made(done.seconds, done.video_seconds, dict(done.timings), tuple(done.warnings))


def _keep(task: Task, setup: Setup) -> Made:
    """The target with its own sound; its pictures are copied bit by bit."""
    started = time.perf_counter()
    info = probe(task.target)
    index = index_frames(info)
    voice = load_voice(task.own_voice)
    if not len(voice.samples):
        raise NoAudioError(f"{task.own_voice} has no sound", "prepare the data set again")
    mux(
        task.target, voice, task.target, task.output, index.times, index.duration, voice_offset=Fraction(0),
        metadata={"comment": UNCHANGED}, overwrite=True,
    )  # fmt: skip
    return Made(time.perf_counter() - started, float(index.duration))


def _preset_hashes(setup: Setup) -> dict[str, str]:
    return weight_hashes(find_preset(setup.preset, setup.weights))


def _nothing(setup: Setup) -> str:
    return ""


def _swaptalk(key: str, label: str, order: str, about: str) -> Method:
    return Method(
        key, label, about, lambda task, setup: run_plan(plan_of(task, setup, order)), _nothing, hashes=_preset_hashes
    )


CASCADE_ROWS = {
    "wav2lip": ("Wav2Lip", "lips by Wav2Lip, the face stays"),
    "wav2lip-restore": ("Wav2Lip-Restore", "lips by Wav2Lip, then GFPGAN; the face stays"),
    "cascade-sync-swap": ("Sync-Swap", "lip sync, then Roop's face swap"),
    "cascade-sync-swap-restore": ("Sync-Swap-Restore", "lip sync, then Roop's face swap, then GFPGAN"),
    "cascade-swap-sync": ("Swap-Sync", "Roop's face swap, then lip sync"),
    "cascade-swap-restore-sync": ("Swap-Restore-Sync", "Roop's face swap, then GFPGAN, then lip sync"),
}
"""Key, as in :data:`talkswap.systems.cascade.parts.CASCADES`: the paper's name, and what is done."""


def _cascade(key: str) -> Method:
    label, about = CASCADE_ROWS[key]
    swaps = "swap" in steps_of(key)

    def lacking(setup: Setup) -> str:
        parts = missing_parts(key)
        if len(parts) < 2:
            return f"part {parts[0]} is missing" if parts else ""
        return f"parts {', '.join(parts[:-1])} and {parts[-1]} are missing"

    def make(task: Task, setup: Setup) -> Made:
        return run_plan(replace(plan_of(task, setup, swap=swaps), system=key, options={}))

    def hashes(setup: Setup) -> dict[str, str]:
        kinds = dict.fromkeys(kind for step in steps_of(key) for kind in STEPS[step])
        return {PARTS[kind].file: file_sha256(part_path(kind)) for kind in kinds}

    return Method(key, label, about, make, lacking, swaps=swaps, hashes=hashes)


METHODS: dict[str, Method] = {
    method.key: method
    for method in (
        Method(
            GROUND_TRUTH, "Ground Truth", "the target clip as it is, with its own sound", _keep, _nothing,
            swaps=False, changes=False,
        ),
        *(_cascade(key) for key in CASCADE_ROWS),
        _swaptalk("swaptalk-sync-swap", "SwapTalk, sync-swap", "sync-swap", "lip sync, then face swap, in the latent space"),
        _swaptalk("swaptalk", "SwapTalk", "swap-sync", "face swap, then lip sync, in the latent space: the paper's order"),
    )
}  # fmt: skip


def choose_methods(names: Sequence[str]) -> list[Method]:
    """Methods by name, in the order of the table; the ground truth is always among them.

    Args:
        names: keys, those of the cascades also as the paper writes them (``sync-swap``); none = all.

    Raises:
        UsageError: there is no such method.
    """
    wanted = {name if name in METHODS else f"cascade-{name}" for name in names}
    if unknown := [name for name in names if name not in METHODS and f"cascade-{name}" not in METHODS]:
        raise UsageError(f"there is no method {unknown[0]!r}", f"choose of {', '.join(METHODS)}")
    return [method for key, method in METHODS.items() if not names or key in wanted or key == GROUND_TRUTH]
