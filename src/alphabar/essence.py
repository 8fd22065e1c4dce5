"""The whole idea on one screen, and it runs: what the report shows side by side is this file.

Both roads train with `train_step` and sample with `draw`. They differ in the bookends, and in how many channels the
network therefore sees; nothing else.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable

import torch
from torch import Tensor

from alphabar.codec import Codec, PixelCodec
from alphabar.diffusion import Grid, Process, ddim
from alphabar.models import load_autoencoder
from alphabar.rng import Rng
from alphabar.types import Network


def pixel_bookends() -> tuple[Codec, int]:
    """Diffusion on pixels: the bookends do nothing."""
    codec, channels = PixelCodec(channels=1), 1
    return codec, channels


def latent_bookends(autoencoder: str = "fashion-vae") -> tuple[Codec, int]:
    """Diffusion on latents: encode before, decode after, with a frozen autoencoder."""
    codec, channels = load_autoencoder(autoencoder), 4
    return codec, channels


def train_step(
    codec: Codec, process: Process, network: Network, optimizer: torch.optim.Optimizer, images: Tensor, rng: Rng
) -> float:
    """One step of DDPM's algorithm 1 on images [N, C, H, W] in [-1, 1]; returns the loss."""
    x0 = codec.encode(images, rng)
    t = rng.integers(process.schedule.timesteps)
    eps = rng.normal(*x0.shape[1:])
    loss = process.loss(network, x0, t, eps).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def draw(codec: Codec, process: Process, network: Network, n: int, size: int, rng: Rng) -> Tensor:
    """N images out of noise, [n, C, size, size]: 50 steps of DDIM."""
    x = rng.normal(*codec.shape(n, size, size)[1:])
    for step in ddim(process.denoiser(network), x, Grid.trailing(50), process.schedule):
        x = step.x
    return codec.decode(x)


def listings() -> tuple[str, str]:
    """The source of the pixel road and of the latent road, without docstrings and signatures."""
    shared = [_body(train_step), _body(draw)]

    def listing(bookends: Callable[..., object]) -> str:
        return "\n\n".join(
            f"# {title}\n{code}"
            for title, code in zip(("bookends", "train", "sample"), [_body(bookends), *shared], strict=True)
        )

    return listing(pixel_bookends), listing(latent_bookends)


def _body(function: Callable[..., object]) -> str:
    """The statements of a function, without signature, docstring and the return of its names."""
    source = inspect.getsource(function)
    lines = source[source.index('"""', source.index('"""') + 3) + 3 :].strip("\n").splitlines()
    kept = [line for line in lines if line.strip() != "return codec, channels"]
    return textwrap.dedent("\n".join(kept)).strip()
