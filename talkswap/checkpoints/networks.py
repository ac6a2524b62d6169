"""A network in a folder: ``NAME.json`` gives its configuration, ``NAME.safetensors`` (or shards) its tensors."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from talkswap.checkpoints.presets import read_config
from talkswap.checkpoints.tensors import read_tensors, tensor_files, write_tensors
from talkswap.errors import WeightsCorruptError, WeightsMissingError

if TYPE_CHECKING:
    from torch import Tensor, nn

Config = TypeVar("Config")
Network = TypeVar("Network", bound="nn.Module")

_LARGEST = 2**31  # no width, count, size or factor of a network is as large


def config_from(kind: type[Config], values: dict[str, Any]) -> Config:
    """A frozen config from its JSON form; lists become tuples again.

    Raises:
        WeightsCorruptError: a field is unknown, is missing, or is not of its kind.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise WeightsCorruptError(
            f"{kind.__name__} has no field {unknown[0]}",
            "the weights are of another version: run `talkswap download --check`",
        )
    hints = get_type_hints(kind)
    given = {k: tuple(v) if isinstance(v, list) and "tuple" in str(hints[k]) else v for k, v in values.items()}
    repair = "pack or fetch the weights again"
    for name, value in given.items():
        if not _of_kind(hints[name], value):
            raise WeightsCorruptError(f"{kind.__name__} cannot have {value!r:.60} as {name}", repair)
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise WeightsCorruptError(f"{kind.__name__} is not described: {error}", repair) from error


def _of_kind(hint: Any, value: Any) -> bool:
    """Whether a value of JSON's types may stand where ``hint`` is declared; numbers of networks are not negative."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_of_kind(one, value) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
        return len(kinds) == len(value) and all(map(_of_kind, kinds, value))
    if hint is float:
        return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST  # which no number that is none does
    if hint is int:
        return type(value) is int and 0 <= value < _LARGEST
    return type(value) is hint if hint in (bool, str, type(None)) else True


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
    """:func:`fill`, then ready to run: in evaluation mode and frozen.

    Raises:
        WeightsCorruptError: names or shapes differ.
    """
    return fill(network, weights, name).eval().requires_grad_(False)


def read_network(build: Callable[[Any], Network], config: type[Any], folder: Path, name: str, stage: str) -> Network:
    """A network of a plain folder, in float32, frozen, in evaluation mode.

    Args:
        build: the network's class.
        config: its configuration's class.
        folder: where its files lie; they are read as they are.
        name: of the files.
        stage: of `talkswap train` that makes the network, for the hint.

    Raises:
        WeightsMissingError: a file is not there.
        WeightsCorruptError: the files do not fit each other or the network.
    """
    settings, files = folder / f"{name}.json", tensor_files(folder, name)
    if not files or not settings.is_file():
        lacking = settings if files else folder / f"{name}.safetensors"
        raise WeightsMissingError(
            f"no {name} network at {lacking}", f"reinstall talkswap or train it with `talkswap train {stage}`"
        )
    repair = "reinstall talkswap"
    network = build_network(build, config, read_config(settings, repair), name)
    return load_network(network, read_tensors([folder / file for file in files], repair), name)


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
