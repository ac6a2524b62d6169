"""Is a preset folder what its manifest says, and which preset folders are on this machine?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from talkswap.checkpoints.card import CARD
from talkswap.checkpoints.manifest import (
    MANIFEST,
    RUNS,
    check_file,
    file_path,
    is_listed,
    read_about,
    read_records,
    weight_roots,
    with_room,
)
from talkswap.checkpoints.networks import Requirements
from talkswap.checkpoints.presets import PresetFolder, folder_state
from talkswap.errors import TalkswapError, UsageError, WeightsCorruptError, WeightsMissingError

HUB = "hub"  # folder below a root for presets fetched by repository and commit


@dataclass(frozen=True)
class FileState:
    """One file of a preset folder."""

    file: str
    size: int
    problem: TalkswapError | None


@dataclass(frozen=True)
class InstalledPreset:
    """A preset folder on this machine."""

    folder: Path
    origin: str
    name: str
    preset: str
    size: int  # bytes of the files on its list
    missing: tuple[str, ...]  # what a render with it alone would lack


def check_preset(folder: Path) -> list[FileState]:
    """Every file on the list of a preset folder held against it, then weights that are on no list.

    Raises:
        WeightsMissingError: there is no manifest.
        WeightsCorruptError: the manifest itself is damaged.
    """
    folder_state(folder)
    repair = "pack the folder again, or fetch it again"
    records = read_records(folder)
    states: list[FileState] = []
    for file, record in sorted(records.items()):
        problem: TalkswapError | None = None
        try:
            check_file(file_path(folder, file), record, repair)
        except (WeightsMissingError, WeightsCorruptError) as error:
            problem = error
        states.append(FileState(file, record.size, problem))
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if path.is_file() and is_listed(file) and with_room(file) not in records:
            stray = WeightsCorruptError(f"{path} is not listed in {folder / MANIFEST}", repair)
            states.append(FileState(file, path.stat().st_size, stray))
    return states


def require_whole(folder: Path, requirements: Mapping[str, Requirements]) -> PresetFolder:
    """The preset of a folder in which nothing is damaged and nothing is missing that a render needs.

    Raises:
        TalkswapError: the first problem of :func:`check_preset`.
        WeightsMissingError: of what a render lacks.
    """
    for state in check_preset(folder):
        if state.problem is not None:
            raise state.problem
    preset = folder_state(folder, requirements=requirements)
    if preset.missing:
        raise WeightsMissingError(f"{folder} lacks {', '.join(preset.missing)}", preset.hint)
    return preset


def preset_files(folder: Path) -> list[str]:
    """All that belongs to a preset folder: manifest, card, listed files, records; nothing that only lies there."""
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    records = [
        file.as_posix() for file in files if RUNS in file.parts and not any(part.startswith(".") for part in file.parts)
    ]
    card = [CARD] if (folder / CARD).is_file() else []
    return [MANIFEST, *card, *sorted(record.listed or file for file, record in read_records(folder).items()), *records]


def _candidates() -> Iterator[tuple[Path, str]]:
    for root, origin in weight_roots():
        for pattern in ("*", f"{HUB}/*/*/*"):
            for path in sorted(root.glob(f"{pattern}/{MANIFEST}")):
                yield path.parent, origin


def installed_presets(requirements: Mapping[str, Requirements]) -> list[InstalledPreset]:
    """Preset folders below the places where weights are looked for, and those fetched from the hub."""
    presets: dict[Path, InstalledPreset] = {}
    for folder, origin in _candidates():
        if folder.resolve() in presets:
            continue
        about = read_about(folder)
        kind = about.get("preset", folder.name)
        try:
            missing = folder_state(folder, requirements=requirements).missing
        except (UsageError, WeightsCorruptError) as error:
            missing = (error.message,)
        size = sum(record.size for record in read_records(folder).values())
        presets[folder.resolve()] = InstalledPreset(folder, origin, about.get("name", folder.name), kind, size, missing)
    return list(presets.values())
