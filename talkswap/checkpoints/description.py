"""What a room or a system says of its networks, in words that import nothing heavy.

Classes are named as ``module:Class`` and imported when they are needed, so that ``talkswap --help`` can list every
network without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

PRESETS = ("paper", "compact")
"""Sets of weights, best first: the order in which ``auto`` tries them."""


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
    paper_settings: Mapping[str, Any] = field(
        default_factory=dict, hash=False
    )  # of its config, in the paper's size only
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


ANYTHING = Requirements()
"""Of somebody who loads single networks, and is told what's missing when one of them isn't there."""
