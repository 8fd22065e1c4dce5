"""`alphabar sample`: images out of noise, and out of words."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from alphabar.cli.model import GUIDANCE, GUIDANCE_STABLE_DIFFUSION, Expects, expected_by, open_model, tell_cut

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from alphabar.generate import Guidance, Parts, SamplerConfig, Start

EPILOG = """\
examples:
  alphabar sample fashion-latent --out grid.png                    64 garments in a second or two, offline
  alphabar sample fashion-pixel --sampler ddim --steps 20          deterministic, 20 steps
  alphabar sample runs/fashion-pixel --sampler ddpm --steps 1000   DDPM as published
  alphabar sample fashion-latent -n 8 --trajectory walk.gif        watch them come out of the noise
  alphabar sample emoji --prompt "purple heart" -n 16              words to pictures
  alphabar sample emoji --prompt "red car" --prompt "blue car"     a row for each prompt
  alphabar sample ~/stable-diffusion-v1-5 --prompt "a lighthouse at dusk" --out lighthouse.png
  alphabar sample sd.safetensors --prompt "in watercolour" --image photo.png --strength 0.6 --low-memory

Image k of a seed is the same whatever -n is. A model is a run folder, a model folder, the name of one that comes with
alphabar (fashion-pixel, fashion-latent, emoji), or Stable Diffusion 1.x or 2.x: a folder in the diffusers layout, a
.safetensors file in the original layout, or the id of one on the Hugging Face hub.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "sample", help="draw images from a model", description="Draw images.", epilog=EPILOG, formatter_class=form
    )
    parser.add_argument("model", metavar="MODEL", help="a run, a model or a Stable Diffusion; see below")
    parser.add_argument(
        "-n", type=int, metavar="N", help="images, per prompt (default: 64; 16 with a prompt; 1 if large)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), metavar="FILE", help="default: grid.png")
    parser.add_argument("--trajectory", type=Path, metavar="FILE", help="also write the walk of the first 16 as a GIF")
    words = parser.add_argument_group("words")
    words.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw; may be given several times")
    words.add_argument("--negative", default="", metavar="TEXT", help="what guidance moves away from")
    words.add_argument(
        "--guidance",
        type=float,
        metavar="X",
        help=f"1 takes the prompt as it is, more exaggerates it (default: {GUIDANCE:g}; Stable Diffusion "
        f"{GUIDANCE_STABLE_DIFFUSION:g})",
    )
    words.add_argument("--rescale", type=float, default=0.0, metavar="X", help="tame large guidance, 0..1 (default: 0)")
    words.add_argument(
        "--interval", type=int, nargs=2, metavar=("LOW", "HIGH"), help="guide at these timesteps only (default: all)"
    )
    images = parser.add_argument_group("images to begin from")
    images.add_argument("--image", type=Path, metavar="FILE", help="vary this image instead of noise")
    images.add_argument("--strength", type=float, metavar="X", help="how much, 0..1 (default: 0.6; 1 with a mask)")
    images.add_argument("--mask", type=Path, metavar="FILE", help="make only what is white in this image")
    images.add_argument("--size", type=int, metavar="PIXELS", help="height and width (default: the model's)")
    walk = parser.add_argument_group("the walk")
    walk.add_argument("--sampler", choices=["ddpm", "ddim", "heun", "dpmpp-2m"], help="default: ddpm; with words ddim")
    walk.add_argument("--steps", type=int, default=50, metavar="N", help="timesteps visited (default: 50)")
    walk.add_argument(
        "--spacing", choices=["trailing", "leading", "linspace"], help="default: trailing, or what a pipeline asks for"
    )
    walk.add_argument("--eta", type=float, default=0.0, metavar="X", help="DDIM's fresh noise, 0..1 (default: 0)")
    walk.add_argument("--variance", default="small", choices=["small", "large"], help="DDPM's (default: small)")
    machine = parser.add_argument_group("the machine")
    machine.add_argument(
        "--precision",
        default="float32",
        choices=["float32", "bf16", "auto"],
        help="float32 is exact; bf16 is faster where the hardware has it; auto chooses (default: float32)",
    )
    machine.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (default: the best there is)")
    machine.add_argument(
        "--low-memory", action="store_true", help="Stable Diffusion: one stage in memory at a time, tiles of 512 pixels"
    )
    machine.add_argument(
        "--prediction", choices=["eps", "v", "x0"], help="Stable Diffusion: where a single file does not say it"
    )
    machine.add_argument("--tokenizer", type=Path, metavar="DIR", help="Stable Diffusion: of a single file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sample`; returns the exit status."""
    from tqdm import tqdm

    from alphabar import engine
    from alphabar.generate import sample
    from alphabar.report.grid import save_png

    _check(args)
    engine.tune_allocator()
    parts, sampler, guidance = _open(args, engine.choose_device(args.device))
    per_prompt = args.n or (1 if parts.size >= 256 else 16 if args.prompt else 64)
    prompts = None if args.prompt is None else [prompt for prompt in args.prompt for _ in range(per_prompt)]
    n = per_prompt if prompts is None else len(prompts)
    start = _start(args, parts)
    tell_cut(parts.text, [*(args.prompt or ()), args.negative])
    steps = sampler.steps if start is None else max(1, round(start.strength * sampler.steps))
    batch_size = 64 if parts.size < 256 else 4
    with tqdm(total=math.ceil(n / batch_size) * steps, unit="step", desc=args.model, disable=None) as bar:
        images = sample(
            parts,
            n,
            sampler,
            seed=args.seed,
            batch_size=batch_size,
            prompts=prompts,
            negative=args.negative,
            guidance=guidance,
            start=start,
            on_step=bar.update,
        )
    save_png(_grid(images, args.prompt, per_prompt, parts.size), args.out)
    told = "" if guidance is None else f", guidance {guidance.scale:g}"
    print(f"{args.out}: {n} images, {sampler.name} in {steps} steps{told}, seed {args.seed}")
    if args.trajectory is not None:
        _write_trajectory(parts, sampler, args, min(n, 16), prompts, guidance, start)
    return 0


def _check(args: argparse.Namespace) -> None:
    from alphabar.errors import AlphabarError

    for flag, value in (("-n", args.n), ("--size", args.size)):
        if value is not None and value < 1:
            raise AlphabarError(f"{flag} must be at least 1, got {value}")
    for path, suffix in ((args.out, ".png"), (args.trajectory, ".gif")):
        if path is not None and path.suffix.lower() != suffix:
            raise AlphabarError(f"{path}: give it a name that ends in {suffix}")
    if args.image is None and (args.mask or args.strength is not None):
        raise AlphabarError("--mask and --strength are about an image: name it with --image")
    if args.prompt is None and (args.negative or args.guidance is not None or args.rescale or args.interval):
        raise AlphabarError("--negative, --guidance, --rescale and --interval are about words: give it a --prompt")


def _open(args: argparse.Namespace, device: torch.device) -> tuple[Parts, SamplerConfig, Guidance | None]:
    """The model, its sampler and how closely it follows its words."""
    from dataclasses import replace

    from alphabar import engine
    from alphabar.errors import AlphabarError
    from alphabar.generate import Guidance, SamplerConfig, SamplerName
    from alphabar.stable_diffusion import LowMemory, is_stable_diffusion, open_pipeline

    precision = engine.choose_precision(args.precision, device)
    files = is_stable_diffusion(args.model)
    if not files and (args.low_memory or args.prediction or args.tokenizer):
        raise AlphabarError("--low-memory, --prediction and --tokenizer are for Stable Diffusion")
    options = {"prediction": args.prediction, "tokenizer": args.tokenizer}
    parts: Parts
    if args.low_memory:
        pipeline = open_pipeline(args.model, **options)
        parts = LowMemory(pipeline, args.size, precision, device)
        expects = Expects(pipeline.config.spacing, pipeline.config.steps_offset, GUIDANCE_STABLE_DIFFUSION)
    else:
        model = open_model(args.model, args.size, precision=precision, **options).to(device)
        model = model.prepared(precision, copy=not files)  # files may be large: never in memory twice
        parts = replace(model, codec=model.codec.prepared(precision)) if files else model
        expects = expected_by(model.card)
    hears = args.low_memory or parts.text is not None
    if args.prompt and not hears:
        raise AlphabarError(f"{args.model} was trained without words: leave out --prompt")
    name: SamplerName = args.sampler or ("ddim" if hears else "ddpm")
    spacing = args.spacing or expects.spacing
    sampler = SamplerConfig(name, args.steps, spacing, args.eta, args.variance, expects.offset)
    scale = expects.guidance if args.guidance is None else args.guidance
    interval = None if args.interval is None else (args.interval[0], args.interval[1])
    return parts, sampler, Guidance(scale, args.rescale, interval) if args.prompt else None


def _start(args: argparse.Namespace, parts: Parts) -> Start | None:
    if args.image is None:
        return None
    from alphabar.data import read_image
    from alphabar.generate import begin_from

    image = read_image(args.image, parts.size, parts.channels)
    mask = None if args.mask is None else (read_image(args.mask, parts.size, 1) > 0).float()
    strength = args.strength if args.strength is not None else 0.6 if mask is None else 1.0
    return begin_from(parts, image, strength, mask, args.seed)


def _grid(images: Tensor, prompts: list[str] | None, per_prompt: int, size: int) -> Image:
    """A row for each of several prompts, its words below its first image; else a grid."""
    from alphabar.data import to_uint8
    from alphabar.report.grid import image_grid, labelled_grid

    scale = max(1, 64 // size)
    if prompts is None or len(prompts) == 1:
        return image_grid(images, _columns(len(images)), scale)
    labels = [prompt if k == 0 else "" for prompt in prompts for k in range(per_prompt)]
    columns = per_prompt if per_prompt > 1 else _columns(len(images))
    return labelled_grid(to_uint8(images), labels, columns, scale)


def _columns(n: int) -> int:
    """A grid of full rows, at most twice as wide as high, where n allows one; else about square."""
    square = math.ceil(math.sqrt(n))
    return next((c for c in range(square, math.isqrt(2 * n) + 1) if n % c == 0), square)


def _write_trajectory(
    parts: Parts,
    sampler: SamplerConfig,
    args: argparse.Namespace,
    count: int,
    prompts: list[str] | None,
    guidance: Guidance | None,
    start: Start | None,
) -> None:
    """At most 60 frames: what the sampler holds on the left, the image it predicts on the right."""
    from alphabar.generate import encode_prompts, generate
    from alphabar.report.grid import image_grid, save_gif, sheet

    columns = 4 if count > 4 else count
    frames = []
    asked = [""] * count if prompts is None and parts.text is not None else prompts
    cond, null = (None, None) if asked is None else encode_prompts(parts, asked[:count], args.negative)
    steps = list(
        generate(parts, range(count), sampler, seed=args.seed, cond=cond, null=null, guidance=guidance, start=start)
    )
    codec, every = parts.codec, max(1, len(steps) // 60)
    for k, step in enumerate(steps):
        if k % every and k != len(steps) - 1:
            continue
        pair = [codec.decode(x).clamp(-1, 1).cpu() for x in (step.x, step.estimate.x0)]
        grids = [image_grid(images, columns, scale=max(1, 64 // parts.size)) for images in pair]
        frames.append(sheet(grids, columns=2, pad=8))
    save_gif(frames, args.trajectory, ms=80)
    print(f"{args.trajectory}: {len(frames)} frames; left what the sampler holds, right the image it predicts")
