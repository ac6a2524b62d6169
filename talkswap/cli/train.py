"""``talkswap train STAGE``: one stage of training; the loop and the stages live in talkswap/train."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from talkswap.cli.options import SystemName
from talkswap.cli.output import BarDisplay, Display, note, printable, to_json
from talkswap.errors import InputMissingError, UsageError
from talkswap.types import DEFAULT_SYSTEM

if TYPE_CHECKING:
    from talkswap.train.figures import StepProgress


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"loop": {"steps": 5}}`` as ``{"loop.steps": 5}``."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read_config(path: Path) -> dict[str, Any]:
    """A TOML file's settings, flat.

    Raises:
        InputMissingError: there is no such file.
        UsageError: it is not TOML.
    """
    try:
        return flatten(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputMissingError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not TOML: {error}", "write KEY = VALUE lines, nested configurations as [tables]"
        ) from error


def read_setting(text: str) -> tuple[str, Any]:
    """``loop.steps=5`` as ("loop.steps", 5); the value is TOML, and what is not TOML is a string.

    Raises:
        UsageError: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text} has no value", "write --set KEY=VALUE, for example --set loop.steps=500")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def command(
    stage: Annotated[
        str, typer.Argument(help="faces, identity, occlusion, speech-encoder, or a stage of the system's own.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder made by `talkswap data prepare`.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoints, curve, samples and the finished weights.", show_default=False),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.", show_default=False)] = None,
    system: SystemName = DEFAULT_SYSTEM,
    preset: Annotated[Literal["compact", "paper"], typer.Option(help="Size of the networks.")] = "compact",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as loop.batch=8; may be repeated."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Same as --set loop.steps=N.", show_default=False)] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps; same as --set loop.device=NAME.", show_default=False)
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Save and stop before that long; run again to go on.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Take up the run where it stopped.")] = True,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print configuration, parameters, FLOPs and memory as JSON; needs no data."),
    ] = False,
) -> None:
    """Train one stage; its curve, a sample sheet and its scores appear in the run folder.

    Several GPUs or hosts: accelerate launch -m talkswap train STAGE …
    """
    overrides = read_config(config) if config is not None else {}
    if data is not None:
        overrides["data"] = str(data)
    for key, value in (("loop.steps", steps), ("loop.device", device), ("loop.max_minutes", max_minutes)):
        if value is not None:
            overrides[key] = value
    overrides |= dict(read_setting(text) for text in settings or ())
    from talkswap.systems.registry import find_stage
    from talkswap.train.stages import configure, stage_config, train

    description = find_stage(stage, system)
    if dry_run:
        typer.echo(to_json(configure(description, overrides, preset)))
        return
    # Typing errors should not wait for data to be read.
    stage_config(description, overrides, preset)  # a setting that doesn't exist is named before anything else
    if data is None or run is None:
        missing = "--data" if data is None else "--run"
        raise UsageError(f"train needs {missing} FOLDER", "only --dry-run goes without")
    with choose_training_progress() as progress:
        scores = train(
            description, overrides, run, preset=preset, resume=resume, echo=progress.echo, watch=progress.watch
        )
    if is_main_process():
        typer.echo(to_json(scores))


def is_main_process() -> bool:
    """Whether this is the one of several launched processes that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


# --- A training run on stderr: a bar with loss, rate and time left on a terminal, one plain line per row elsewhere.


class PlainTraining(Display):
    """Lines for logs and pipes; the loop words the rows itself when nobody watches its steps."""

    watch: Callable[[StepProgress], None] | None = None

    def echo(self, line: str) -> None:
        """One line for the user."""
        note(line)


class BarTraining(BarDisplay):
    """A bar that follows the steps, with the lines for the user above it."""

    def __init__(self) -> None:
        from rich import progress

        state = progress.TextColumn("{task.fields[state]}")
        super().__init__(
            progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn(), state
        )

    def echo(self, line: str) -> None:
        """One line for the user."""
        self.show(printable(line))

    def watch(self, progress: StepProgress) -> None:
        """Move the bar to a step."""
        from talkswap.train.figures import clock

        if not self.bar.task_ids:
            self.bar.add_task(progress.stage, total=progress.steps, state="")
        loss = "" if progress.loss is None else f"loss {progress.loss:.4g}  "
        state = f"{loss}{progress.rate:.3g} samples/s  {clock(progress.seconds_left)} left"
        self.bar.update(self.bar.task_ids[0], completed=progress.step, state=state)


def choose_training_progress() -> PlainTraining | BarTraining:
    """A bar on a terminal, plain lines elsewhere."""
    return BarTraining() if sys.stderr.isatty() else PlainTraining()
