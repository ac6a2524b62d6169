"""Atomic writes, hashes, and the lock of a folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from talkswap.errors import OutputUnwritableError
from talkswap.files import Lock, file_sha256, write_atomically

HOLDING = "import sys, os, time; from pathlib import Path; from talkswap.files import Lock\n"
HOLDING += "lock = Lock(Path(sys.argv[1]), print)\n"


@pytest.mark.parametrize("durable", [False, True])
def test_bytes_text_and_a_writer_replace_a_file_in_one_move(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "array.npz"
    path.write_bytes(b"old")
    write_atomically(path, b"\0new", durable=durable)
    assert path.read_bytes() == b"\0new"
    write_atomically(path, "zwei\nZeilen ä\n", durable=durable)
    assert path.read_bytes() == "zwei\nZeilen ä\n".encode()
    write_atomically(path, lambda part: np.savez(part, a=np.arange(3)), durable=durable)
    assert list(np.load(path)["a"]) == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("a bug"), KeyError()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write(part: Path) -> None:
        part.write_text("half of it")
        raise error

    with pytest.raises(OutputUnwritableError if isinstance(error, OSError) else type(error)) as caught:
        write_atomically(path, write)
    if isinstance(error, OSError):
        assert str(caught.value) == f"the disk is full: {path} could not be written"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritableError, match=r"cannot write .*a\.txt: no such file or directory"):
        write_atomically(tmp_path / "missing" / "a.txt", "text")
    write_atomically(tmp_path / "missing" / "a.txt", "text", parents=True)
    assert (tmp_path / "missing" / "a.txt").read_text() == "text"
    with pytest.raises(OutputUnwritableError, match="it is no file"):
        write_atomically(Path(os.devnull), "text")
    assert Path(os.devnull).is_char_device()


def test_a_lock_is_held_once_and_names_its_process(tmp_path: Path) -> None:
    first = Lock(tmp_path / "work", print)
    with pytest.raises(BlockingIOError) as caught:
        Lock(tmp_path / "work", print)
    assert caught.value.strerror == f"process {os.getpid()}"
    first.release()
    assert first.file.exists()
    second = Lock(tmp_path / "work", print)
    (tmp_path / "work" / "segment").touch()
    second.release(remove=True)
    assert list((tmp_path / "work").iterdir()) == [tmp_path / "work" / "segment"], "a folder with work in it went"


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = HOLDING + "os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "work")])
    assert done.returncode == -9 and (tmp_path / "work" / Lock.NAME).exists()
    Lock(tmp_path / "work", print).release(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = HOLDING + "ready, begun = os.pipe(); child = os.fork()\n"
    code += "if not child: os.write(begun, b'.'), time.sleep(60)\n"
    code += "os.read(ready, 1), print(child, flush=True), os.kill(os.getpid(), 9)"
    done = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "work")], stdout=subprocess.PIPE, text=True)
    assert done.stdout is not None
    child = int(done.stdout.readline())
    try:
        assert done.wait(30) == -9
        Lock(tmp_path / "work", print).release(remove=True)
    finally:
        os.kill(child, signal.SIGKILL)
        done.stdout.close()


def test_a_lock_on_a_folder_that_was_just_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lock(tmp_path / "work", print)
    flock, calls = fcntl.flock, []

    def flock_late(handle: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            first.release(remove=True)  # between the other's opening and its locking
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    second = Lock(tmp_path / "work", print)
    assert len(calls) > 2 and second.file.exists()
    second.release(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    lines: list[str] = []
    lock = Lock(tmp_path / "work", lines.append)
    assert lines == [f"this disk has no locks (No locks available): start no second talkswap on {tmp_path / 'work'}"]
    lock.release(remove=True)
    assert list(tmp_path.iterdir()) == []
