"""A network: how a room or a system describes it, and its files ``NAME.json`` (configuration) and ``NAME.safetensors``.

A description imports nothing heavy: classes are named as ``module:Class`` and imported when they are needed, so that
``talkswap --help`` can list every network without torch.  A network too large for one file lies in shards
``NAME-00001-of-00003.safetensors``, ordinary safetensors files with some of the tensors each, so that weights travel where
files may not be large; readers see one set of tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from talkswap.checkpoints.manifest import file_path, forget_checks, inside, read_checked
from talkswap.errors import OutputUnwritableError, UsageError, WeightsCorruptError, WeightsMissingError
from talkswap.records import RecordError, from_plain

if TYPE_CHECKING:
    from torch import Tensor, nn

# Sets of weights, best first: the order in which `auto` tries them.
PRESETS = ("paper", "compact")


def resolve(reference: str) -> Any:
    """What ``package.module:NAME`` names.

    Raises:
        ImportError, AttributeError: the description names what isn't there, which is a fault of its author.
    """
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class NetworkDescription:
    """One network that a preset folder may hold, as ``ROOM/NAME.safetensors`` and ``ROOM/NAME.json``."""

    name: str  # of its files
    room: str  # its folder in a preset: "faces", "voice", or the system's name
    network: str  # "module:Class"
    config: str  # "module:Class", a frozen dataclass
    purpose: str  # a clause for the model card
    stage: str  # of `talkswap train`, which makes it
    exact: bool = False  # its answers are positions or identities, which eight bits would move
    # of its config, in the paper's size only
    paper_settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    presets: tuple[str, ...] = PRESETS  # in which a render can't do without it; () = it is optional, or trains others

    @property
    def path(self) -> str:
        """``ROOM/NAME``, by which :mod:`talkswap.checkpoints.presets` finds its files."""
        return f"{self.room}/{self.name}"


@dataclass(frozen=True)
class Requirements:
    """What a render with one preset can't do without."""

    rooms: tuple[str, ...] = ()  # whose files are verified and reported; () = all of the folder
    networks: tuple[str, ...] = ()  # ROOM/NAME of our own networks
    downloads: tuple[str, ...] = ()  # entries of the catalogue, by name
    packages: tuple[str, ...] = ()  # importable names beyond talkswap's own requirements


# For callers that load single networks and meet an error if one of them is missing.
ANYTHING = Requirements()


# --- The files of a network.


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
    """The files of ``folder`` that together hold the tensors of a network ``ROOM/NAME``: one, or all its shards in their
    order.

    Empty when there are none, or when a shard is missing.
    """
    if file_path(folder, name + ENDING).is_file():
        return (name + ENDING,)
    counts: dict[int, set[int]] = {}
    # The shards of a flat folder lie at its top.
    for place in dict.fromkeys((inside(folder, name).parent, folder)):
        for path in place.iterdir() if place.is_dir() else ():
            shard = SHARD.fullmatch(path.name)
            if shard is not None and shard["name"] == Path(name).name:
                counts.setdefault(int(shard["count"]), set()).add(int(shard["index"]))
    # Two packings may lie side by side; the first whole one counts.
    for count, present in sorted(counts.items()):
        if present == set(range(1, count + 1)):
            return tuple(f"{name}-{index:05d}-of-{count:05d}{ENDING}" for index in range(1, count + 1))
    return ()


def read_tensors(paths: Iterable[Path], repair: str, device: str = "cpu") -> dict[str, Tensor]:
    """Tensors of some files together, eight-bit ones as floats again.

    Args:
        paths: a whole file, or all shards of one.

    Raises:
        WeightsCorruptError: a file is no safetensors file, two hold the same tensor, or one was replaced after it was
            verified.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            part = {name: tensor.to(device) for name, tensor in load(read_checked(path, repair)).items()}
        except SafetensorError as error:
            raise WeightsCorruptError(f"{path} is no safetensors file: {error}", repair) from error
        if duplicates := tensors.keys() & part.keys():
            raise WeightsCorruptError(f"{path} holds {min(duplicates)}, which another shard holds as well", repair)
        tensors |= part
    return unpack(tensors)


def shards(tensors: Mapping[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    """The tensors in groups that each fit into a file of ``largest`` bytes, in their order.

    Raises:
        UsageError: one tensor alone is too large.
    """
    groups: list[dict[str, Tensor]] = [{}]
    used = HEADER
    for name, tensor in tensors.items():
        # Its entry in the file's header counts too: at most 40 bytes for two offsets of up to 20 digits.
        entry = {name: {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": []}}
        size = len(json.dumps(entry)) + 40 + tensor.numel() * tensor.element_size()
        if HEADER + size > largest:
            raise UsageError(
                f"the tensor {name} alone takes {size / 1e6:.1f} MB, more than the largest file of {largest / 1e6:g} MB",
                f"give --largest-mb {-(-(HEADER + size) // 1_000_000)} or a smaller --precision",
            )
        if used + size > largest:
            groups.append({})
            used = HEADER
        groups[-1][name] = tensor
        used += size
    return groups


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, name: str, largest: int | None = None) -> list[str]:
    """Write a network's tensors into ``folder``.

    Args:
        tensors: as they are to be stored; see :func:`pack`.
        folder: made when it is not there.
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
    # Each row of a tensor has a scale of its own, its largest number over 127: 8 bits are too few for all rows at once.
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


PRECISIONS = ("fp16", "int8", "float32")


def storage_form(weights: dict[str, Tensor], precision: str, name: str, exact: bool) -> dict[str, Tensor]:
    """Tensors as they go to disk.

    Args:
        precision: ``fp16``; ``int8``, in which networks that tell positions or identities stay fp16; ``float32``.
        exact: whether it tells positions or identities.

    Raises:
        WeightsCorruptError: a number is not finite, or too large for half precision.
    """
    import torch

    weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    if precision == "int8" and not exact:
        result = pack(weights)
    else:
        dtype = torch.float32 if precision == "float32" else torch.half
        result = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    # Half precision ends at 65504, and an infinite weight shows only in pictures.
    for key, value in result.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsCorruptError(
                f"{name} has numbers in {key} that are not finite or do not fit into {precision}",
                "pack with --precision float32, or train the network again",
            )
    return result


def storage_precision(tensors: dict[str, Tensor]) -> str:
    """Which of :data:`PRECISIONS` tensors are stored in."""
    import torch

    kinds = {tensor.dtype for tensor in tensors.values()}
    return "int8" if torch.int8 in kinds else "float32" if torch.float32 in kinds else "fp16"


# --- A network from its configuration and its tensors.


def read_config(path: Path, repair: str) -> dict[str, Any]:
    """A network's configuration.

    Raises:
        WeightsCorruptError: the file is no JSON object; ``repair`` is the hint.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsCorruptError(f"{path} is no configuration: {error}", repair) from error
    if not isinstance(config, dict):
        raise WeightsCorruptError(f"{path} is no configuration", repair)
    return config


Config = TypeVar("Config")
Network = TypeVar("Network", bound="nn.Module")

_LARGEST = 2**31


def config_from(kind: type[Config], values: dict[str, Any]) -> Config:
    """A frozen config from its JSON form; lists become tuples again.

    Raises:
        WeightsCorruptError: a field is unknown, is missing, or is not of its kind.
    """
    repair = "the weights are damaged or of another version: pack or fetch them again"
    try:
        config = from_plain(kind, values)
    except RecordError as error:
        what = f"cannot have {error.value!r:.60} as {error.field}: {error.reason}"
        if error.reason == "there is no such field":
            what = f"has no field {error.field}"
        raise WeightsCorruptError(f"{kind.__name__} {what}", repair) from error
    # A damaged configuration could ask for more memory than there is before anything fails.
    for name, value in asdict(config).items():  # type: ignore[call-overload]
        for number in value if isinstance(value, tuple) else (value,):
            # no width, count, size or factor of a network is as large, and no count is negative
            if type(number) in (int, float) and not (-_LARGEST if type(number) is float else 0) <= number < _LARGEST:
                raise WeightsCorruptError(f"{kind.__name__} cannot have {number!r:.60} as {name}", repair)
    return config


def build_network(build: Callable[[Any], Network], config: type[Any], values: dict[str, Any], name: str) -> Network:
    """A network of a configuration in its JSON form, with tensors that mean nothing yet.

    Raises:
        WeightsCorruptError: the configuration describes no such network.
    """
    settings = config_from(config, values)
    try:
        return build(settings)
    except (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsCorruptError(
            f"{name}.json does not describe a {name} network: {error}", "pack or fetch the weights again"
        ) from error


def fill(network: Network, weights: dict[str, Tensor], name: str) -> Network:
    """Put tensors into a network, as floats.

    Raises:
        WeightsCorruptError: names or shapes differ, or a number is infinite or none.
    """
    # One nan would turn every frame black without a word.
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsCorruptError(
                f"the weights of {name} hold what is no number, in {key}", "run `talkswap download --check`"
            )
    try:
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise WeightsCorruptError(
            f"the weights of {name} do not fit its network: {first}", "run `talkswap download --check`"
        ) from error
    return network


def load_network(network: Network, weights: dict[str, Tensor], name: str) -> Network:
    """:func:`fill`, then ready to run: in evaluation mode and frozen."""
    return fill(network, weights, name).eval().requires_grad_(False)


def read_network(build: Callable[[Any], Network], config: type[Any], folder: Path, path: str, stage: str) -> Network:
    """A network of a plain folder, in float32, frozen, in evaluation mode.

    Args:
        folder: where its files lie; they are read as they are.
        path: ``ROOM/NAME`` of the files; they may also lie in the folder itself.
        stage: of `talkswap train` that makes the network, for the hint.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: the files do not fit each other or the network.
    """
    name = path.rpartition("/")[2]
    settings, files = file_path(folder, f"{path}.json"), tensor_files(folder, path)
    if not files or not settings.is_file():
        lacking = settings if files else folder / f"{name}.safetensors"
        raise WeightsMissingError(
            f"no {name} network at {lacking}", f"reinstall talkswap or train it with `talkswap train {stage}`"
        )
    repair = "reinstall talkswap"
    network = build_network(build, config, read_config(settings, repair), name)
    return load_network(network, read_tensors([file_path(folder, file) for file in files], repair), name)


def write_network(network: nn.Module, folder: Path, name: str) -> None:
    """Write ``NAME.safetensors`` (half precision) and ``NAME.json`` from a network with a ``config``."""
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")  # only counts, and only while training
    }
    write_tensors(state, folder, name)
    config: Any = network.config
    (folder / f"{name}.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
