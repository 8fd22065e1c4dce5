"""`alphabar latents`: an image in a latent space, taken apart."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphabar.codec import LatentCodec

EPILOG = """\
examples:
  alphabar latents fashion-vae shirt.png --out latents.html
  alphabar latents runs/emoji-vae cat.png dog.png             and the way from one to the other
  alphabar latents stable-diffusion-v1-5/stable-diffusion-v1-5 photo.jpg --size 256
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "latents",
        help="encode an image, look at the channels, decode, interpolate",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=form,
    )
    parser.add_argument(
        "path", metavar="PATH", help="an autoencoder or a latent model: a run, a folder, a name, Stable Diffusion"
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="PNG, JPEG or WebP; its middle square is taken")
    parser.add_argument("second", type=Path, nargs="?", metavar="IMAGE2", help="where to interpolate to")
    parser.add_argument("--size", type=int, metavar="PX", help="height and width (default: the autoencoder's own)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("latents.html"), metavar="FILE", help="default: latents.html")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (default: the best there is)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `latents`; returns the exit status."""
    import shlex

    from alphabar import engine
    from alphabar.config import check
    from alphabar.data import read_image
    from alphabar.errors import AlphabarError
    from alphabar.io import write_text
    from alphabar.report.latents import look, render_latents

    if args.out.suffix.lower() not in (".html", ".htm"):
        raise AlphabarError(f"--out {args.out}: give it a name that ends in .html")
    check(args.size is None or args.size > 0, f"--size must be positive, not {args.size}")
    engine.tune_allocator()
    device = engine.choose_device(args.device)
    codec, own = open_codec(args.path)
    size = args.size or own
    files = [file for file in (args.image, args.second) if file is not None]
    images = [read_image(file, size, codec.autoencoder.image_channels).to(device) for file in files]
    codec.autoencoder.latent_shape(size, size)
    seen = look(codec.to(device), images[0], images[1] if args.second else None, args.seed)
    command = ["alphabar", "latents", args.path, *map(str, files), "--size", str(size), "--seed", str(args.seed)]
    facts = {**engine.hardware(device), **engine.versions()}
    write_text(args.out, render_latents(seen, args.image.name, shlex.join(command), facts))
    tiled = (
        "" if seen.tiled is None else f", tiles of {seen.tiled.tile} px are off by {seen.tiled.rms * 127.5:.2g} levels"
    )
    shape = "x".join(map(str, seen.latents.shape[1:]))
    print(f"{args.out}: {shape} latents, {seen.ratio:.3g} times fewer numbers, {seen.psnr:.1f} dB{tiled}")
    return 0


def open_codec(path: str) -> tuple[LatentCodec, int]:
    """The autoencoder of a path, and the size of its images.

    Raises:
        AlphabarError: a model of pixels, or of something else.
    """
    from alphabar import models
    from alphabar.cli.model import RANDOM, open_model
    from alphabar.codec import LatentCodec
    from alphabar.errors import AlphabarError
    from alphabar.stable_diffusion import is_stable_diffusion, open_pipeline

    if path.startswith(RANDOM):
        model = open_model(path)
        codec, size = model.codec, model.size
    elif is_stable_diffusion(path):
        pipeline = open_pipeline(path)  # of which the autoencoder alone is read
        codec, size = pipeline.codec(), pipeline.config.size
    else:
        size = models.read_image(path)[0]
        codec = (
            models.load_autoencoder(path) if models.kind_of(path) == "autoencoder" else models.load_model(path).codec
        )
    if not isinstance(codec, LatentCodec):
        raise AlphabarError(f"{path} works on pixels: it has no latents to look at")
    return codec, size
