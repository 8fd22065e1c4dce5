"""One prompt through a pipeline, and one image through a training step, stage by stage, on the real networks.

What runs is what `generate.sample` and the trainer run; between the stages everything is looked at. Time and memory are
measured, operations and parameters counted.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from alphabar.codec import Codec, LatentCodec
from alphabar.diffusion import Step
from alphabar.errors import AlphabarError
from alphabar.evaluate.cost import (
    NetworkCost,
    count_autoencoder,
    count_denoiser,
    count_flops,
    count_text,
    encoder_parameters,
    peak_bytes,
)
from alphabar.generate import Guidance, SamplerConfig, encode_prompts, generate
from alphabar.models import Model
from alphabar.nn import SmallUNet, UNet, build
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


def trace_sampling(
    model: Model,
    prompt: str | None = None,
    negative: str = "",
    guidance: Guidance | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    decoded: int = 6,
) -> Trace:
    """Draw image number 0 of a seed and look at every stage. The image is to the bit that of `generate.sample`.

    Args:
        model: told words or nothing, of latents or of pixels.
        prompt: what to draw; None for "" where the model reads words, and the only choice where it does not.
        negative: what guidance moves away from.
        guidance: how closely the prompt is followed.
        sampler: DDPM in 50 steps where not given.
        seed: of the noise.
        decoded: at how many of the steps the estimate of x0 is decoded for the page; those decodings are not timed.

    Raises:
        AlphabarError: a prompt for a model that reads none.
    """
    sampler = sampler or SamplerConfig()
    if prompt is not None and model.text is None:
        raise AlphabarError("this model was trained without words: it takes no prompt")
    guided = model.text is not None and guidance is not None and guidance.scale != 1
    stages: list[Stage] = []
    cond, null, pieces = _trace_words(model, prompt or "", negative if guided else None, stages)

    shape = model.codec.shape(1, model.size, model.size)
    noise, cost = _measured(lambda: Rng(seed, [0], "initial").normal(*shape[1:], device=model.device), model.device)
    stages.append(
        Stage(
            name="initial noise",
            kind="noise",
            what=f"Draw {noise.numel():,} standard normal numbers from the seed.",
            same=True,
            why="Only the shape differs: that of the image instead of its latents.",
            outs=(Values.of("x", noise),),
            seconds=cost.seconds,
            peak_bytes=cost.peak,
        )
    )
    call = _count_network(model, shape[1:])
    walk = generate(model, [0], sampler, seed=seed, cond=cond, null=null, guidance=guidance if guided else None)
    x, moments, looks = noise, [], _evenly(sampler.steps, 6)
    shows = looks if decoded >= len(looks) else [looks[i] for i in _evenly(len(looks), decoded)]
    for index, (step, cost, rows) in enumerate(_walk(walk, model)):
        told = () if cond is None else (Values.of("text", cond["text"]),)
        stages.append(
            Stage(
                name=f"step {index + 1} of {sampler.steps}",
                kind="step",
                what=_step_said(step, rows, guided),
                same=True,
                why="The sampler never learns what x stands for.",
                ins=(Values.of("x", x), *told),
                outs=(Values.of("x", step.x), Values.of("estimate of x0", step.estimate.x0)),
                weights="trained",
                parameters=_parameters(model.network),
                seconds=cost.seconds,
                peak_bytes=cost.peak,
                flops=rows * call.flops,
            )
        )
        x = step.x
        if index in looks:
            shown = model.codec.decode(step.estimate.x0)[0].clamp(-1, 1).cpu() if index in shows else None
            moments.append(Moment(step.t, step.s, x[0].cpu(), step.estimate.x0[0].cpu(), shown))
    image, stage = _trace_decode(model, x)
    stages.append(stage)
    settings: dict[str, str | int | float | None] = {
        "prompt": prompt,
        "negative": negative if guided else None,
        "guidance": guidance.scale if guided and guidance is not None else None,
        "sampler": sampler.name,
        "steps": sampler.steps,
        "seed": seed,
        "device": str(model.device),
    }
    return Trace(
        title=f"{sampler.name} in {sampler.steps} steps",
        settings=settings,
        stages=tuple(stages),
        image=image[0].clamp(-1, 1).cpu(),
        pieces=tuple(pieces),
        noise=noise[0].cpu(),
        moments=tuple(moments),
        latent=isinstance(model.codec, LatentCodec),
    )


def trace_training(model: Model, image: Tensor, caption: str = "", seed: int = 0, lr: float = 1e-4) -> Trace:
    """One training step on one image, in the seven steps of DDPM's algorithm 1 with bookends, on a copy of the network.

    Args:
        model: its own weights stay as they are.
        image: [C, H, W] in [-1, 1].
        caption: what the image shows, for a model that reads words.
        seed: of the posterior, the timestep and the noise.
        lr: of AdamW, for this one step.
    """
    if model.extra_channels:
        raise AlphabarError("a training step of an inpainting model is not traced: it needs a mask with the image")
    network, device, process = copy.deepcopy(model.network).train().requires_grad_(True), model.device, model.process
    stages: list[Stage] = []
    cond, _, pieces = _trace_words(model, caption, None, stages)
    x0, stage = _trace_encode(model, image[None].to(device), seed)
    rng = Rng(seed, [0], "train")
    steps = process.schedule.timesteps
    t, drawn = _measured(lambda: rng.integers(steps, device=device), device)
    eps, noised = _measured(lambda: rng.normal(*x0.shape[1:], device=device), device)
    stages += [
        stage,
        _plain("draw t", f"A timestep from 0 to {steps - 1}, each as likely.", drawn, (), Values.of("t", t)),
        _plain("draw noise", "Standard normal numbers, shaped like x0.", noised, (), Values.of("eps", eps)),
    ]
    x, cost = _measured(lambda: process.noise(x0, eps, t), device)
    said = "Teleport to t: the square root of alpha-bar of x0, and of what is left of eps."
    stages.append(_plain("noise it", said, cost, (Values.of("x0", x0), Values.of("eps", eps)), Values.of("x_t", x)))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    output, asked = _measured(lambda: network(x, t, cond), device)
    # The loss of the answer at hand: a network with dropout, asked again, would give another.
    error, compared = _measured(lambda: process.loss(lambda *_: output, x0, t, eps).mean(), device)

    def learn() -> None:
        error.backward()
        optimizer.step()

    _, learned = _measured(learn, device)
    told = () if cond is None else (Values.of("text", cond["text"]),)
    answer, loss, parameters = (
        Values.of("answer", output),
        Values.of("loss", error),
        _parameters(network),
    )
    target = process.prediction.target(x0, eps, *process.schedule.gather(t, x0))
    stages += [
        Stage(
            name="ask the network",
            kind="ask",
            what=f"What is the {process.prediction.name} in x_t? What its layers computed is kept for the way back.",
            same=True,
            why="The same network on another shape.",
            ins=(Values.of("x_t", x), *told),
            outs=(answer,),
            weights="trained",
            parameters=parameters,
            seconds=asked.seconds,
            peak_bytes=asked.peak,
            flops=_count_network(model, tuple(x.shape[1:])).flops,
        ),
        _plain(
            "compare",
            "Mean squared error between answer and target, weighted as in training.",
            compared,
            (answer, Values.of(f"target {process.prediction.name}", target)),
            loss,
        ),
        Stage(
            name="step",
            kind="learn",
            what=f"Gradients of all the network's parameters, and one step of AdamW at a rate of {lr:g}.",
            same=True,
            why="Only the network learns; the bookends and the text encoder stay as they were.",
            ins=(loss,),
            outs=(
                Values.of(
                    "gradients", torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
                ),
                Values.of(
                    "change of the weights",
                    torch.cat([(p.detach() - q).flatten() for p, q in zip(network.parameters(), before, strict=True)]),
                ),
            ),
            weights="trained",
            parameters=parameters,
            seconds=learned.seconds,
            peak_bytes=learned.peak,
            flops=_backward_flops(model, x, cond),
        ),
    ]
    return Trace(
        title="one training step",
        settings={"caption": caption if model.text else None, "seed": seed, "lr": lr, "device": str(device)},
        stages=tuple(stages),
        image=image.cpu(),
        pieces=tuple(pieces),
        latent=isinstance(model.codec, LatentCodec),
    )


@dataclass(frozen=True)
class _Cost:
    seconds: float
    peak: int | None


def _measured(fn: Callable[[], T], device: torch.device) -> tuple[T, _Cost]:
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
        return made[0], _Cost(seconds, None)
    peak = peak_bytes(run, device)
    return made[0], _Cost(seconds, peak)


def _plain(name: str, what: str, cost: _Cost, ins: tuple[Values, ...], out: Values) -> Stage:
    """A stage of arithmetic, which has no parameters and is the same in any space."""
    why = "Arithmetic that does not ask what the numbers stand for."
    return Stage(name, name, what, True, why, ins, (out,), seconds=cost.seconds, peak_bytes=cost.peak)


def _trace_words(
    model: Model, prompt: str, negative: str | None, stages: list[Stage]
) -> tuple[Cond, Cond, Sequence[str]]:
    """The stages `tokens` and `embeddings`, and what they give: the condition, the null condition, the pieces."""
    why = "Words are read the same way, whatever is painted from them."
    if model.text is None:
        stages += [
            Stage(name, name, SILENT, True, "Without words, neither has it.", idle=True)
            for name in ("tokens", "embeddings")
        ]
        return None, None, ()
    text = model.text
    prompts = [prompt] if negative is None else [prompt, negative]
    tokens, cost = _measured(lambda: text.tokenizer(prompts), torch.device("cpu"))
    pieces = text.tokenizer.pieces(prompt)
    said = f"Cut the prompt into {len(pieces)} pieces, between a start and an end token; pad to {tokens.shape[1]}."
    if lost := text.tokenizer.cut(prompt):
        said += f" Too long: {lost!r} is not read."
    stages.append(
        Stage(
            name="tokens",
            kind="tokens",
            what=said if negative is None else f"{said} The negative prompt too.",
            same=True,
            why=why,
            outs=(Values.of("tokens", tokens),),
            seconds=cost.seconds,
            peak_bytes=cost.peak,
        )
    )

    def encode() -> tuple[Cond, Cond]:
        if negative is None:
            return {"text": text.encode(prompts)}, None
        return encode_prompts(model, [prompt], negative)

    (cond, null), cost = _measured(encode, model.device)
    outs = [Values.of(name, one["text"]) for name, one in (("text", cond), ("null", null)) if one is not None]
    stages.append(
        Stage(
            name="embeddings",
            kind="embeddings",
            what="Each token becomes a vector that knows the tokens before it; the network reads all of them.",
            same=True,
            why=why,
            ins=(Values.of("tokens", tokens),),
            outs=tuple(outs),
            weights="frozen",
            parameters=_parameters(text.tower),
            seconds=cost.seconds,
            peak_bytes=cost.peak,
            flops=len(prompts) * count_text(text.tower.config, tokens.shape[1]).flops,
        )
    )
    return cond, null, pieces


def _trace_encode(model: Model, images: Tensor, seed: int) -> tuple[Tensor, Stage]:
    x0, cost = _measured(lambda: model.codec.encode(images, Rng(seed, [0], "posterior")), model.device)
    said = "Compress the image; draw from the posterior; shift and scale to unit variance."
    return x0, _bookend("encode", said, model.codec, Values.of("image", images), Values.of("x0", x0), cost)


def _trace_decode(model: Model, x: Tensor) -> tuple[Tensor, Stage]:
    image, cost = _measured(lambda: model.codec.decode(x), model.device)
    said = "Undo scale and shift; paint the pixels from the latents."
    return image, _bookend("decode", said, model.codec, Values.of("x", x), Values.of("image", image), cost)


def _bookend(name: str, what: str, codec: Codec, before: Values, after: Values, cost: _Cost) -> Stage:
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
        peak_bytes=cost.peak,
        flops=count_autoencoder(config, image.shape[1], image.shape[2])[way].flops,
    )


def _walk(walk: Iterator[Step], model: Model) -> Iterator[tuple[Step, _Cost, int]]:
    """Each step of a sampler with its cost, and how many samples went through the network in it."""
    rows = 0

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows += len(given[0])

    with _hooked(model.network.register_forward_pre_hook(count)):
        while True:
            rows = 0
            step, cost = _measured(lambda: next(walk, None), model.device)
            if step is None:
                return
            yield step, cost, rows


@contextmanager
def _hooked(handle: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _step_said(step: Step, rows: int, guided: bool) -> str:
    asked = {1: "once", 2: "twice"}.get(rows, f"{rows} times") + (", with the prompt and without" if guided else "")
    return f"From t = {step.t} to {'the clean end' if step.s < 0 else step.s}; the network is asked {asked}."


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0..count-1, evenly, the last one always."""
    most = min(count, most)
    return sorted({count - 1 - round(k * (count - 1) / max(1, most - 1)) for k in range(most)})


def _shape_of(network: nn.Module) -> UNet | SmallUNet:
    """The U-Net inside of what a model calls, which may be prepared for inference."""
    found = next((part for part in network.modules() if isinstance(part, UNet | SmallUNet)), None)
    if found is None:
        raise AlphabarError(f"a trace knows U-Nets, not a {type(network).__name__}")
    return found


def _count_network(model: Model, shape: tuple[int, ...]) -> NetworkCost:
    length = 77 if model.text is None else model.text.tokenizer.length
    return count_denoiser(_shape_of(model.network).config, shape, length)


def _backward_flops(model: Model, x: Tensor, cond: Cond) -> int:
    """Of the way back alone, counted on a network without numbers."""
    config = _shape_of(model.network).config
    with torch.device("meta"):
        network, sample, t = build(config), torch.empty(x.shape), torch.empty(len(x), dtype=torch.int64)
    told = None if cond is None else {key: rows.to("meta") for key, rows in cond.items()}
    answer = None

    def forward() -> None:
        nonlocal answer
        with torch.device("meta"):
            answer = network(sample, t, told)

    count_flops(forward)
    assert answer is not None
    return count_flops(answer.sum().backward)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
