"""What is finished of a long evaluation: one JSON line per result, appended in one write.

A run that was killed leaves at most one torn last line, which the next run passes over; a result that is told twice
counts as told last.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkswap.errors import OutputUnwritableError
from talkswap.evaluation.results import PairResult, from_plain, to_plain

Key = tuple[str, str, int]
"""Setting, method, number of the pair."""


@dataclass(frozen=True)
class Entry:
    """One result."""

    setting: str
    method: str
    result: PairResult

    @property
    def key(self) -> Key:
        return (self.setting, self.method, self.result.number)


class Journal:
    """The results of one evaluation folder.

    Args:
        path: the file of lines; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[Key, Entry]:
        """The newest entry of every key; lines that are torn or of another version are passed over."""
        found: dict[Key, Entry] = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return found
        except OSError as error:
            raise OutputUnwritableError(f"cannot read {self.path}: {error.strerror}", "check the folder") from error
        for line in lines:
            try:
                plain: Any = json.loads(line)
                entry = from_plain(Entry, plain)
            except (ValueError, TypeError, KeyError):
                continue
            found[entry.key] = entry
        return found

    def add(self, entry: Entry) -> None:
        """Append one entry and see it on the disk.

        Raises:
            OutputUnwritableError: the folder is read-only or the disk full.
        """
        line = json.dumps(to_plain(entry), ensure_ascii=False).encode() + b"\n"
        try:
            with open(self.path, "a+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":
                        line = b"\n" + line  # an earlier run was killed within its last line
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputUnwritableError(f"cannot write {self.path}: {error.strerror}", "is the disk full?") from error
