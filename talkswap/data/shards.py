"""A data set as tar shards that travel, and back, bit for bit.

Files go into the shards in order of their paths; a file that does not fit into what is left of a shard is cut, so that
every shard but the last is full and none exceeds the limit.  ``index.json`` names for each file its size, sha256 and
parts (shard and member), and for each shard its size and sha256.  Tar headers carry no time and no owner: the same
data set gives the same shards.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from talkswap.errors import OutputUnwritableError, TrainingDataError
from talkswap.files import file_sha256, write_atomically
from talkswap.types import ProgressEvent

FORMAT = 1
INDEX = "index.json"
BLOCK = tarfile.BLOCKSIZE  # 512: headers and the end of each member are rounded to it
END = 2 * BLOCK  # two empty blocks end a tar
SMALLEST_PART = 64 * 1024  # a rest of a shard below this is left empty
LEFT_OUT = ("work", ".lock")
Report = Callable[[ProgressEvent], None]


def _rounded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class _Hashed(io.RawIOBase):
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "wb")  # noqa: SIM115
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()


@dataclass
class _Packer:
    """Fills one shard after the other."""

    out: Path
    limit: int
    shards: list[dict[str, Any]] = field(default_factory=list)
    room: int = 0
    _stream: _Hashed | None = None
    _tar: tarfile.TarFile | None = None

    def _open(self) -> None:
        self.close()
        name = f"shard-{len(self.shards):05d}.tar"
        self._stream = _Hashed(self.out / f"{name}.part")
        self._tar = tarfile.open(fileobj=self._stream, mode="w|", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self.shards.append({"name": name})
        self.room = self.limit // tarfile.RECORDSIZE * tarfile.RECORDSIZE - END  # a tar is filled up to whole records

    def close(self) -> None:
        if self._tar is None or self._stream is None:
            return
        self._tar.close()
        self._stream.close()
        told = self.shards[-1]
        told |= {"bytes": self._stream.size, "sha256": self._stream.digest.hexdigest()}
        os.replace(self.out / f"{told['name']}.part", self.out / told["name"])
        self._tar = self._stream = None

    def header(self, member: str) -> int:
        """Bytes of a member's header; a long name takes blocks of its own."""
        return len(self._info(member, 0).tobuf(tarfile.GNU_FORMAT))

    @staticmethod
    def _info(member: str, size: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(member)
        info.size, info.mode = size, 0o644
        return info

    def add(self, path: Path, relative: str) -> tuple[str, list[dict[str, Any]]]:
        """Pack one file; returns its hash and its parts."""
        left, digest = path.stat().st_size, hashlib.sha256()
        parts: list[dict[str, Any]] = []
        with open(path, "rb") as file:
            while left or not parts:
                member = relative if not parts else f"{relative}.part{len(parts):04d}"
                free = (self.room - self.header(member)) // BLOCK * BLOCK
                if self._tar is None or free < min(_rounded(left), SMALLEST_PART):
                    self._open()
                    free = (self.room - self.header(member)) // BLOCK * BLOCK
                assert self._tar is not None
                size = min(left, free)
                reader = _Part(file, size, digest)
                self._tar.addfile(self._info(member, size), reader)
                self.room -= self.header(member) + _rounded(size)
                left -= size
                parts.append({"shard": self.shards[-1]["name"], "member": member, "bytes": size})
        return digest.hexdigest(), parts


class _Part:
    """The next ``size`` bytes of a file, hashed while they are read."""

    def __init__(self, file: io.BufferedReader, size: int, digest: Any) -> None:
        self.file, self.left, self.digest = file, size, digest

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        self.digest.update(data)
        return data


def _files(data: Path) -> Iterator[Path]:
    for path in sorted(data.rglob("*"), key=lambda p: p.relative_to(data).parts):
        relative = path.relative_to(data)
        if path.is_file() and relative.parts[0] not in LEFT_OUT and ".part" not in path.suffixes:
            yield path


def pack_shards(data: Path, out: Path, limit: int, report: Report | None = None) -> dict[str, Any]:
    """Pack a data set.

    Args:
        limit: most bytes of one shard.

    Returns:
        Folder, number of shards and files, bytes of the files.

    Raises:
        TrainingDataError: there is nothing to pack.
        OutputUnwritableError: ``out`` cannot be written, lies in ``data``, or holds files already.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise OutputUnwritableError(f"the shards would lie in {data} itself", "choose a folder beside it")
    if out.is_dir() and any(out.iterdir()):
        raise OutputUnwritableError(f"{out} holds files already", "choose a new folder")
    paths = list(_files(data))
    if not paths:
        raise TrainingDataError(f"{data} holds no file", "prepare it first")
    total, done = sum(path.stat().st_size for path in paths), 0
    entries = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        packer = _Packer(out, limit)
        for path in paths:
            relative = path.relative_to(data).as_posix()
            digest, parts = packer.add(path, relative)
            size = sum(part["bytes"] for part in parts)
            entries.append({"path": relative, "bytes": size, "sha256": digest, "parts": parts})
            done += size
            if report is not None:
                report(ProgressEvent("packing", done, total))
        packer.close()
    except OSError as error:
        raise OutputUnwritableError(f"cannot write shards to {out}: {error.strerror}", "is the disk full?") from error
    index = {"format": FORMAT, "limit": limit, "shards": packer.shards, "files": entries}
    write_atomically(out / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    return {"out": out, "shards": len(packer.shards), "files": len(entries), "bytes": total}


def read_index(shards: Path) -> dict[str, Any]:
    """The index of a folder of shards.

    Raises:
        TrainingDataError: it is missing or broken, or names a path outside the data set.
    """
    path = shards / INDEX
    if not path.is_file():
        raise TrainingDataError(f"no {INDEX} in {shards}", "name the folder that `talkswap data shard` wrote")
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {shard["name"] for shard in index["shards"]}
        for entry in index["files"]:
            target = PurePosixPath(entry["path"])
            if target.is_absolute() or ".." in target.parts or not target.parts:
                raise TrainingDataError(f"{path} names a file outside the data set: {target}", "do not trust it")
            if not entry["parts"] or sum(p["bytes"] for p in entry["parts"]) != entry["bytes"]:
                raise ValueError(entry["path"])
            if not {part["shard"] for part in entry["parts"]} <= known:
                raise ValueError(entry["path"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingDataError(f"{path} is damaged", "copy the shards again") from error
    return index


def _right(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]


def unpack_shards(shards: Path, out: Path, report: Report | None = None) -> dict[str, Any]:
    """Put a data set back together; files that are there and right stay, so that a stopped run can go on.

    Raises:
        TrainingDataError: a shard is missing or differs from its hash.
        OutputUnwritableError: ``out`` cannot be written.
    """
    index = read_index(shards)
    wanted = [entry for entry in index["files"] if not _right(out / entry["path"], entry)]
    needed = {part["shard"] for entry in wanted for part in entry["parts"]}
    for shard in index["shards"]:
        if shard["name"] in needed and not _right(shards / shard["name"], shard):
            state = "differs from its sha256" if (shards / shard["name"]).is_file() else "is missing"
            raise TrainingDataError(f"{shards / shard['name']} {state}", "copy that shard again")
    total, done = sum(entry["bytes"] for entry in wanted), 0
    opened: tuple[str, tarfile.TarFile] | None = None
    try:
        for entry in wanted:
            target = out / entry["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            part_file = target.with_name(f"{target.name}.part")
            digest = hashlib.sha256()
            with open(part_file, "wb") as file:
                for part in entry["parts"]:
                    if opened is None or opened[0] != part["shard"]:
                        if opened is not None:
                            opened[1].close()
                        opened = part["shard"], tarfile.open(shards / part["shard"])  # noqa: SIM115
                    stored = opened[1].extractfile(part["member"])
                    while stored is not None and (data := stored.read(1 << 20)):
                        digest.update(data)
                        file.write(data)
            if digest.hexdigest() != entry["sha256"]:
                part_file.unlink()
                raise TrainingDataError(f"{entry['path']} differs from its sha256", "copy the shards again")
            os.replace(part_file, target)
            done += entry["bytes"]
            if report is not None:
                report(ProgressEvent("unpacking", done, total))
    except (tarfile.TarError, KeyError) as error:
        raise TrainingDataError(f"a shard in {shards} is damaged: {error}", "copy the shards again") from error
    except OSError as error:
        raise OutputUnwritableError(f"cannot write to {out}: {error.strerror}", "is the disk full?") from error
    finally:
        if opened is not None:
            opened[1].close()
    kept = len(index["files"]) - len(wanted)
    return {"out": out, "files": len(wanted), "kept": kept, "bytes": total}
