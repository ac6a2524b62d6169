"""Plans as JSON: one render or many in a file, and what of a plan decides the frames.

A plan file is a JSON object with the fields of :class:`~talkswap.types.RenderPlan`, an array of such objects, or what
``--dry-run`` prints.  Paths in it are relative to the file's own folder.
"""

from __future__ import annotations

import json
import os
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from talkswap.errors import InputMissingError, UsageError
from talkswap.files import file_sha256, write_atomically
from talkswap.systems.registry import find_system, read_options
from talkswap.types import DEFAULT_SYSTEM, RenderPlan

NUMBER_OR_PHOTO = {"face", "map", "voices"}
"""Fields of text that may be the path of a picture."""

NOT_THE_FRAMES = {
    "output",
    "overwrite",
    "fresh",
    "preset",
    "weights",
    "device",
    "audio_mix",
    "sign_cert",
    "sign_key",
    "timestamp_url",
}
"""Fields that do not decide the frames, or do so by what is found for them: weights by their hashes, the device."""

_NUMBER = re.compile(r"[-+]?(\d{1,60}/\d{1,60}|(\d{1,60}(\.\d{0,60})?|\.\d{1,60})([eE](?P<power>[-+]?\d{1,3}))?)")

MOST_BYTES = 64 * 2**20  # of a plan file; a longer one is none


def plan_to_json(plan: RenderPlan, folder: Path | None = None) -> dict[str, Any]:
    """A plan in JSON's own types.

    Args:
        plan: the plan.
        folder: paths below it are written relative to it, others whole; all whole without it.
    """

    def place(path: Path) -> str:
        whole = Path(os.path.abspath(path))
        inside = folder is not None and whole.is_relative_to(os.path.abspath(folder))
        return whole.relative_to(os.path.abspath(folder)).as_posix() if inside and folder else str(whole)

    return {field.name: _plain(field.name, getattr(plan, field.name), place) for field in fields(plan)}


def plan_from_json(record: Any, folder: Path, where: str = "the plan") -> RenderPlan:
    """The plan that a JSON object describes.

    Args:
        record: the object; fields with a default may be left out.
        folder: what its relative paths are relative to.
        where: names the object in messages.

    Raises:
        UsageError: it is no object, has unknown fields, lacks some, or one is of the wrong kind; they are named.
    """
    if not isinstance(record, dict):
        raise UsageError(f"{where} is no JSON object", "write one with `talkswap render --save-plan FILE`")
    known = {field.name: field for field in fields(RenderPlan)}
    record = _with_system_options(record, where)
    if unknown := sorted(str(name) for name in record if name not in known):
        raise UsageError(f"{where} has unknown fields: {', '.join(unknown)}", f"known are {', '.join(known)}")
    needed = [name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    if lacking := [name for name in needed if name not in record]:
        raise UsageError(f"{where} lacks {', '.join(lacking)}", "write null where there is nothing to name")
    hints = get_type_hints(RenderPlan)
    values: dict[str, Any] = {}
    for name, value in record.items():
        try:
            values[name] = _typed(hints[name], value, folder)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise UsageError(f"{where} has {value!r} as {name}: {error}", "see `talkswap render --help`") from error
        if name in NUMBER_OR_PHOTO and values[name] is not None:
            values[name] = _outside(values[name], lambda path: str(folder / path))
    return RenderPlan(**values)


def _with_system_options(record: dict[Any, Any], where: str) -> dict[Any, Any]:
    """The record with the system's own options, which may stand among the others, checked and under ``options``."""
    name, options = record.get("system", DEFAULT_SYSTEM), record.get("options", {})
    if not isinstance(name, str) or not isinstance(options, dict):
        return record  # the check of the fields says so
    own = {field.name for field in fields(find_system(name).options)}
    options = {**options, **{key: value for key, value in record.items() if key in own}}
    try:
        read_options(name, options)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from error
    return {**{key: value for key, value in record.items() if key not in own}, "options": options}


def read_plans(file: Path) -> list[RenderPlan]:
    """The plans of a file: one, or several in an array or under ``plans``.

    Raises:
        InputMissingError: there is no such file.
        UsageError: it is no plan; the message says what is wrong where.
    """
    if not file.is_file():
        raise InputMissingError(f"there is no plan {file}", "write one with `talkswap render --save-plan FILE`")
    hint = "write one with `talkswap render --save-plan FILE`"
    if file.stat().st_size > MOST_BYTES:
        raise UsageError(f"{file} is too large for a plan", hint)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON: {error}", hint) from error
    except OSError as error:
        raise InputMissingError(f"{file} cannot be read ({error.strerror})", "check its rights") from error
    if isinstance(found, dict) and isinstance(found.get("plans"), list):
        found = found["plans"]
    several = isinstance(found, list)
    records = found if several else [found]
    if not records:
        raise UsageError(f"{file} has no plan in it", hint)
    plans = []
    for number, record in enumerate(records, 1):
        if isinstance(record, dict) and isinstance(record.get("plan"), dict):
            record = record["plan"]  # as --dry-run prints it, with what it found out
        plans.append(plan_from_json(record, file.parent, f"plan {number} of {file}" if several else f"{file}"))
    return plans


def write_plans(file: Path, plans: list[RenderPlan]) -> None:
    """Write a plan file in one move; paths below its folder become relative to it.

    Raises:
        OutputUnwritableError: the folder is missing or read-only.
    """
    records = [plan_to_json(plan, file.parent) for plan in plans]
    content = records[0] if len(records) == 1 else records
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a name with bytes that are no text
        text = json.dumps(content, indent=2).encode()
    write_atomically(file, text + b"\n")


def deciding(plan: RenderPlan) -> dict[str, Any]:
    """What of a plan decides the frames, in JSON's own types; files stand as the sha256 of their content.

    Two plans with equal answers give equal frames with equal weights on one machine, whatever their files are called.
    """
    found = {}
    for field in fields(plan):
        if field.name not in NOT_THE_FRAMES:
            value = getattr(plan, field.name)
            if field.name in NUMBER_OR_PHOTO and value is not None:
                value = _outside(value, lambda path: Path(path))
            found[field.name] = _plain(field.name, value, _content)
    return found


def _content(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:  # a folder, or a device: its name has to do
        return f"path {os.path.abspath(path)}"


def _outside(value: Any, make: Callable[[str], Any]) -> Any:
    """``value`` with every text in it that is no number replaced by what ``make`` makes of it."""
    if isinstance(value, str):
        return value if value.isdecimal() and not Path(value).exists() else make(value)
    if isinstance(value, (tuple, list)):
        return tuple(_outside(item, make) for item in value)
    return value


def _plain(name: str, value: Any, place: Callable[[Path], str]) -> Any:
    if isinstance(value, Path):
        return place(value)
    if name in NUMBER_OR_PHOTO and isinstance(value, str):
        return _outside(value, lambda path: place(Path(path)))
    if isinstance(value, Mapping):
        return {str(key): _plain(name, item, place) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(name, item, place) for item in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)  # fractions


def _typed(hint: Any, value: Any, folder: Path) -> Any:
    """``value`` as the type that a field is declared with."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _first_that_fits([part for part in inner if part is not type(None)], value, folder)
    if kind is tuple:
        if not isinstance(value, list):
            raise TypeError("an array is wanted")
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_typed(inner[0], item, folder) for item in value)
        if len(value) != len(inner):
            raise ValueError(f"{len(inner)} items are wanted")
        return tuple(_typed(part, item, folder) for part, item in zip(inner, value, strict=True))
    if kind is dict or kind is Mapping:
        if inner[1] is Any and isinstance(value, dict):
            return value  # a system's own options, checked before
        if not isinstance(value, dict):
            raise TypeError("an object is wanted")
        return {_typed(inner[0], key, folder): _typed(inner[1], item, folder) for key, item in value.items()}
    if hint is Path:
        return folder / _nameable(_checked(str, value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, float, bool):
        return _checked(hint, value)
    if hint is Fraction:
        return _fraction(str(value) if type(value) in (int, float) else _checked(str, value))
    return hint(_checked(str, value))


def _first_that_fits(hints: list[Any], value: Any, folder: Path) -> Any:
    for hint in hints[:-1]:
        try:
            return _typed(hint, value, folder)
        except (ArithmeticError, TypeError, ValueError):
            continue
    return _typed(hints[-1], value, folder)


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _fraction(text: str) -> Fraction:
    """A number as Fraction takes it, but for one whose digits no time has: they would be worked out, all of them."""
    found = _NUMBER.fullmatch(text)
    if found is None or abs(int(found["power"] or 0)) > 30:
        raise ValueError("a number or a fraction is wanted")
    return Fraction(text)


def _nameable(name: str) -> str:
    if "\0" in name:
        raise ValueError("no file can have this name")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:  # half a character, as JSON can write it
        raise ValueError("no file can have this name") from error
    return name


def _checked(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{_WORDS[kind]} is wanted")
    return value
