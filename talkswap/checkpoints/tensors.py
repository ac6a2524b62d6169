"""A network's tensors as files: one ``NAME.safetensors``, or shards ``NAME-00001-of-00003.safetensors`` where one is too large.

Shards are ordinary safetensors files with some of the tensors each, so that weights travel where files may not be
large; who reads them never notices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from talkswap.checkpoints.manifest import forget_checks, inside, read_checked
from talkswap.errors import OutputUnwritableError, UsageError, WeightsCorruptError

if TYPE_CHECKING:
    from torch import Tensor

ENDING = ".safetensors"
SHARD = re.compile(r"(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.safetensors")
HEADER = 8 + 64  # bytes of a file beside its tensors and their entries: length, metadata, padding


def network_of(file: str) -> str | None:
    """The network that a safetensors file, whole or shard, belongs to; None for other files."""
    shard = SHARD.fullmatch(file)
    if shard is not None:
        return shard["name"]
    return file.removesuffix(ENDING) if file.endswith(ENDING) else None


def tensor_files(folder: Path, name: str) -> tuple[str, ...]:
    """The files of ``folder`` that together hold a network's tensors: one, or all its shards in their order.

    Empty when there are none, or when a shard is missing.
    """
    if inside(folder, name + ENDING).is_file():
        return (name + ENDING,)
    place = inside(folder, name).parent
    counts: dict[int, set[int]] = {}
    for path in place.iterdir() if place.is_dir() else ():
        shard = SHARD.fullmatch(path.name)
        if shard is not None and shard["name"] == Path(name).name:
            counts.setdefault(int(shard["count"]), set()).add(int(shard["index"]))
    for count, present in sorted(counts.items()):
        if present == set(range(1, count + 1)):
            return tuple(f"{name}-{index:05d}-of-{count:05d}{ENDING}" for index in range(1, count + 1))
    return ()


def read_tensors(paths: Iterable[Path], repair: str, device: str = "cpu") -> dict[str, Tensor]:
    """Tensors of some files together, eight-bit ones as floats again.

    Args:
        paths: a whole file, or all shards of one.
        repair: the hint of an error.
        device: where the tensors go.

    Raises:
        WeightsCorruptError: a file is no safetensors file, two hold the same tensor, or one was replaced after it was
            verified.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    stored: dict[str, Tensor] = {}
    for path in paths:
        try:
            part = {name: tensor.to(device) for name, tensor in load(read_checked(path, repair)).items()}
        except SafetensorError as error:
            raise WeightsCorruptError(f"{path} is no safetensors file: {error}", repair) from error
        if shared := stored.keys() & part.keys():
            raise WeightsCorruptError(f"{path} holds {min(shared)}, which another shard holds as well", repair)
        stored |= part
    return unpack(stored)


def _entry_size(name: str, tensor: Tensor) -> int:
    """Bytes of a tensor in a safetensors file; at most 40 for two offsets of up to 20 digits."""
    entry = {name: {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": []}}
    return len(json.dumps(entry)) + 40 + tensor.numel() * tensor.element_size()


def shards(tensors: Mapping[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    """The tensors in groups that each fit into a file of ``largest`` bytes, in their order.

    Raises:
        UsageError: one tensor alone is too large.
    """
    groups: list[dict[str, Tensor]] = [{}]
    filled = HEADER
    for name, tensor in tensors.items():
        size = _entry_size(name, tensor)
        if HEADER + size > largest:
            raise UsageError(
                f"the tensor {name} alone takes {size / 1e6:.1f} MB, more than the largest file of {largest / 1e6:g} MB",
                f"give --largest-mb {-(-(HEADER + size) // 1_000_000)} or a smaller --precision",
            )
        if filled + size > largest:
            groups.append({})
            filled = HEADER
        groups[-1][name] = tensor
        filled += size
    return groups


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, name: str, largest: int | None = None) -> list[str]:
    """Write a network's tensors into ``folder``.

    Args:
        tensors: as they are to be stored; see :func:`talkswap.checkpoints.tensors.pack`.
        folder: made when it is not there.
        name: of the network.
        largest: bytes that a file may have; None = no limit.

    Returns:
        The files' names: one, or the shards in their order.

    Raises:
        UsageError: one tensor alone is larger than ``largest``.
        OutputUnwritableError: the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    groups = [dict(tensors)] if largest is None else shards(tensors, largest)
    files = [name + ENDING]
    if len(groups) > 1:
        files = [f"{name}-{index:05d}-of-{len(groups):05d}{ENDING}" for index in range(1, len(groups) + 1)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, group in zip(files, groups, strict=True):
            save_file({k: v.contiguous() for k, v in group.items()}, folder / file, metadata={"format": "pt"})
            forget_checks(folder / file)
            (folder / file).chmod(0o644)  # safetensors keeps its files from everybody else
    except (OSError, SafetensorError) as error:
        raise OutputUnwritableError(f"cannot write {name} to {folder}: {error}", "choose another folder") from error
    return files


# --- Weights in eight bits on disk, so that all compact networks fit in a package; in memory they are floats again.


STEP = ".step"
LEAST = 4096  # numbers in a tensor that is worth packing
KEPT = (".codes", "position", "mean", "basis")


def pack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Eight-bit form of a network's tensors; what is not packed becomes half precision."""
    import torch

    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            packed[name] = tensor.contiguous()
        elif tensor.ndim < 2 or tensor.numel() < LEAST or name.endswith(KEPT):
            packed[name] = tensor.half().contiguous()
        else:
            rows = tensor.float().flatten(1)
            step = (rows.abs().amax(1) / 127).clamp(min=1e-12)
            packed[name] = (rows / step[:, None]).round().to(torch.int8).view(tensor.shape).contiguous()
            packed[name + STEP] = step
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors of :func:`pack`'s result; tensors that were never packed pass through."""
    weights: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith(STEP) and name.removesuffix(STEP) in packed:
            continue
        step = packed.get(name + STEP)
        weights[name] = tensor if step is None else (tensor.flatten(1).float() * step[:, None]).view(tensor.shape)
    return weights
