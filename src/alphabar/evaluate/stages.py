"""The record of a trace, and the stages that sampling and training have in common: each is run once, and measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from alphabar.codec import Codec, LatentCodec
from alphabar.errors import AlphabarError
from alphabar.evaluate.cost import (
    NetworkCost,
    count_autoencoder,
    count_denoiser,
    count_text,
    encoder_parameters,
    peak_bytes,
)
from alphabar.generate import encode_prompts
from alphabar.models import Model
from alphabar.nn import SmallUNet, UNet
from alphabar.rng import Rng
from alphabar.types import Cond

T = TypeVar("T")

Weights: TypeAlias = Literal["none", "frozen", "trained"]
MEMORY = {
    "cpu": "what PyTorch's allocator reports to its profiler",
    "cuda": "the peak of PyTorch's CUDA allocator",
}
"""How the peak memory of a stage is measured: its own tensors at the worst moment, above what was there before."""
PIXELS = "nothing to do: pixels are the space"
SILENT = "nothing to do: this network is told nothing"


@dataclass(frozen=True)
class Values:
    """A tensor in numbers; `count` of them between `low` and `high`."""

    name: str
    shape: tuple[int, ...]
    count: int
    low: float
    high: float
    mean: float
    std: float

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Values:
        """Look at a tensor."""
        numbers = tensor.detach().double()
        spread = float(numbers.std(correction=0))
        low, high = (float(end) for end in numbers.aminmax())
        return cls(name, tuple(tensor.shape), tensor.numel(), low, high, float(numbers.mean()), spread)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of the stage.
        kind: what the drawing shows it as, the same for all denoising steps.
        what: what it does, a sentence.
        same: whether pixel diffusion does the very same.
        why: why, a sentence.
        ins, outs: what goes in and comes out.
        weights: whether it has parameters, and whether they are trained when diffusion is.
        parameters: how many.
        seconds: wall time.
        peak_bytes: its own memory at the worst moment; None where the device does not tell.
        flops: of its matrix products and convolutions, counted.
        idle: there is nothing to do here in this model.
    """

    name: str
    kind: str
    what: str
    same: bool
    why: str
    ins: tuple[Values, ...] = ()
    outs: tuple[Values, ...] = ()
    weights: Weights = "none"
    parameters: int = 0
    seconds: float = 0.0
    peak_bytes: int | None = None
    flops: int = 0
    idle: bool = False


@dataclass(frozen=True)
class Moment:
    """What a sampler holds after a step and what it then believes in, [c, h, w] each; `shown` is that decoded."""

    t: int
    s: int
    x: Tensor
    x0: Tensor
    shown: Tensor | None


@dataclass(frozen=True)
class Trace:
    """The stages in order, and what there is to see of them.

    Attributes:
        title: what was done, in a line.
        settings: with what: prompt, sampler, seed, device and the like.
        stages: in order.
        image: what came out, or in training went in: [C, H, W] in [-1, 1].
        pieces: the prompt as the tokenizer cuts it.
        noise: where sampling starts, [c, h, w].
        moments: some of the denoising steps.
        latent: whether diffusion runs on latents.
    """

    title: str
    settings: dict[str, str | int | float | None]
    stages: tuple[Stage, ...]
    image: Tensor
    pieces: tuple[str, ...] = ()
    noise: Tensor | None = None
    moments: tuple[Moment, ...] = field(default=())
    latent: bool = True

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, ready for JSON."""
        stages = [asdict(stage) for stage in self.stages]
        return {"title": self.title, "settings": self.settings, "pieces": list(self.pieces), "stages": stages}


class Cost(NamedTuple):
    """What a stage took; no bytes where the device does not tell."""

    seconds: float
    peak_bytes: int | None


def measured(fn: Callable[[], T], device: torch.device) -> tuple[T, Cost]:
    """What `fn` gives, with its time and its memory, from a single run."""
    made: list[T] = []
    seconds = 0.0

    def run() -> None:
        nonlocal seconds
        started = time.perf_counter()
        made.append(fn())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started

    if device.type not in MEMORY:
        run()
        return made[0], Cost(seconds, None)
    peak = peak_bytes(run, device)
    return made[0], Cost(seconds, peak)


def plain_stage(name: str, what: str, cost: Cost, ins: tuple[Values, ...], out: Values) -> Stage:
    """A stage of arithmetic, which has no parameters and is the same in any space."""
    why = "Arithmetic that does not ask what the numbers stand for."
    return Stage(name, name, what, True, why, ins, (out,), seconds=cost.seconds, peak_bytes=cost.peak_bytes)


def told(cond: Cond) -> tuple[Values, ...]:
    """What the network is told, as it goes into a stage."""
    return () if cond is None else (Values.of("text", cond["text"]),)


def read_words(model: Model, prompt: str, negative: str | None) -> tuple[Cond, Cond, tuple[str, ...], list[Stage]]:
    """The condition, the null condition and the prompt's pieces, and the stages `tokens` and `embeddings`.

    Without a negative prompt there is no null condition; a model without words gets neither, and idle stages.
    """
    why = "Words are read the same way, whatever is painted from them."
    if model.text is None:
        idle = [
            Stage(name, name, SILENT, True, "Without words, neither has it.", idle=True)
            for name in ("tokens", "embeddings")
        ]
        return None, None, (), idle
    text = model.text
    prompts = [prompt] if negative is None else [prompt, negative]
    tokens, cost = measured(lambda: text.tokenizer(prompts), torch.device("cpu"))
    pieces = text.tokenizer.pieces(prompt)
    said = f"Cut the prompt into {len(pieces)} pieces, between a start and an end token; pad to {tokens.shape[1]}."
    if lost := text.tokenizer.cut(prompt):
        said += f" Too long: {lost!r} is not read."
    cutting = Stage(
        name="tokens",
        kind="tokens",
        what=said if negative is None else f"{said} The negative prompt too.",
        same=True,
        why=why,
        outs=(Values.of("tokens", tokens),),
        seconds=cost.seconds,
        peak_bytes=cost.peak_bytes,
    )

    def encode() -> tuple[Cond, Cond]:
        if negative is None:
            return {"text": text.encode(prompts)}, None
        return encode_prompts(model, [prompt], negative)

    (cond, null), cost = measured(encode, model.device)
    outs = [Values.of(name, one["text"]) for name, one in (("text", cond), ("null", null)) if one is not None]
    reading = Stage(
        name="embeddings",
        kind="embeddings",
        what="Each token becomes a vector that knows the tokens before it; the network reads all of them.",
        same=True,
        why=why,
        ins=(Values.of("tokens", tokens),),
        outs=tuple(outs),
        weights="frozen",
        parameters=count_parameters(text.tower),
        seconds=cost.seconds,
        peak_bytes=cost.peak_bytes,
        flops=len(prompts) * count_text(text.tower.config, tokens.shape[1]).flops,
    )
    return cond, null, tuple(pieces), [cutting, reading]


def encode_images(model: Model, images: Tensor, seed: int) -> tuple[Tensor, Stage]:
    """The x0 of images [N, C, H, W] in [-1, 1], and the stage `encode`."""
    x0, cost = measured(lambda: model.codec.encode(images, Rng(seed, [0], "posterior")), model.device)
    said = "Compress the image; draw from the posterior; shift and scale to unit variance."
    return x0, _bookend("encode", said, model.codec, Values.of("image", images), Values.of("x0", x0), cost)


def decode_latents(model: Model, x: Tensor) -> tuple[Tensor, Stage]:
    """The images of x [N, c, h, w], and the stage `decode`."""
    image, cost = measured(lambda: model.codec.decode(x), model.device)
    said = "Undo scale and shift; paint the pixels from the latents."
    return image, _bookend("decode", said, model.codec, Values.of("x", x), Values.of("image", image), cost)


def _bookend(name: str, what: str, codec: Codec, before: Values, after: Values, cost: Cost) -> Stage:
    """One of the two stages that pixel diffusion does not have."""
    if not isinstance(codec, LatentCodec):
        return Stage(
            name, name, PIXELS, False, "This is all that latent diffusion adds.", (before,), (after,), idle=True
        )
    way = ("encode", "decode").index(name)
    image = (before, after)[way]
    config = codec.autoencoder.config
    return Stage(
        name=name,
        kind=name,
        what=what,
        same=False,
        why="Pixel diffusion has nothing here: its x is the image.",
        ins=(before,),
        outs=(after,),
        weights="frozen",
        parameters=encoder_parameters(codec.autoencoder)[way],
        seconds=cost.seconds,
        peak_bytes=cost.peak_bytes,
        flops=count_autoencoder(config, image.shape[1], image.shape[2])[way].flops,
    )


def find_unet(network: nn.Module) -> UNet | SmallUNet:
    """The U-Net inside of what a model calls, which may be prepared for inference."""
    found = next((part for part in network.modules() if isinstance(part, UNet | SmallUNet)), None)
    if found is None:
        raise AlphabarError(f"a trace knows U-Nets, not a {type(network).__name__}")
    return found


def count_network(model: Model, shape: tuple[int, ...]) -> NetworkCost:
    """One call of a model's network on one x [c, h, w]."""
    length = 77 if model.text is None else model.text.tokenizer.length
    return count_denoiser(find_unet(model.network).config, shape, length)


def count_parameters(network: nn.Module) -> int:
    """How many numbers a network has learned."""
    return sum(parameter.numel() for parameter in network.parameters())
