"""Options: those that several commands share, and a frozen dataclass as options of a command.

Names, types, defaults, choices and help of a dataclass's options come from its fields, which are declared with
:func:`talkswap.types.option`.  ``Literal`` gives choices, ``bool`` a pair of flags, ``Fraction`` a time,
``tuple[tuple[str, Path], ...]`` a repeatable ``ID=FILE``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from fractions import Fraction
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from talkswap.errors import UsageError
from talkswap.types import DEFAULT_SYSTEM

if TYPE_CHECKING:
    from talkswap.systems.description import SystemDescription

PAIRS = tuple[tuple[str, Path], ...]

SystemName = Annotated[
    str, typer.Option("--system", help="Which system; `talkswap weights list` names them.", metavar="NAME")
]
PresetName = Annotated[Literal["auto", "compact", "paper"], typer.Option("--preset", help="Set of weights.")]
WeightsFolder = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="Preset folder to use, instead of looking for the set.", readable=False, show_default=False
    ),
]
DeviceName = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Where the networks run.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def system_among(arguments: Sequence[str]) -> SystemDescription:
    """What ``--system`` names; Typer can't say, since the command's other options depend on it."""
    from talkswap.systems.registry import find_system

    name = DEFAULT_SYSTEM
    # Read by hand: Typer parses only after it knows the system's options.
    for place, argument in enumerate(arguments):
        if argument == "--system" and place + 1 < len(arguments):
            name = arguments[place + 1]
        elif argument.startswith("--system="):
            name = argument.partition("=")[2]
    return find_system(name)


def command_group(about: str, markup: Literal["rich"] | None) -> typer.Typer:
    """A group of commands, which shows its help where no command is named."""
    group = typer.Typer(help=about, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=markup)
    group.callback()(lambda: None)
    return group


def flag_of(field: Field[Any]) -> str:
    """How the command line spells a field."""
    return str(field.metadata.get("flag", "--" + field.name.replace("_", "-")))


def option_fields(kind: type[Any]) -> list[Field[Any]]:
    """The fields of a dataclass that the command line offers."""
    return [field for field in fields(kind) if field.metadata.get("help")]


def option_parameters(kind: type[Any]) -> list[inspect.Parameter]:
    """The options of a dataclass, as the parameters of a Typer command."""
    hints = get_type_hints(kind)
    return [_parameter(field, hints[field.name]) for field in option_fields(kind)]


def _parameter(field: Field[Any], hint: Any) -> inspect.Parameter:
    metadata, flag = field.metadata, flag_of(field)
    inner = _without_none(hint)
    default = None if field.default is MISSING else field.default
    kind: Any = hint
    if default is None and inner in (int, float, str):
        kind = inner | None
    if metadata.get("rest"):
        kind, default = list[Path] | None, None
    elif inner == PAIRS:
        kind, default = list[str] | None, None
    elif inner is Fraction:
        kind, default = str | None, None  # as typed: `parse_time` knows more spellings than Fraction
    elif inner is Path:
        kind = Path | None
    elif inner is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}" if default else flag
    spelling: dict[str, Any] = {"help": metadata["help"], "metavar": metadata.get("metavar")}
    if inner is Fraction:
        spelling["metavar"] = "TIME"
    if default is None:
        spelling["show_default"] = metadata.get("without", False)
    if inner is Path:
        spelling["readable"] = False  # the render says better what is wrong with a file
    if "minimum" in metadata:
        spelling["min"] = metadata["minimum"]
    if "maximum" in metadata:
        spelling["max"] = metadata["maximum"]
    annotation = Annotated[kind, typer.Option(flag, **spelling)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def option_values(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a command's arguments stand for; an option that was left out keeps the field's default.

    Args:
        kind: the dataclass.
        given: what Typer passed, by the names of :func:`option_parameters`.

    Raises:
        UsageError: a time or an ``ID=FILE`` cannot be read.
    """
    from talkswap.media.index import parse_time

    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in option_fields(kind):
        value, inner = given[field.name], _without_none(hints[field.name])
        if value is None:
            if field.default is MISSING:
                values[field.name] = None
        elif rest := field.metadata.get("rest"):
            values[field.name], values[rest] = value[0], tuple(value[1:])
        elif inner == PAIRS:
            values[field.name] = _pairs(value, flag_of(field), field.metadata["metavar"])
        elif inner is Fraction:
            values[field.name] = parse_time(value, flag_of(field))
        else:
            values[field.name] = value
    return values


def _pairs(texts: list[str], flag: str, metavar: str) -> tuple[tuple[str, Path], ...]:
    """People and files of a repeatable ``ID=FILE``."""
    pairs = [text.partition("=") for text in texts]
    for who, _, file in pairs:
        if not who or not file:
            raise UsageError(f"{flag} takes {metavar}", f"for example {flag} 0={metavar.partition('=')[2].lower()}")
    return tuple((who, Path(file)) for who, _, file in pairs)


def _without_none(hint: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        inner = [part for part in get_args(hint) if part is not NoneType]
        return inner[0] if len(inner) == 1 else hint
    return hint
