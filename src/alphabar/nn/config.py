"""What the configs of all networks share: a name, checked values, a way to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from alphabar import config
from alphabar.errors import AlphabarError


@dataclass(frozen=True)
class NetworkConfig:
    """Base of the shapes of networks: frozen, plain values only, every field with a default.

    Attributes:
        type_name: what a model folder calls this kind of network.
    """

    type_name: ClassVar[str]

    def at_least(self, least: int, *names: str) -> None:
        """Raise an `AlphabarError` unless each named field, or each number in it, is at least `least` (or None)."""
        for name in names:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and number < least:
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
        return config.from_dict(cls, values)
