"""Measure two models on the same road signs, and put what was found where the page expects it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar import engine
from alphabar.codec import Codec, LatentCodec
from alphabar.data import Dataset, open_dataset, to_unit
from alphabar.diffusion import make_schedule, one_shot
from alphabar.errors import AlphabarError
from alphabar.essence import listings
from alphabar.evaluate import Judge, call_cost, latent_share, loss_by_timestep, psnr, scale_by_count
from alphabar.generate import SamplerConfig, generate, sample
from alphabar.models import PRETRAINED, Model, load_classifier, read_card
from alphabar.report.result import (
    Algorithms,
    Cost,
    CostAtSize,
    Curve,
    DemoResult,
    Dissolve,
    Distance,
    LatentChannels,
    LossByNoise,
    OneShot,
    Reconstruction,
    Road,
    Samples,
    Space,
    Trajectory,
)
from alphabar.rng import Rng

DISSOLVE = (0, 250, 500, 750, 999)
MOMENTS = 9
QUARTILES = 4


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        n: images of each Fréchet distance.
        distances: (sampler, steps) whose distance is measured.
        shown: (sampler, steps) of the sample grids, 64 images each.
        precision: of sampling.
        seed: of all noise.
    """

    n: int = 2000
    distances: Sequence[tuple[str, int]] = (("ddpm", 50), ("ddim", 50), ("ddpm", 20))
    shown: Sequence[tuple[str, int]] = (("ddpm", 1000), ("ddpm", 50), ("ddim", 50), ("ddpm", 20), ("ddim", 20))
    precision: engine.Precision = "float32"
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """What is known of how a road was trained: its card, its metrics and its autoencoder's share."""

    train_seconds: float | None = None
    images_seen: int | None = None
    codec_seconds: float = 0.0
    metrics: Sequence[dict[str, float]] = field(default=())


def find_judge(dataset: str, size: int, root: Path | None = None) -> Judge | None:
    """The judge of a named data set, with the classifier that comes with the package; None where there is none."""
    name = {"fashion-mnist": "fashion-classifier", "mnist": "mnist-classifier"}.get(dataset)
    if name is None or size != 28 or not (PRETRAINED / name / "model.json").is_file():
        return None
    train, test = (open_dataset(dataset, split, root=root) for split in ("train", "test"))
    return Judge(load_classifier(name), train, test)


def measure_road(
    space: Space,
    name: str,
    model: Model,
    training: Training,
    *,
    test: Dataset,
    judge: Judge | None,
    plan: Plan,
    say: Callable[[str], object] = lambda message: None,
) -> Road:
    """Everything that the page says about one model.

    Args:
        space: pixel or latent.
        name: for people.
        model: as loaded, not prepared.
        training: how it was trained.
        test: real images that the model was not trained on.
        judge: for the distances; None leaves them out.
        plan: what to measure.
        say: told what is being measured.
    """
    fast = model.prepared(plan.precision)
    say(f"{name}: cost of a call")
    cost = _cost(model, fast, training)
    seconds: dict[tuple[str, int], float] = {}
    shown = []
    for sampler, steps in _possible(plan.shown, model):
        say(f"{name}: 64 samples, {sampler} {steps}")
        images, seconds[sampler, steps] = _timed(fast, sampler, steps, plan.seed)
        shown.append(Samples(sampler, steps, images))
    cost = replace(
        cost,
        seconds_ddpm1000_n64=seconds.get(("ddpm", 1000)),
        seconds_ddim50_n64=seconds.get(("ddim", 50)),
    )
    distances = []
    for sampler, steps in _possible(plan.distances, model):
        if judge is None:
            break
        n = min(plan.n, judge.most)
        say(f"{name}: Fréchet distance of {n} samples, {sampler} {steps}")
        images = sample(fast, n, _sampler(sampler, steps), seed=plan.seed)
        took = seconds.get((sampler, steps))
        distances.append(Distance(sampler, steps, judge.score(images).frechet, took))
    say(f"{name}: loss by noise level, a trajectory")
    return Road(
        space=space,
        name=name,
        cost=cost,
        distances=distances,
        samples=shown,
        curve=_curve(training),
        by_noise=_by_noise(model, test, plan.seed),
        trajectory=_trajectory(fast, plan.seed),
        one_shot=_one_shot(fast, plan.seed),
    )


def _possible(wanted: Sequence[tuple[str, int]], model: Model) -> list[tuple[str, int]]:
    """Those with no more steps than the model has timesteps."""
    return [(sampler, steps) for sampler, steps in wanted if steps <= model.settings.timesteps]


def _sampler(name: str, steps: int) -> SamplerConfig:
    return SamplerConfig(name=name, steps=steps)  # type: ignore[arg-type]


def _timed(model: Model, sampler: str, steps: int, seed: int) -> tuple[Tensor, float]:
    from time import perf_counter

    start = perf_counter()
    images = sample(model, 64, _sampler(sampler, steps), seed=seed)
    return images, perf_counter() - start


def _cost(model: Model, fast: Model, training: Training) -> Cost:
    shape = model.codec.shape(64, model.size, model.size)[1:]
    timed = call_cost(fast.network, shape, device=model.device, batch=64)
    codec = model.codec
    return Cost(
        parameters=sum(p.numel() for p in model.network.parameters()),
        values_per_image=timed.values_per_image,
        flops_per_call=timed.flops_per_image,
        ms_per_call_batch64=timed.ms_per_call,
        peak_bytes_batch64=timed.peak_bytes,
        train_seconds=training.train_seconds,
        images_seen=training.images_seen,
        codec_parameters=_codec_parameters(codec),
        codec_seconds=training.codec_seconds,
    )


def _codec_parameters(codec: Codec) -> int:
    return sum(p.numel() for p in codec.autoencoder.parameters()) if isinstance(codec, LatentCodec) else 0


def _curve(training: Training) -> Curve | None:
    if not training.metrics:
        return None
    seconds = [training.codec_seconds + line["seconds"] for line in training.metrics]
    return Curve(seconds, [line["loss"] for line in training.metrics])


def _by_noise(model: Model, test: Dataset, seed: int) -> LossByNoise:
    count = min(512, len(test))
    images = to_unit(test.rows(range(count))).to(model.device)
    x0 = model.codec.encode(images, Rng(seed, range(count), "posterior"))
    levels = loss_by_timestep(model.process, model.network, x0, QUARTILES, seed)
    return LossByNoise([*(level.first for level in levels), levels[-1].last + 1], [level.mean for level in levels])


def _trajectory(model: Model, seed: int) -> Trajectory:
    """Moments of one sample's way, evenly spread."""
    steps = list(generate(model, [0], SamplerConfig(name="ddim", steps=min(50, model.settings.timesteps)), seed=seed))
    kept = [steps[round(i * (len(steps) - 1) / (MOMENTS - 1))] for i in range(MOMENTS)]
    x = torch.cat([step.x for step in kept]).cpu()
    x0 = torch.cat([model.codec.decode(step.estimate.x0).clamp(-1, 1) for step in kept]).cpu()
    return Trajectory([step.t for step in kept], x, x0, "ddim", len(steps))


def _one_shot(model: Model, seed: int, count: int = 8) -> OneShot:
    schedule = model.process.schedule
    shape = model.codec.shape(count, model.size, model.size)
    x = Rng(seed, range(count), "initial").normal(*shape[1:], device=model.device)
    step = next(one_shot(model.denoiser(), x, schedule))
    one = model.codec.decode(step.x).clamp(-1, 1).cpu()
    steps = min(50, schedule.timesteps)
    many = sample(model, count, SamplerConfig(name="ddim", steps=steps), seed=seed)
    return OneShot(step.t, one, many, steps)


def dissolve(image: Tensor, seed: int = 0) -> list[Dissolve]:
    """One real image [1, C, H, W] in [-1, 1] under the linear and the cosine schedule."""
    eps = Rng(seed, [0], "dissolve").normal(*image.shape[1:])
    strips = []
    for name in ("linear", "cosine"):
        schedule = make_schedule(name)
        pairs = [schedule.coefficients(t) for t in DISSOLVE]
        images = torch.cat([alpha * image + sigma * eps for alpha, sigma in pairs])
        strips.append(Dissolve(name, DISSOLVE, [schedule.alpha_bar(t) for t in DISSOLVE], images))
    return strips


def reconstruction(codec: LatentCodec, test: Dataset, seed: int = 0) -> Reconstruction:
    """Real test images beside what encode and decode leave of them."""
    count = min(512, len(test))
    images = to_unit(test.rows(range(count)))
    decoded = codec.decode(codec.encode(images, Rng(seed, range(count), "posterior"))).clamp(-1, 1)
    return Reconstruction(images[:16], decoded[:16], float(psnr(images, decoded).mean()))


def channels(codec: LatentCodec, test: Dataset) -> LatentChannels:
    """How much of a picture the latent channels are, over test images."""
    images = to_unit(test.rows(range(min(512, len(test)))))
    share = latent_share(codec, images)
    return LatentChannels(
        images=images[:6],
        latents=share.latents[:6],
        r_squared=list(share.r2),
        r_squared_all=share.r2_all,
        psnr_without=list(share.psnr_without),
        psnr=share.psnr,
    )


def at_size(pixel: Model, latent: Model, codec: LatentCodec, size: int = 512) -> CostAtSize:
    """Both networks at another image size, by count. An autoencoder's border, which 28 pixels need, is left out."""
    latent_channels = codec.shape(1, latent.size, latent.size)[1]
    side = size // codec.autoencoder.factor
    p = scale_by_count(pixel.network, [(pixel.channels, size, size)])[0]
    z = scale_by_count(latent.network, [(latent_channels, side, side)])[0]
    return CostAtSize(size, p.values_per_image, z.values_per_image, p.flops_per_image, z.flops_per_image)


def gather(
    pixel: tuple[str, Model, Training],
    latent: tuple[str, Model, Training],
    dataset: str,
    plan: Plan,
    *,
    command: str,
    budget_seconds: float | None = None,
    notes: Sequence[str] = (),
    say: Callable[[str], object] = lambda message: None,
) -> DemoResult:
    """Measure both roads.

    Args:
        pixel, latent: name, model and training of each.
        dataset: the named set or folder that both were trained on.
        plan: what to measure.
        command: that makes this report.
        budget_seconds, notes: see `DemoResult`.
        say: told what is being measured.
    """
    size, depth = pixel[1].size, pixel[1].channels
    if (latent[1].size, latent[1].channels) != (size, depth):
        raise AlphabarError(
            f"the two runs make different images: {size}x{size}x{depth} and "
            f"{latent[1].size}x{latent[1].size}x{latent[1].channels}"
        )
    codec = latent[1].codec
    if not isinstance(codec, LatentCodec):
        raise AlphabarError(f"{latent[0]} runs on pixels; the second run must be one on latents")
    test = open_dataset(dataset, "test", size=size, channels=depth)
    judge = find_judge(dataset, size)
    pixel_road = measure_road("pixel", *pixel, test=test, judge=judge, plan=plan, say=say)
    latent_road = measure_road("latent", *latent, test=test, judge=judge, plan=plan, say=say)
    n = None if judge is None else min(plan.n, judge.most)
    sources = listings()
    return DemoResult(
        dataset=dataset,
        pixel=pixel_road,
        latent=latent_road,
        seed=plan.seed,
        versions=engine.versions("numpy"),
        hardware=_hardware_words(pixel[1].device, plan),
        command=command,
        budget_seconds=budget_seconds,
        floor=None if judge is None or n is None else judge.floor(n).frechet,
        frechet_n=n,
        classifier=_classifier_words(dataset),
        dissolve=dissolve(to_unit(test.rows([0]))),
        reconstruction=reconstruction(codec, test),
        channels=channels(codec, test),
        at_size=at_size(pixel[1], latent[1], codec),
        algorithms=Algorithms(*sources),
        notes=notes,
        not_measured=_not_measured(judge),
    )


def _hardware_words(device: torch.device, plan: Plan) -> str:
    found = engine.hardware(device)
    where = found["cpu"] if device.type == "cpu" else found["device"]
    return f"{where}, {found['threads']} threads, sampling in {plan.precision}"


def _classifier_words(dataset: str) -> str:
    name = {"fashion-mnist": "fashion-classifier", "mnist": "mnist-classifier"}.get(dataset)
    if name is None or not (PRETRAINED / name / "model.json").is_file():
        return "our own classifier"
    accuracy = read_card(name).get("metrics", {}).get("test_accuracy")
    return f"our own classifier ({accuracy:.2%} on the test set)" if accuracy else "our own classifier"


def _not_measured(judge: Judge | None) -> list[str]:
    missing = ["Nothing here was measured on a GPU, or with more than one seed."]
    if judge is None:
        missing.append("No Fréchet distance: there is no classifier of ours for this data.")
    return missing


def training_of(run: Path, model: Model) -> Training:
    """From a run folder, or from the card of a model that comes without its run."""
    from alphabar.train import read_metrics

    card: dict[str, Any] = dict(model.card)
    metrics = read_metrics(run) if (run / "metrics.jsonl").is_file() else ()
    return Training(
        train_seconds=card.get("train_seconds", 0.0) + card.get("codec_seconds", 0.0) if card else None,
        images_seen=card.get("images_seen"),
        codec_seconds=card.get("codec_seconds", 0.0),
        metrics=metrics,
    )
