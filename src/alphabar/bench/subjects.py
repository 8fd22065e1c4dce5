"""What is timed: a sampler's network call and a training step, of our small U-Net and of diffusers' at its size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar import engine
from alphabar.diffusion import Grid, Step, ddim, ddpm
from alphabar.evaluate import count_flops
from alphabar.models import ProcessConfig
from alphabar.nn import SmallUNet, SmallUNetConfig
from alphabar.rng import Rng
from alphabar.types import Cond

Kind: TypeAlias = Literal["sampling", "training"]
Call: TypeAlias = Callable[[Tensor, Tensor], Tensor]

SHAPE = (1, 28, 28)
PEER: dict[str, Any] = {
    "sample_size": SHAPE[1],
    "in_channels": SHAPE[0],
    "out_channels": SHAPE[0],
    "block_out_channels": (8, 24, 88),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "norm_num_groups": 8,
    "add_attention": False,
}
"""A `UNet2DModel` of our default `SmallUNet`'s parameters and FLOPs: three levels and no attention, as ours."""

STEPS = 20
"""Sampler steps per timed walk."""


@dataclass(frozen=True)
class Variant:
    """One form of a network that takes part.

    Args:
        name: short, the key in the results.
        title: what it is, in words.
        library: whose network.
        precision: what it computes in; auto is bf16 where the hardware has it.
        tuned: as alphabar runs it (allocator, prepared weights, fused optimizer); otherwise plain eager PyTorch.
    """

    name: str
    title: str
    library: Literal["alphabar", "diffusers"]
    precision: Literal["auto", "float32", "bf16"] = "float32"
    tuned: bool = False


DIFFUSERS = Variant("diffusers", "diffusers UNet2DModel as it comes", "diffusers")
PLAIN = Variant("plain", "alphabar, plain eager", "alphabar")
VARIANTS: dict[Kind, tuple[Variant, ...]] = {
    "sampling": (
        DIFFUSERS,
        PLAIN,
        Variant("float32", "alphabar, as it samples", "alphabar", tuned=True),
        Variant("bf16", "alphabar, as it samples in bf16", "alphabar", "bf16", tuned=True),
    ),
    "training": (DIFFUSERS, PLAIN, Variant("trained", "alphabar, as it trains", "alphabar", "auto", tuned=True)),
}


class Facts(NamedTuple):
    """What is counted, not timed."""

    parameters: int
    flops_per_image: int
    """Of one network call."""
    precision: str
    transient_bytes: int | None = None
    """What memory grew by during the first call, where that was measured."""


class Subject(NamedTuple):
    """A variant, ready to be timed."""

    facts: Facts
    actions: dict[str, tuple[Callable[[], object], int]]
    """What is timed, by name, and how many units (calls, steps) it holds."""
    answer: Tensor
    """To be compared with the plain variant's: the output, or the gradient of the first step."""
    heavy: bool = False
    """A turn is one call, on the CPU, and not the median of several."""


def prepare(kind: Kind, variant: Variant, batch: int, device: torch.device) -> Subject:
    """Build a variant; call it in a process that does nothing else."""
    if variant.tuned:
        engine.tune_allocator()
    torch.manual_seed(0)
    network = _network(variant).to(device)
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *SHAPE, generator=noise).to(device)
    precision = engine.choose_precision(variant.precision, device)
    call = _caller(variant, network)
    with torch.no_grad():
        flops = count_flops(lambda: call(x[:1], torch.zeros(1, dtype=torch.int64, device=device)))
    facts = Facts(sum(p.numel() for p in network.parameters()), flops, precision)
    if kind == "sampling":
        return _sampling(facts, variant, network.eval(), x)
    return _training(facts, variant, network.train(), x)


def _network(variant: Variant) -> nn.Module:
    if variant.library == "diffusers":
        from diffusers import UNet2DModel

        return cast(nn.Module, UNet2DModel(**PEER))
    network = SmallUNet(SmallUNetConfig())
    for module in network.modules():  # some start at zero, where errors could not be seen
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return network


def _caller(variant: Variant, network: nn.Module) -> Call:
    if variant.library == "diffusers":
        return lambda x, t: cast(Tensor, network(x, t).sample)
    return network


def _sampling(facts: Facts, variant: Variant, network: nn.Module, x: Tensor) -> Subject:
    """One network call, as samplers make it; for the tuned ones also a sampler's step without its network."""
    if variant.tuned:
        network = engine.prepare_inference(network, engine.choose_precision(variant.precision, x.device))
    ask = _caller(variant, network)
    t = torch.full((len(x),), 500, device=x.device)

    @torch.no_grad()
    def call() -> Tensor:
        return ask(x, t)

    actions: dict[str, tuple[Callable[[], object], int]] = {"call": (call, 1)}
    if variant.tuned:
        actions |= {name: (walk, STEPS) for name, walk in _arithmetic(x).items()}
    return Subject(facts, actions, call().float())


def _arithmetic(x: Tensor) -> dict[str, Callable[[], object]]:
    """Walks of `STEPS` steps with a network that answers at once: what is left is schedule, prediction, clip, noise."""
    settings = ProcessConfig(clip=1.0)
    process = settings.build()

    def answer_at_once(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return x

    denoise = process.denoiser(answer_at_once, settings.clip)
    grid = Grid.trailing(STEPS, settings.timesteps)
    rng = Rng(0, range(len(x)), "sampler")
    return {
        "ddpm": lambda: _exhaust(ddpm(denoise, x, grid, process.schedule, rng=rng)),
        "ddim": lambda: _exhaust(ddim(denoise, x, grid, process.schedule)),
    }


def _exhaust(steps: Iterable[Step]) -> None:
    for _ in steps:
        pass


def _training(facts: Facts, variant: Variant, network: nn.Module, x: Tensor) -> Subject:
    """Forward, mean squared error, backward, clip, optimizer; the tuned one as `train.Trainer` does it."""
    call = _caller(variant, network)
    precision = engine.choose_precision(variant.precision, x.device)
    draws = torch.Generator().manual_seed(2)
    target = torch.randn(x.shape, generator=draws).to(x.device)
    t = torch.randint(1000, (len(x),), generator=draws).to(x.device)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True if variant.tuned else None)

    def backward() -> None:
        with engine.autocast(x.device, precision):
            loss = F.mse_loss(call(x, t).float(), target)
        loss.backward()

    def step() -> None:
        backward()
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True if variant.tuned else None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    backward()
    gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    optimizer.zero_grad(set_to_none=True)
    return Subject(facts, {"step": (step, 1)}, gradient)
