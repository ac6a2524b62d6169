"""Frozen dataclasses as JSON, TOML and settings from the command line; pydantic does the checking.

Every record of talkswap (plans, configurations, reports, journals) is a frozen dataclass.  :func:`to_plain` turns one into
JSON's own types and :func:`from_plain` turns it back, strictly: an unknown field, a missing one, or a value of another kind
is an error that names the field.  :func:`with_settings` puts ``{"loop.steps": 500}`` into nested dataclasses.

pydantic is imported inside the functions, so that ``talkswap --help`` does not pay for it.
"""

import dataclasses
import functools
import json
import os
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Record = TypeVar("Record")

LARGEST_FILE = 64 * 2**20  # bytes of a record's file; a larger one is not one of ours


class RecordError(ValueError):
    """A value doesn't fit the dataclass that it was read as.

    Attributes:
        field: dotted name of the field, such as ``loop.steps``; empty where the whole is of another kind.
        reason: what is wrong with it, without the name: ``there is no such field``.
        value: what stood there, None for a missing field.
    """

    def __init__(self, field: str, reason: str, value: Any = None) -> None:
        self.field, self.reason, self.value = field, reason, value
        super().__init__(f"{field}: {reason}" if field else reason)


def to_plain(value: Any) -> Any:
    """A value in JSON's own types: dataclasses become objects, tuples arrays, paths and fractions text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return to_plain(value.tolist())
    return str(value)  # fractions


def from_plain(kind: type[Record], values: Any) -> Record:
    """The record that JSON's own types describe.

    Args:
        kind: a dataclass, or any type that pydantic knows, such as ``list[RenderPlan]``.
        values: as :func:`to_plain` gave them; fields with a default may be left out.

    Raises:
        RecordError: a field is unknown or missing, or a value is of another kind.
    """
    from pydantic import ValidationError

    try:
        # JSON mode is strict about numbers and texts, yet takes an array for a tuple and a text for a path.
        record: Record = _adapter(typing.cast(Any, kind)).validate_json(json.dumps(values), strict=True, extra="forbid")
        return record
    except ValidationError as error:
        raise _record_error(error) from error
    except (TypeError, RecursionError) as error:  # json.dumps: a key or a value that JSON cannot hold
        raise RecordError("", str(error)) from error


def to_json(value: Any, indent: int | None = 2) -> str:
    """A record as JSON text with a line break at its end; text outside ASCII stays readable."""
    text = json.dumps(to_plain(value), indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name with bytes that are no text
        text = json.dumps(to_plain(value), indent=indent)
    return text + "\n"


def from_json(kind: type[Record], text: str | bytes) -> Record:
    """The record of a JSON text.

    Raises:
        RecordError: it is no JSON, or describes no such record.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError("", f"it is not JSON: {error}") from error
    return from_plain(kind, values)


def read_record(kind: type[Record], file: Path) -> Record:
    """The record of a ``.json`` or ``.toml`` file.

    Raises:
        OSError: it cannot be read.
        RecordError: it is too large, neither JSON nor TOML, or describes no such record.
    """
    if file.stat().st_size > LARGEST_FILE:
        raise RecordError("", f"it is larger than {LARGEST_FILE // 2**20} MB")
    content = file.read_bytes()
    if file.suffix != ".toml":
        return from_json(kind, content)
    try:
        values = tomllib.loads(content.decode())
    except ValueError as error:
        raise RecordError("", f"it is not TOML: {error}") from error
    return from_plain(kind, values)


def with_settings(record: Record, settings: Mapping[str, Any]) -> Record:
    """A copy of a dataclass with some fields set.

    Args:
        record: a dataclass whose fields may be dataclasses again.
        settings: dotted names, such as ``loop.steps``, and values in JSON's own types; ``"none"`` or ``""`` stand for
            None where a field allows it.

    Raises:
        RecordError: there is no such field, or the value is of another kind.
    """
    for name, value in settings.items():
        record = _with_setting(record, name.split("."), value, name)
    return record


def _with_setting(record: Any, path: list[str], value: Any, name: str) -> Any:
    fields = {field.name for field in dataclasses.fields(record)}
    if path[0] not in fields:
        raise RecordError(name, f"there is no such setting; settings here are {', '.join(sorted(fields))}", value)
    if len(path) > 1:
        inner = getattr(record, path[0])
        if not dataclasses.is_dataclass(inner):
            raise RecordError(name, f"{path[0]} has no settings of its own", value)
        return dataclasses.replace(record, **{path[0]: _with_setting(inner, path[1:], value, name)})
    kind = typing.get_type_hints(type(record))[path[0]]
    # A command line has only text, and None must be sayable.
    if value in ("none", "") and type(None) in typing.get_args(kind):
        value = None
    try:
        return dataclasses.replace(record, **{path[0]: from_plain(kind, to_plain(value))})
    except RecordError as error:
        inner_name = f"{name}.{error.field}" if error.field else name
        raise RecordError(inner_name, error.reason, error.value if error.field else value) from error


@functools.cache
def _adapter(kind: Any) -> Any:
    # Building one takes milliseconds, and batches read thousands of plans.
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _record_error(error: Any) -> RecordError:
    """pydantic's first complaint; an unknown field goes before a missing one, since it's most often its misspelling."""
    complaints = error.errors(include_url=False)
    unknown = [one for one in complaints if one["type"] in ("unexpected_keyword_argument", "extra_forbidden")]
    first = (unknown or complaints)[0]
    # pydantic names the member of a union by its type as well ("function-after[...]"); only fields and places matter
    name = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier())
    if unknown:
        return RecordError(name, "there is no such field", first["input"])
    if first["type"] in ("missing", "missing_argument"):
        return RecordError(name, "it is missing")
    reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    return RecordError(name, reason, first["input"])
