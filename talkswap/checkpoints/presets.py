"""A preset: a named set of networks, its files spread over one or more folders of this machine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkswap.checkpoints import manifest as places
from talkswap.checkpoints.manifest import (
    MANIFEST,
    check_file,
    file_path,
    is_flat,
    read_about,
    read_catalogue,
    read_records,
    room_of,
    with_room,
)
from talkswap.checkpoints.networks import (
    ANYTHING,
    ENDING,
    PRESETS,
    Network,
    Requirements,
    build_network,
    load_network,
    network_of,
    read_config,
    read_tensors,
    tensor_files,
)
from talkswap.errors import UsageError, WeightsCorruptError, WeightsMissingError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PresetFolder:
    """A preset as found on this machine; its files may be spread over several roots."""

    name: str
    folders: tuple[Path, ...]  # existing ones, in the order of the roots; for every file the first that has it wins
    origins: tuple[str, ...]  # why each folder was looked into
    missing: tuple[str, ...]  # names of entries that a render needs and nobody has
    repair: str = ""  # hint where a file is missing or damaged; empty = that of the preset's name
    requirements: Requirements = ANYTHING  # of the system that it is read for

    @property
    def complete(self) -> bool:
        return bool(self.folders) and not self.missing

    @property
    def hint(self) -> str:
        """What brings a missing or damaged file back."""
        return self.repair or repair_hint(self.name)

    @property
    def sources(self) -> tuple[str, ...]:
        """Origins of the folders that some listed file is taken from."""
        taken = {self.owner(self.locate(file)) for file in weight_hashes(self)}
        return tuple(origin for folder, origin in zip(self.folders, self.origins, strict=True) if folder in taken)

    @property
    def notice(self) -> str:
        """One line for the user where a folder was packed before systems had folders of their own; else empty."""
        flat = [folder for folder in self.folders if is_flat(folder)]
        if not flat:
            return ""
        pack = f"`talkswap weights pack --base {flat[0]} --out NEW` makes a new one"
        return f"{flat[0]} is an old preset folder without a folder for each system; it works, and {pack}"

    @property
    def analyser(self) -> str:
        """The face analyser that this preset's networks were made for."""
        return "insightface" if self.name == "paper" else "compact"

    def owner(self, path: Path) -> Path:
        """The folder of this preset that a located file lies in."""
        return next(folder for folder in self.folders if path.is_relative_to(folder))

    def locate(self, file: str) -> Path:
        """Path of a file of this preset.

        Raises:
            WeightsMissingError: no folder has it.
        """
        for folder in self.folders:
            path = file_path(folder, file)
            if path.is_file():
                return path
        raise WeightsMissingError(f"the {self.name} preset has no {file}", self.hint)

    def locate_tensors(self, network: str) -> tuple[Path, ...]:
        """Paths of a network's tensors: one file, or all its shards, of the first folder that has them.

        Raises:
            WeightsMissingError: no folder has them.
        """
        for folder in self.folders:
            if files := tensor_files(folder, network):
                return tuple(file_path(folder, file) for file in files)
        raise WeightsMissingError(f"the {self.name} preset has no {network}.safetensors", self.hint)


def repair_hint(preset: str) -> str:
    """The command that brings a preset's files back."""
    if preset == "compact":
        return "reinstall talkswap, or restore weights/compact with `git checkout -- weights/compact`"
    return f"run `talkswap download {preset}`; `talkswap download --list` shows what has no public source"


def has(folder: Path, file: str) -> bool:
    """Whether a folder has a file; for a network's tensors all shards are as good as the whole."""
    if file_path(folder, file).is_file():
        return True
    network = network_of(file)
    return network is not None and file == f"{network}.safetensors" and bool(tensor_files(folder, network))


def weight_hashes(preset: PresetFolder) -> dict[str, str]:
    """File -> sha256 of everything that a preset's manifests list, its folders hold and its system may load, for the
    render report.

    A file that lies in several folders has the hash of the one that is loaded; a listed one that nobody has is
    left out (:attr:`PresetFolder.missing` names it).
    """
    rooms, others = preset.requirements.rooms, _download_files(preset.requirements)
    stated: dict[str, str] = {}
    for folder in preset.folders:
        for file, record in read_records(folder).items():
            if rooms and room_of(file) not in rooms and file not in others:
                continue  # another system's
            network = network_of(file)
            if network is not None:
                keeper = next((other for other in preset.folders if tensor_files(other, network)), None)
                if keeper is not None and file not in tensor_files(keeper, network):
                    continue  # another folder's whole file goes before these shards, or the other way round
            first = next((other for other in preset.folders if file_path(other, file).is_file()), None)
            if first == folder or (first is not None and file not in stated):
                stated[file] = record.sha256
    return stated


# --- Verified reading of a preset's files: nothing is loaded that differs from its manifest.


_verified: set[tuple[str, int, int]] = set()


def _verify(preset: PresetFolder, path: Path) -> Path:
    """A located file, once its size and sha256 are found to be those of its folder's manifest."""
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key in _verified:
        return path
    folder = preset.owner(path)
    record = read_records(folder).get(with_room(path.relative_to(folder).as_posix()))
    if record is None:
        raise WeightsCorruptError(
            f"{path} is not listed in {folder / MANIFEST}", f"run `talkswap download --adopt {folder}`"
        )
    check_file(path, record, preset.hint)
    _verified.add(key)
    return path


def verify(preset: PresetFolder, file: str) -> Path:
    """Path of a file whose size and sha256 are those of its manifest; hashed once per process.

    A file that its folder's manifest does not list (weights that somebody laid there by hand) is refused:
    `talkswap download --adopt` or :func:`talkswap.checkpoints.manifest.write_manifest` puts it on the list.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`talkswap.checkpoints.manifest.check_file`, or the file is on no list.
    """
    return _verify(preset, preset.locate(file))


def verify_tensors(preset: PresetFolder, network: str) -> tuple[Path, ...]:
    """Paths of a network's tensors, one file or all shards, each verified.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`.
    """
    return tuple(_verify(preset, path) for path in preset.locate_tensors(network))


def _common_folder(paths: list[Path]) -> Path:
    for path in paths[1:]:
        if path.parent != paths[0].parent:
            raise WeightsCorruptError(
                f"{paths[0]} and {path} belong together and lie apart", "put both files into one folder"
            )
    return paths[0].parent


def verified_folder(preset: PresetFolder, files: Iterable[str]) -> Path:
    """The one folder that some files of a preset lie in together, each verified.

    Args:
        preset: where to look.
        files: names that belong together.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`, or the files lie in different folders.
    """
    return _common_folder([verify(preset, file) for file in files])


def network_folder(preset: PresetFolder, network: str) -> Path:
    """The one folder that a network's tensors and its configuration lie in, all verified.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verified_folder`.
    """
    return _common_folder([*verify_tensors(preset, network), verify(preset, f"{network}.json")])


def verify_all(preset: PresetFolder) -> None:
    """Verify every listed file of a preset, so that whoever loads one later need not.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`.
    """
    for file in weight_hashes(preset):
        verify(preset, file)


def load_weights(preset: PresetFolder, name: str, device: str = "cpu") -> dict[str, Tensor]:
    """Tensors of ``NAME.safetensors`` or of its shards, verified first.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    return read_tensors(verify_tensors(preset, name), preset.hint, device)


def load_config(preset: PresetFolder, name: str) -> dict[str, Any]:
    """``NAME.json``: the configuration that belongs to ``NAME.safetensors``, verified first.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    return read_config(verify(preset, f"{name}.json"), preset.hint)


def preset_network(preset: PresetFolder, network: str, build: Callable[[Any], Network], config: type[Any]) -> Network:
    """A network ``ROOM/NAME`` of a preset, verified, in float32, frozen and in evaluation mode.

    Args:
        preset: whose.
        network: where it lies.
        build: its class.
        config: its configuration's class.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    name = network.rpartition("/")[2]
    settings = load_config(preset, network)
    return load_network(build_network(build, config, settings, name), load_weights(preset, network), name)


# --- Which presets are on this machine, and which of them is taken.


@dataclass(frozen=True)
class Resolution:
    """The outcome of ``--preset auto``: which set, and one sentence that says why."""

    preset: PresetFolder
    reason: str


def _download_files(requirements: Requirements) -> frozenset[str]:
    """The files of a system's downloads."""
    if not requirements.downloads:
        return frozenset()
    return frozenset(
        file for entry in read_catalogue() if entry.name in requirements.downloads for file in entry.results
    )


def _missing(folders: tuple[Path, ...], requirements: Requirements) -> tuple[str, ...]:
    """What a render needs and none of the folders has: files of our own networks, downloads by name, listed files."""
    files = [network + ending for network in requirements.networks for ending in (ENDING, ".json")]
    if not requirements.downloads:
        # a preset that is nobody else's must be whole
        listed = (file for folder in folders for file in read_records(folder))
        rooms = requirements.rooms
        files += [file for file in listed if not rooms or room_of(file) in rooms]
    missing = [file for file in dict.fromkeys(files) if not any(has(folder, file) for folder in folders)]
    for entry in read_catalogue() if requirements.downloads else ():
        if entry.name in requirements.downloads and not all(
            any(has(folder, file) for folder in folders) for file in entry.results
        ):
            missing.append(entry.name)
    return tuple(missing)


def _places(name: str) -> dict[Path, tuple[Path, str]]:
    """The existing folders of a preset below all roots, by where they really lie, each with its origin."""
    folders: dict[Path, tuple[Path, str]] = {}
    for root, origin in places.weight_roots():
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
    entries = _places(name).values()
    folders, origins = tuple(folder for folder, _ in entries), tuple(origin for _, origin in entries)
    return PresetFolder(name, folders, origins, _missing(folders, requirements), requirements=requirements)


def folder_state(
    folder: Path, name: str = "auto", requirements: Mapping[str, Requirements] | None = None
) -> PresetFolder:
    """A preset folder that the user names, complete or not.

    Its manifest says which preset it is made like; without a word it is compact.  A compact folder stands alone; one
    of the paper preset goes before the other places of that preset, since HuBERT and insightface's networks are
    somebody else's and are not packed.

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
    kind = read_about(folder).get("preset", "compact")
    if kind not in PRESETS:
        raise WeightsCorruptError(
            f"{folder / MANIFEST} names the preset {kind!r}, which does not exist", "pack the folder again"
        )
    if name not in ("auto", kind):
        raise UsageError(f"{folder} holds a {kind} preset, not {name}", "leave --preset out")
    needs = _requirements_of(kind, requirements)
    entries = {folder.resolve(): (folder, "the folder named by --weights")}
    if kind != "compact":
        entries |= {place: entry for place, entry in _places(kind).items() if place not in entries}
    folders, origins = tuple(path for path, _ in entries.values()), tuple(origin for _, origin in entries.values())
    repair = f"`talkswap weights check {folder}` says what is wrong with it; pack or fetch it again"
    return PresetFolder(kind, folders, origins, _missing(folders, needs), repair, needs)


def _requirements_of(name: str, requirements: Mapping[str, Requirements] | None) -> Requirements:
    if requirements is None:
        return ANYTHING
    if name not in requirements:
        raise UsageError(f"this system has no {name} preset", f"choose one of: {', '.join(requirements)}")
    return requirements[name]


def find_preset(
    name: str, weights: Path | None = None, requirements: Mapping[str, Requirements] | None = None
) -> PresetFolder:
    """A preset that can render, every file that it may load held against size and sha256; ``auto`` takes the best
    complete one.

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
        requirements: as :func:`find_preset`; None = the compact preset, since nobody knows what another one needs.

    Raises:
        WeightsMissingError: none is complete.
        WeightsCorruptError: the one to take is damaged; a worse one is not taken instead without a word.
    """
    choices = {"compact": ANYTHING} if requirements is None else requirements
    gaps: list[str] = []
    for name in (preset for preset in PRESETS if preset in choices):
        preset = preset_state(name, choices[name])
        absent = absent_packages(choices[name])
        if preset.complete and not absent:
            verify_all(preset)
            reason = f"complete in {' and '.join(preset.sources or preset.origins[:1])}"
            return Resolution(preset, "; ".join([reason, *gaps]))
        packages = tuple(f"the package {package}" for package in absent)
        gaps.append(f"{name} lacks {some_of((*preset.missing, *packages))}")
    raise WeightsMissingError("no preset is complete on this machine: " + "; ".join(gaps), repair_hint("compact"))
