"""`alphabar trace`: one prompt through a pipeline, stage by stage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alphabar.cli.model import RANDOM, expected_by, open_model, tell_cut

if TYPE_CHECKING:
    from alphabar.models import Model

EPILOG = """\
examples:
  alphabar trace fashion-latent --steps 20 --sampler ddim --out trace.html
  alphabar trace emoji --prompt "purple heart" --guidance 3 --out trace.html
  alphabar trace stable-diffusion-v1-5/stable-diffusion-v1-5 --prompt "a lighthouse" --json
  alphabar trace random:sd15 --prompt "a lighthouse" --steps 2        full size, random weights: shapes, time, memory

random:sd15 and random:sd21 are Stable Diffusion at full size with random weights: every number of the table is real,
the image is noise.
"""

LONG_DECODE = 5e11
"""FLOPs of one decoding above which estimates on the way are not decoded."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "trace",
        help="one prompt through a pipeline, stage by stage",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=form,
    )
    parser.add_argument(
        "path", metavar="PATH", help="a run, model or Stable Diffusion folder, a .safetensors file, a name, random:sd15"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what to draw, for models that read words")
    parser.add_argument("--negative", default="", metavar="TEXT", help="what guidance moves away from")
    parser.add_argument(
        "--guidance", type=float, metavar="X", help="its scale; 1 is none (default: as `alphabar sample`)"
    )
    parser.add_argument("--sampler", default="ddim", choices=["ddpm", "ddim", "heun", "dpmpp-2m"], help="default: ddim")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="timesteps visited (default: 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default: 0)")
    parser.add_argument("--size", type=int, metavar="PX", help="height and width (default: the model's own)")
    parser.add_argument("--training", action="store_true", help="one training step too, on a copy of the network")
    parser.add_argument("--image", type=Path, metavar="FILE", help="to train on (default: the image just drawn)")
    parser.add_argument("--json", action="store_true", help="print JSON with every step instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write a page, trace.html")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (default: the best there is)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `trace`; returns the exit status."""
    import json
    import os
    import shlex

    # Before torch is loaded: its profiler warns of each tensor that was there before, and is then freed.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    from alphabar import engine
    from alphabar.data import read_image
    from alphabar.errors import AlphabarError
    from alphabar.evaluate import trace_sampling, trace_training
    from alphabar.generate import Guidance, SamplerConfig
    from alphabar.io import write_text
    from alphabar.report.trace import lines, render_trace

    if args.out is not None and args.out.suffix.lower() not in (".html", ".htm"):
        raise AlphabarError(f"--out {args.out}: give it a name that ends in .html")
    if args.guidance is not None and args.prompt is None:
        raise AlphabarError("--guidance needs a --prompt to follow")
    if args.image is not None and not args.training:
        raise AlphabarError("--image is what one training step learns from: add --training")
    engine.tune_allocator()
    device = engine.choose_device(args.device)
    model = open_model(args.path, args.size).to(device)
    tell_cut(model.text, [args.prompt or "", args.negative])
    expects = expected_by(model.card)
    sampler = SamplerConfig(args.sampler, args.steps, expects.spacing, offset=expects.offset)
    scale = expects.guidance if args.guidance is None else args.guidance
    guidance = Guidance(scale) if model.text is not None else None
    traces = [
        trace_sampling(
            model, args.prompt, args.negative, guidance, sampler, args.seed, decoded=1 if _decodes_slowly(model) else 6
        )
    ]
    if args.training:
        image = traces[0].image if args.image is None else read_image(args.image, model.size, model.channels)[0]
        traces.append(trace_training(model, image, args.prompt or "", args.seed))
    notes = ["The weights are random: shapes, time, memory and counts are those of the real model, the image is noise."]
    notes = notes if args.path.startswith(RANDOM) else []
    if args.json:
        print(json.dumps({"model": args.path, "notes": notes, "traces": [one.to_dict() for one in traces]}, indent=2))
    else:
        print("\n\n".join([*notes, *map(lines, traces)]))
    if args.out is not None:
        words = ["alphabar", "trace", args.path, *([] if args.prompt is None else ["--prompt", args.prompt])]
        words += ["--sampler", args.sampler, "--steps", str(args.steps), "--seed", str(args.seed)]
        for option in ("negative", "guidance", "size", "image"):
            value = getattr(args, option)
            words += [f"--{option}", str(value)] if value not in (None, "") else []
        words += ["--training"] * args.training
        facts = {**engine.hardware(device), **engine.versions()}
        write_text(args.out, render_trace(traces, shlex.join(words), facts, notes))
        if not args.json:
            print(f"{args.out}: the pipeline drawn, its steps and its numbers")
    return 0


def _decodes_slowly(model: Model) -> bool:
    from alphabar.codec import LatentCodec
    from alphabar.evaluate.cost import count_autoencoder

    if not isinstance(model.codec, LatentCodec):
        return False
    return count_autoencoder(model.codec.autoencoder.config, model.channels, model.size)[1].flops > LONG_DECODE
