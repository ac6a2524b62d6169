"""Files that are whole or absent, their hashes, and a folder that one process at a time works in."""

import errno
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from talkswap.errors import OutputUnwritableError

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def write_error(path: Path, error: OSError) -> OutputUnwritableError:
    """The named failure behind the operating system's refusal to write ``path``."""
    if error.errno in _FULL_DISK:
        return OutputUnwritableError(f"the disk is full: {path} could not be written", "free some space and try again")
    reason = (error.strerror or type(error).__name__).lower()
    return OutputUnwritableError(f"cannot write {path}: {reason}", "check the folder and its rights")


def write_atomically(
    path: Path, content: bytes | str | Callable[[Path], object], *, parents: bool = False, durable: bool = False
) -> None:
    """Write a file in one move: readers of ``path`` see the old content or the new one, never a part of it.

    Args:
        content: bytes, text (stored as UTF-8), or a function that writes the path it's given. That path lies beside
            ``path`` and ends like it, for libraries that read the format from the ending.
        parents: create missing folders.
        durable: wait until content and name are on the disk, so that they survive a power cut.

    Raises:
        OutputUnwritableError: the folder is missing or read-only, the disk is full, or ``path`` is no regular file.
    """
    if path.exists() and not path.is_file():  # the rename would replace /dev/null by a file
        raise OutputUnwritableError(f"cannot write {path}: it is no file", "name a file")
    # The process is part of the name because several of them may write one cache. Only a function gets the ending,
    # so that what lists the *.json of a folder never meets half a record.
    part = path.with_name(f"{path.name}.{os.getpid()}.part{path.suffix if callable(content) else ''}")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            part.write_bytes(content)
        elif isinstance(content, str):
            part.write_text(content, encoding="utf-8", newline="\n")
        else:
            content(part)
        if durable:
            sync_to_disk(part)
        os.replace(part, path)
        if durable:
            sync_to_disk(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as one ``.npz`` in one move; missing folders are created."""
    import numpy as np

    write_atomically(path, lambda part: np.savez(part, **arrays), parents=True)


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders; its file system keeps their order
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Lock:
    """A folder that this process alone works in; the system frees it when the process ends, however it ends.

    Args:
        folder: created if it isn't there.
        say: takes a line for the user if the disk has no locks; the work then goes on without one.

    Raises:
        BlockingIOError: another process holds it; ``strerror`` names the process.
        OSError: the folder cannot be created.
    """

    NAME = "lock"

    def __init__(self, folder: Path, say: Callable[[str], None], name: str = NAME) -> None:
        from filelock import FileLock, Timeout  # 8 ms that `talkswap --help` doesn't need

        self.folder = folder
        self.file = folder / name
        # A lock that lies on the disk as a mere file outlives a killed process, hence no soft lock. A child process
        # doesn't inherit the lock.
        self._lock = FileLock(
            self.file,
            mode=0o600,
            blocking=False,
            thread_local=False,
            fallback_to_soft=False,
            on_acquired=self._sign,
        )
        while True:
            folder.mkdir(mode=0o700, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout:
                if not self.file.exists():
                    continue  # its holder has just removed it together with the folder
                raise BlockingIOError(errno.EWOULDBLOCK, self._holder()) from None
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                say(f"this disk has no locks ({error.strerror}): start no second talkswap on {folder}")
            return

    @staticmethod
    def _sign(handle: int) -> None:
        os.truncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())

    def _holder(self) -> str:
        try:
            return f"process {self.file.read_text('ascii', 'replace').strip()}"
        except OSError:  # on Windows a locked file can't be read
            return "another process"

    def release(self, remove: bool = False) -> None:
        """Give it back; ``remove`` deletes the folder too if nothing else is in it."""
        if remove:
            self._remove()
        self._lock.release()
        if remove and sys.platform == "win32":  # Windows keeps open files
            self._remove()

    def _remove(self) -> None:
        # The folder goes only if it's empty: another process may have its own lock in it by now.
        with suppress(OSError):
            self.file.unlink()
            self.folder.rmdir()
