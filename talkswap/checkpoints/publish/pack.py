"""Make a preset folder from finished runs: weights, configurations, records, model card, manifest."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from talkswap.checkpoints.manifest import MANIFEST, FileRecord, read_about, read_records, write_manifest
from talkswap.checkpoints.networks import fill, network_of, read_tensors, tensor_files, unpack, write_tensors
from talkswap.checkpoints.presets import PresetFolder, folder_state, verify_all
from talkswap.checkpoints.publish.card import CARD, CardFacts, CardNetwork, card_licence, write_card
from talkswap.checkpoints.publish.networks import (
    EXPORT,
    NETWORKS,
    PRECISIONS,
    Run,
    exported_files,
    kind_of,
    needed_networks,
    parameters,
    read_json,
    read_run,
    stored_form,
    stored_precision,
    without_places,
)
from talkswap.errors import OutputExistsError, OutputUnwritableError, UsageError, WeightsMissingError

REPAIR = "export the run again"


@dataclass(frozen=True)
class PackConfig:
    """How runs become a preset folder."""

    name: str = ""  # of the preset; "" = the folder's
    precision: str = "fp16"
    earlier: tuple[Path, ...] = ()  # runs that the given ones started from: only their records are kept
    largest_mb: float = 16.0  # MB (10^6 bytes) that a file may have
    base: Path | None = None  # preset folder that gives the networks which no run has
    licence: str | None = None  # of the whole; without one nothing is pushed
    hardware: str = ""  # where the runs do not say it themselves
    data: str = ""  # Markdown about the training data
    notes: str = ""  # Markdown about the limits
    overwrite: bool = False


@dataclass(frozen=True)
class Packed:
    """A finished preset folder."""

    folder: Path
    preset: str
    networks: tuple[str, ...]
    records: Mapping[str, FileRecord]


def pack_preset(run_folders: Sequence[Path], out: Path, config: PackConfig | None = None) -> Packed:
    """Make the preset folder ``out`` from finished runs; it appears in one move.

    Raises:
        UsageError: two runs hold the same network, or a file cannot be made small enough.
        InputMissingError, WeightsMissingError: a run is not there or not finished; networks are missing that a
            render needs.
        WeightsCorruptError: weights do not fit their configuration, or the base is damaged.
        OutputExistsError, OutputUnwritableError.
    """
    config = config or PackConfig()
    if config.precision not in PRECISIONS:
        raise UsageError(f"there is no precision {config.precision}", f"choose one of: {', '.join(PRECISIONS)}")
    _check_target(out, config)
    runs = [read_run(folder) for folder in run_folders]
    makers = _makers(runs)
    earlier = _earlier([read_run(folder) for folder in config.earlier], {run.label for run in runs})
    base = None if config.base is None else folder_state(config.base)
    preset = _preset_kind(makers, base)
    given = set(makers) | (set() if base is None else _networks_in(base.folders[0]))
    missing = [name for name in needed_networks(preset) if name not in given]
    if missing:
        raise WeightsMissingError(
            f"a {preset} preset needs {', '.join(missing)} as well",
            "give the runs that made them, or --base weights/compact to take the rest from another preset folder",
        )
    if base is not None:
        verify_all(PresetFolder(base.name, base.folders[:1], base.origins[:1], (), base.repair))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
            folder = Path(place) / out.name
            folder.mkdir()
            packed = _fill(folder, out, [*earlier, *runs], makers, base, preset, config)
            _put(folder, out)
    except OSError as error:
        raise OutputUnwritableError(f"cannot write {out}: {error.strerror or error}", "choose another --out") from error
    return packed


def _check_target(out: Path, config: PackConfig) -> None:
    if config.base is not None and config.base.resolve() == out.resolve():
        raise UsageError(f"{out} is --base and --out at once", "choose another folder for --out")
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise OutputExistsError(
            f"{out} exists and is no preset folder", "choose another folder; this one is left alone"
        )
    if any(out.iterdir()) and not config.overwrite:
        raise OutputExistsError(f"{out} exists already", "choose another folder, or give --overwrite")


def _makers(runs: Sequence[Run]) -> dict[str, Run]:
    """Which run gives which network."""
    makers: dict[str, Run] = {}
    labels: dict[str, Path] = {}
    for run in runs:
        for name in run.networks:
            if name in makers:
                raise UsageError(f"{makers[name].folder} and {run.folder} both hold {name}", "give one of the two")
            makers[name] = run
        if run.label in labels:
            raise UsageError(
                f"{labels[run.label]} and {run.folder} are both runs of {run.label}", "give one of the two"
            )
        labels[run.label] = run.folder
    return makers


def _earlier(runs: Sequence[Run], taken: set[str]) -> list[Run]:
    """Runs of which only the records are kept, each with a place of its own below runs/."""
    told: list[Run] = []
    for run in runs:
        placed = replace(run, tag=run.folder.resolve().name) if run.label in taken else run
        if placed.label in taken:
            raise UsageError(f"two runs would leave their records in runs/{placed.label}", "rename one run folder")
        taken = taken | {placed.label}
        told.append(placed)
    return told


def _preset_kind(makers: Mapping[str, Run], base: PresetFolder | None) -> str:
    """Which preset the folder is made like: a lip-sync that hears HuBERT is the paper's."""
    if "lip_sync" in makers:
        settings = read_json(makers["lip_sync"].folder / EXPORT / "lip_sync.json")
        return "paper" if isinstance(settings, dict) and settings.get("speech") == "hubert" else "compact"
    return "compact" if base is None else base.name


def _networks_in(folder: Path) -> set[str]:
    """The networks of ours that a preset folder lists, with their configurations."""
    records = read_records(folder)
    named = {network_of(file) for file in records}
    return {name for name in NETWORKS if name in named and f"{name}.json" in records}


def _fill(
    folder: Path,
    out: Path,
    runs: Sequence[Run],
    makers: Mapping[str, Run],
    base: PresetFolder | None,
    preset: str,
    config: PackConfig,
) -> Packed:
    """Write everything into an empty folder."""
    largest = int(config.largest_mb * 1e6)
    name = config.name or out.resolve().name
    base_name = None if base is None else read_about(base.folders[0]).get("name", base.folders[0].resolve().name)
    taken = sorted(_networks_in(base.folders[0]) - set(makers)) if base is not None else []
    rows: dict[str, CardNetwork] = {}
    for network in (n for n in NETWORKS if n in makers or n in taken):
        run = makers.get(network)
        if run is not None:
            count = _write_trained(folder, run, network, config.precision, largest)
            stored = "fp16" if config.precision == "int8" and kind_of(network).exact else config.precision
            origin = f"`talkswap train {run.stage}`"
        else:
            assert base is not None
            count, stored = _write_taken(folder, base.folders[0], network, largest)
            origin = str(base_name)
        size = sum((folder / file).stat().st_size for file in tensor_files(folder, network))
        rows[network] = CardNetwork(network, count, stored, origin, size)
    for run in runs:
        _write_records(folder / "runs" / run.label, run)
    base_licence = None
    if base is not None:
        for network in taken:
            _copy_records(base.folders[0], folder, network)
        card = base.folders[0] / CARD
        base_licence = card_licence(card.read_text(encoding="utf-8")) if card.is_file() else None
    facts = CardFacts(
        name=name,
        preset=preset,
        licence=config.licence,
        networks=list(rows.values()),
        runs=runs,
        base=base_name,
        base_licence=base_licence,
        hardware=config.hardware,
        data=config.data,
        notes=config.notes,
    )
    (folder / CARD).write_text(write_card(facts), encoding="utf-8")
    about = {"name": name, "preset": preset} | ({} if config.licence is None else {"licence": config.licence})
    records = write_manifest(folder, about)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size > largest:
            raise UsageError(
                f"{path.relative_to(folder)} has {path.stat().st_size / 1e6:.1f} MB, more than {config.largest_mb:g} MB",
                "shorten it in the run folder, or give a larger --largest-mb",
            )
    return Packed(out, preset, tuple(rows), records)


def _write_trained(folder: Path, run: Run, network: str, precision: str, largest: int) -> int:
    """A run's network as it goes to disk, once it is known to fit its configuration; returns its parameters."""
    kind = kind_of(network)
    settings = run.folder / EXPORT / f"{network}.json"
    tensors = read_tensors(exported_files(run, network), REPAIR)
    count = parameters(fill(kind.build(_settings(settings)), tensors, network))
    write_tensors(stored_form(tensors, precision, kind), folder, network, largest)
    shutil.copyfile(settings, folder / f"{network}.json")
    return count


def _write_taken(folder: Path, base: Path, network: str, largest: int) -> tuple[int, str]:
    """A base's network as it is there, in smaller files where needed; returns its parameters and precision."""
    from safetensors.torch import load_file

    files = tensor_files(base, network)
    tensors = {name: tensor for file in files for name, tensor in load_file(base / file).items()}
    if all((base / file).stat().st_size <= largest for file in files):
        for file in files:
            shutil.copyfile(base / file, folder / file)
    else:
        write_tensors(tensors, folder, network, largest)
    shutil.copyfile(base / f"{network}.json", folder / f"{network}.json")
    count = parameters(fill(kind_of(network).build(_settings(base / f"{network}.json")), unpack(tensors), network))
    return count, stored_precision(tensors)


def _settings(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    return settings if isinstance(settings, dict) else {}


def _write_records(folder: Path, run: Run) -> None:
    """A run's records, its JSON without the places of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in run.records.items():
        if path.suffix == ".json":
            text = json.dumps(without_places(read_json(path)), indent=1, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")
        else:
            shutil.copyfile(path, folder / name)


def _copy_records(base: Path, folder: Path, network: str) -> None:
    """The records of a base's network."""
    stage = network.replace("_", "-")
    source, target = base / "runs" / stage, folder / "runs" / stage
    if source.is_dir() and not target.exists():
        shutil.copytree(source, target)


def _put(folder: Path, out: Path) -> None:
    """Put the finished folder in its place; what was there before goes last."""
    old = folder.with_name(folder.name + ".old")
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
