"""JSON as typed dataclasses, and text files that are whole or absent."""

import dataclasses
import json
import os
import types
import typing
from pathlib import Path

from lra_tasks.errors import UserError


class JsonError(UserError):
    """A value of another type than its field, or a field too few or too many. The text begins with the field."""


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. JsonError for what JSON cannot say."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise JsonError(f"no JSON can say this ({error}): allowed: finite numbers, text, lists, dicts, None") from None


def build(kind: typing.Any, value: typing.Any, field: str = "") -> typing.Any:
    """Plain JSON values as the annotated type.

    Knows dataclasses (every field required, none added), `dict[str, X]`, `tuple[X, ...]`, `X | None`, `Any`, str, int,
    float (takes whole numbers too) and bool. JsonError names the field with its dots.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else build(arguments[0], value, field)
    if kind is typing.Any:
        return value
    wanted = dict if dataclasses.is_dataclass(kind) else origin or kind
    if not _fits(value, wanted):
        name = {dict: "an object", tuple: "a list", str: "text"}.get(wanted, wanted.__name__)
        raise JsonError(f"{field or 'the whole'} = {value!r}: must be {name}, not {type(value).__name__}")
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, field)
    if origin is dict:
        return {key: build(arguments[1], item, f"{field}.{key}") for key, item in value.items()}
    if origin is tuple:
        return tuple(build(arguments[0], item, f"{field}[{index}]") for index, item in enumerate(value))
    return float(value) if kind is float else value


def _fits(value: object, wanted: type) -> bool:
    if isinstance(value, bool):  # Python counts True as a whole number
        return wanted is bool
    return isinstance(value, {tuple: (tuple, list), float: (float, int)}.get(wanted, wanted))


def _build_dataclass(kind: typing.Any, value: dict[str, typing.Any], field: str) -> typing.Any:
    annotations = typing.get_type_hints(kind)
    faults = []
    if missing := [key for key in annotations if key not in value]:
        faults.append(f"missing {', '.join(missing)}")
    if extra := [key for key in value if key not in annotations]:
        faults.append(f"unknown {', '.join(extra)}")
    if faults:
        raise JsonError(f"{field or 'fields'}: {'; '.join(faults)}")
    prefix = f"{field}." if field else ""
    return kind(**{key: build(annotation, value[key], prefix + key) for key, annotation in annotations.items()})


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, also when the machine stops. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
