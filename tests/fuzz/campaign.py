"""Runs cases one after another and holds each against what a user may expect of any input.

The exit code is a documented one; no traceback; an answer within the time; a file that is said to be done plays; inputs
are as before; nothing is left behind but what was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import selectors
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from talkswap import errors

from .cases import SHARES, Case, build, draw
from .material import ROOT

LIMIT = 60.0  # seconds for one case
STARTING = 300.0  # seconds for a worker's first case, which imports everything
DOCUMENTED = {0, 130, 143} | {
    kind.exit_code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.TalkswapError)
}
"""Those of the README's table, which tests/test_readme.py holds against the same classes."""
BUSY = "busy"  # a whole file that asks for hours of output is no hang: its segments are being made
GOES_ON = "the same command goes on at frame"  # said where a work folder with finished segments stays


@dataclass
class Finding:
    """Something that should not be."""

    number: int
    kind: str
    about: str
    arguments: list[str]
    trouble: list[str]
    code: int | None
    err: str


@dataclass
class Outcome:
    """What became of one case."""

    case: Case
    code: int | None
    seconds: float
    trouble: list[str]
    err: str = ""


@dataclass
class Tally:
    """Of a whole campaign."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        return [
            Finding(o.case.number, o.case.kind, o.case.about, list(o.case.arguments), o.trouble, o.code, o.err)
            for o in self.outcomes
            if o.trouble
        ]

    def table(self) -> dict[str, dict[str, int]]:
        """Counts by kind and exit code."""
        found: dict[str, dict[str, int]] = {}
        for outcome in self.outcomes:
            row = found.setdefault(outcome.case.kind, {})
            row[str(outcome.code)] = row.get(str(outcome.code), 0) + 1
        return found


class Worker:
    """A process that runs commands until one of them takes it down."""

    def __init__(self, home: Path) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "NO_COLOR": "1",
        }
        (home / "config").mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker"], cwd=ROOT, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.fresh = True

    def run(self, case: Case, room: Path, limit: float) -> dict[str, Any] | str:
        """What the process answers, or how it failed to."""
        assert self.process.stdin is not None and self.process.stdout is not None
        words = [os.fsencode(word).hex() for word in case.arguments]
        task = {"arguments": words, "room": str(room), "real": case.real}
        self.process.stdin.write(json.dumps(task).encode() + b"\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(STARTING if self.fresh else limit):
                busy = any(room.glob("out/.talkswap-*/segment-*"))
                self.end()
                return BUSY if busy else f"no answer within {limit:.0f} s"
        self.fresh = False
        line = self.process.stdout.readline()
        if not line:
            self.end()
            return f"the process died with {self.process.returncode}"
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        """Kill it with everything that it has started; nothing else is in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder: kind, and the content of plain files."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            mode = path.lstat().st_mode
            content = os.readlink(path) if stat.S_ISLNK(mode) else ""
            if stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(folder))] = f"{stat.S_IFMT(mode)} {content}"
    return found


def unplayable(path: Path, copied_damage: bool = False) -> str:
    """Why a finished clip does not play from its beginning to its end; empty where it does.

    Args:
        path: the clip.
        copied_damage: whether packets of its sound may be broken, since they are a damaged target's own, copied.
    """
    try:
        with av.open(f"file:{path}") as container:
            pictures = sum(1 for _ in container.decode(video=0))
        if not pictures:
            return "the output has no picture"
        with av.open(f"file:{path}") as container:
            for packet in container.demux(container.streams.audio[0]) if container.streams.audio else ():
                try:
                    packet.decode()
                except FFmpegError:
                    if not copied_damage:
                        raise
    except (FFmpegError, OSError, IndexError) as error:
        return f"the output does not play: {error}"
    return ""


def judge(case: Case, room: Path, before: dict[str, str], answer: dict[str, Any]) -> list[str]:
    """Everything that is wrong with how a command ended."""
    trouble = []
    code, err = answer["code"], answer["err"]
    if answer["raised"]:
        trouble.append(f"raised: {answer['raised'].strip().splitlines()[-1]}")
    elif code not in DOCUMENTED:
        trouble.append(f"the exit code {code} is not documented")
    if "Traceback" in err:
        trouble.append("a traceback")
    if words := re.findall(r"^.*\w+Warning: .*$", err, re.MULTILINE):
        trouble.append(f"Python warns: {words[0]}")
    if code and not answer["raised"] and not re.search(r"^error: \S[^\n]+$", err, re.MULTILINE):
        trouble.append("no sentence says what is wrong")
    if answer["outside"]:
        trouble.append(f"outside of its room: {answer['outside'][0]}")
    if answer["seconds"] > LIMIT:
        trouble.append(f"took {answer['seconds']:.0f} s")
    after = snapshot(room)
    output = None if case.output is None else str(case.output.relative_to(room))
    allowed = {*case.made, *([output, f"{output}.c2pa"] if output else [])}
    for name, what in after.items():
        if what == before.get(name) or name == "tmp" or _below(name, allowed):
            continue
        if Path(name).name.startswith(".talkswap-") or "/.talkswap-" in name:
            if GOES_ON in err or any(place.endswith(".json") and "/segment-" in place for place in after):
                continue  # finished segments stay, so that the same command goes on; --quiet leaves the line out
            trouble.append(f"left behind: {name}")
        else:
            trouble.append(f"{'changed' if name in before else 'left behind'}: {name}")
    trouble += [f"gone: {name}" for name in before if name not in after and not _below(name, allowed)]
    if code == 0 and case.output is not None and "--dry-run" not in case.arguments and case.kind != "plan":
        trouble += [] if case.output.is_file() else ["it is done, and there is no output"]
    if output in after and after[output] != before.get(output) and case.output is not None:
        if code and case.kind != "jobs" and "renders failed" not in err:  # one of several may be done
            trouble.append("it failed, and there is an output")
        elif why := unplayable(case.output, case.kind == "target"):
            trouble.append(why)
    return trouble


def _below(name: str, allowed: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in allowed)


class Campaign:
    """Cases of one seed.

    Args:
        whole: folder of :func:`tests.fuzz.material.make`.
        seed: decides all of them.
        place: an empty folder for their rooms.
        shares: how often each kind comes.
    """

    def __init__(self, whole: Path, seed: int, place: Path, shares: dict[str, int] | None = None) -> None:
        self.whole, self.seed, self.place = whole, seed, place
        self.shares = SHARES if shares is None else shares
        self.worker: Worker | None = None

    def __enter__(self) -> Campaign:
        self.known = snapshot(self.whole)
        return self

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            self.worker.end()

    def cases(self, numbers: range, kind: str | None = None) -> Iterator[Outcome]:
        """Run some cases; only those of a kind, if one is named."""
        for number in numbers:
            drawn = draw(self.seed, number, self.shares)
            if kind is None or drawn == kind:
                yield self.one(number, drawn)

    def one(self, number: int, kind: str, keep: bool = False) -> Outcome:
        """Run one case; ``keep`` leaves its room."""
        room = Path(tempfile.mkdtemp(prefix=f"case-{number}-", dir=self.place))
        try:
            case = build(self.seed, number, kind, self.whole, room)
            before = snapshot(room)
            if self.worker is None or not self.worker.alive:
                self.worker = Worker(self.place / "home")
            answer = self.worker.run(case, room, LIMIT)
            if answer == BUSY:
                return Outcome(case, None, LIMIT, [], BUSY)
            if isinstance(answer, str):
                return Outcome(case, None, 0.0, [answer])
            if answer["memory"] > 4000:  # of many strange cases together; a new process begins small
                self.worker.end()
            trouble = judge(case, room, before, answer)
            return Outcome(case, answer["code"], answer["seconds"], trouble, answer["raised"] or answer["err"])
        finally:
            if not keep:
                for path in room.rglob("*"):
                    if path.is_dir() and not path.is_symlink():
                        path.chmod(0o700)
                shutil.rmtree(room, ignore_errors=True)

    def untouched(self) -> bool:
        """Whether the whole files, which cases share, are as they were."""
        return snapshot(self.whole) == self.known
