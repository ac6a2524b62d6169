"""Which presets are on this machine, and which of them is taken."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from talkswap.checkpoints import catalogue as places
from talkswap.checkpoints.catalogue import RENDER, read_catalogue
from talkswap.checkpoints.description import PRESETS
from talkswap.checkpoints.manifest import MANIFEST, read_about, read_records
from talkswap.checkpoints.presets import COMPACT_NETWORKS, PACKAGES, PresetFolder, has, repair_hint, verify_all
from talkswap.checkpoints.tensors import ENDING
from talkswap.errors import UsageError, WeightsCorruptError, WeightsMissingError


@dataclass(frozen=True)
class Resolution:
    """The outcome of ``--preset auto``: which set, and one sentence that says why."""

    preset: PresetFolder
    reason: str


def _missing(name: str, folders: tuple[Path, ...]) -> tuple[str, ...]:
    """What a render with this preset needs and none of the folders has."""
    needed: dict[str, tuple[str, ...]] = {}
    if name == "compact":
        for folder in folders:
            needed |= {file: (file,) for file in read_records(folder)}
        needed |= {
            network + ending: (network + ending,) for network in COMPACT_NETWORKS for ending in (ENDING, ".json")
        }
    else:
        needed = {e.name: e.results for e in read_catalogue() if e.preset == name and RENDER in e.needed_by}
    return tuple(
        entry
        for entry, files in needed.items()
        if not all(any(has(folder, file) for folder in folders) for file in files)
    )


def _found(name: str) -> dict[Path, tuple[Path, str]]:
    """The existing folders of a preset below all roots, by where they really lie, each with its origin."""
    found: dict[Path, tuple[Path, str]] = {}
    for root, origin in places.weight_roots():
        if (root / name).is_dir():
            # TALKSWAP_WEIGHTS may name the checkout's own folder
            found.setdefault((root / name).resolve(), (root / name, origin))
    return found


def preset_state(name: str) -> PresetFolder:
    """What this machine has of a preset, complete or not.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", f"choose auto, {' or '.join(reversed(PRESETS))}")
    found = _found(name).values()
    folders = tuple(folder for folder, _ in found)
    return PresetFolder(name, folders, tuple(origin for _, origin in found), _missing(name, folders))


def folder_state(folder: Path, name: str = "auto") -> PresetFolder:
    """A preset folder that the user names, complete or not.

    Its manifest says which preset it is made like; without a word it is compact.  A compact folder stands alone; one
    of the paper preset goes before the other places of that preset, since HuBERT and insightface's networks are
    somebody else's and are not packed.

    Args:
        folder: as made by `talkswap weights pack` or `talkswap download --repo`.
        name: the preset that it must be made like; ``auto`` = any.

    Raises:
        WeightsMissingError: there is no such folder, or no manifest in it.
        WeightsCorruptError: its manifest names a preset that does not exist.
        UsageError: it is made like another preset.
    """
    if not (folder / MANIFEST).is_file():
        lacking = f"no {MANIFEST} in it" if folder.is_dir() else "not there"
        raise WeightsMissingError(
            f"the weights folder {folder} is no preset: {lacking}",
            "name a folder made by `talkswap weights pack` or `talkswap download --repo`; `talkswap weights list` shows them",
        )
    kind = read_about(folder).get("preset", "compact")
    if kind not in PRESETS:
        raise WeightsCorruptError(
            f"{folder / MANIFEST} names the preset {kind!r}, which does not exist", "pack the folder again"
        )
    if name not in ("auto", kind):
        raise UsageError(f"{folder} holds a {kind} preset, not {name}", "leave --preset out")
    found = {folder.resolve(): (folder, "the folder named by --weights")}
    if kind != "compact":
        found = found | {place: entry for place, entry in _found(kind).items() if place not in found}
    folders = tuple(path for path, _ in found.values())
    repair = f"`talkswap weights check {folder}` says what is wrong with it; pack or fetch it again"
    return PresetFolder(kind, folders, tuple(origin for _, origin in found.values()), _missing(kind, folders), repair)


def _named(missing: tuple[str, ...], most: int = 4) -> str:
    """Some names and how many more: a sentence, not a list."""
    if not missing:
        return "everything"
    more = f" and {len(missing) - most} more" if len(missing) > most else ""
    return ", ".join(missing[:most]) + more


def find_preset(name: str, weights: Path | None = None) -> PresetFolder:
    """A preset that can render, every listed file of it held against size and sha256; ``auto`` takes the best complete one.

    Args:
        name: ``auto``, or one of :data:`PRESETS`.
        weights: a preset folder to take instead of looking for one.

    Raises:
        UsageError: there is no such preset.
        WeightsMissingError: files are missing; the message names them.
        WeightsCorruptError: a file is damaged.
    """
    if weights is not None:
        preset = folder_state(weights, name)
    elif name == "auto":
        return resolve_auto().preset
    else:
        preset = preset_state(name)
    if not preset.complete:
        where = "on this machine" if weights is None else f"in {weights}"
        raise WeightsMissingError(
            f"the {preset.name} preset is not complete {where}: {_named(preset.missing)} missing", preset.hint
        )
    verify_all(preset)
    return preset


def absent_packages(name: str) -> tuple[str, ...]:
    """Packages that a preset's networks need and that cannot be imported here; looked for, not imported."""
    return tuple(p for p in PACKAGES[name] if sys.modules.get(p) is None and importlib.util.find_spec(p) is None)


def resolve_auto() -> Resolution:
    """The best preset whose files and packages are all here, and why it was taken.

    Raises:
        WeightsMissingError: none is complete.
        WeightsCorruptError: the one to take is damaged; a worse one is not taken instead without a word.
    """
    lacking: list[str] = []
    for name in PRESETS:
        preset = preset_state(name)
        absent = absent_packages(name)
        if preset.complete and not absent:
            verify_all(preset)
            reason = f"complete in {' and '.join(preset.sources or preset.origins[:1])}"
            return Resolution(preset, "; ".join([reason, *lacking]))
        packages = tuple(f"the package {package}" for package in absent)
        lacking.append(f"{name} lacks {_named((*preset.missing, *packages))}")
    raise WeightsMissingError("no preset is complete on this machine: " + "; ".join(lacking), repair_hint("compact"))
