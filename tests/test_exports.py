"""What each package offers is written down, is there, and is all that is offered."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

import pytest

PACKAGES = ("diffusion", "nn", "data", "train", "evaluate")


def load(name: str) -> ModuleType:
    return importlib.import_module(f"alphabar.{name}")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_exists_and_is_public(name: str) -> None:
    package = load(name)
    assert len(set(package.__all__)) == len(package.__all__)
    for export in package.__all__:
        assert not export.startswith("_")
        assert hasattr(package, export), export


@pytest.mark.parametrize("name", PACKAGES)
def test_nothing_else_is_offered(name: str) -> None:
    package = load(name)
    public = {
        key for key, value in vars(package).items() if not key.startswith("_") and not inspect.ismodule(value)
    } - {"annotations"}
    assert public == set(package.__all__)


@pytest.mark.parametrize("name", PACKAGES)
def test_classes_and_functions_say_what_they_are(name: str) -> None:
    package = load(name)
    for export in package.__all__:
        value = getattr(package, export)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{export} has no docstring"
