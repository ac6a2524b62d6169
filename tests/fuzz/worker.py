"""Runs commands in one process that has everything imported, and tells what each did.

A line of JSON in for each command, a line out.  A crash of a library ends the process; whoever feeds it sees that.

What Python itself opens for writing, renames, removes or connects to is watched: outside the case's room it is refused
and reported, whatever became of the command.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

MOST_MEMORY = 12 * 2**30  # bytes of address space: what a header claims must not bring the machine down


class Watch:
    """Refuses to Python what lies outside some folders."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.allowed:
            return
        if event == "open":
            path, mode, flags = given
            if isinstance(path, (str, bytes)) and (
                (isinstance(mode, str) and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            ):
                self._check(event, path)
        elif event in ("os.rename", "os.link", "os.symlink"):
            self._check(event, given[1])
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "os.chmod"):
            if isinstance(given[0], (str, bytes)) and (
                len(given) < 2 or given[-1] in (-1, None) or event != "os.remove"
            ):
                self._check(event, given[0])
        elif event == "socket.connect" or event == "os.system":
            self._report(f"{event} {given[1:]!r}")

    def _check(self, event: str, path: str | bytes) -> None:
        whole = os.path.abspath(os.fsdecode(path))
        if not any(whole == place or whole.startswith(place + os.sep) for place in self.allowed):
            self._report(f"{event} {whole!r}")

    def _report(self, what: str) -> None:
        self.seen.append(what)
        raise PermissionError(13, f"outside of the room: {what}")


def remember_what_is_loaded() -> None:
    """Build the commands once, and load each installed preset's face analyser once; a case's own weights are read anew."""
    from talkswap.checkpoints.preset_folder import PresetFolder
    from talkswap.faces import analyse as analyze
    from talkswap.render import prepare as preparation

    load, kept = analyze.load_analyser, functools.lru_cache(analyze.load_analyser)

    def load_once(kind: str, weights: Any, *rest: Any) -> Any:
        own = not isinstance(weights, PresetFolder) or "named by" in "".join(weights.origins)
        return (load if own else kept)(kind, weights, *rest)

    analyze.load_analyser = preparation.load_analyser = load_once  # type: ignore[attr-defined]


def memory_mb() -> float:
    """What this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def serve() -> None:
    """Work off the lines of stdin until it ends."""
    from ..resume_workshop import small_system

    lines, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    ears = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, ear in enumerate(ears, 1):
        os.dup2(ear.fileno(), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(n, "wb", 0), "utf-8", "backslashreplace", write_through=True) for n in (1, 2)
    )
    import torch

    from talkswap.cli import main

    torch.set_num_threads(1)
    # after the imports, whose libraries reserve what they never use
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    watch = Watch()
    remember_what_is_loaded()
    gc.collect()
    gc.freeze()  # what is there now is not looked through again after every case
    for line in lines:
        task = json.loads(line)
        for ear in ears:
            ear.seek(0)
            ear.truncate()
        room, arguments = Path(task["room"]), [os.fsdecode(bytes.fromhex(word)) for word in task["arguments"]]
        (room / "tmp").mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(room / "tmp")
        os.chdir(room / "here")
        watch.seen.clear()
        watch.allowed = (str(room), os.environ["XDG_CONFIG_HOME"], "/dev/null", str(Path(sys.prefix)))
        began, code, raised = time.perf_counter(), None, ""
        try:
            if task["real"]:
                code = main(arguments)
            else:
                with mock.patch("talkswap.render.prepare.load_system", small_system):
                    code = main(arguments)
        except BaseException:  # whatever comes out of main is a finding
            raised = traceback.format_exc()
        watch.allowed = ()
        seconds = time.perf_counter() - began
        os.chdir("/")
        gc.collect()  # what was never closed complains now
        said = []
        for ear in ears:
            ear.seek(0)
            said.append(ear.read().decode("utf-8", "backslashreplace"))
        answer = {
            "code": code, "raised": raised, "out": said[0], "err": said[1], "seconds": seconds, "outside": watch.seen,
            "memory": memory_mb(),
        }  # fmt: skip
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
