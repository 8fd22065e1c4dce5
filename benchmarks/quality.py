"""The two tables of the README: Fréchet distance against training time, and against sampling steps.

    python benchmarks/quality.py rates                      images per second of each stage, machine to itself
    python benchmarks/quality.py train --roads pixel        train that road for each budget and seed, resumable
    python benchmarks/quality.py train --roads latent       (two of these side by side keep two cores busy)
    python benchmarks/quality.py score                      distances of every run
    python benchmarks/quality.py steps                      distances of the shipped models by sampler and steps
    python benchmarks/quality.py tables                     what was found, as Markdown

A budget of m minutes is the number of training steps that the measured rate makes of it, so that runs side by side, or
on a busy machine, have the length that they would have had alone. Everything lies in runs/quality, the numbers
in benchmarks/quality.json.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from alphabar import engine
from alphabar.data import open_dataset
from alphabar.evaluate import Judge
from alphabar.generate import SamplerConfig, sample
from alphabar.io import read_json, write_json
from alphabar.models import load_classifier, load_model, read_card
from alphabar.train import load_recipe, train
from alphabar.train.roads import VAE_MINUTES, VAE_SHARE

RUNS = Path("runs/quality")
RESULTS = Path(__file__).with_name("quality.json")
MINUTES = (1.25, 2.5, 5.0, 30.0)
SEEDS = (0, 1, 2)
BATCH = 64
STEPS = (1000, 250, 50, 30, 20, 15, 10)
SAMPLERS = ("ddpm", "ddim", "heun", "dpmpp-2m")


def results() -> dict[str, Any]:
    """What was found so far."""
    return read_json(RESULTS) if RESULTS.exists() else {}


def keep(section: str, key: str, value: object) -> None:
    """Add one finding to the file at once, so that nothing is lost; two of these may run side by side."""
    with (RUNS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = results()
        found.setdefault(section, {})[key] = value
        write_json(RESULTS, found)


def rates(args: argparse.Namespace) -> None:
    """Train each stage for a moment and read its images per second."""
    vae = RUNS / "rates" / "vae"
    for recipe, overrides in (("fashion-vae", []), ("fashion-pixel", []), ("fashion-latent", [f"codec={str(vae)!r}"])):
        run = RUNS / "rates" / recipe.removeprefix("fashion-")
        settings = [f"train.minutes={args.seconds / 60}", "train.previews=0", *overrides]
        train(load_recipe(recipe, settings), run, resume=True, quiet=True)
        card = read_card(run)
        keep("rates", recipe, round(card["images_seen"] / card["train_seconds"], 1))
        if recipe == "fashion-vae":
            keep("rates", "encode_seconds", card["encode_seconds"])
    print(json.dumps(results()["rates"], indent=2))


def _steps(seconds: float, recipe: str) -> int:
    return max(1, round(seconds * results()["rates"][recipe] / BATCH))


def train_all(args: argparse.Namespace) -> None:
    """Every budget and seed of the asked roads; finished runs are skipped, stopped ones continue."""
    for minutes in args.minutes:
        for seed in args.seeds:
            for road in args.roads:
                folder = RUNS / f"{road}-{minutes:g}min-seed{seed}"
                if road == "pixel":
                    _run("fashion-pixel", folder, 60 * minutes, seed)
                    continue
                first = 60 * min(minutes * VAE_SHARE, VAE_MINUTES)
                vae = folder.with_name(f"vae-{minutes:g}min-seed{seed}")
                _run("fashion-vae", vae, first, seed)
                left = 60 * minutes - first - results()["rates"]["encode_seconds"]
                _run("fashion-latent", folder, left, seed, f"codec={str(vae)!r}")


def _run(recipe: str, folder: Path, seconds: float, seed: int, *overrides: str) -> None:
    steps = _steps(seconds, recipe)
    if (folder / "model" / "model.json").is_file() and read_card(folder)["steps"] == steps:
        return
    settings = ["train.minutes=none", f"train.steps={steps}", f"train.seed={seed}", "train.previews=1", *overrides]
    print(f"{folder}: {steps} steps", flush=True)
    train(load_recipe(recipe, settings), folder, resume=True)


def judge(args: argparse.Namespace) -> Judge:
    """Our classifier and the real images."""
    return Judge(load_classifier(args.classifier), open_dataset("fashion-mnist"), open_dataset("fashion-mnist", "test"))


def score(args: argparse.Namespace) -> None:
    """Distance of every trained run, DDPM in 50 steps."""
    look = judge(args)
    keep("floor", str(args.n), look.floor(args.n).frechet)
    for folder in _runs(args.roads):
        if folder.name not in results().get("time", {}):
            keep("time", folder.name, _distance(look, folder, SamplerConfig("ddpm", 50), args.n, 0))


def _runs(roads: Iterable[str]) -> Iterator[Path]:
    for road in roads:
        for folder in sorted(RUNS.glob(f"{road}-*min-seed*")):
            if (folder / "model" / "model.json").is_file():
                yield folder


def _distance(look: Judge, model: str | Path, sampler: SamplerConfig, n: int, seed: int) -> float:
    device = engine.choose_device()
    loaded = load_model(model).to(device)
    started = time.perf_counter()
    images = sample(loaded.prepared(engine.choose_precision("auto", device)), n, sampler, seed=seed, batch_size=128)
    found = look.score(images).frechet
    print(
        f"{model} {sampler.name} {sampler.steps} seed {seed}: {found:.3f} ({time.perf_counter() - started:.0f} s)",
        flush=True,
    )
    return found


def by_steps(args: argparse.Namespace) -> None:
    """Distances of the shipped models by sampler and steps, cheap ones first."""
    look, section = judge(args), f"steps, n = {args.n}"
    keep("floor", str(args.n), look.floor(args.n).frechet)
    for model in args.models:
        for seed in args.seeds:
            for steps in sorted(args.steps):
                for name in args.samplers:
                    key = f"{model} {name} {steps} seed{seed}"
                    if key not in results().get(section, {}):
                        keep(section, key, _distance(look, model, SamplerConfig(name, steps), args.n, seed))


def _cell(values: list[float]) -> str:
    """Mean and half the range, with the count where it is not three."""
    if not values:
        return "–"
    spread = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
    count = f" ({len(values)})" if len(values) != len(SEEDS) else ""
    return f"{mean(values):.2f}{spread}{count}"


def _within(cells: dict[str, float], model: str, most: int = 30, share: float = 0.1) -> str:
    """Which samplers in at most `most` steps come within `share` of 1000 DDPM steps, over the same seeds."""
    near = []
    for steps in sorted(step for step in STEPS if step <= most):
        for name in SAMPLERS:
            pairs = [(f"{model} {name} {steps} seed{s}", f"{model} ddpm 1000 seed{s}") for s in SEEDS]
            both = [(cells[key], cells[base]) for key, base in pairs if key in cells and base in cells]
            ratio = sum(a for a, _ in both) / sum(b for _, b in both) if both else math.inf
            if ratio <= 1 + share:
                near.append(f"{name} in {steps} ({ratio:.2f} times, {len(both)} seeds)")
    return f"at most {1 + share:.1f} times the distance of ddpm in 1000 steps: {', '.join(near) or 'none'}"


def tables(args: argparse.Namespace) -> None:
    """The tables as Markdown: mean over seeds ± half the range; the number of seeds in brackets where it is not 3."""
    found = results()
    print("| training time | pixel | latent |\n|---|---|---|")
    for minutes in MINUTES:
        cells = [
            _cell([v for s in SEEDS if (v := found["time"].get(f"{road}-{minutes:g}min-seed{s}")) is not None])
            for road in ("pixel", "latent")
        ]
        print(f"| {minutes * 60:g} s | {' | '.join(cells)} |")
    for section in (name for name in found if name.startswith("steps")):
        print(f"\n{section}\n\n| | " + " | ".join(map(str, STEPS)) + " |\n|---|" + "---|" * len(STEPS))
        for model in ("fashion-pixel", "fashion-latent"):
            for name in SAMPLERS:
                keys = [[f"{model} {name} {steps} seed{s}" for s in SEEDS] for steps in STEPS]
                rows = [_cell([found[section][key] for key in cell if key in found[section]]) for cell in keys]
                print(f"| {model.removeprefix('fashion-')}, {name} | {' | '.join(rows)} |")
        for model in ("fashion-pixel", "fashion-latent"):
            print(f"\n{model}: {_within(found[section], model)}")
    print("\nfloors:", {n: round(value, 3) for n, value in found["floor"].items()}, "rates:", found["rates"])


def main() -> None:
    """Read the command line and run one part."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = top.add_subparsers(dest="part", required=True)
    for name, run, images in (
        ("rates", rates, 0),
        ("train", train_all, 0),
        ("score", score, 2000),
        ("steps", by_steps, 192),
        ("tables", tables, 0),
    ):
        part = parts.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        part.set_defaults(run=run)
        part.add_argument("--threads", type=int)
        part.add_argument("--seconds", type=float, default=30.0, help="rates: of training per stage")
        part.add_argument("--minutes", type=float, nargs="+", default=MINUTES)
        part.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
        part.add_argument("--roads", nargs="+", default=("pixel", "latent"))
        part.add_argument("--models", nargs="+", default=("fashion-latent", "fashion-pixel"))
        part.add_argument("--samplers", nargs="+", default=SAMPLERS)
        part.add_argument("--steps", type=int, nargs="+", default=STEPS)
        part.add_argument("--classifier", default="fashion-classifier")
        part.add_argument("-n", type=int, default=images, help="score, steps: images sampled for a distance")
    args = top.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    engine.tune_allocator()
    args.run(args)


if __name__ == "__main__":
    main()
