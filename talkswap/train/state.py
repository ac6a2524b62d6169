"""The state of a run on disk: safetensors files of at most 16 MB, a JSON state with their hashes, and two generations.

A run's folder holds ``checkpoint`` and, from the save before, ``checkpoint.old``.  A new state is written beside them,
synced, and moved into place; whatever moment the machine goes away, one whole state is left.  Tensors are stored as
they are in memory on a CPU, so a run begun on a GPU goes on without one, and the other way round.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, cat

from talkswap.errors import TrainingError
from talkswap.files import file_sha256, sync_to_disk

VERSION = 2
FILE_LIMIT = 16_000_000  # bytes, the header of a file included
HEADER = 160  # bytes of header per tensor, at most, beside its name
STATE = "state.json"
CURRENT, NEW, OLD = "checkpoint", "checkpoint.new", "checkpoint.old"

Groups = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class State:
    """A whole state of a run, as :func:`read_newest` gives it."""

    folder: Path
    values: dict[str, Any]  # JSON
    groups: Groups


class DamagedState(Exception):
    """A folder does not hold the whole state that it should."""


def exists(run: Path) -> bool:
    """Whether ``run`` holds any state, whole or not."""
    return any((run / name).is_dir() for name in (CURRENT, NEW, OLD))


def save(run: Path, state: Mapping[str, Any], groups: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Write a run's state; the one before becomes ``checkpoint.old``.

    Args:
        run: the run's folder.
        state: JSON values.
        groups: tensors by name, by the group whose files they go to (``network-00001.safetensors`` …).

    Returns:
        The folder of the new state.

    Raises:
        TrainingError: it cannot be written; the state before is still there.
    """
    new, current, old = run / NEW, run / CURRENT, run / OLD
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        files: dict[str, Any] = {}
        split: dict[str, dict[str, list[int]]] = {}
        for group, tensors in groups.items():
            split[group] = {}
            for number, part in enumerate(_parts(tensors, split[group]), 1):
                name = f"{group}-{number:05d}.safetensors"
                save_file(part, new / name)
                size, digest = (new / name).stat().st_size, file_sha256(new / name)
                files[name] = {"group": group, "size": size, "sha256": digest}
                sync_to_disk(new / name)
        # The JSON comes last: a folder with it has all its tensors.
        whole = {"version": VERSION, **state, "groups": list(groups), "files": files, "split": split}
        (new / STATE).write_text(json.dumps(whole, indent=1), encoding="utf-8")
        sync_to_disk(new / STATE)
        sync_to_disk(new)
        # Two moves; whichever of them a crash prevents, one whole state keeps its name.
        if current.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            current.rename(old)
        new.rename(current)
        sync_to_disk(run)
    except OSError as error:
        raise TrainingError(
            f"the run's state cannot be written to {run}: {error.strerror or error}",
            "make room or mend the folder, then run the same command again: the last good state is kept",
        ) from error
    return current


def read_newest(run: Path, echo: Callable[[str], None]) -> State | None:
    """The newest whole state of a run; None when there is none at all.

    A damaged one is passed over with one line.

    Raises:
        TrainingError: there are states, and none is whole.
    """
    # a folder of the name `checkpoint.new` that is whole was only never moved: it is newer than `checkpoint.old`
    folders = [run / name for name in (CURRENT, NEW, OLD) if (run / name).is_dir()]
    for folder in folders:
        try:
            return read(folder)
        except DamagedState as damage:
            if folder.name != NEW:  # half-written is what it is meant to be
                echo(f"{folder} is damaged ({damage}); taking the state before it")
    if any(folder.name != NEW for folder in folders):
        raise TrainingError(
            f"no state of the run in {run} is whole", "choose another --run, or bring back a copy of its checkpoint"
        )
    return None


def settle(run: Path, source: Path) -> None:
    """Make the state that was taken up the current one, so that the next save does not push it out in favour of a
    damaged one.
    """
    if source.name == CURRENT:
        return
    shutil.rmtree(run / CURRENT, ignore_errors=True)
    source.rename(run / CURRENT)


def read(folder: Path) -> State:
    """One whole state, its tensors on the CPU.

    Raises:
        DamagedState: something is missing, cut short or altered.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise DamagedState(f"{STATE} is not of version {VERSION}")
        groups: Groups = {name: {} for name in state["groups"]}
        for name, entry in state["files"].items():
            if (folder / name).stat().st_size != entry["size"] or file_sha256(folder / name) != entry["sha256"]:
                raise DamagedState(f"{name} is not what was written")
            groups[entry["group"]] |= load_file(folder / name)
        for group, shapes in state["split"].items():
            for name, shape in shapes.items():
                groups[group][name] = _joined(groups[group], name).view(shape)
        return State(folder, state, groups)
    except OSError as error:
        raise DamagedState(f"{Path(error.filename or folder).name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise DamagedState(f"{STATE} cannot be used: {error}") from error


def _parts(tensors: Mapping[str, Tensor], split: dict[str, list[int]]) -> Iterator[dict[str, Tensor]]:
    """Tensors in runs that fit a file; one larger than a file is cut into ``NAME#0``, ``NAME#1`` …, its shape noted."""
    part: dict[str, Tensor] = {}
    used = 64  # bytes
    for name, piece in _pieces(tensors, split):
        size = piece.numel() * piece.element_size() + len(name.encode()) + HEADER
        if part and used + size > FILE_LIMIT:
            yield part
            part, used = {}, 64
        part[name] = piece
        used += size
    if part:
        yield part


def _pieces(tensors: Mapping[str, Tensor], split: dict[str, list[int]]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        most = (FILE_LIMIT - 64 - HEADER - len(name.encode()) - 8) // tensor.element_size()
        if tensor.numel() <= most:
            yield name, tensor
            continue
        split[name] = list(tensor.shape)
        for number, piece in enumerate(tensor.view(-1).split(most)):
            yield f"{name}#{number}", piece.clone()


def _joined(group: dict[str, Tensor], name: str) -> Tensor:
    pieces: list[Tensor] = []
    while (piece := group.pop(f"{name}#{len(pieces)}", None)) is not None:
        pieces.append(piece)
    return cat(pieces)
