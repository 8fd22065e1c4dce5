"""One prompt through a pipeline, and one image through a training step, stage by stage, on the real networks.

What runs is what `generate.sample` and the trainer run; between the stages everything is looked at. Time and memory are
measured, operations and parameters counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from alphabar.codec import LatentCodec
from alphabar.diffusion import Step
from alphabar.errors import AlphabarError
from alphabar.evaluate.cost import count_flops
from alphabar.evaluate.stages import (
    Cost,
    Moment,
    Stage,
    Trace,
    Values,
    count_network,
    count_parameters,
    decode_latents,
    encode_images,
    find_unet,
    measured,
    plain_stage,
    read_words,
    told,
)
from alphabar.generate import Guidance, SamplerConfig, generate
from alphabar.models import Model
from alphabar.nn import build
from alphabar.rng import Rng
from alphabar.types import Cond


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
    cond, null, pieces, stages = read_words(model, prompt or "", negative if guided else None)
    noise, stage = _draw_noise(model, seed)
    stages.append(stage)
    call = count_network(model, tuple(noise.shape[1:]))
    walk = generate(model, [0], sampler, seed=seed, cond=cond, null=null, guidance=guidance if guided else None)
    x, moments, looks = noise, [], _evenly(sampler.steps, 6)
    shows = looks if decoded >= len(looks) else [looks[i] for i in _evenly(len(looks), decoded)]
    for index, (step, cost, rows) in enumerate(_walk(walk, model)):
        stages.append(
            Stage(
                name=f"step {index + 1} of {sampler.steps}",
                kind="step",
                what=_step_said(step, rows, guided),
                same=True,
                why="The sampler never learns what x stands for.",
                ins=(Values.of("x", x), *told(cond)),
                outs=(Values.of("x", step.x), Values.of("estimate of x0", step.estimate.x0)),
                weights="trained",
                parameters=count_parameters(model.network),
                seconds=cost.seconds,
                peak_bytes=cost.peak_bytes,
                flops=rows * call.flops,
            )
        )
        x = step.x
        if index in looks:
            shown = model.codec.decode(step.estimate.x0)[0].clamp(-1, 1).cpu() if index in shows else None
            moments.append(Moment(step.t, step.s, x[0].cpu(), step.estimate.x0[0].cpu(), shown))
    image, stage = decode_latents(model, x)
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
        pieces=pieces,
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
    cond, _, pieces, stages = read_words(model, caption, None)
    x0, stage = encode_images(model, image[None].to(device), seed)
    rng = Rng(seed, [0], "train")
    steps = process.schedule.timesteps
    t, drawn = measured(lambda: rng.integers(steps, device=device), device)
    eps, noised = measured(lambda: rng.normal(*x0.shape[1:], device=device), device)
    stages += [
        stage,
        plain_stage("draw t", f"A timestep from 0 to {steps - 1}, each as likely.", drawn, (), Values.of("t", t)),
        plain_stage("draw noise", "Standard normal numbers, shaped like x0.", noised, (), Values.of("eps", eps)),
    ]
    x, cost = measured(lambda: process.noise(x0, eps, t), device)
    said = "Teleport to t: the square root of alpha-bar of x0, and of what is left of eps."
    stages.append(
        plain_stage("noise it", said, cost, (Values.of("x0", x0), Values.of("eps", eps)), Values.of("x_t", x))
    )
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    output, asked = measured(lambda: network(x, t, cond), device)
    # The loss of the answer at hand: a network with dropout, asked again, would give another.
    error, compared = measured(lambda: process.loss(lambda *_: output, x0, t, eps).mean(), device)

    def learn() -> None:
        error.backward()
        optimizer.step()

    _, learned = measured(learn, device)
    answer, loss, parameters = Values.of("answer", output), Values.of("loss", error), count_parameters(network)
    gradients = _together("gradients", (p.grad for p in network.parameters() if p.grad is not None))
    moves = (p.detach() - q for p, q in zip(network.parameters(), before, strict=True))
    change = _together("change of the weights", moves)
    target = process.prediction.target(x0, eps, *process.schedule.gather(t, x0))
    stages += [
        Stage(
            name="ask the network",
            kind="ask",
            what=f"What is the {process.prediction.name} in x_t? What its layers computed is kept for the way back.",
            same=True,
            why="The same network on another shape.",
            ins=(Values.of("x_t", x), *told(cond)),
            outs=(answer,),
            weights="trained",
            parameters=parameters,
            seconds=asked.seconds,
            peak_bytes=asked.peak_bytes,
            flops=count_network(model, tuple(x.shape[1:])).flops,
        ),
        plain_stage(
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
            outs=(gradients, change),
            weights="trained",
            parameters=parameters,
            seconds=learned.seconds,
            peak_bytes=learned.peak_bytes,
            flops=_backward_flops(model, x, cond),
        ),
    ]
    return Trace(
        title="one training step",
        settings={"caption": caption if model.text else None, "seed": seed, "lr": lr, "device": str(device)},
        stages=tuple(stages),
        image=image.cpu(),
        pieces=pieces,
        latent=isinstance(model.codec, LatentCodec),
    )


def _draw_noise(model: Model, seed: int) -> tuple[Tensor, Stage]:
    shape = model.shape(1)[1:]
    noise, cost = measured(lambda: Rng(seed, [0], "initial").normal(*shape, device=model.device), model.device)
    return noise, Stage(
        name="initial noise",
        kind="noise",
        what=f"Draw {noise.numel():,} standard normal numbers from the seed.",
        same=True,
        why="Only the shape differs: that of the image instead of its latents.",
        outs=(Values.of("x", noise),),
        seconds=cost.seconds,
        peak_bytes=cost.peak_bytes,
    )


def _walk(walk: Iterator[Step], model: Model) -> Iterator[tuple[Step, Cost, int]]:
    """Each step of a sampler with its cost, and how many samples went through the network in it."""
    rows = 0

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows += len(given[0])

    with _hooked(model.network.register_forward_pre_hook(count)):
        while True:
            rows = 0
            step, cost = measured(lambda: next(walk, None), model.device)
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


def _together(name: str, tensors: Iterable[Tensor]) -> Values:
    """All the numbers of many tensors as those of one."""
    return Values.of(name, torch.cat([tensor.flatten() for tensor in tensors]))


def _backward_flops(model: Model, x: Tensor, cond: Cond) -> int:
    """Of the way back alone, counted on a network without numbers."""
    config = find_unet(model.network).config
    with torch.device("meta"):
        network, sample, t = build(config), torch.empty(x.shape), torch.empty(len(x), dtype=torch.int64)
    given = None if cond is None else {key: rows.to("meta") for key, rows in cond.items()}
    answer = None

    def forward() -> None:
        nonlocal answer
        with torch.device("meta"):
            answer = network(sample, t, given)

    count_flops(forward)
    assert answer is not None
    return count_flops(answer.sum().backward)
