"""Which preset folders are on this machine, which of them a render takes, and whether one is whole."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from talkswap.checkpoints import manifest
from talkswap.checkpoints.card import CARD
from talkswap.checkpoints.manifest import MANIFEST, file_path, read_about, read_records
from talkswap.checkpoints.networks import ANYTHING, ENDING, PRESETS, Requirements
from talkswap.checkpoints.preset_folder import PresetFolder, has, repair_hint, verify_all
from talkswap.errors import TalkswapError, UsageError, WeightsCorruptError, WeightsMissingError

HUB = "hub"  # folder below a root for presets fetched by repository and commit


@dataclass(frozen=True)
class Resolution:
    """The outcome of ``--preset auto``: which set, and one sentence that says why."""

    preset: PresetFolder
    reason: str


def _missing(folders: tuple[Path, ...], requirements: Requirements) -> tuple[str, ...]:
    """What a render needs and none of the folders has: files of our own networks, downloads by name, listed files."""
    files = [network + ending for network in requirements.networks for ending in (ENDING, ".json")]
    if not requirements.downloads:
        # Without a system's requirements everything on the lists must be there.
        rooms = requirements.rooms
        listed = (file for folder in folders for file in read_records(folder))
        files += [file for file in listed if not rooms or manifest.room_of(file) in rooms]
    missing = [file for file in dict.fromkeys(files) if not any(has(folder, file) for folder in folders)]
    for entry in manifest.read_catalogue() if requirements.downloads else ():
        if entry.name in requirements.downloads and not all(
            any(has(folder, file) for folder in folders) for file in entry.results
        ):
            missing.append(entry.name)
    return tuple(missing)


def _places(name: str) -> dict[Path, tuple[Path, str]]:
    """The existing folders of a preset below all roots, by where they really lie, each with its origin."""
    folders: dict[Path, tuple[Path, str]] = {}
    for root, origin in manifest.weight_roots():
        if (root / name).is_dir():
            # TALKSWAP_WEIGHTS may name the checkout's own folder
            folders.setdefault((root / name).resolve(), (root / name, origin))
    return folders


def preset_state(name: str, requirements: Requirements = ANYTHING) -> PresetFolder:
    """What this machine has of a preset, complete or not.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", f"choose auto, {' or '.join(reversed(PRESETS))}")
    return _state(name, _places(name), "", requirements)


def _state(name: str, places: Mapping[Path, tuple[Path, str]], repair: str, needs: Requirements) -> PresetFolder:
    folders = tuple(folder for folder, _ in places.values())
    origins = tuple(origin for _, origin in places.values())
    return PresetFolder(name, folders, origins, _missing(folders, needs), repair, needs)


def folder_state(
    folder: Path, name: str = "auto", requirements: Mapping[str, Requirements] | None = None
) -> PresetFolder:
    """A preset folder that the user names, complete or not.

    Its manifest says which preset it is made like; without a word it is compact.  A compact folder stands alone; one
    of the paper preset goes before the other places of that preset, since HuBERT and insightface's networks are
    third-party files and are not packed.

    Args:
        folder: as made by `talkswap weights pack` or `talkswap download --repo`.
        name: the preset that it must be made like; ``auto`` = any.
        requirements: of the system that it's for, by preset; None = whatever its manifest lists.

    Raises:
        WeightsMissingError: there is no such folder, or no manifest in it.
        WeightsCorruptError: its manifest names a preset that does not exist.
        UsageError: it is made like another preset, or the system has no such preset.
    """
    if not (folder / MANIFEST).is_file():
        problem = f"no {MANIFEST} in it" if folder.is_dir() else "not there"
        raise WeightsMissingError(
            f"the weights folder {folder} is no preset: {problem}",
            "name a folder made by `talkswap weights pack` or `talkswap download --repo`; `talkswap weights list` shows them",
        )
    # Folders of before there was a field were all compact.
    kind = read_about(folder).get("preset", "compact")
    if kind not in PRESETS:
        raise WeightsCorruptError(
            f"{folder / MANIFEST} names the preset {kind!r}, which does not exist", "pack the folder again"
        )
    if name not in ("auto", kind):
        raise UsageError(f"{folder} holds a {kind} preset, not {name}", "leave --preset out")
    needs = _requirements_of(kind, requirements)
    places = {folder.resolve(): (folder, "the folder named by --weights")}
    if kind != "compact":
        places |= {place: entry for place, entry in _places(kind).items() if place not in places}
    repair = f"`talkswap weights check {folder}` says what is wrong with it; pack or fetch it again"
    return _state(kind, places, repair, needs)


def _requirements_of(name: str, requirements: Mapping[str, Requirements] | None) -> Requirements:
    if requirements is None:
        return ANYTHING
    if name not in requirements:
        raise UsageError(f"this system has no {name} preset", f"choose one of: {', '.join(requirements)}")
    return requirements[name]


def find_preset(
    name: str, weights: Path | None = None, requirements: Mapping[str, Requirements] | None = None
) -> PresetFolder:
    """A preset that can render, each of its files checked for size and sha256; ``auto`` takes the best complete one.

    Args:
        name: ``auto``, or one of :data:`~talkswap.checkpoints.networks.PRESETS`.
        weights: a preset folder to take instead of looking for one.
        requirements: of the system that it's for, by preset (:func:`talkswap.systems.registry.requirements`); None =
            whatever its manifests list.

    Raises:
        UsageError: there is no such preset, or the system has none of that name.
        WeightsMissingError: files are missing; the message names them.
        WeightsCorruptError: a file is damaged.
    """
    if weights is not None:
        preset = folder_state(weights, name, requirements)
    elif name == "auto":
        return resolve_auto(requirements).preset
    else:
        preset = preset_state(name, ANYTHING if name not in PRESETS else _requirements_of(name, requirements))
    if not preset.complete:
        where = "on this machine" if weights is None else f"in {weights}"
        raise WeightsMissingError(
            f"the {preset.name} preset is not complete {where}: {some_of(preset.missing)} missing", preset.hint
        )
    verify_all(preset)
    return preset


def some_of(names: tuple[str, ...], most: int = 4) -> str:
    """Some names and how many more: a clause, not a list."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "everything"


def absent_packages(requirements: Requirements) -> tuple[str, ...]:
    """Packages that a preset needs and that cannot be imported here; looked for, not imported."""
    packages = requirements.packages
    return tuple(p for p in packages if sys.modules.get(p) is None and importlib.util.find_spec(p) is None)


def resolve_auto(requirements: Mapping[str, Requirements] | None = None) -> Resolution:
    """The best preset whose files and packages are all here, and why it was taken.

    Args:
        requirements: as :func:`find_preset`; None = the compact preset, since the needs of another one are unknown.

    Raises:
        WeightsMissingError: none is complete.
        WeightsCorruptError: the one to take is damaged; a worse one is not taken instead without a word.
    """
    choices = {"compact": ANYTHING} if requirements is None else requirements
    gaps: list[str] = []
    for name in (preset for preset in PRESETS if preset in choices):
        preset = preset_state(name, choices[name])
        absent = absent_packages(choices[name])
        # Never a worse preset without a word: a damaged one is an error, an absent one a reason.
        if preset.complete and not absent:
            verify_all(preset)
            reason = f"complete in {' and '.join(preset.sources or preset.origins[:1])}"
            return Resolution(preset, "; ".join([reason, *gaps]))
        packages = tuple(f"the package {package}" for package in absent)
        gaps.append(f"{name} lacks {some_of((*preset.missing, *packages))}")
    raise WeightsMissingError("no preset is complete on this machine: " + "; ".join(gaps), repair_hint("compact"))


# --- Whether a preset folder is what its manifest says, and all of them that are here.


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
    """Check every file that a preset folder lists, then report weights that it doesn't list.

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
            manifest.check_file(file_path(folder, file), record, repair)
        except (WeightsMissingError, WeightsCorruptError) as error:
            problem = error
        states.append(FileState(file, record.size, problem))
    # A file that is not listed is never loaded, and its owner should know.
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if path.is_file() and manifest.is_listed(file) and manifest.with_room(file) not in records:
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
    """All files that belong to a preset folder: manifest, card, listed files and records."""
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    records = [
        file.as_posix()
        for file in files
        if manifest.RUNS in file.parts and not any(part.startswith(".") for part in file.parts)
    ]
    card = [CARD] if (folder / CARD).is_file() else []
    return [MANIFEST, *card, *sorted(record.listed or file for file, record in read_records(folder).items()), *records]


def installed_presets(requirements: Mapping[str, Requirements]) -> list[InstalledPreset]:
    """Preset folders below the places where weights are looked for, and those fetched from the hub."""
    patterns = ("*", f"{HUB}/*/*/*")
    candidates = [
        (path.parent, origin)
        for root, origin in manifest.weight_roots()
        for pattern in patterns
        for path in sorted(root.glob(f"{pattern}/{MANIFEST}"))
    ]
    presets: dict[Path, InstalledPreset] = {}
    for folder, origin in candidates:
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
