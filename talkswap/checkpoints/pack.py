"""Make a preset folder from finished runs: weights, configurations, records, model card, manifest."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from talkswap.checkpoints import card, manifest, networks
from talkswap.checkpoints.card import CARD, EXPORT, CardNetwork, Run, read_run
from talkswap.checkpoints.manifest import RUNS, FileRecord, file_path
from talkswap.checkpoints.networks import PRECISIONS, NetworkDescription, Requirements, read_config, tensor_files
from talkswap.checkpoints.preset_folder import PresetFolder, verify_all
from talkswap.checkpoints.presets import folder_state
from talkswap.errors import OutputExistsError, OutputUnwritableError, UsageError, WeightsMissingError

REPAIR = "export the run again"


@dataclass(frozen=True)
class PackConfig:
    """How runs become a preset folder."""

    networks: tuple[NetworkDescription, ...]  # of the system that the runs trained, the shared ones too
    requirements: Mapping[str, Requirements]  # of that system, by preset
    others: tuple[NetworkDescription, ...] = ()  # of other systems, which a base may hold as well
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
    networks: tuple[str, ...]  # ROOM/NAME
    records: Mapping[str, FileRecord]


@dataclass(frozen=True)
class Contents:
    """What a preset folder will hold, and from where."""

    runs: Sequence[Run]  # whose records are kept
    runs_by_network: Mapping[NetworkDescription, Run]  # for networks that a run gives
    base: Path | None
    from_base: Sequence[NetworkDescription]  # networks that the base gives


def pack_preset(run_folders: Sequence[Path], out: Path, config: PackConfig) -> Packed:
    """Make the preset folder ``out`` from finished runs; it appears in one move.

    Without runs it is the base again, in today's layout: that is how a folder from before systems had folders moves on.

    Raises:
        UsageError: two runs hold the same network, there is nothing to pack, or a file cannot be made small enough.
        InputMissingError, WeightsMissingError: a run is not there or not finished; networks are missing that a
            render needs.
        WeightsCorruptError: weights do not fit their configuration, or the base is damaged.
        OutputExistsError, OutputUnwritableError.
    """
    if config.precision not in PRECISIONS:
        raise UsageError(f"there is no precision {config.precision}", f"choose one of: {', '.join(PRECISIONS)}")
    if not run_folders and config.base is None:
        raise UsageError("there is nothing to pack", "name a finished run of `talkswap train`, or a folder with --base")
    _check_target(out, config)
    runs = [read_run(folder, config.networks) for folder in run_folders]
    runs_by_network = _runs_by_network(runs)
    earlier = _earlier([read_run(folder, config.networks) for folder in config.earlier], {run.place for run in runs})
    # All questions come before the first file: nothing half-made is left behind by a refusal.
    base = None if config.base is None else folder_state(config.base)
    preset = _preset_kind(runs_by_network, base)
    order = dict.fromkeys((*config.networks, *config.others))
    listed = {} if base is None else manifest.read_records(base.folders[0])
    tensors = {networks.network_of(file) for file in listed}
    in_base = (network for network in order if network.path in tensors and f"{network.path}.json" in listed)
    from_base = tuple(network for network in in_base if network not in runs_by_network)
    contents_of_preset = {network.path for network in (*runs_by_network, *from_base)}
    missing = [path for path in config.requirements[preset].networks if path not in contents_of_preset]
    if missing:
        raise WeightsMissingError(
            f"a {preset} preset needs {', '.join(missing)} as well",
            "give the runs that made them, or --base weights/compact to take the rest from another preset folder",
        )
    if base is not None:
        verify_all(PresetFolder(base.name, base.folders[:1], base.origins[:1], (), base.repair))
    contents = Contents([*earlier, *runs], runs_by_network, None if base is None else base.folders[0], from_base)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that the last step is a rename on one disk.
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
            folder = Path(place) / out.name
            folder.mkdir()
            names, records = _fill(folder, out, contents, preset, config)
            _put(folder, out)
    except OSError as error:
        raise OutputUnwritableError(f"cannot write {out}: {error.strerror or error}", "choose another --out") from error
    return Packed(out, preset, names, records)


def _check_target(out: Path, config: PackConfig) -> None:
    if config.base is not None and config.base.resolve() == out.resolve():
        raise UsageError(f"{out} is --base and --out at once", "choose another folder for --out")
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / manifest.MANIFEST).is_file()):
        raise OutputExistsError(
            f"{out} exists and is no preset folder", "choose another folder; this one is left alone"
        )
    if any(out.iterdir()) and not config.overwrite:
        raise OutputExistsError(f"{out} exists already", "choose another folder, or give --overwrite")


def _runs_by_network(runs: Sequence[Run]) -> dict[NetworkDescription, Run]:
    """Which run gives which network."""
    owners: dict[NetworkDescription, Run] = {}
    places: dict[str, Path] = {}
    for run in runs:
        for network in run.networks:
            if network in owners:
                both = f"{owners[network].folder} and {run.folder}"
                raise UsageError(f"{both} both hold {network.name}", "give one of the two")
            owners[network] = run
        if run.place in places:
            raise UsageError(
                f"{places[run.place]} and {run.folder} are both runs of {run.label}", "give one of the two"
            )
        places[run.place] = run.folder
    return owners


def _earlier(runs: Sequence[Run], places: set[str]) -> list[Run]:
    """Runs of which only the records are kept, each with a place of its own."""
    tagged_runs: list[Run] = []
    for run in runs:
        # A stage that was run twice would overwrite its own records.
        tagged = replace(run, tag=run.folder.resolve().name) if run.place in places else run
        if tagged.place in places:
            raise UsageError(f"two runs would leave their records in {tagged.place}", "rename one run folder")
        places = places | {tagged.place}
        tagged_runs.append(tagged)
    return tagged_runs


def _preset_kind(runs_by_network: Mapping[NetworkDescription, Run], base: PresetFolder | None) -> str:
    """Which preset the folder is made like: some networks show by their settings that they're of the paper's size."""
    kinds = set()
    for network, run in runs_by_network.items():
        if network.paper_settings:
            settings = read_config(run.folder / EXPORT / f"{network.name}.json", REPAIR)
            kinds.add("paper" if network.paper_settings.items() <= settings.items() else "compact")
    # One network of the paper's size is enough to make a paper preset.
    if kinds:
        return "paper" if "paper" in kinds else "compact"
    return "compact" if base is None else base.name


def _fill(
    folder: Path, out: Path, contents: Contents, preset: str, config: PackConfig
) -> tuple[tuple[str, ...], Mapping[str, FileRecord]]:
    """Write everything into an empty folder; returns the networks and the manifest."""
    largest = int(config.largest_mb * 1e6)
    name = config.name or out.resolve().name
    base = contents.base
    base_name = None if base is None else manifest.read_about(base).get("name", base.resolve().name)
    rows: list[CardNetwork] = []
    order = dict.fromkeys((*config.networks, *config.others))
    for network in (n for n in order if n in contents.runs_by_network or n in contents.from_base):
        (folder / network.room).mkdir(exist_ok=True)
        run = contents.runs_by_network.get(network)
        if run is not None:
            count = _write_trained(folder, run, network, config.precision, largest)
            stored = "fp16" if config.precision == "int8" and network.exact else config.precision
            origin = f"`talkswap train {run.stage}`"
        else:
            assert base is not None
            count, stored = _write_copy(folder, base, network, largest)
            origin = str(base_name)
        size = sum((folder / file).stat().st_size for file in tensor_files(folder, network.path))
        rows.append(CardNetwork(network.path, network.purpose, count, stored, origin, size))
    # Whoever downloads weights can see how they were trained.
    for run in contents.runs:
        _write_records(folder / run.place, run)
    base_card = base_licence = None
    if base is not None:
        places = _copy_records(base, folder, contents, everything=not contents.runs)
        if (base / CARD).is_file():
            base_card = (base / CARD).read_text(encoding="utf-8")
            base_licence = card.card_licence(base_card)
    licence = config.licence
    if base_card is not None and not contents.runs:
        # Nothing was trained, so what the base's card says of data and scores still holds.
        licence = licence or base_licence
        for old, new in places.items():
            base_card = re.sub(rf"(?<![\w/]){re.escape(old)}(?!\w)", new, base_card)
        text = base_card
    else:
        text = card.write_card(
            card.CardFacts(
                name, preset, licence, rows, contents.runs, base_name, base_licence, config.hardware, config.data,
                config.notes,
            )
        )  # fmt: skip
    (folder / CARD).write_text(text, encoding="utf-8")
    about = {"name": name, "preset": preset} | ({} if licence is None else {"licence": licence})
    records = manifest.write_manifest(folder, about)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size > largest:
            raise UsageError(
                f"{path.relative_to(folder)} has {path.stat().st_size / 1e6:.1f} MB, more than {config.largest_mb:g} MB",
                "shorten it in the run folder, or give a larger --largest-mb",
            )
    return tuple(row.name for row in rows), records


def _count(network: NetworkDescription, settings: Path, tensors: Mapping[str, Any]) -> int:
    """Trained numbers of a network, once its tensors are known to fit its configuration."""
    build, config = networks.resolve(network.network), networks.resolve(network.config)
    module = networks.build_network(build, config, read_config(settings, REPAIR), network.name)
    return sum(parameter.numel() for parameter in networks.fill(module, dict(tensors), network.name).parameters())


def _write_trained(folder: Path, run: Run, network: NetworkDescription, precision: str, largest: int) -> int:
    """A run's network as it goes to disk; returns its parameters."""
    settings = run.folder / EXPORT / f"{network.name}.json"
    tensors = networks.read_tensors(card.exported_files(run, network.name), REPAIR)
    count = _count(network, settings, tensors)
    stored = networks.storage_form(tensors, precision, network.name, network.exact)
    networks.write_tensors(stored, folder / network.room, network.name, largest)
    shutil.copyfile(settings, folder / f"{network.path}.json")
    return count


def _write_copy(folder: Path, base: Path, network: NetworkDescription, largest: int) -> tuple[int, str]:
    """A base's network as it is there, in smaller files where needed; returns its parameters and precision."""
    from safetensors.torch import load_file

    files = {file: file_path(base, file) for file in tensor_files(base, network.path)}
    tensors = {name: tensor for path in files.values() for name, tensor in load_file(path).items()}
    # Copied as they are where possible, so that their hashes stay.
    if all(path.stat().st_size <= largest for path in files.values()):
        for file, path in files.items():
            shutil.copyfile(path, folder / file)
    else:
        networks.write_tensors(tensors, folder / network.room, network.name, largest)
    settings = file_path(base, f"{network.path}.json")
    shutil.copyfile(settings, folder / f"{network.path}.json")
    return _count(network, settings, networks.unpack(tensors)), networks.storage_precision(tensors)


def _write_records(folder: Path, run: Run) -> None:
    """A run's records, its JSON without the places of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in run.records.items():
        if path.suffix == ".json":
            text = json.dumps(card.without_places(card.read_json(path)), indent=1, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")
        else:
            shutil.copyfile(path, folder / name)


def _copy_records(base: Path, folder: Path, contents: Contents, everything: bool) -> dict[str, str]:
    """Copy the records of a base's networks, or all that it has; returns new places by old ones."""
    rooms = {network.name.replace("_", "-"): network.room for network in contents.from_base}
    places: dict[str, str] = {}
    if manifest.is_flat(base):
        own = next((room for room in reversed(rooms.values()) if room not in ("faces", "voice")), "faces")
        for record in sorted((base / RUNS).glob("*")) if everything else [base / RUNS / label for label in rooms]:
            places[f"{RUNS}/{record.name}"] = f"{rooms.get(record.name, own)}/{RUNS}/{record.name}"
    else:
        for label, room in rooms.items():
            records = (base / room / RUNS).glob("*") if everything else (base / room / RUNS / label,)
            places |= {p: p for p in (record.relative_to(base).as_posix() for record in records)}
    for old, new in places.items():
        source, target = base / old, folder / new
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.is_file():
            shutil.copyfile(source, target)
    return places


def _put(folder: Path, out: Path) -> None:
    """Put the finished folder in its place; what was there before goes last."""
    old = folder.with_name(folder.name + ".old")
    # A rename can't replace a folder that isn't empty, so the old one steps aside.
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
