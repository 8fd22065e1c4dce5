"""`alphabar evaluate`: numbers and pictures of one model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from alphabar.codec import LatentCodec
    from alphabar.data import Dataset
    from alphabar.generate import Guidance
    from alphabar.models import Model
    from alphabar.nn import PerceptualLoss

EPILOG = """\
examples:
  alphabar evaluate runs/fashion-vae          the quality ladder, an interpolation, one latent arithmetic
  alphabar evaluate runs/emoji-vae            the same, and real photographs (of scikit-image and scikit-learn)
  alphabar evaluate runs/fashion-pixel        what a single prediction recovers, the loss by noise level, distances
  alphabar evaluate fashion-latent -n 2000 --out eval
  alphabar evaluate runs/emoji-latent --judge runs/emoji-judge --guidance 1 3 6 3:0.7
                                              are the words in the pictures? Adds words.html; 3:0.7 is rescaled
  alphabar evaluate runs/emoji-judge          what the judge says of real pictures: the ceiling
  alphabar evaluate runs/emoji-clip           how often captions of the test split are found by picture, and back

Writes evaluation.json and pictures into --out (default: the run folder's evaluation/).
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "evaluate", help="measure one model", description="Measure one model.", epilog=EPILOG, formatter_class=form
    )
    parser.add_argument("model", metavar="RUN", help="a run folder, a model folder or the name of a shipped model")
    parser.add_argument("-n", type=int, default=1000, metavar="N", help="images per Fréchet distance (default: 1000)")
    parser.add_argument(
        "--sampler", choices=["ddpm", "ddim", "heun", "dpmpp-2m"], help="default: ddpm; dpmpp-2m for words"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="default: 50; 20 for words")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bf16"], help="of sampling")
    words = parser.add_argument_group("models that draw words")
    words.add_argument(
        "--guidance", nargs="+", default=["1", "2", "3", "6", "3:0.7"], metavar="W[:R]", help="scales, with rescale R"
    )
    words.add_argument("--captions", type=int, default=60, metavar="N", help="samples per group (default: 60)")
    words.add_argument("--judge", default="emoji-judge", metavar="RUN", help="reads the samples (default: emoji-judge)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/evaluation, or evaluation/NAME")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `evaluate`; returns the exit status."""
    import json

    from alphabar import engine
    from alphabar.data import open_dataset
    from alphabar.errors import AlphabarError
    from alphabar.io import write_json
    from alphabar.models import kind_of, read_card, read_image

    if args.n < 2:
        raise AlphabarError(f"-n must be at least 2, got {args.n}")
    engine.tune_allocator()
    kind = kind_of(args.model)
    recipe = read_card(args.model).get("recipe", {})
    if "data" not in recipe:
        raise AlphabarError(f"the card of {args.model} does not say which data it was trained on")
    size, channels = read_image(args.model)
    test = open_dataset(recipe["data"]["name"], "test", size=size, channels=channels)
    out = args.out or (
        Path(args.model) / "evaluation" if Path(args.model).is_dir() else Path("evaluation") / args.model
    )
    measure = {"autoencoder": _autoencoder, "denoiser": _denoiser, "classifier": _classifier, "clip": _clip}[kind]
    numbers = measure(args, test, out)
    write_json(out / "evaluation.json", numbers)
    print(json.dumps(numbers, indent=2))
    print(f"{out}: evaluation.json and {len(list(out.glob('*.png')))} pictures")
    return 0


def _autoencoder(args: argparse.Namespace, test: Dataset, out: Path) -> dict[str, Any]:
    """The quality ladder, an interpolation beside the pixel average, and one latent arithmetic."""
    import torch

    from alphabar.data import to_unit
    from alphabar.evaluate import arithmetic, interpolate, quality_ladder
    from alphabar.models import load_autoencoder
    from alphabar.nn import ConvAutoencoder
    from alphabar.report.grid import image_grid, save_png
    from alphabar.report.measure import find_judge

    codec = load_autoencoder(args.model)
    count = min(args.n, len(test))
    images = to_unit(test.rows(range(count)))
    ladder = quality_ladder(codec, images, args.seed)
    rungs = (ladder.originals, ladder.reconstructions, ladder.samples)
    save_png(image_grid(torch.cat([rung[:12] for rung in rungs]), columns=12, scale=2), out / "ladder.png")
    pair = _two_of_different_class(test)
    walk = interpolate(codec, images[pair[0]][None], images[pair[1]][None])
    save_png(image_grid(torch.cat([walk.latent, walk.pixel]).flatten(1, 2), 8, scale=2), out / "interpolation.png")
    numbers: dict[str, Any] = {"kind": "autoencoder", "n": count, "psnr_db": ladder.psnr}
    metric = _metric()
    numbers |= _perceptual(metric, ladder.reconstructions, ladder.originals)
    if test.channels == 3 and isinstance(codec.autoencoder, ConvAutoencoder):
        numbers |= _photographs(codec, metric, args.seed, out)
    if test.class_names is not None and "Pullover" in test.class_names:
        labels = test.labels
        assert labels is not None
        names = list(test.class_names)
        shirt, pullover = names.index("T-shirt/top"), names.index("Pullover")
        sleeves = arithmetic(codec, images, labels[:count], start=shirt, plus=pullover, minus=shirt)
        rows = torch.cat([sleeves.start, sleeves.latent, sleeves.pixel])
        save_png(image_grid(rows, columns=len(sleeves.start), scale=2), out / "arithmetic.png")
    judge = find_judge(test.name, test.size)
    if judge is not None:
        for name, rung in (("reconstructions", ladder.reconstructions), ("latent_samples", ladder.samples)):
            numbers[f"frechet_{name}"] = judge.score(rung.clamp(-1, 1)).frechet
        numbers["frechet_floor"] = judge.floor(count).frechet
    return numbers


def _metric() -> PerceptualLoss | None:
    """The learned distance, where it is installed."""
    from alphabar.errors import AlphabarError
    from alphabar.nn import learned_metric

    try:
        return learned_metric()
    except AlphabarError:
        return None


def _perceptual(metric: PerceptualLoss | None, reconstructions: Tensor, originals: Tensor) -> dict[str, float]:
    """The mean distance, where there is a metric and the images are large enough for it."""
    import torch

    from alphabar.errors import AlphabarError

    if metric is None:
        return {}
    pairs = zip(reconstructions.split(64), originals.split(64), strict=True)
    try:
        with torch.no_grad():
            distances = [metric(a.clamp(-1, 1), b) for a, b in pairs]
    except AlphabarError:
        return {}
    return {"perceptual": float(torch.cat(distances).mean())}


def _photographs(codec: LatentCodec, metric: PerceptualLoss | None, seed: int, out: Path) -> dict[str, Any]:
    """What becomes of photographs, where some are installed; the sheet shows them, the result and the difference x4."""
    import torch

    from alphabar.evaluate import rebuild_photographs
    from alphabar.report.grid import image_grid, save_png

    rebuilt = rebuild_photographs(codec, metric, seed=seed)
    if not rebuilt:
        return {}
    rows = [picture for one in rebuilt for picture in (one.original, one.reconstruction, one.difference)]
    save_png(image_grid(torch.stack(rows), columns=3), out / "photographs.png")
    return {
        "photographs": {
            one.name: {"psnr_db": one.psnr, **({} if one.perceptual is None else {"perceptual": one.perceptual})}
            for one in rebuilt
        }
    }


def _two_of_different_class(test: Dataset) -> tuple[int, int]:
    """The first image and the first one that is something else."""
    if test.labels is None:
        return 0, len(test) - 1
    other = (test.labels != test.labels[0]).nonzero().flatten()
    return 0, int(other[0]) if len(other) else len(test) - 1


def _denoiser(args: argparse.Namespace, test: Dataset, out: Path) -> dict[str, Any]:
    """What a single prediction recovers at several noise levels, the loss by quartile of t, and distances."""
    import torch
    from tqdm import tqdm

    from alphabar import engine
    from alphabar.data import to_unit
    from alphabar.evaluate import loss_by_timestep, single_prediction
    from alphabar.generate import SamplerConfig, sample
    from alphabar.models import load_model
    from alphabar.report.grid import image_grid, save_png
    from alphabar.report.measure import find_judge
    from alphabar.rng import Rng

    device = engine.choose_device()
    model = load_model(args.model).to(device)
    if model.text is not None:
        return _words(args, model, test, out)
    args.sampler, args.steps = args.sampler or "ddpm", args.steps or 50
    fast = model.prepared(engine.choose_precision(args.precision, device))
    count = min(512, len(test))
    images = to_unit(test.rows(range(count))).to(device)
    x0 = model.codec.encode(images, Rng(args.seed, range(count), "posterior"))
    last = model.process.schedule.timesteps - 1
    moments = [round(last * share) for share in (0.05, 0.25, 0.5, 0.75, 1.0)]
    single = single_prediction(model.denoiser(), model.process, x0[:8], moments, args.seed)
    rows = [images[:8].cpu()]
    for x_t, guess in zip(single.x_t, single.x0, strict=True):
        rows += [model.codec.decode(x).clamp(-1, 1).cpu() for x in (x_t, guess)]
    save_png(image_grid(torch.cat(rows), columns=8, scale=2), out / "single-prediction.png")
    levels = loss_by_timestep(model.process, model.network, x0, 4, args.seed)
    numbers: dict[str, Any] = {
        "kind": "denoiser",
        "single_prediction_mse": {str(t): float(mse) for t, mse in zip(moments, single.mse, strict=True)},
        "loss_by_quartile_of_t": [{"t": [level.first, level.last], "loss": level.mean} for level in levels],
    }
    with tqdm(total=-(-args.n // 64) * args.steps, unit="step", desc="sample", disable=None) as bar:
        sampler = SamplerConfig(args.sampler, args.steps)
        drawn = sample(fast, args.n, sampler, seed=args.seed, on_step=bar.update)
    save_png(image_grid(drawn[:64], columns=8, scale=2), out / "samples.png")
    judge = find_judge(test.name, test.size)
    if judge is not None:
        score = judge.score(drawn)
        numbers |= {
            "sampler": f"{args.sampler}-{args.steps}",
            "n": score.n,
            "frechet": score.frechet,
            "frechet_floor": score.floor_frechet,
            "kernel": score.kernel,
            "kernel_error": score.kernel_error,
            "kernel_floor": score.floor_kernel,
            "classes": dict(zip(test.class_names or (), score.classes.counts, strict=False)),
        }
    return numbers


def _words(args: argparse.Namespace, model: Model, test: Dataset, out: Path) -> dict[str, Any]:
    """How often samples show what they were asked to show, at several guidance scales, beside the ceiling."""
    from tqdm import tqdm

    from alphabar import engine
    from alphabar.data import open_dataset
    from alphabar.evaluate.words import judge_words, load_word_judge
    from alphabar.generate import SamplerConfig
    from alphabar.io import write_json, write_text
    from alphabar.report.grid import save_png
    from alphabar.report.words import best, neighbour_sheet, prompt_sheet, words_page

    guidances = [_guidance(text) for text in args.guidance]
    sampler = SamplerConfig(args.sampler or "dpmpp-2m", args.steps or 20)
    judge = load_word_judge(args.judge, open_dataset(test.name, "train", size=test.size, channels=test.channels), test)
    fast = model.prepared(engine.choose_precision(args.precision, model.device))
    batches = -(-len(judge.choose(args.captions, args.seed)) // 64)
    with tqdm(total=batches * sampler.steps * len(guidances), unit="step", desc="sample", disable=None) as bar:
        found, limit = judge_words(fast, judge, guidances, args.captions, sampler, seed=args.seed, on_step=bar.update)
    samples = found[-len(guidances) :]
    sheets = {"prompts": prompt_sheet(judge, samples), "neighbours": neighbour_sheet(judge, best(samples))}
    words = {
        "model": args.model,
        "judge": args.judge,
        "sampler": f"{sampler.name}-{sampler.steps}",
        "seed": args.seed,
        "copy_distance": limit,
        "best": best(samples).source,
        "judged": [{"source": one.source, "scores": [score.to_dict() for score in one.scores]} for one in found],
    }
    for name, image in sheets.items():
        save_png(image, out / f"words-{name}.png")
    write_json(out / "words.json", words)
    write_text(out / "words.html", words_page(words, sheets))
    return {"kind": "denoiser", "best": best(samples).source, "right": _values(words)}


def _guidance(text: str) -> Guidance:
    """`3` or `3:0.7`, the scale and the rescale."""
    from alphabar.errors import AlphabarError
    from alphabar.generate import Guidance

    scale, _, rescale = text.partition(":")
    try:
        return Guidance(float(scale), float(rescale or 0))
    except ValueError as error:
        raise AlphabarError(f"--guidance {text}: write a scale, such as 3, or with a rescale, such as 3:0.7") from error


def _values(words: dict[str, Any]) -> dict[str, Any]:
    """The share of everything right, by source and group."""
    return {
        one["source"]: {score["group"]: score["everything"]["value"] for score in one["scores"]}
        for one in words["judged"]
    }


def _classifier(args: argparse.Namespace, test: Dataset, out: Path) -> dict[str, Any]:
    """Accuracy on the test set; of a judge of words, on each part of the captions of both splits."""
    from alphabar.data import open_dataset
    from alphabar.data.parts import Parted
    from alphabar.evaluate import accuracy
    from alphabar.evaluate.words import ceiling, load_word_judge
    from alphabar.models import load_classifier

    out.mkdir(parents=True, exist_ok=True)
    if isinstance(test, Parted):
        train = open_dataset(test.name, "train", size=test.size, channels=test.channels)
        found = ceiling(load_word_judge(args.model, train, test))
        return {"kind": "classifier", **{one.source: [score.to_dict() for score in one.scores] for one in found}}
    return {"kind": "classifier", "test_accuracy": accuracy(load_classifier(args.model), test), "n": len(test)}


def _clip(args: argparse.Namespace, test: Dataset, out: Path) -> dict[str, Any]:
    """How often a caption of the test split is found by its picture, and a picture by its caption."""
    from alphabar.evaluate.words import caption_retrieval
    from alphabar.models import load_clip

    out.mkdir(parents=True, exist_ok=True)
    return {"kind": "clip", "n": len(test), **caption_retrieval(*load_clip(args.model), test)._asdict()}
