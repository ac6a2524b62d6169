"""Plans as JSON: one render or many in a file, and what of a plan decides the frames.

A plan file is a JSON object with the fields of :class:`~talkswap.types.RenderPlan`, an array of such objects, or what
``--dry-run`` prints.  Paths in it are relative to the file's own folder.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from talkswap.errors import InputMissingError, UsageError
from talkswap.files import file_sha256, write_atomically
from talkswap.records import RecordError, from_plain, to_plain
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

_NUMBER = re.compile(
    r"[-+]?(\d{1,60}/(?P<below>\d{1,60})|(\d{1,60}(\.\d{0,60})?|\.\d{1,60})([eE](?P<power>[-+]?\d{1,3}))?)"
)

_SHIELD = {0xDC80 + k: 0xF780 + k for k in range(128)}
"""Bytes of names that are no text, where Python puts them and where pydantic lets them pass."""

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
    required = [name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    if missing := [name for name in required if name not in record]:
        raise UsageError(f"{where} lacks {', '.join(missing)}", "write null where there is nothing to name")
    for name, value in record.items():
        if reason := _impossible(name, value):
            raise UsageError(f"{where} has {value!r} as {name}: {reason}", "see `talkswap render --help`")
    shielded = "\\udc" in json.dumps(record)
    try:
        plan = from_plain(RenderPlan, _translate(record, _SHIELD) if shielded else record)
    except RecordError as error:
        name = error.field.partition(".")[0]
        raise UsageError(
            f"{where} has {record.get(name)!r} as {name or 'a field'}: {error.reason}", "see `talkswap render --help`"
        ) from error
    # A plan's paths are relative to its file, those of people's photos among them.
    values = {name: getattr(plan, name) for name in record if name != "options"}
    if shielded:
        values = _translate(values, {there: here for here, there in _SHIELD.items()})
    values = {name: _below(value, folder) for name, value in values.items()}
    for name in NUMBER_OR_PHOTO & values.keys():
        values[name] = _outside(values[name], lambda path: str(folder / path))
    return replace(plan, **values)


def _impossible(name: str, value: Any) -> str:
    """Why no plan can have this value, where a check of its type would not see it; empty where it can."""
    if isinstance(value, list):
        return next(filter(None, (_impossible(name, item) for item in value)), "")
    if isinstance(value, str):
        if "\0" in value:
            return "no file can have this name"
        try:
            os.fsencode(value)
        except UnicodeEncodeError:  # half a character, as JSON can write it
            return "no file can have this name"
    if name in ("start", "end") and isinstance(value, (str, int, float)):
        # Fraction takes every number, also one whose digits no time has: it would work them out, all of them.
        match = _NUMBER.fullmatch(str(value))
        if match is None or abs(int(match["power"] or 0)) > 30 or (match["below"] or "1").strip("0") == "":
            return "a number or a fraction is wanted"
    if isinstance(value, int) and abs(value) > 10**15:
        return "the number is too large"
    return ""


def _translate(value: Any, table: Mapping[int, int]) -> Any:
    """``value`` with every text and path in it translated, character by character."""
    if isinstance(value, dict):
        return {key: _translate(item, table) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_translate(item, table) for item in value)
    return type(value)(str(value).translate(table)) if isinstance(value, (str, Path)) else value


def _below(value: Any, folder: Path) -> Any:
    """``value`` with every path in it below the folder."""
    if isinstance(value, Path):
        return folder / value
    return tuple(_below(item, folder) for item in value) if isinstance(value, tuple) else value


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
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON: {error}", hint) from error
    except OSError as error:
        raise InputMissingError(f"{file} cannot be read ({error.strerror})", "check its rights") from error
    if isinstance(content, dict) and isinstance(content.get("plans"), list):
        content = content["plans"]
    several = isinstance(content, list)
    records = content if several else [content]
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
    ingredients: dict[str, Any] = {}
    for field in fields(plan):
        value = getattr(plan, field.name)
        if field.name == "options":  # with their defaults: naming one changes nothing
            ingredients[field.name] = to_plain(read_options(plan.system, value))
        elif field.name not in NOT_THE_FRAMES:
            if field.name in NUMBER_OR_PHOTO and value is not None:
                value = _outside(value, lambda path: Path(path))
            ingredients[field.name] = _plain(field.name, value, _content)
    return ingredients


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
