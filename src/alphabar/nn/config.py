"""What the configs of all networks share: a name, checked values, a way to JSON and back."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from alphabar.errors import AlphabarError, nearest


@dataclass(frozen=True)
class NetworkConfig:
    """Base of the shapes of networks: frozen, plain values only, every field with a default.

    Attributes:
        type_name: what a model folder calls this kind of network.
    """

    type_name: ClassVar[str]

    def at_least(self, least: int, *names: str) -> None:
        """Raise an `AlphabarError` unless each named field, or each number in it, is at least `least`."""
        for name in names:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number < least:
                    raise AlphabarError(f"{self.type_name}.{name} must be at least {least}, not {number}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as {"type": type_name, **fields}, ready for JSON."""
        return {"type": self.type_name, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Fields (without "type") -> a config; lists become tuples, fields left out take their default.

        Raises:
            AlphabarError: naming the key or value that is wrong.
        """
        known = [field.name for field in fields(cls)]
        hints = get_type_hints(cls)
        for key in values:
            if key not in known:
                raise AlphabarError(f"unknown key {key!r} in the config of {cls.type_name!r}{nearest(key, known)}")
        return cls(**{key: _parse(value, hints[key], f"{cls.type_name}.{key}") for key, value in values.items()})


def _parse(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as the hinted type, or an AlphabarError that says what was expected."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = (options[0],) * len(value) if options[-1] is ... else options
        if len(kinds) != len(value):
            raise AlphabarError(f"{where} takes {len(kinds)} values, not {len(value)}")
        return tuple(_parse(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _parse(value, next(option for option in options if option is not type(None)), where)
    if origin is Literal and value in options:
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    expected = hint.__name__ if isinstance(hint, type) and origin is None else str(hint).replace("typing.", "")
    raise AlphabarError(f"{where} must be {expected}, not {value!r}")
