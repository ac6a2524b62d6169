"""A folder that one process at a time works in; the system frees it when that process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Lock:
    """Makes a folder and locks it.

    Args:
        folder: made if it is not there.
        say: takes a line for the user where the disk knows no locks.

    Raises:
        BlockingIOError: another process holds it; the text names the process.
        OSError: the folder cannot be made.
    """

    NAME = "lock"

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.file = folder / self.NAME
        while True:
            folder.mkdir(mode=0o700, exist_ok=True)
            try:
                self._handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # whoever held it has just removed the folder
            try:
                _take(self._handle)
            except BlockingIOError:
                holder = _holder(self._handle)
                os.close(self._handle)
                raise BlockingIOError(errno.EWOULDBLOCK, holder) from None
            except OSError as error:
                say(f"this disk knows no locks ({error.strerror}): start no second talkswap on {folder}")
            if self._is_here():
                break
            os.close(self._handle)
        os.truncate(self._handle, 0)
        os.write(self._handle, str(os.getpid()).encode())

    def _is_here(self) -> bool:
        """Whether the locked file is the one in the folder, and not one that was removed meanwhile."""
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.file))
        except FileNotFoundError:
            return False

    def release(self, remove: bool) -> None:
        """Give it back; ``remove`` takes the folder away, if nothing else is in it."""
        if remove:
            self._remove()
        os.close(self._handle)
        if remove and sys.platform == "win32":  # it keeps open files
            self._remove()

    def _remove(self) -> None:
        # The folder goes only if it is empty: another process may have made its own lock by now.
        with suppress(OSError):
            self.file.unlink()
            self.folder.rmdir()


def _holder(handle: int) -> str:
    try:
        return f"process {os.read(handle, 32).decode('ascii', 'replace').strip()}"
    except OSError:  # Windows lets nobody read what is locked
        return "another process"


if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> None:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked") from error

else:
    import fcntl

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
