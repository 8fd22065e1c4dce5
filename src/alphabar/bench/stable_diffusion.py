"""Stable Diffusion 1.5 at its full size beside diffusers: a guided step, a decode, their memory.

The weights are random: what a network computes does not change its time. diffusers' networks get the same ones through
`stable_diffusion.keys`, so that the error of every form against diffusers' float32 is measured too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from alphabar import engine
from alphabar.bench.measure import relative_error
from alphabar.bench.memory import transient
from alphabar.bench.subjects import Facts, Subject
from alphabar.bench.workers import Worker
from alphabar.codec import LatentCodec
from alphabar.errors import AlphabarError
from alphabar.stable_diffusion import PipelineConfig, random_pipeline, sd15
from alphabar.stable_diffusion.keys import write_tensors
from alphabar.stable_diffusion.pipeline import group_count, stage_table
from alphabar.stable_diffusion.settings import unet_to, vae_to

Part: TypeAlias = Literal["unet", "decode"]

FULL = sd15()
QUICK = replace(
    FULL,
    unet=replace(FULL.unet, channels=(128, 128), blocks=1, attention=(0,), num_heads=2, emb_dim=512, context_dim=16),
    vae=replace(FULL.vae, channels=(128, 128, 128, 128), encoder_blocks=1, decoder_blocks=2),
    text=replace(FULL.text, width=16, layers=1, num_heads=2, mlp=32),
    size=64,
)
"""The same in form, for a try of a second."""
REPEATS = 3
"""Rounds: a call of seconds is steadier than one of milliseconds."""


class Form(NamedTuple):
    """One way to run a part."""

    title: str
    library: Literal["alphabar", "diffusers"] = "alphabar"
    precision: engine.Precision = "float32"
    tiled: bool = False


DIFFUSERS = "diffusers"
FORMS: dict[Part, dict[str, Form]] = {
    "unet": {
        DIFFUSERS: Form("diffusers as it comes", "diffusers"),
        "float32": Form("alphabar"),
        "bf16": Form("alphabar in bf16", precision="bf16"),
    },
    "decode": {
        DIFFUSERS: Form("diffusers as it comes", "diffusers"),
        "float32": Form("alphabar"),
        "float32-tiled": Form("alphabar in tiles", tiled=True),
        "bf16": Form("alphabar in bf16", precision="bf16"),
        "bf16-tiled": Form("alphabar in bf16, in tiles", precision="bf16", tiled=True),
    },
}
TITLES: dict[Part, str] = {"unet": "one guided step (a U-Net call of batch 2)", "decode": "one decode"}
GOALS: dict[Part, dict[str, float]] = {"unet": {"float32": 1.3, "bf16": 2.6}, "decode": {"bf16": 2.0}}
"""How many times as fast as diffusers each should be, on a CPU that has bf16."""


def measure_stable_diffusion(
    *,
    config: PipelineConfig = FULL,
    parts: Sequence[Part] = ("unet", "decode"),
    repeats: int | None = None,
    on_turn: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Time and weigh each part in each form, in turns, in processes of their own; see `alphabar.bench` for the method.

    Args:
        config: the shapes: `FULL`, or `QUICK` for a try.
        parts: what to measure, one after the other; the forms of a part are in memory together (9 GB for the U-Net).
        repeats: rounds, at least 1; `REPEATS` where not given.
        on_turn: called after each turn of each process, for a progress bar.

    Returns:
        Plain values, ready for JSON.

    Raises:
        AlphabarError: no diffusers, or a process that failed.
    """
    repeats = REPEATS if repeats is None else repeats
    check(repeats)
    return {
        "bench": "stable-diffusion",
        "size": config.size,
        "repeats": repeats,
        "parts": {part: _measure_part(part, config, repeats, on_turn or (lambda: None)) for part in parts},
        "goals": {part: GOALS[part] for part in parts},
        "versions": engine.versions("diffusers"),
        "hardware": engine.hardware("cpu"),
    }


def check(repeats: int) -> None:
    """Raise an `AlphabarError` where there is nothing to compare, or nothing to compare with."""
    if repeats < 1:
        raise AlphabarError(f"repeats must be at least 1, got {repeats}")
    if importlib.util.find_spec("diffusers") is None:
        raise AlphabarError('the bench compares with diffusers, which is missing: pip install "alphabar[bench]"')


def _measure_part(
    part: Part, config: PipelineConfig, repeats: int, on_turn: Callable[[], object]
) -> dict[str, dict[str, Any]]:
    facts, answers = {}, {}
    seconds: dict[str, list[float]] = {name: [] for name in FORMS[part]}
    with ExitStack() as stack:
        crew = []
        for name in FORMS[part]:  # one is built after the other: building takes more memory than it leaves
            crew.append(Worker(name, partial(prepare, part, name, config), torch.device("cpu")))
            stack.callback(crew[-1].close)
            facts[name], answers[name] = crew[-1].receive()
            on_turn()
        for _ in range(repeats):
            for worker in crew:
                seconds[worker.name].append(worker.time()["call"])
                on_turn()
    peer = seconds[DIFFUSERS]
    rows = {}
    for name, own in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(peer, own, strict=True)]
        rows[name] = {
            "title": FORMS[part][name].title,
            **facts[name]._asdict(),
            "seconds": median(own),
            "seconds_range": [min(own), max(own)],
            "ratio": median(peer) / median(own),
            "ratio_range": [min(ratios), max(ratios)],
            "relative_error": relative_error(answers[name], answers[DIFFUSERS]),
        }
    return rows


def prepare(part: Part, name: str, config: PipelineConfig) -> Subject:
    """Build one form of a part, with a first call in which its memory is measured; for a process of its own."""
    form = FORMS[part][name]
    if form.library == "alphabar":
        engine.tune_allocator()
    build = _unet if part == "unet" else _decoder
    call, parameters = build(form, config)
    with torch.no_grad():
        answer, grown = transient(call)
    facts = Facts(parameters, 0, form.precision, grown)
    return Subject(facts, {"call": (torch.no_grad()(call), 1)}, answer, heavy=True)


Built: TypeAlias = tuple[Callable[[], Tensor], int]
"""What is timed, and how many parameters it has."""


def _unet(form: Form, config: PipelineConfig) -> Built:
    model = random_pipeline(
        replace(config, vae=QUICK.vae, text=replace(QUICK.text, width=config.unet.context_dim or 0))
    )
    network, side = model.network, config.size // 8
    count = _parameters(network)
    x = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(1))
    text = torch.randn(2, 77, config.unet.context_dim or 0, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([500, 500])
    if form.library == "diffusers":
        peer = _peer("unet", network, config)
        return lambda: cast(Tensor, peer(x, t, text).sample), count
    prepared = engine.prepare_inference(network, form.precision, copy=False)
    return lambda: cast(Tensor, prepared(x, t, {"text": text})), count


def _decoder(form: Form, config: PipelineConfig) -> Built:
    codec = random_pipeline(replace(config, unet=QUICK.unet, text=QUICK.text)).codec
    assert isinstance(codec, LatentCodec)
    side = config.size // 8
    z = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1))
    count = _parameters(codec.autoencoder)
    if form.library == "diffusers":
        peer = _peer("vae", codec.autoencoder, config)
        return lambda: cast(Tensor, peer.decode(z / config.scaling_factor).sample), count
    codec = codec.prepared(form.precision)
    own = codec.tiled(tile_of(config.size)) if form.tiled else codec
    return lambda: own.decode(z), count


def tile_of(size: int) -> int:
    """Five eighths: four tiles whose overlap is a quarter of them, 1.6 times the work of the whole."""
    return 5 * size // 64 * 8


def _peer(stage: Literal["unet", "vae"], network: nn.Module, config: PipelineConfig) -> Any:
    """The network of diffusers of the shape and the weights of ours."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    groups = group_count(network)
    kind, settings = (UNet2DConditionModel, unet_to) if stage == "unet" else (AutoencoderKL, vae_to)
    with torch.device("meta"):
        peer = cast(nn.Module, kind.from_config(settings(config, groups)))
    state = network.state_dict()
    peer.load_state_dict(
        write_tensors(stage_table(config, stage, state, "diffusers"), state, torch.float32), assign=True
    )
    return peer.eval().requires_grad_(False)


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
