"""A preset: a named set of networks, its files spread over one or more folders of this machine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkswap.checkpoints import catalogue as places
from talkswap.checkpoints.catalogue import RENDER, read_catalogue
from talkswap.checkpoints.description import PRESETS
from talkswap.checkpoints.manifest import MANIFEST, check_file, inside, read_about, read_records
from talkswap.checkpoints.networks import ENDING, network_of, read_config, read_tensors, tensor_files
from talkswap.errors import UsageError, WeightsCorruptError, WeightsMissingError

if TYPE_CHECKING:
    from torch import Tensor

COMPACT_NETWORKS = ("detector", "landmarks", "identity", "vqgan", "face_swap", "lip_sync")
"""Without one of these the compact preset renders nothing, whatever its manifest lists."""
PACKAGES = {
    "paper": ("transformers", "diffusers", "insightface", "onnxruntime"),
    "compact": (),
}
"""What a preset's networks import beyond talkswap's own requirements."""


@dataclass(frozen=True)
class PresetFolder:
    """A preset as found on this machine; its files may be spread over several roots."""

    name: str
    folders: tuple[Path, ...]  # existing ones, in the order of the roots; for every file the first that has it wins
    origins: tuple[str, ...]  # why each folder was looked into
    missing: tuple[str, ...]  # names of entries that a render needs and nobody has
    repair: str = ""  # hint where a file is missing or damaged; empty = that of the preset's name

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
            path = inside(folder, file)
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
                return tuple(inside(folder, file) for file in files)
        raise WeightsMissingError(f"the {self.name} preset has no {network}.safetensors", self.hint)


def repair_hint(preset: str) -> str:
    """The command that brings a preset's files back."""
    if preset == "compact":
        return "reinstall talkswap, or restore weights/compact with `git checkout -- weights/compact`"
    return f"run `talkswap download {preset}`; `talkswap download --list` shows what has no public source"


def has(folder: Path, file: str) -> bool:
    """Whether a folder has a file; for a network's tensors all shards are as good as the whole."""
    if inside(folder, file).is_file():
        return True
    network = network_of(file)
    return network is not None and file == f"{network}.safetensors" and bool(tensor_files(folder, network))


def weight_hashes(preset: PresetFolder) -> dict[str, str]:
    """File -> sha256 of everything a preset's manifests list and its folders hold, for the render report.

    A file that lies in several folders has the hash of the one that is loaded; a listed one that nobody has is
    left out (:attr:`PresetFolder.missing` names it).
    """
    records = [(folder, read_records(folder)) for folder in preset.folders]
    stated: dict[str, str] = {}
    for folder, listed in records:
        for file, record in listed.items():
            network = network_of(file)
            if network is not None:
                keeper = next((other for other in preset.folders if tensor_files(other, network)), None)
                if keeper is not None and file not in tensor_files(keeper, network):
                    continue  # another folder's whole file goes before these shards, or the other way round
            first = next((other for other in preset.folders if inside(other, file).is_file()), None)
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
    record = read_records(folder).get(path.relative_to(folder).as_posix())
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


# --- Which presets are on this machine, and which of them is taken.


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
