"""``weights/manifest.toml``: everything that can be fetched or that our own stages make, with pins and licences."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkswap.checkpoints.manifest import MANIFEST, FileRecord, checked_hash, inside, read_toml
from talkswap.errors import WeightsCorruptError, WeightsMissingError

RENDER = "render"
"""The command without whose files a preset is not complete."""


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


# --- Where weights lie on this machine: the folders that may hold presets, in the order in which they are asked.


PACKAGE = Path(__file__).resolve().parent.parent  # talkswap/


def checkout_weights() -> Path | None:
    """``weights/`` of the checkout that this package runs from, if it does."""
    folder = PACKAGE.parent / "weights"
    # a site-packages folder could hold somebody else's "weights"; only a checkout has our project file beside it
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
