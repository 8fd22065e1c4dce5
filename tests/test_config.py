"""Typed configuration and recipes: what is read is what was meant, or one line says why not."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import tiny
from alphabar.config import check, from_dict, to_dict
from alphabar.errors import AlphabarError, nearest
from alphabar.nn import SmallUNetConfig, config_from_dict, config_to_dict
from alphabar.train import load_recipe, recipe_from_dict, recipe_names


@dataclass(frozen=True)
class Inner:
    """A section."""

    size: int = 3

    def __post_init__(self) -> None:
        check(self.size > 0, f"size must be positive, got {self.size}")


@dataclass(frozen=True)
class Outer:
    """Every kind of field."""

    count: int
    rate: float = 0.5
    name: str = "x"
    on: bool = False
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = ()
    maybe: int | None = None
    each: int | tuple[int, ...] = 1
    inner: Inner = field(default_factory=Inner)


def test_plain_values_become_typed_ones() -> None:
    values = {"count": 1, "rate": 2, "pair": [3, 4], "many": [1, 2.5], "maybe": None, "inner": {"size": 7}, "kind": "b"}
    made = from_dict(Outer, values)
    assert made == Outer(1, 2.0, pair=(3, 4), many=(1.0, 2.5), inner=Inner(7), kind="b")
    assert isinstance(made.rate, float)
    assert from_dict(Outer, json.loads(json.dumps(to_dict(made)))) == made
    assert from_dict(Outer, {"count": 1, "maybe": 5}).maybe == 5
    assert from_dict(Outer, {"count": 1, "each": 5}).each == 5
    assert from_dict(Outer, {"count": 1, "each": [5, 6]}).each == (5, 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 1, "rat": 2}, "file: rat: unknown key; did you mean 'rate'?"),
        ({}, "file: count: this key is required"),
        ({"count": "1"}, "file: count should be a whole number, got '1'"),
        ({"count": 1.0}, "file: count should be a whole number, got 1.0"),
        ({"count": True}, "file: count should be a whole number, got True"),
        ({"count": 1, "rate": True}, "file: rate should be a number, got True"),
        ({"count": 1, "name": 5}, "file: name should be text, got 5"),
        ({"count": 1, "on": 1}, "file: on should be true or false, got 1"),
        ({"count": 1, "kind": "c"}, "file: kind cannot be 'c'; known: a, b"),
        ({"count": 1, "pair": [1]}, "file: pair needs 2 values, got 1"),
        ({"count": 1, "pair": [1, "2"]}, "file: pair should be a whole number, got '2'"),
        ({"count": 1, "many": 3}, "file: many should be a list, each a number, got 3"),
        ({"count": 1, "maybe": "3"}, "file: maybe should be a whole number, got '3'"),
        ({"count": 1, "each": "3"}, "file: each should be a whole number, got '3'"),
        ({"count": 1, "each": None}, "file: each should be a whole number, got None"),
        ({"count": 1, "each": [3, 1.5]}, "file: each should be a whole number, got 1.5"),
        ({"count": 1, "inner": 3}, "file: inner should be a table, got 3"),
        ({"count": 1, "inner": {"sizes": 3}}, "file: inner: sizes: unknown key; did you mean 'size'?"),
        ({"count": 1, "inner": {"size": 0}}, "file: inner: size must be positive, got 0"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(AlphabarError) as error:
        from_dict(Outer, values, "file")
    assert str(error.value) == message


def test_nearest() -> None:
    assert nearest("cosin", ["cosine", "linear"]) == "; did you mean 'cosine'?"
    assert nearest("zzz", ["cosine", "linear"]) == "; known: cosine, linear"


@pytest.mark.parametrize("name", recipe_names())
def test_the_packages_recipes_are_valid_and_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict())), "again") == recipe
    assert config_from_dict(config_to_dict(recipe.network)) == recipe.network


def test_overrides() -> None:
    recipe = load_recipe(
        "fashion-pixel",
        [
            "train.steps=7",
            "train.minutes=none",
            "train.lr=1e-3",
            "train.compile=true",
            "network.channels=[8, 16, 24]",
            "data.name=digits",
            "process.schedule=linear",
            "codec=runs/a=b",
        ],
    )
    assert (recipe.train.steps, recipe.train.minutes, recipe.train.lr, recipe.train.compile) == (7, None, 1e-3, True)
    assert isinstance(recipe.network, SmallUNetConfig)
    assert recipe.network.channels == (8, 16, 24)
    assert (recipe.data.name, recipe.process.schedule, recipe.codec) == ("digits", "linear", "runs/a=b")


def test_a_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ntask = "denoise"\n[network]\ntype = "small-unet"\n[train]\nsteps = 3\n')
    recipe = load_recipe(path, ["loss.kl_weight=0.5"])
    assert (recipe.name, recipe.train.steps, recipe.codec, recipe.loss.kl_weight) == ("mine", 3, None, 0.5)
    assert recipe.data == dataclasses.replace(recipe.data, name="fashion-mnist")


def test_the_tests_own_recipe() -> None:
    values = tiny.recipe_values(train={"steps": 9}, network={"type": "classifier"})
    assert values["train"]["steps"] == 9
    assert values["train"]["batch_size"] == 16
    assert values["network"] == {"type": "classifier"}
    assert tiny.recipe().train.precision == "float32"
