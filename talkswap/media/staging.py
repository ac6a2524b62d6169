"""Where an output may be written, and the private folder beside it in which it is made."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from talkswap.errors import OutputExistsError, OutputUnwritableError
from talkswap.media.codecs import container_of


def check_output(output: Path, overwrite: bool = False) -> None:
    """Make sure before a render that its result can be written.

    Raises:
        OutputUnwritableError: unknown ending, a directory, its folder is missing or read-only.
        OutputExistsError: it is there and ``overwrite`` is false.
    """
    container_of(output)
    folder = output.parent
    if not folder.is_dir():
        raise OutputUnwritableError(f"the folder {folder} does not exist", "make it first")
    if output.is_dir():
        raise OutputUnwritableError(f"{output} is a directory", "name a file")
    if output.exists() and not output.is_file():
        raise OutputUnwritableError(f"{output} is a pipe or a device, not a file", "name a file")
    if output.exists() and not overwrite:
        raise OutputExistsError(f"{output} already exists", "choose another name, or allow it with --overwrite")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputUnwritableError(f"the folder {folder} is read-only", "choose another folder")


@contextmanager
def staging_folder(output: Path, overwrite: bool = False, within: Path | None = None) -> Iterator[Path]:
    """A private folder on the output's disk for what a render makes on its way; removed at the end, come what may.

    Args:
        output: what is being made.
        overwrite: whether it may exist.
        within: a folder on the same disk to make the private one in; the output's own without it.

    Raises:
        As :func:`check_output`.
    """
    check_output(output, overwrite)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".talkswap-", dir=within or output.parent))
    except OSError as error:
        raise OutputUnwritableError(f"nothing can be written in {output.parent} ({error.strerror})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
