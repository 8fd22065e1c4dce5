"""Recipes: what to train, on what, how. TOML read into validated dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alphabar import config
from alphabar.config import check
from alphabar.errors import AlphabarError, nearest
from alphabar.models import ProcessConfig
from alphabar.nn import NetworkConfig, config_from_dict, config_to_dict
from alphabar.nn.perceptual import PatchDiscriminatorConfig

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class DataConfig:
    """The pictures.

    Args:
        name: a named set (`alphabar data list`) or a folder of images.
        size: height and width that they are brought to; None keeps a named set's own.
        channels: 1 for greyscale, 3 for colour; None keeps a named set's own.
        root: a folder to look in for a named set first.
        workers: threads that decode ahead, for folders of images.
    """

    name: str = "fashion-mnist"
    size: int | None = None
    channels: int | None = None
    root: str | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        check(self.size is None or self.size > 0, f"size must be positive, got {self.size}")
        check(self.channels in (None, 1, 3), f"channels must be 1 or 3, got {self.channels}")
        check(self.workers >= 0, f"workers cannot be negative, got {self.workers}")


@dataclass(frozen=True)
class TrainConfig:
    """The training loop. It ends at `steps` or after `minutes`, whichever comes first.

    Args:
        steps: optimizer steps.
        minutes: time spent in training steps; previews and checkpoints do not count.
        batch_size: images per step and process.
        accumulate: batches per optimizer step.
        lr: peak learning rate of AdamW.
        lr_schedule: cosine (to zero at the end) or constant, after the warm-up.
        warmup_steps: steps in which the rate rises from zero.
        betas: AdamW's.
        weight_decay: AdamW's.
        clip_norm: gradients are scaled down to this norm.
        ema_decay: of the averaged weights; early on (1 + n) / (10 + n) where that is smaller.
        precision: auto (bf16 where the hardware has it), float32 or bf16.
        compile: torch.compile the network; falls back to eager with one line of warning.
        seed: of everything random.
        log_every: steps between two lines of metrics.
        previews: how many times during training a picture is written.
        checkpoint_seconds: at least this long between two checkpoints; one is always written at the end.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 2e-3
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 50
    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    seed: int = 0
    log_every: int = 50
    previews: int = 5
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        check(self.steps is not None or self.minutes is not None, "give train.steps or train.minutes, or both")
        for name in ("steps", "minutes", "batch_size", "accumulate", "lr", "clip_norm", "log_every"):
            value = getattr(self, name)
            check(value is None or value > 0, f"{name} must be positive, got {value}")
        for name in ("warmup_steps", "weight_decay", "previews", "checkpoint_seconds", "seed"):
            check(getattr(self, name) >= 0, f"{name} cannot be negative, got {getattr(self, name)}")
        check(0 <= self.ema_decay < 1, f"ema_decay must lie in 0..1 (1 excluded), got {self.ema_decay}")
        check(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas must be two numbers in 0..1")


@dataclass(frozen=True)
class LossConfig:
    """The autoencoder's loss, per image: reconstruction + kl_weight * KL, both divided by the number of pixel values.

    The other terms are latent diffusion's (Rombach et al. 2022, appendix G). The adversarial term is scaled so that its
    gradient at the decoder's last layer is `adversarial_weight` times as long as that of the reconstruction.

    Args:
        reconstruction: mse or l1, against images in [-1, 1].
        kl_weight: of the KL divergence to N(0, 1); a plain autoencoder has none.
        l1_weight: of an l1 error that is added to the reconstruction error.
        perceptual: what compares features: "learned" (`nn.perceptual.learned_metric`), or a classifier's run or model
            folder or its name, if it comes with the package; None compares pixels alone.
        perceptual_weight: of that distance, added to the reconstruction error.
        adversarial_weight: of the discriminator's opinion; 0 trains without one.
        adversarial_start: optimizer steps before the discriminator takes part; a blur would teach it nothing.
        adversarial_lr: learning rate of the discriminator's AdamW, constant.
        discriminator: its shape.
    """

    reconstruction: Literal["mse", "l1"] = "mse"
    kl_weight: float = 1e-3
    l1_weight: float = 0.0
    perceptual: str | None = None
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.0
    adversarial_start: int = 0
    adversarial_lr: float = 2e-4
    discriminator: PatchDiscriminatorConfig = field(default_factory=PatchDiscriminatorConfig)

    def __post_init__(self) -> None:
        check(self.adversarial_lr > 0, f"adversarial_lr must be positive, got {self.adversarial_lr}")
        for name in ("kl_weight", "l1_weight", "perceptual_weight", "adversarial_weight", "adversarial_start"):
            check(getattr(self, name) >= 0, f"{name} cannot be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class TextConfig:
    """The words that a denoiser is told: the captions of the data, through a frozen text encoder.

    Args:
        encoder: a CLIP's run or model folder, or the name of one that comes with the package.
        layer: whose output is used, counted from the end: -1 is the last.
        dropout: the share of captions replaced by "" in training, so that guidance has something to move away from
            (arXiv:2207.12598, algorithm 1).
    """

    encoder: str
    layer: int = -1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check(0 <= self.dropout <= 1, f"dropout must lie in 0..1, got {self.dropout}")
        check(self.layer < 0, f"layer is counted from the end, -1 is the last, got {self.layer}")


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        task: reconstruct (an autoencoder), denoise (diffusion), contrast (CLIP) or classify (the judge of the
            evaluation).
        network: the config of a network of `alphabar.nn`, with its `type`.
        codec: for denoise: an autoencoder's run or model folder; None trains on pixels.
        text: for denoise: None trains without words.
    """

    name: str
    task: Literal["reconstruct", "denoise", "contrast", "classify"]
    network: NetworkConfig
    train: TrainConfig
    data: DataConfig = field(default_factory=DataConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    codec: str | None = None
    text: TextConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `recipe_from_dict` reads back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for key, value in plain.items():
            if key == "network":
                plain[key] = config_to_dict(value)
            elif dataclasses.is_dataclass(value):
                plain[key] = config.to_dict(value)
        return plain


def recipe_from_dict(values: Mapping[str, Any], where: str) -> Recipe:
    """Build and validate a recipe; `where` names its file in errors."""
    sections = {
        "train": TrainConfig,
        "data": DataConfig,
        "process": ProcessConfig,
        "loss": LossConfig,
        "text": TextConfig,
    }
    known = {f.name for f in dataclasses.fields(Recipe)}
    for key in values:
        if key not in known:
            raise AlphabarError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    for key in ("name", "task", "network", "train"):
        if key not in values:
            raise AlphabarError(f"{where}: key {key!r} is required")
    made: dict[str, Any] = dict(values)
    for key, cls in sections.items():
        if values.get(key) is not None:
            made[key] = config.from_dict(cls, _table(values, key, where), f"{where}: [{key}]")
    try:
        made["network"] = config_from_dict(_table(values, "network", where))
    except AlphabarError as error:
        raise AlphabarError(f"{where}: [network] {error}") from error
    tasks = ("reconstruct", "denoise", "contrast", "classify")
    if values["task"] not in tasks:
        raise AlphabarError(f"{where}: task cannot be {values['task']!r}{nearest(str(values['task']), tasks)}")
    for key in ("name", "codec"):
        if not isinstance(values.get(key, ""), str | None):
            raise AlphabarError(f"{where}: {key} should be text, got {values[key]!r}")
    return Recipe(**made)


def with_defaults(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Plain settings that an older alphabar wrote, with what recipes have learned since at its default."""
    made = dict(settings)
    for key, cls in {"process": ProcessConfig, "loss": LossConfig}.items():
        if key in made:
            made[key] = config.to_dict(config.from_dict(cls, made[key], f"{where}: [{key}]"))
    if "network" in made:
        made["network"] = config_to_dict(config_from_dict(made["network"]))
    return made


def _table(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    if not isinstance(values[key], Mapping):
        raise AlphabarError(f"{where}: [{key}] should be a table, got {values[key]!r}")
    return values[key]  # type: ignore[no-any-return]


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(p.stem for p in RECIPES.glob("*.toml"))


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or path, with `section.key=value` overrides applied.

    Raises:
        AlphabarError: no such recipe, broken TOML, or the first wrong key, type or value.
    """
    path = Path(name) if str(name).endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        if path == Path(name):
            raise AlphabarError(f"no recipe file {str(path)!r}")
        raise AlphabarError(f"no recipe {str(name)!r}{nearest(str(name), recipe_names())}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AlphabarError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(values, override)
    return recipe_from_dict(values, str(name))


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise AlphabarError(f"{override!r} is not an override; write key=value, such as train.lr=1e-3")
    *path, last = key.split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise AlphabarError(f"{override!r}: {part!r} is a value, not a section")
    table[last] = _parse(text)


def _parse(text: str) -> Any:
    """A number, a list, true, false or none; anything else is text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
