"""No command of its own: what several commands do with the name of a model. They open it, and ask what it expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from alphabar.engine import Precision
    from alphabar.generate import Spacing
    from alphabar.models import Model
    from alphabar.stable_diffusion import PipelineConfig
    from alphabar.text import TextEncoder

RANDOM = "random:"
SHAPES = ("sd15", "sd21")
"""Stable Diffusion by name, without weights."""
GUIDANCE = 2.0
GUIDANCE_STABLE_DIFFUSION = 7.5


class Expects(NamedTuple):
    """What a model is sampled with where the user says nothing: timesteps, and the scale of guidance."""

    spacing: Spacing = "trailing"
    offset: int = 0
    guidance: float = GUIDANCE


def open_model(
    path: str,
    size: int | None = None,
    *,
    precision: Precision = "float32",
    prediction: str | None = None,
    tokenizer: Path | None = None,
) -> Model:
    """A denoiser of any kind: a run or model folder, a shipped name, Stable Diffusion's files, random:sd15.

    Args:
        path: which.
        size: height and width of its images; None keeps its own.
        precision, prediction, tokenizer: of Stable Diffusion's files, see `stable_diffusion.load`.
    """
    from dataclasses import replace

    from alphabar import models
    from alphabar.config import check
    from alphabar.stable_diffusion import is_stable_diffusion, load, random_pipeline

    check(size is None or size > 0, f"--size must be positive, not {size}")
    if path.startswith(RANDOM):
        model = random_pipeline(known_config(path.removeprefix(RANDOM)), 0)
    elif is_stable_diffusion(path):
        model = load(path, precision=precision, prediction=prediction, tokenizer=tokenizer)
    else:
        model = models.load_model(path)
    return model if size is None else replace(model, size=size)


def known_config(name: str) -> PipelineConfig:
    """One of `SHAPES`."""
    from alphabar.errors import AlphabarError, nearest
    from alphabar.stable_diffusion import sd15, sd21

    if name not in SHAPES:
        raise AlphabarError(f"no Stable Diffusion is called {name!r}{nearest(name, SHAPES)}")
    return sd15() if name == "sd15" else sd21()


def expected_by(card: Mapping[str, Any]) -> Expects:
    """What a model's card says; a model of ours starts where its noise does, Stable Diffusion where its files say."""
    if "spacing" not in card:
        return Expects()
    return Expects(card["spacing"], card.get("steps_offset", 0), GUIDANCE_STABLE_DIFFUSION)


def tell_cut(text: TextEncoder | None, prompts: Sequence[str]) -> None:
    """Say what of the prompts the text encoder has no room for."""
    import sys

    for prompt in dict.fromkeys(prompts):
        if text is not None and (lost := text.tokenizer.cut(prompt)):
            print(f"alphabar: a prompt is too long by {lost!r}, which is not read", file=sys.stderr)
