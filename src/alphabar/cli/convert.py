"""`alphabar convert`: Stable Diffusion's weights from one layout to another."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """\
examples:
  alphabar convert ~/stable-diffusion-v1-5 sd15.safetensors --to single-file
  alphabar convert sd21.safetensors sd21/ --to diffusers --prediction v
  alphabar convert organisation/name sd/ --to alphabar                  downloaded, then kept as a model of alphabar

Weights in fp16 are widened to float32, which loses nothing: every tensor comes back bit for bit. Left out is what a
layout has no place for: in a single file the tokenizer, in a folder of diffusers the layers behind the text encoder's
output.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "convert",
        help="Stable Diffusion from one layout to another",
        description="Convert weights between diffusers' folders, the original single files and alphabar's folders.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="PATH", help="a folder, a .safetensors file, an id of the hub, or a run")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder or .safetensors file to write")
    parser.add_argument("--to", required=True, choices=["diffusers", "single-file", "alphabar"])
    parser.add_argument("--fp16", action="store_true", help="write half as many bytes, rounded; not for alphabar")
    parser.add_argument("--prediction", choices=["eps", "v", "x0"], help="where a single file does not say it")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="of a single file, which has none")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `convert`; returns the exit status."""
    import torch

    from alphabar import stable_diffusion
    from alphabar.errors import AlphabarError
    from alphabar.models import load_model

    if args.out.exists():
        raise AlphabarError(f"{args.out} exists; choose another place, nothing is written over")
    if (args.to == "single-file") != (args.out.suffix == ".safetensors"):
        raise AlphabarError(f"{args.out}: a single file ends in .safetensors, and a folder does not")
    if args.fp16 and args.to == "alphabar":
        raise AlphabarError("alphabar's folders are float32: leave out --fp16")
    dtype = torch.float16 if args.fp16 else torch.float32
    if stable_diffusion.is_stable_diffusion(args.path):
        model = stable_diffusion.load(args.path, prediction=args.prediction, tokenizer=args.tokenizer)
    else:
        if args.prediction or args.tokenizer:
            raise AlphabarError(f"--prediction and --tokenizer are for Stable Diffusion's files, not {args.path}")
        model = load_model(args.path)
    match args.to:
        case "diffusers":
            stable_diffusion.save_folder(model, args.out, dtype)
        case "single-file":
            stable_diffusion.save_single_file(model, args.out, dtype)
        case "alphabar":
            model.save(args.out)
    told = "; without the tokenizer, which is named anew with --tokenizer DIR" if args.to == "single-file" else ""
    print(f"{args.out}: {args.path} as {args.to}{told}")
    return 0
