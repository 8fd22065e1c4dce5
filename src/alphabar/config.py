"""Typed configuration: plain dictionaries (TOML, JSON) to frozen dataclasses and back, strictly."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from alphabar.errors import AlphabarError, nearest

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from plain values; every key must be known and every value of the field's type.

    Args:
        cls: a dataclass whose fields are int, float, str, bool, Literal, tuples of these, None unions, unions of one
            and a tuple (`int | tuple[int, ...]`) or dataclasses.
        values: as read from TOML or JSON; a list fits a tuple, a whole number fits a float.
        where: names the place in errors, such as the file.

    Raises:
        AlphabarError: naming the key, what it should be and, for an unknown key, the nearest known one.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise AlphabarError(f"{_place(where, key)}: unknown key{nearest(key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise AlphabarError(f"{_place(where, name)}: this key is required")
    made = {key: _convert(hints[key], value, _place(where, key)) for key, value in values.items()}
    try:
        return cls(**made)
    except AlphabarError as error:
        raise AlphabarError(_place(where, str(error))) from error


def read(values: Mapping[str, Any], key: str, kind: type[T], where: str) -> T:
    """One required value of a table: int, float, str, bool or dict.

    Raises:
        AlphabarError: naming the key that is missing or of another type.
    """
    if key not in values:
        raise AlphabarError(f"{_place(where, key)}: this key is required")
    return typing.cast(T, _convert(kind, values[key], _place(where, key)))


def _place(where: str, key: str) -> str:
    """Where a key stands: `my.toml: [train] lr`, or the key alone."""
    separator = " " if where.endswith("]") else ": "
    return f"{where}{separator}{key}" if where else key


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        lists = [a for a in kinds if typing.get_origin(a) is tuple] if isinstance(value, list | tuple) else []
        return _convert((lists or kinds)[0], value, where)
    if origin is Literal:
        if value not in args:
            hint_text = nearest(str(value), [str(a) for a in args])
            raise AlphabarError(f"{where} cannot be {value!r}{hint_text}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1] is not Ellipsis and len(args) != len(value):
            raise AlphabarError(f"{where} needs {len(args)} values, got {len(value)}")
        return tuple(_convert(args[0], item, where) for item in value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise AlphabarError(f"{where} should be {_describe(hint)}, got {value!r}")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_describe(typing.get_args(hint)[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, "a table")


def check(condition: bool, message: str) -> None:
    """For `__post_init__`: raise one clear line unless the condition holds."""
    if not condition:
        raise AlphabarError(message)
