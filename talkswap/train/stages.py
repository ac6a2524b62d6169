"""The stages by name, their presets, and settings from the command line put into their frozen configs."""

from __future__ import annotations

import dataclasses
import json
import time
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkswap.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from talkswap.train.figures import StepProgress


@dataclass(frozen=True)
class StageDescription:
    """One stage of training, named without importing torch.

    Its module holds the two classes, ``networks(config)`` (the untrained networks, for counting), ``work(config,
    networks)`` (what one sample runs through: :class:`talkswap.train.estimate.Work`) and, where there is more than the
    config's defaults, ``PRESETS`` (name to config).
    """

    name: str  # of `talkswap train`
    module: str
    config: str  # class in the module: a frozen dataclass with a field ``loop``
    stage: str  # class in the module: a :class:`talkswap.train.stage.Stage`


STAGES: dict[str, tuple[str, str, str]] = {
    # name: module, config class, stage class
    "faces": ("talkswap.train.shared.faces", "FacesStageConfig", "FacesStage"),
    "identity": ("talkswap.train.shared.identity", "IdentityStageConfig", "IdentityStage"),
    "occlusion": ("talkswap.train.shared.occlusion", "OcclusionStageConfig", "OcclusionStage"),
    "vqgan": ("talkswap.systems.swaptalk.training.vqgan", "VQGANStageConfig", "VQGANStage"),
    "face-swap": ("talkswap.systems.swaptalk.training.face_swap", "FaceSwapStageConfig", "FaceSwapStage"),
    "speech-encoder": ("talkswap.train.shared.speech_encoder", "SpeechEncoderStageConfig", "SpeechEncoderStage"),
    "sync-expert": ("talkswap.systems.swaptalk.training.sync_expert", "SyncExpertStageConfig", "SyncExpertStage"),
    "lip-sync": ("talkswap.systems.swaptalk.training.lip_sync", "LipSyncStageConfig", "LipSyncStage"),
    "joint": ("talkswap.systems.swaptalk.training.joint", "JointStageConfig", "JointStage"),
}
"""In the order in which they are trained: each may need the ones before it."""


def stage_config(stage: str, overrides: Mapping[str, Any], preset: str = "compact") -> Any:
    """A stage's frozen config: the preset's, with settings such as ``{"loop.steps": 500}`` put in.

    A stage's module may offer ``PRESETS`` (name to config); without it compact is the config's defaults.

    Raises:
        UsageError: unknown stage, preset or setting, or a value of the wrong kind.
    """
    if stage not in STAGES:
        raise UsageError(f"no stage is called {stage}", f"choose one of: {', '.join(STAGES)}")
    module_name, config_name, _ = STAGES[stage]
    module = import_module(module_name)
    presets: dict[str, Any] = getattr(module, "PRESETS", {"compact": getattr(module, config_name)()})
    if preset not in presets:
        raise UsageError(f"stage {stage} has no preset {preset}", f"choose one of: {', '.join(presets)}")
    config = presets[preset]
    for key, value in overrides.items():
        config = _with(config, key.split("."), value, key)
    return config


def configure(stage: str, overrides: Mapping[str, Any], preset: str = "compact") -> dict[str, Any]:
    """What a run would be: the resolved config, and parameters, FLOPs and memory of its networks, without data."""
    from talkswap.train.estimate import estimate
    from talkswap.train.stage import plain

    config = stage_config(stage, overrides, preset)
    return {"stage": stage, "preset": preset, "config": plain(config), **estimate(stage, config)}


def train(
    stage: str,
    overrides: Mapping[str, Any],
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
        stage: a key of :data:`STAGES`.
        overrides: settings by their dotted names.
        run: the run's folder; with several hosts one that all of them share.
        preset: ``compact`` or ``paper``.
        resume: whether a begun run may be taken up.
        echo: is given lines for the user.
        watch: is told after every step where the run is; without it ``echo`` is given the rows of the curve.

    Returns:
        The finished stage's scores; empty when ``loop.max_minutes`` came first.

    Raises:
        TrainingError: ``run`` holds a run that must not be overwritten, or one of another configuration.
        TrainingDataError: the prepared data are missing.
        DeviceError: the device asked for cannot be had.
        DependencyError: accelerate is not installed.
    """
    began = time.monotonic()
    from talkswap.train import checkpoint
    from talkswap.train.loop import Trainer
    from talkswap.train.processes import Processes
    from talkswap.train.stage import plain, share_config

    config = stage_config(stage, overrides, preset)
    begun = checkpoint.exists(run)
    if begun and not resume:
        raise TrainingError(f"{run} already holds a run", "choose another --run, or go on with --resume")
    if begun:
        _check_same(run / "config.json", json.loads(json.dumps(plain(config))))
    processes = Processes(config.loop.device, config.loop.precision, config.loop.accumulate)
    try:
        # stages that compute features ask for the device by name
        loop = dataclasses.replace(config.loop, device=processes.device.type)
        share = share_config(dataclasses.replace(config, loop=loop), processes.count)
        built = getattr(import_module(STAGES[stage][0]), STAGES[stage][2])(share)
        trainer = Trainer(built, loop, run, processes, began)
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


def _check_same(path: Path, config: dict[str, Any]) -> None:
    if not path.is_file():
        return
    before = json.loads(path.read_text())["config"]

    def differences(a: Any, b: Any, at: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            keys = sorted(set(a) | set(b))
            return [d for k in keys if k not in MAY_CHANGE for d in differences(a.get(k), b.get(k), f"{at}.{k}")]
        return [] if a == b else [at[1:]]

    changed = differences(before, config, "")
    if changed:
        raise TrainingError(
            f"the run in {path.parent} was begun with another {changed[0]}", "choose another --run, or the old setting"
        )


def _with(config: Any, keys: list[str], value: Any, whole: str) -> Any:
    names = {f.name for f in dataclasses.fields(config)}
    if keys[0] not in names:
        raise UsageError(f"there is no setting {whole}", f"settings here: {', '.join(sorted(names))}")
    hint = typing.get_type_hints(type(config))[keys[0]]
    if len(keys) > 1:
        inner = getattr(config, keys[0])
        if not dataclasses.is_dataclass(inner):
            raise UsageError(f"{keys[0]} has no settings of its own", f"give --set {keys[0]}=VALUE")
        return dataclasses.replace(config, **{keys[0]: _with(inner, keys[1:], value, whole)})
    return dataclasses.replace(config, **{keys[0]: _fitting(value, hint, whole)})


def _fitting(value: Any, hint: Any, key: str) -> Any:
    """``value`` as the type that the config wants."""
    origin = typing.get_origin(hint)
    kinds = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    for kind in kinds:
        if kind is type(None) and value in (None, "", "none"):
            return None
        if kind is Path and isinstance(value, (str, Path)):
            return Path(value)
        if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind in (bool, str) and isinstance(value, kind):
            return value
    raise UsageError(f"{value!r} is no value for {key}", f"it takes {getattr(hint, '__name__', hint)}")
