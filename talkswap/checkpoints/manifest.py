"""Lists of weights: a preset folder's own ``manifest.toml``, and ``weights/manifest.toml``, the catalogue of all presets.

A preset has a folder for each room and system, ``faces/detector.safetensors`` or ``NAME/generator.safetensors``.  One manifest
at the top lists them all, because a commit pins the manifest, the manifest pins the files, and a model card describes
them together.  Beside size and sha256 of the files it states what the folder is (``name``, ``preset``, ``licence``).
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from talkswap.errors import WeightsCorruptError, WeightsMissingError
from talkswap.files import file_sha256, write_atomically
from talkswap.types import DEFAULT_SYSTEM

MANIFEST = "manifest.toml"
# Endings of what a manifest lists: weights and configurations.
LISTED = (".safetensors", ".json", ".onnx")
# Folder in a room, or at the top of an old preset, with the records of training, which are neither listed nor
# loaded.
RUNS = "runs"

# Before systems had folders, all networks of a preset lay side by side; besides these five they were one system's.
_FLAT_ROOMS = {
    "detector": "faces", "landmarks": "faces", "identity": "faces", "occlusion": "faces", "speech_encoder": "voice",
}  # fmt: skip


_checked: dict[Path, str] = {}  # sha256 that a file had when this process held it against its record


@dataclass(frozen=True)
class FileRecord:
    """A file as it must lie in a preset folder."""

    file: str  # ROOM/NAME
    size: int  # bytes
    sha256: str  # 64 hex digits
    listed: str = ""  # its name on an old flat manifest, where that is another


def inside(folder: Path, relative: str) -> Path:
    """``folder / relative``, refused when it would lie outside ``folder``.

    Raises:
        WeightsCorruptError: the name is empty, absolute, climbs with ``..`` or leads out through a link.
    """
    # A name may come from anybody: both kinds of slashes and drives are looked at, wherever this runs.
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    escapes = not parts or ".." in parts or relative.startswith(("/", "\\")) or bool(PureWindowsPath(relative).drive)
    path = folder.joinpath(*parts) if not escapes else folder
    # A link inside the folder may point out of it.
    if escapes or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise WeightsCorruptError(f"the name {relative!r} leads out of {folder}", "do not use weights from this source")
    return path


def room_of(file: str) -> str:
    """The folder of a preset that a file belongs to, such as ``faces``."""
    return PurePosixPath(file).parts[0]


def with_room(file: str) -> str:
    """``ROOM/NAME`` of a file that a flat folder lists as ``NAME``; other names as they are."""
    if "/" in file or not file.endswith((".safetensors", ".json")):
        return file
    network = re.split(r"-\d{5}-of-\d{5}\.|\.", file)[0]
    return f"{_FLAT_ROOMS.get(network, DEFAULT_SYSTEM)}/{file}"


def file_path(folder: Path, file: str) -> Path:
    """Where a preset folder has ``ROOM/NAME``: in the room's folder, or at the top of a flat one.

    Raises:
        WeightsCorruptError: the name leads out of the folder.
    """
    path = inside(folder, file)
    flat = inside(folder, PurePosixPath(file).name)
    return flat if not path.is_file() and flat.is_file() else path


def is_flat(folder: Path) -> bool:
    """Whether a preset folder was packed before systems had folders of their own."""
    rows = read_toml(folder / MANIFEST).get("file", []) if (folder / MANIFEST).is_file() else ()
    files = [str(row.get("file", "")) for row in rows if isinstance(row, dict)]
    return any("/" not in file and file.endswith(".safetensors") for file in files)


def is_listed(file: str) -> bool:
    """Whether a file of a preset folder belongs on its manifest: weights and configurations do."""
    path = PurePosixPath(file)
    return path.suffix in LISTED and RUNS not in path.parts[:-1]


def read_toml(path: Path) -> dict[str, Any]:
    """A manifest as it is written."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsCorruptError(f"{path} is not a manifest: {error}", "reinstall talkswap") from error


def checked_hash(value: Any, where: str) -> str:
    """``value``, which must be 64 hex digits; ``where`` names the place in the message."""
    if not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        raise WeightsCorruptError(f"{where} states {value!r}, which is no sha256", "reinstall talkswap")
    return value


def read_records(folder: Path) -> dict[str, FileRecord]:
    """The files that ``folder/manifest.toml`` lists, by ``ROOM/NAME``; empty without a manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    records: dict[str, FileRecord] = {}
    for row in read_toml(path).get("file", []):
        try:
            inside(folder, str(row["file"]))
            file = with_room(str(row["file"]))
            listed = "" if row["file"] == file else str(row["file"])
            records[file] = FileRecord(file, int(row["size"]), checked_hash(row["sha256"], str(path)), listed)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsCorruptError(
                f"an entry of {path} is not well formed: {error}", "reinstall talkswap"
            ) from error
    return records


def read_about(folder: Path) -> dict[str, str]:
    """The folder's own properties in ``folder/manifest.toml``: ``name``, ``preset``, ``licence``; empty without one."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    return {key: value for key, value in read_toml(path).items() if isinstance(value, str)}


def write_records(folder: Path, records: Iterable[FileRecord], about: Mapping[str, str] | None = None) -> None:
    """Write ``folder/manifest.toml`` in one move, with each file where it lies; without ``about`` the folder goes on saying
    of itself what it said.
    """
    facts = read_about(folder) if about is None else about

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML basic string

    lines = ["# written by talkswap; what lies here, and its size and sha256", "version = 1"]
    lines += [f"{key} = {quoted(value)}" for key, value in facts.items()]
    # Sorted, so that the same files give the same manifest.
    for record in sorted(records, key=lambda r: r.file):
        place = file_path(folder, record.file)
        file = place.relative_to(folder).as_posix() if place.is_file() else record.file
        lines += ["", "[[file]]", f"file = {quoted(file)}"]
        lines += [f"size = {record.size}", f"sha256 = {quoted(record.sha256)}"]
    write_atomically(folder / MANIFEST, "\n".join(lines) + "\n")


def write_manifest(folder: Path, about: Mapping[str, str] | None = None) -> dict[str, FileRecord]:
    """Make ``folder/manifest.toml`` from the weights (.safetensors, .onnx) and configurations (.json) below it.

    The curves and scores of the training stay out.
    """
    records: dict[str, FileRecord] = {}
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if path.is_file() and is_listed(file):
            records[with_room(file)] = FileRecord(with_room(file), path.stat().st_size, file_sha256(path))
    if not records:
        raise WeightsMissingError(f"{folder} holds no weights to list", "export a network into it first")
    write_records(folder, records.values(), about)
    return records


def check_file(path: Path, record: FileRecord, repair: str) -> None:
    """Check one file against its record.

    Raises:
        WeightsMissingError: it is not there.
        WeightsCorruptError: size or sha256 differ; the message names the file, what was expected and what was got.
    """
    if not path.is_file():
        raise WeightsMissingError(f"no weights file at {path}", repair)
    size = path.stat().st_size
    # The size first: a half-copied file needs no hash.
    if size != record.size:
        raise WeightsCorruptError(f"{path} is damaged: expected {record.size} bytes, got {size}", repair)
    digest = file_sha256(path)
    if digest != record.sha256:
        raise WeightsCorruptError(f"{path} is damaged: expected sha256 {record.sha256}, got {digest}", repair)
    _checked[path] = digest


def forget_checks(path: Path) -> None:
    """This process has written the file anew."""
    _checked.pop(path, None)


def read_checked(path: Path, repair: str) -> bytes:
    """A file's content, read once: what was checked before must be what is read now.

    Raises:
        WeightsCorruptError: the file was replaced after :func:`check_file` had seen it.
    """
    content = path.read_bytes()
    digest = _checked.get(path)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise WeightsCorruptError(f"{path} was replaced while it was being loaded", repair)
    return content


# --- The catalogue: everything that can be fetched or that our own stages make, with pins and licences.


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


def _entry(row: Mapping[str, Any], where: str) -> CatalogueEntry:
    try:
        name = str(row["name"])
        # Unknown fields are refused by the dataclass.
        fields = dict(row)
        fields["needed_by"] = tuple(row["needed_by"])
        fields["beside"] = tuple(row.get("beside", ()))
        fields["members"] = tuple(
            Member(m["path"], FileRecord(m["file"], int(m["size"]), checked_hash(m["sha256"], f"{where}: {name}")))
            for m in row.get("members", ())
        )
        entry = CatalogueEntry(**fields)
    except (KeyError, TypeError) as error:
        raise WeightsCorruptError(f"an entry of {where} is not well formed: {error}", "reinstall talkswap") from error
    if entry.sha256 is not None:
        checked_hash(entry.sha256, f"{where}: {name}")
    # A branch or tag may change under a pin that looks like one.
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
    return [_entry(row, str(path)) for row in read_toml(path).get("file", [])]


# --- Where weights are on this machine: the folders that may hold presets, in search order.


PACKAGE = Path(__file__).resolve().parent.parent  # talkswap/


def checkout_weights() -> Path | None:
    """``weights/`` of the checkout that this package runs from, if it does."""
    folder = PACKAGE.parent / "weights"
    # Site-packages could hold another package's "weights"; only a checkout has our project file beside it.
    return folder if (folder.parent / "pyproject.toml").is_file() and (folder / MANIFEST).is_file() else None


def packaged_weights() -> Path | None:
    """``talkswap/weights`` inside an installed wheel."""
    folder = PACKAGE / "weights"
    return folder if (folder / MANIFEST).is_file() else None


def cache_weights() -> Path:
    """The user's own folder: ``$XDG_CACHE_HOME/talkswap/weights``, or below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "talkswap" / "weights"


def download_root() -> Path:
    """Where `talkswap download` writes: ``$TALKSWAP_WEIGHTS`` when set, else the user's cache."""
    folder = os.environ.get("TALKSWAP_WEIGHTS")
    return Path(folder) if folder else cache_weights()


def weight_roots() -> list[tuple[Path, str]]:
    """Folders that may hold preset folders, in search order, each with its origin."""
    folder = os.environ.get("TALKSWAP_WEIGHTS")
    roots: list[tuple[Path | None, str]] = [
        (Path(folder) if folder else None, "TALKSWAP_WEIGHTS"),
        (checkout_weights(), "the checkout"),
        (packaged_weights(), "the installed package"),
        (cache_weights(), "the user's cache"),
    ]
    return [(root, origin) for root, origin in roots if root is not None]
