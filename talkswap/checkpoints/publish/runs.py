"""A finished run folder of `talkswap train`: its networks, and what it says of how they were trained."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from talkswap.checkpoints.description import NetworkDescription
from talkswap.checkpoints.manifest import RUNS
from talkswap.checkpoints.networks import network_of, tensor_files
from talkswap.errors import InputMissingError, UsageError, WeightsCorruptError, WeightsMissingError

EXPORT = "export"
FULL = "-float32"  # ending of a network's name where a stage exports full precision beside half
RECORDS = ("config.json", "curve.jsonl", "curve.png", "scores.json", "scores.jsonl", "README.md")
"""What a run leaves for readers; further JSON lists of its export folder (clips, pairs, lags) belong to it."""


@dataclass(frozen=True)
class Run:
    """What a run folder says."""

    folder: Path
    stage: str
    networks: tuple[NetworkDescription, ...]
    steps: int  # 0 = unknown
    minutes: float  # 0 = unknown
    hardware: str  # "" = unknown
    loop: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    records: dict[str, Path] = field(default_factory=dict)  # name in the preset -> file
    tag: str = ""  # tells runs of the same stage apart

    @property
    def seed(self) -> int | None:
        """The seed that batches and noise depend on."""
        seed = self.loop.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def label(self) -> str:
        """Its folder below runs/: the stage, or the network where a stage makes several in as many runs."""
        stage = "-".join(network.name for network in self.networks) if self.stage == "faces" else self.stage
        return f"{stage}-{self.tag}" if self.tag else stage

    @property
    def place(self) -> str:
        """Where a preset keeps its records: ``ROOM/runs/LABEL``."""
        return f"{self.networks[0].room}/{RUNS}/{self.label}"


def read_json(path: Path) -> Any:
    """A record's content.

    Raises:
        WeightsCorruptError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsCorruptError(f"{path} is no JSON: {error}", "repair the file, or train the run again") from error


def without_places(value: Any) -> Any:
    """JSON values with the last name alone of every absolute path: where a home folder lies is nobody's business."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, str) and "\n" not in value:
        if PurePosixPath(value).is_absolute() or value.startswith("~"):
            return PurePosixPath(value).name
        if PureWindowsPath(value).is_absolute():
            return PureWindowsPath(value).name
    return value


def _numbers(values: Any) -> dict[str, float]:
    """The numbers of a scores file, nested ones with a dot."""
    numbers: dict[str, float] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            numbers |= {f"{key}.{inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[key] = value
    return numbers


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole line of a curve."""
    for line in reversed(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # a run that was killed may have left half a line
        if isinstance(row, dict):
            return row
    return {}


def exported_files(run: Run, network: str) -> list[Path]:
    """The tensors of a run's network, in full precision where the stage exports it."""
    export = run.folder / EXPORT
    files = tensor_files(export, network + FULL) or tensor_files(export, network)
    return [export / file for file in files]


def read_run(folder: Path, networks: Iterable[NetworkDescription]) -> Run:
    """What a finished run holds.

    Args:
        folder: that was ``--run`` of `talkswap train`.
        networks: that a system may be made of.

    Raises:
        InputMissingError: there is no such folder.
        WeightsMissingError: the run is not finished, or a network lacks its configuration.
        WeightsCorruptError: a record is damaged.
        UsageError: it holds a network that the system doesn't have.
    """
    if not folder.is_dir():
        raise InputMissingError(
            f"there is no run folder {folder}", "give the folder that was --run of `talkswap train`"
        )
    export = folder / EXPORT
    names = {name.removesuffix(FULL) for p in sorted(export.glob("*.safetensors")) if (name := network_of(p.name))}
    if not names or not (folder / "config.json").is_file():
        lacking = "config.json" if names else "weights in export/"
        raise WeightsMissingError(
            f"{folder} holds no finished run: it has no {lacking}", "let `talkswap train` reach its last step"
        )
    by_name = {network.name: network for network in networks}
    for name in sorted(names):
        if name not in by_name:
            raise UsageError(
                f"{folder} holds {name}, which no network of this system is called",
                f"its networks are {', '.join(by_name)}; name another one with --system",
            )
        if not (export / f"{name}.json").is_file():
            raise WeightsMissingError(f"{export} has {name} without {name}.json", "export the run again")
    about = read_json(folder / "config.json")
    about = about if isinstance(about, dict) else {}
    loop: dict[str, Any] = about["loop"] if isinstance(about.get("loop"), dict) else {}
    last = _last_row(folder / "curve.jsonl")
    scores = _numbers(read_json(folder / "scores.json")) if (folder / "scores.json").is_file() else {}
    records = {name: folder / name for name in RECORDS if (folder / name).is_file()}
    for path in [*sorted(folder.glob("*.json")), *sorted(export.glob("*.json"))]:
        if path.stem not in names and path.name not in records:
            records[path.name] = path
    return Run(
        folder=folder,
        stage=str(about.get("stage", folder.name)),
        networks=tuple(network for name, network in by_name.items() if name in names),
        steps=int(last.get("step", loop.get("steps", 0))),
        minutes=float(last.get("minutes", 0.0)),
        hardware=str(about.get("hardware", "")),
        loop=loop,
        scores=scores,
        records=records,
    )
