"""``--system NAME`` and the options that a system brings of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from talkswap.types import DEFAULT_SYSTEM

if TYPE_CHECKING:
    from talkswap.systems.description import SystemDescription

SystemName = Annotated[
    str, typer.Option("--system", help="Which system; `talkswap weights list` names them.", metavar="NAME")
]


def system_among(arguments: Sequence[str]) -> SystemDescription:
    """What ``--system`` names; Typer can't say, since the command's other options depend on it."""
    from talkswap.systems.registry import find_system

    name = DEFAULT_SYSTEM
    for place, argument in enumerate(arguments):
        if argument == "--system" and place + 1 < len(arguments):
            name = arguments[place + 1]
        elif argument.startswith("--system="):
            name = argument.partition("=")[2]
    return find_system(name)
