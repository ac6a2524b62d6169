"""The rows of a comparison: what each method makes of a pair.

The ground truth is always there; every other row is one that a system declares
(:class:`talkswap.systems.description.EvaluationRow`).  A method turns a :class:`Task` into a finished clip, or says
beforehand which part is missing on this machine; its row then reads "not run" with that part's name.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from talkswap.checkpoints import networks, preset_folder, presets
from talkswap.errors import NoAudioError, UsageError
from talkswap.media.index import index_frames
from talkswap.media.mux import mux
from talkswap.media.probe import probe
from talkswap.media.sound import load_voice
from talkswap.systems.description import EvaluationRow, SystemDescription
from talkswap.systems.registry import find_system, requirements, systems
from talkswap.types import RenderPlan

GROUND_TRUTH = "ground-truth"
EVERY_ROW = "all"
UNCHANGED = "Clip as it was recorded, kept for comparison"


@dataclass(frozen=True)
class Setup:
    """Which networks a method works with."""

    preset: Literal["auto", "compact", "paper"] = "auto"
    weights: Path | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True)
class Task:
    """One pair for one method."""

    setting: str  # "self": the target's own voice; "cross": the source clip's voice
    photo: Path  # of the source
    target: Path  # clip without sound
    voice: Path  # that drives the lips
    own_voice: Path  # the target's own
    output: Path
    end: Fraction | None = None  # seconds of the target from which frames are left out


@dataclass(frozen=True)
class Rendering:
    """What a method's work on a pair took."""

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
    render: Callable[[Task, Setup], Rendering]
    missing: Callable[[Setup], str] = lambda setup: ""  # why it cannot run here; "" = it can
    swaps: bool = True  # whether the source's face is put in: else its identity isn't measured
    changes: bool = True  # False: the clip as it was
    choices: Mapping[str, str] = field(default_factory=dict)  # an ablation's own columns
    hashes: Callable[[Setup], dict[str, str]] = lambda setup: {}  # file -> sha256 of its networks
    note: str = ""  # what readers of its figures must know


def render_pair(
    system: str, options: Mapping[str, Any], task: Task, setup: Setup, swap: bool = True, sync: bool = True
) -> Rendering:
    """Render a pair with a system.

    Args:
        system: its name.
        options: its own.
        swap: whether the photo's face is put in.
        sync: whether the lips follow the voice.
    """
    from talkswap.render.render import render_clip

    plan = RenderPlan(
        source=task.photo if swap else None, target=task.target, audio=task.voice, output=task.output, system=system,
        options=dict(options), preset=setup.preset, weights=setup.weights, device=setup.device, swap=swap, sync=sync,
        fit="voice",  # the result ends with the shorter of clip and voice, so that no frame lacks either
        end=task.end, overwrite=True,
        provenance=False,  # the networks are measured, not the marks; the study's copies say what they are
    )  # fmt: skip
    report = render_clip(plan)
    return Rendering(report.seconds, report.video_seconds, dict(report.timings), tuple(report.warnings))


def keep_clip(task: Task, setup: Setup) -> Rendering:
    """The ground truth: the target with its own sound, its pictures copied bit by bit.

    Raises:
        NoAudioError: it has no sound.
    """
    started = time.perf_counter()
    index = index_frames(probe(task.target))
    voice = load_voice(task.own_voice)
    if not len(voice.samples):
        raise NoAudioError(f"{task.own_voice} has no sound", "prepare the data set again")
    mux(
        task.target, voice, task.target, task.output, index.times, index.duration, voice_offset=Fraction(0),
        metadata={"comment": UNCHANGED}, overwrite=True,
    )  # fmt: skip
    return Rendering(time.perf_counter() - started, float(index.duration))


def method_of(system: SystemDescription, row: EvaluationRow) -> Method:
    """The method behind a row that a system declares."""

    def render(task: Task, setup: Setup) -> Rendering:
        # The setting may need options of the system's own, such as another reference.
        options = {**row.options, **(row.self_driven if task.setting == "self" else {})}
        return render_pair(system.name, options, task, setup, swap=row.swaps)

    def missing(setup: Setup) -> str:
        parts = list(networks.resolve(system.missing)(system.name)) if system.missing else []
        if row.network:
            preset = presets.find_preset(setup.preset, setup.weights, requirements(system.name))
            parts += [] if preset_folder.has_network(preset, row.network) else [row.network]
        if len(parts) < 2:
            return f"part {parts[0]} is missing" if parts else ""
        return f"parts {', '.join(parts[:-1])} and {parts[-1]} are missing"

    def hashes(setup: Setup) -> dict[str, str]:
        # Systems of published parts have no preset of their own to state hashes.
        if system.hashes:
            return dict(networks.resolve(system.hashes)(system.name))
        return preset_folder.weight_hashes(presets.find_preset(setup.preset, setup.weights, requirements(system.name)))

    return Method(row.key, row.label, row.about, render, missing, row.swaps, hashes=hashes, note=row.note)


def all_methods(system: str) -> dict[str, Method]:
    """Every row by its key: the ground truth, the other systems', and last the system's own.

    Raises:
        UsageError: there is no such system.
    """
    own = find_system(system)
    # The system's own rows come last in the table, after those that it is compared with.
    others = [other for other in systems().values() if other.name != own.name]
    about = "the target clip as it is, with its own sound"
    truth = Method(GROUND_TRUTH, "Ground Truth", about, keep_clip, swaps=False, changes=False)
    rows = [method_of(description, row) for description in (*others, own) for row in description.rows]
    return {method.key: method for method in (truth, *rows)}


def choose_methods(system: str, names: Sequence[str] = ()) -> list[Method]:
    """Methods by name, in the order of the table; the ground truth is always among them.

    Args:
        system: whose rows are taken if there are no names.
        names: keys, or labels as a paper writes them (``Sync-Swap``), of rows of any system; ``all`` for every row.

    Raises:
        UsageError: there is no such system or method.
    """
    methods = all_methods(system)
    # A user may write the row's name as the paper does; a key wins over a label.
    keys = {method.label.lower(): key for key, method in methods.items()} | {key: key for key in methods}
    chosen = {GROUND_TRUTH}
    for name in names:
        if name == EVERY_ROW:
            chosen |= set(methods)
        elif name.lower() in keys:
            chosen.add(keys[name.lower()])
        else:
            raise UsageError(f"there is no method {name!r}", f"choose one of: {', '.join(methods)}, {EVERY_ROW}")
    if not names:
        chosen |= {row.key for row in find_system(system).rows}
    return [method for key, method in methods.items() if key in chosen]
