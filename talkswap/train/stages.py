"""A stage of training by its description: its settings, what a run of it would cost, and the run itself."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkswap.errors import TrainingError, UsageError
from talkswap.records import RecordError, to_plain, with_settings

if TYPE_CHECKING:
    from talkswap.train.figures import StepProgress


@dataclass(frozen=True)
class StageDescription:
    """One stage of training, named without importing torch.

    Its module holds the two classes, ``networks(config)`` (the untrained networks, for counting), ``work(config,
    networks)`` (what one sample runs through: :class:`talkswap.train.stage.Work`) and, where there is more than the
    config's defaults, ``PRESETS`` (name to config).  Without ``networks`` or ``work`` a dry run estimates less.
    """

    name: str  # of `talkswap train`
    module: str
    config: str  # class in the module: a frozen dataclass with a field ``loop``
    stage: str  # class in the module: a :class:`talkswap.train.stage.Stage`


def stage_config(stage: StageDescription, settings: Mapping[str, Any], preset: str = "compact") -> Any:
    """A stage's frozen config: the preset's, with settings such as ``{"loop.steps": 500}`` put in.

    Raises:
        UsageError: unknown preset or setting, or a value of the wrong kind.
    """
    module = import_module(stage.module)
    presets: dict[str, Any] = getattr(module, "PRESETS", None) or {"compact": getattr(module, stage.config)()}
    if preset not in presets:
        raise UsageError(f"stage {stage.name} has no preset {preset}", f"choose one of: {', '.join(presets)}")
    try:
        return with_settings(presets[preset], settings)
    except RecordError as error:
        missing, _, choices = error.reason.partition("; ")
        if missing == "there is no such setting":
            raise UsageError(f"stage {stage.name} has no setting {error.field}", choices) from error
        raise UsageError(f"{error.value!r} is no value for {error.field}", error.reason) from error


def configure(stage: StageDescription, settings: Mapping[str, Any], preset: str = "compact") -> dict[str, Any]:
    """What a run would be: the resolved config, and parameters, FLOPs and memory of its networks, without data.

    Raises:
        UsageError: as :func:`stage_config`.
    """
    from talkswap.train.stage import estimate

    config = stage_config(stage, settings, preset)
    module = import_module(stage.module)
    networks = getattr(module, "networks", None)
    cost = {} if networks is None else estimate(networks, getattr(module, "work", None), config)
    return {"stage": stage.name, "preset": preset, "config": to_plain(config), **cost}


def train(
    stage: StageDescription,
    settings: Mapping[str, Any],
    run: Path,
    *,
    preset: str = "compact",
    resume: bool = True,
    echo: Callable[[str], None] = print,
    watch: Callable[[StepProgress], None] | None = None,
) -> dict[str, float]:
    """Train one stage in the folder ``run``, or go on with what is there.

    Under ``accelerate launch`` every process calls this, and they train together.

    Args:
        stage: which, from :func:`talkswap.systems.registry.stages`.
        settings: by their dotted names.
        run: the run's folder; with several hosts one that all of them share.
        preset: ``compact`` or ``paper``.
        resume: whether a begun run may be taken up.
        echo: takes lines for the user.
        watch: takes the run's state after every step; without it ``echo`` takes the rows of the curve.

    Returns:
        The finished stage's scores; empty when ``loop.max_minutes`` came first.

    Raises:
        TrainingError: ``run`` holds a run that must not be overwritten, or one of another configuration.
        TrainingDataError: the prepared data are missing.
        DeviceError: the requested device cannot be had.
        DependencyError: accelerate is not installed.
    """
    start = time.monotonic()
    from talkswap.train import state
    from talkswap.train.loop import Trainer
    from talkswap.train.processes import Processes
    from talkswap.train.stage import share_config

    config = stage_config(stage, settings, preset)
    exists = state.exists(run)
    if exists and not resume:
        raise TrainingError(f"{run} already holds a run", "choose another --run, or go on with --resume")
    if exists:
        check_same_settings(run / "config.json", json.loads(json.dumps(to_plain(config))))
    # The run is checked before processes start: a refusal needs no device.
    processes = Processes(config.loop.device, config.loop.precision, config.loop.accumulate)
    try:
        # stages that compute features ask for the device by name
        loop = dataclasses.replace(config.loop, device=processes.device.type)
        share = share_config(dataclasses.replace(config, loop=loop), processes.count)
        trainer = Trainer(getattr(import_module(stage.module), stage.stage)(share), loop, run, processes, start)
        if resume and trainer.resume(echo) and processes.main:
            echo(f"going on at step {trainer.step} of {config.loop.steps}")
        return trainer.train(echo, watch)
    finally:
        processes.end()


MAY_CHANGE = {
    "max_minutes", "save_minutes", "log_every", "sample_every", "device", "threads", "workers", "prefetch", "accumulate",
}  # fmt: skip
"""Settings of the loop that another machine may need otherwise.  The micro-batches (``accumulate``), like the number of
processes, decide which samples are drawn, not how many make a step."""


def check_same_settings(path: Path, config: dict[str, Any]) -> None:
    """Hold a run's ``config.json`` against the settings that would go on with it.

    Raises:
        TrainingError: they differ in what the result depends on.
    """
    if not path.is_file():
        return

    def differences(a: Any, b: Any, name: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            keys = sorted(set(a) | set(b))
            return [d for k in keys if k not in MAY_CHANGE for d in differences(a.get(k), b.get(k), f"{name}.{k}")]
        return [] if a == b else [name[1:]]

    changes = differences(json.loads(path.read_text())["config"], config, "")
    if changes:
        raise TrainingError(
            f"the run in {path.parent} was begun with another {changes[0]}", "choose another --run, or the old setting"
        )
