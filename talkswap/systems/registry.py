"""Every system on this machine: the folders beside this file, and the entry points of other packages."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from talkswap import systems as folder
from talkswap.checkpoints.manifest import CatalogueEntry
from talkswap.checkpoints.networks import NetworkDescription, Requirements, resolve
from talkswap.checkpoints.preset_folder import PresetFolder
from talkswap.errors import UsageError
from talkswap.records import RecordError, from_plain
from talkswap.systems import shared
from talkswap.systems.description import PresetNeeds, SystemDescription
from talkswap.train.stages import StageDescription
from talkswap.types import DEFAULT_SYSTEM

if TYPE_CHECKING:
    from talkswap.device import Device
    from talkswap.systems.contract import System

GROUP = "talkswap.systems"
"""Entry points that bring a system from elsewhere: ``NAME = "package:SYSTEM"``."""


def _descriptions() -> Iterator[SystemDescription]:
    for module in pkgutil.iter_modules(folder.__path__):
        if module.ispkg:
            package = import_module(f"{folder.__name__}.{module.name}")
            # one paper may bring several systems, as the cascades do
            yield from getattr(package, "SYSTEMS", None) or (package.SYSTEM,)
    for entry in entry_points(group=GROUP):
        yield entry.load()


@cache
def systems() -> dict[str, SystemDescription]:
    """Every system by name, the default first.

    Raises:
        UsageError: two of them have the same name.
    """
    registry: dict[str, SystemDescription] = {}
    for description in _descriptions():
        if description.name in registry or description.name in shared.ROOMS:
            raise UsageError(
                f"two systems are called {description.name}", "uninstall the package that brings the second"
            )
        registry[description.name] = description
    return {DEFAULT_SYSTEM: registry.pop(DEFAULT_SYSTEM), **registry}


def find_system(name: str = DEFAULT_SYSTEM) -> SystemDescription:
    """A system by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in systems():
        raise UsageError(f"there is no system called {name!r}", f"choose one of: {', '.join(systems())}")
    return systems()[name]


def networks(system: str | None = None) -> dict[str, NetworkDescription]:
    """The shared networks and those of one system, or of all, by ``ROOM/NAME``.

    Raises:
        UsageError: there is no such system.
    """
    chosen = systems().values() if system is None else (find_system(system),)
    return {network.path: network for network in (*shared.NETWORKS, *(n for s in chosen for n in s.networks))}


def stages(system: str = DEFAULT_SYSTEM) -> dict[str, StageDescription]:
    """The stages that `talkswap train` can train for a system, in their order: each may need the ones before it.

    Raises:
        UsageError: there is no such system.
    """
    return {stage.name: stage for stage in (*shared.STAGES, *find_system(system).stages)}


def find_stage(name: str, system: str = DEFAULT_SYSTEM) -> StageDescription:
    """A stage of training by its name, shared or of a system.

    Raises:
        UsageError: there is no such system, or no such stage in it.
    """
    choices = stages(system)
    if name not in choices:
        raise UsageError(f"{system} has no stage called {name}", f"choose one of: {', '.join(choices)}")
    return choices[name]


def requirements(system: str = DEFAULT_SYSTEM) -> dict[str, Requirements]:
    """What a render with a system can't do without, by preset; one that names no preset has the compact face analyser.

    Raises:
        UsageError: there is no such system.
    """
    description = find_system(system)
    rooms = (*shared.ROOMS, *dict.fromkeys(network.room for network in description.networks))
    return {
        preset: Requirements(
            rooms,
            tuple(network.path for network in networks(system).values() if preset in network.presets),
            needs.downloads,
            needs.packages,
        )
        for preset, needs in (description.presets or {"compact": PresetNeeds()}).items()
    }


def stage_made() -> list[CatalogueEntry]:
    """The paper preset's networks that nobody publishes, of every system, as `talkswap download --list` shows them."""
    return [
        CatalogueEntry(
            network.name, "paper", f"{network.path}.safetensors", "Apache-2.0", False, ("render",),
            made_by=f"talkswap train {network.stage} --preset paper", beside=(f"{network.path}.json",),
        )
        for network in networks().values()
        if "paper" in network.presets
    ]  # fmt: skip


def read_options(name: str, values: Mapping[str, Any]) -> Any:
    """A system's own render options, as the dataclass that its description names.

    Args:
        name: of the system.
        values: by the names of its fields, in JSON's own types; those left out have their defaults.

    Raises:
        UsageError: there is no such system, or it has no such option, or an option takes no such value.
    """
    kind = find_system(name).options
    try:
        return from_plain(kind, dict(values))
    except RecordError as error:
        option = error.field.replace("_", "-")
        if error.field not in {field.name for field in fields(kind)}:
            raise UsageError(
                f"the system {name} has no option --{option}", f"`talkswap render --system {name} --help` lists them"
            ) from error
        raise UsageError(
            f"--{option} of the system {name} can't be {error.value!r}: {error.reason}",
            f"`talkswap render --system {name} --help` lists what it takes",
        ) from error


def load_system(
    preset: PresetFolder, device: Device, name: str = DEFAULT_SYSTEM, options: Mapping[str, Any] | None = None
) -> System:
    """A system, its weights verified and on the device.

    Args:
        preset: whose networks the system is made of.
        device: where the networks run.
        name: of the system.
        options: its own, see :func:`read_options`.

    Raises:
        UsageError: there is no such system, or an option doesn't fit it.
        WeightsMissingError, WeightsCorruptError.
    """
    chosen = read_options(name, options or {})
    system: System = resolve(find_system(name).system).load(name, preset, device, chosen)
    return system
