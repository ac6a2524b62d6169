"""Which weights are on this machine, where, and whether they are whole.

Two manifests, two purposes:

* ``weights/manifest.toml`` (:func:`read_catalogue`) lists what can be fetched or trained, with pins and licences;
* every preset folder has a ``manifest.toml`` of its own (:func:`write_manifest`) with size and sha256 of the
  files as they lie there; :func:`verify` holds a file against it before anything is loaded.

Weights are safetensors, never pickles, and nothing in this file reaches the network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from talkswap.errors import UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.packing import unpack

if TYPE_CHECKING:
    from torch import Tensor

PRESETS = ("paper", "compact")  # best first: the order in which `auto` tries them
COMPACT_NETWORKS = ("detector", "landmarks", "identity", "vqgan", "face_swap", "lip_sync")
"""Without one of these the compact preset renders nothing, whatever its manifest lists."""
PACKAGES = {
    "paper": ("transformers", "diffusers", "insightface", "onnxruntime"),
    "compact": (),
}
"""What a preset's networks import beyond talkswap's own requirements."""
MANIFEST = "manifest.toml"
RENDER = "render"


@dataclass(frozen=True)
class FileRecord:
    """A file as it must lie in a preset folder."""

    file: str  # relative to the folder, with /
    size: int  # bytes
    sha256: str  # 64 hex digits


@dataclass(frozen=True)
class Member:
    """One file that is taken out of a fetched zip archive."""

    path: str  # inside the archive
    record: FileRecord


@dataclass(frozen=True)
class CatalogueEntry:
    """One ``[[file]]`` of ``weights/manifest.toml``."""

    name: str
    preset: str
    file: str  # relative to the preset folder
    licence: str
    non_commercial: bool
    needed_by: tuple[str, ...]
    size: int | None = None  # bytes, of what is fetched
    sha256: str | None = None  # of what is fetched; None = pin unknown
    repository: str | None = None  # owner/name on the model hub
    commit: str | None = None  # 40 hex digits
    path: str | None = None  # inside the repository
    url: str | None = None
    convert: str | None = None  # "torch-to-safetensors": what is kept differs from what is fetched
    made_by: str | None = None  # command, for files without a public source
    beside: tuple[str, ...] = ()  # further files that our own stages make with it
    members: tuple[Member, ...] = ()

    @property
    def source(self) -> str | None:
        """``repository@commit`` or the URL; None when our own stages make the file."""
        if self.repository:
            return f"{self.repository}@{self.commit}"
        return self.url

    @property
    def results(self) -> tuple[str, ...]:
        """The files that must lie in the preset folder for this entry to be there."""
        return tuple(m.record.file for m in self.members) or (self.file, *self.beside)


@dataclass(frozen=True)
class PresetFolder:
    """A preset as found on this machine; its files may be spread over several roots."""

    name: str
    folders: tuple[Path, ...]  # existing ones, in the order of the roots; for every file the first that has it wins
    origins: tuple[str, ...]  # why each folder was looked into
    missing: tuple[str, ...]  # names of entries that a render needs and nobody has

    @property
    def complete(self) -> bool:
        return bool(self.folders) and not self.missing

    @property
    def sources(self) -> tuple[str, ...]:
        """Origins of the folders that some listed file is taken from."""
        taken = {_owner(self, self.locate(file)) for file in weight_hashes(self)}
        return tuple(origin for folder, origin in zip(self.folders, self.origins, strict=True) if folder in taken)

    @property
    def analyser(self) -> str:
        """The face analyser that this preset's networks were made for."""
        return "insightface" if self.name == "paper" else "compact"

    def locate(self, file: str) -> Path:
        """Path of a file of this preset.

        Raises:
            WeightsMissingError: no folder has it.
        """
        for folder in self.folders:
            path = inside(folder, file)
            if path.is_file():
                return path
        raise WeightsMissingError(f"the {self.name} preset has no {file}", repair_hint(self.name))


@dataclass(frozen=True)
class Resolution:
    """The outcome of ``--preset auto``: which set, and one sentence that says why."""

    preset: PresetFolder
    reason: str


def repair_hint(preset: str) -> str:
    """The command that brings a preset's files back."""
    if preset == "compact":
        return "reinstall talkswap, or restore weights/compact with `git checkout -- weights/compact`"
    return f"run `talkswap download {preset}`; `talkswap download --list` shows what has no public source"


def inside(folder: Path, relative: str) -> Path:
    """``folder / relative``, refused when it would lie outside ``folder``.

    Raises:
        WeightsCorruptError: the name is empty, absolute, climbs with ``..`` or leads out through a link.
    """
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    escapes = not parts or ".." in parts or relative.startswith(("/", "\\")) or bool(PureWindowsPath(relative).drive)
    path = folder.joinpath(*parts) if not escapes else folder
    if escapes or not path.resolve().is_relative_to(folder.resolve()):
        raise WeightsCorruptError(f"the name {relative!r} leads out of {folder}", "do not use weights from this source")
    return path


# --- where weights lie


def checkout_weights() -> Path | None:
    """``weights/`` of the checkout that this package runs from, if it does."""
    folder = Path(__file__).resolve().parent.parent / "weights"
    # a site-packages folder could hold somebody else's "weights"; only a checkout has our project file beside it
    return folder if (folder.parent / "pyproject.toml").is_file() and (folder / MANIFEST).is_file() else None


def packaged_weights() -> Path | None:
    """``talkswap/weights`` inside an installed wheel."""
    folder = Path(__file__).resolve().parent / "weights"
    return folder if (folder / MANIFEST).is_file() else None


def cache_weights() -> Path:
    """The user's own folder: ``$XDG_CACHE_HOME/talkswap/weights``, or below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "talkswap" / "weights"


def download_root() -> Path:
    """Where `talkswap download` writes: ``$TALKSWAP_WEIGHTS`` when set, else the user's cache."""
    chosen = os.environ.get("TALKSWAP_WEIGHTS")
    return Path(chosen) if chosen else cache_weights()


def weight_roots() -> list[tuple[Path, str]]:
    """Folders that may hold preset folders, in the order in which they are asked, each with its origin."""
    chosen = os.environ.get("TALKSWAP_WEIGHTS")
    roots: list[tuple[Path | None, str]] = [
        (Path(chosen) if chosen else None, "TALKSWAP_WEIGHTS"),
        (checkout_weights(), "the checkout"),
        (packaged_weights(), "the installed package"),
        (cache_weights(), "the user's cache"),
    ]
    return [(root, origin) for root, origin in roots if root is not None]


# --- manifests


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsCorruptError(f"{path} is not a manifest: {error}", "reinstall talkswap") from error


def _checked_hash(value: Any, where: str) -> str:
    if not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        raise WeightsCorruptError(f"{where} states {value!r}, which is no sha256", "reinstall talkswap")
    return value


def _entry(row: Mapping[str, Any], where: str) -> CatalogueEntry:
    try:
        name = str(row["name"])
        fields = dict(row)
        fields["needed_by"] = tuple(row["needed_by"])
        fields["beside"] = tuple(row.get("beside", ()))
        fields["members"] = tuple(
            Member(m["path"], FileRecord(m["file"], int(m["size"]), _checked_hash(m["sha256"], f"{where}: {name}")))
            for m in row.get("members", ())
        )
        entry = CatalogueEntry(**fields)
    except (KeyError, TypeError) as error:
        raise WeightsCorruptError(f"an entry of {where} is not well formed: {error}", "reinstall talkswap") from error
    if entry.sha256 is not None:
        _checked_hash(entry.sha256, f"{where}: {name}")
    if entry.repository is not None and not re.fullmatch(r"[0-9a-f]{40}", entry.commit or ""):
        raise WeightsCorruptError(f"{where}: {name} names no 40-digit commit", "a branch can change; pin a commit")
    if (entry.source is None) == (entry.made_by is None):
        raise WeightsCorruptError(f"{where}: {name} needs a source or a command that makes it", "reinstall talkswap")
    for file in (entry.file, *entry.results):
        inside(Path("weights"), file)
    return entry


def catalogue_path() -> Path:
    """The catalogue of this checkout or installation."""
    for root in (checkout_weights(), packaged_weights()):
        if root is not None:
            return root / MANIFEST
    raise WeightsMissingError("this installation has no weights/manifest.toml", "reinstall talkswap")


def read_catalogue(path: Path | None = None) -> list[CatalogueEntry]:
    """Entries of ``weights/manifest.toml``.

    Raises:
        WeightsMissingError: there is none.
        WeightsCorruptError: it is not well formed, or a pin is no pin.
    """
    path = path or catalogue_path()
    return [_entry(row, str(path)) for row in _read_toml(path).get("file", [])]


def read_records(folder: Path) -> dict[str, FileRecord]:
    """What ``folder/manifest.toml`` says of its files; empty when there is no such manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    records: dict[str, FileRecord] = {}
    for row in _read_toml(path).get("file", []):
        try:
            file = str(row["file"])
            inside(folder, file)
            records[file] = FileRecord(file, int(row["size"]), _checked_hash(row["sha256"], str(path)))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsCorruptError(
                f"an entry of {path} is not well formed: {error}", "reinstall talkswap"
            ) from error
    return records


def file_sha256(path: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML basic string


def write_records(folder: Path, records: Iterable[FileRecord]) -> None:
    """Write ``folder/manifest.toml`` in one move."""
    lines = ["# written by talkswap.checkpoints; what lies here, and its size and sha256", "version = 1"]
    for record in sorted(records, key=lambda r: r.file):
        lines += ["", "[[file]]", f"file = {_toml_string(record.file)}"]
        lines += [f"size = {record.size}", f"sha256 = {_toml_string(record.sha256)}"]
    part = folder / (MANIFEST + ".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, folder / MANIFEST)


def write_manifest(folder: Path) -> dict[str, FileRecord]:
    """Make ``folder/manifest.toml`` from the weights (.safetensors, .onnx) and configurations (.json) below it.

    ``runs/`` stays out: it holds the curves and scores of the training, which nobody loads.
    """
    records: dict[str, FileRecord] = {}
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in {".safetensors", ".json", ".onnx"} and not file.startswith("runs/"):
            records[file] = FileRecord(file, path.stat().st_size, file_sha256(path))
    if not records:
        raise WeightsMissingError(f"{folder} holds no weights to list", "export a network into it first")
    write_records(folder, records.values())
    return records


# --- finding


def preset_state(name: str) -> PresetFolder:
    """What this machine has of a preset, complete or not.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", f"choose auto, {' or '.join(reversed(PRESETS))}")
    found: dict[Path, tuple[Path, str]] = {}
    for root, origin in weight_roots():
        if (root / name).is_dir():
            # TALKSWAP_WEIGHTS may name the checkout's own folder
            found.setdefault((root / name).resolve(), (root / name, origin))
    folders = tuple(folder for folder, _ in found.values())
    origins = tuple(origin for _, origin in found.values())
    needed: dict[str, tuple[str, ...]] = {}
    if name == "compact":
        for folder in folders:
            needed |= {file: (file,) for file in read_records(folder)}
        needed |= {
            f"{network}.{ending}": (f"{network}.{ending}",)
            for network in COMPACT_NETWORKS
            for ending in ("safetensors", "json")
        }
    else:
        needed = {e.name: e.results for e in read_catalogue() if e.preset == name and RENDER in e.needed_by}
    missing = tuple(
        entry
        for entry, files in needed.items()
        if not all(any((folder / file).is_file() for folder in folders) for file in files)
    )
    return PresetFolder(name, folders, origins, missing)


def _named(missing: tuple[str, ...], most: int = 4) -> str:
    """Some names and how many more: a sentence, not a list."""
    if not missing:
        return "everything"
    more = f" and {len(missing) - most} more" if len(missing) > most else ""
    return ", ".join(missing[:most]) + more


def find_preset(name: str) -> PresetFolder:
    """A preset that can render, every listed file of it held against size and sha256; ``auto`` takes the best complete one.

    Raises:
        UsageError: there is no such preset.
        WeightsMissingError: files are missing; the message names them.
        WeightsCorruptError: a file is damaged.
    """
    if name == "auto":
        return resolve_auto().preset
    preset = preset_state(name)
    if not preset.complete:
        lacking = _named(preset.missing)
        raise WeightsMissingError(
            f"the {name} preset is not complete on this machine: {lacking} missing", repair_hint(name)
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


# --- verifying and loading

_verified: set[tuple[str, int, int]] = set()


def check_file(path: Path, record: FileRecord, repair: str) -> None:
    """Hold one file against its record.

    Raises:
        WeightsMissingError: it is not there.
        WeightsCorruptError: size or sha256 differ; the message names the file, what was expected and what was got.
    """
    if not path.is_file():
        raise WeightsMissingError(f"no weights file at {path}", repair)
    size = path.stat().st_size
    if size != record.size:
        raise WeightsCorruptError(f"{path} is damaged: expected {record.size} bytes, got {size}", repair)
    got = file_sha256(path)
    if got != record.sha256:
        raise WeightsCorruptError(f"{path} is damaged: expected sha256 {record.sha256}, got {got}", repair)


def _owner(preset: PresetFolder, path: Path) -> Path:
    """The folder of a preset that a located file lies in."""
    return next(folder for folder in preset.folders if path.is_relative_to(folder))


def verify(preset: PresetFolder, file: str) -> Path:
    """Path of a file whose size and sha256 are those of its manifest; hashed once per process.

    A file that its folder's manifest does not list (weights that somebody laid there by hand) is refused:
    `talkswap download --check` or :func:`write_manifest` puts it on the list.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`check_file`, or the file is on no list.
    """
    path = preset.locate(file)
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key in _verified:
        return path
    folder = _owner(preset, path)
    record = read_records(folder).get(file)
    if record is None:
        raise WeightsCorruptError(
            f"{path} is not listed in {folder / MANIFEST}", f"run `talkswap download --adopt {folder}`"
        )
    check_file(path, record, repair_hint(preset.name))
    _verified.add(key)
    return path


def verified_folder(preset: PresetFolder, files: Iterable[str]) -> Path:
    """The one folder that some files of a preset lie in together, each verified.

    Args:
        preset: where to look.
        files: names that belong together, such as a network's tensors and its configuration.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`, or the files lie in different folders.
    """
    paths = [verify(preset, file) for file in files]
    for path in paths[1:]:
        if path.parent != paths[0].parent:
            raise WeightsCorruptError(
                f"{paths[0]} and {path} belong together and lie apart", "put both files into one folder"
            )
    return paths[0].parent


def verify_all(preset: PresetFolder) -> None:
    """Verify every listed file of a preset, so that whoever loads one later need not.

    Raises:
        WeightsMissingError, WeightsCorruptError: as :func:`verify`.
    """
    for file in weight_hashes(preset):
        verify(preset, file)


def load_weights(preset: PresetFolder, name: str, device: str = "cpu") -> dict[str, Tensor]:
    """Tensors of ``NAME.safetensors``, verified first.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    path = verify(preset, f"{name}.safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return unpack(load_file(path, device=device))
    except SafetensorError as error:
        raise WeightsCorruptError(f"{path} is no safetensors file: {error}", repair_hint(preset.name)) from error


def load_config(preset: PresetFolder, name: str) -> dict[str, Any]:
    """``NAME.json``: the configuration that belongs to ``NAME.safetensors``, verified first.

    Raises:
        WeightsMissingError, WeightsCorruptError.
    """
    path = verify(preset, f"{name}.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsCorruptError(f"{path} is no configuration: {error}", repair_hint(preset.name)) from error
    if not isinstance(config, dict):
        raise WeightsCorruptError(f"{path} is no configuration", repair_hint(preset.name))
    return config


def weight_hashes(preset: PresetFolder) -> dict[str, str]:
    """File -> sha256 of everything a preset's manifests list and its folders hold, for the render report.

    A file that lies in several folders has the hash of the one that is loaded; a listed one that nobody has is
    left out (:attr:`PresetFolder.missing` names it).
    """
    records = [(folder, read_records(folder)) for folder in preset.folders]
    stated: dict[str, str] = {}
    for folder, listed in records:
        for file, record in listed.items():
            first = next((other for other in preset.folders if inside(other, file).is_file()), None)
            if first == folder or (first is not None and file not in stated):
                stated[file] = record.sha256
    return stated
