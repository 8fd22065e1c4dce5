"""A Stable Diffusion pipeline: its shapes, and its three stages, which are loaded together or one at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from alphabar.codec import LatentCodec
from alphabar.config import check
from alphabar.engine import Precision, prepare_inference
from alphabar.errors import AlphabarError
from alphabar.models import Model, ProcessConfig
from alphabar.nn import (
    ClipText,
    ClipTextConfig,
    ConvAutoencoder,
    ConvAutoencoderConfig,
    UNet,
    UNetConfig,
)
from alphabar.nn.autoencoder import STABLE_DIFFUSION_VAE
from alphabar.stable_diffusion.files import LazyTensors
from alphabar.stable_diffusion.keys import (
    Layout,
    Rule,
    Table,
    make_table,
    read_tensors,
    text_rules,
    unet_rules,
    vae_rules,
)
from alphabar.text import TextEncoder
from alphabar.tokenizer import Tokenizer

Stage: TypeAlias = Literal["unet", "vae", "text"]
Spacing: TypeAlias = Literal["leading", "trailing", "linspace"]

SCALING_FACTOR = 0.18215
"""By what 1.x and 2.x multiply latents: where a file leaves it out, this is meant."""
SD1_CONTEXT, SD2_CONTEXT = 768, 1024
"""The width of the token vectors, by which the versions are told apart."""


@dataclass(frozen=True)
class PipelineConfig:
    """Everything but the weights and the words.

    Attributes:
        unet, vae, text: shapes of the networks.
        process: schedule and prediction.
        size: height and width of the images it was trained on.
        layer: which output of the text tower is taken; see `TextEncoder`.
        scaling_factor: 1 / the standard deviation of the latents.
        shift_factor: their mean.
        spacing, steps_offset: the timesteps that its files ask samplers for; `Grid.leading(n, T, steps_offset)`.
    """

    unet: UNetConfig
    vae: ConvAutoencoderConfig
    text: ClipTextConfig
    process: ProcessConfig
    size: int
    layer: int = -1
    scaling_factor: float = SCALING_FACTOR
    shift_factor: float = 0.0
    spacing: Spacing = "leading"
    steps_offset: int = 1

    def __post_init__(self) -> None:
        check(self.size > 0, f"the size of the images must be positive, got {self.size}")
        check(self.scaling_factor > 0, f"scaling_factor must be positive, got {self.scaling_factor}")


def sd15(*, inpainting: bool = False) -> PipelineConfig:
    """Stable Diffusion 1.x at full size: 860 million values in the U-Net, 84 in the autoencoder, 123 in the tower."""
    unet = UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(320, 640, 1280, 1280),
        attention=(0, 1, 2),
        num_heads=8,
        emb_dim=1280,
        mode="add",
        context_dim=768,
        extra_channels=5 if inpainting else 0,  # a mask and the latents of what it leaves
        middle_attention=True,
    )
    process = ProcessConfig(schedule="scaled-linear", prediction="eps")
    return PipelineConfig(unet, STABLE_DIFFUSION_VAE, ClipTextConfig(), process, size=512)


def sd21(*, inpainting: bool = False, prediction: str = "v") -> PipelineConfig:
    """Stable Diffusion 2.x at full size: v-prediction at 768x768, or with "eps" its base models at 512x512."""
    one = sd15(inpainting=inpainting)
    tower = ClipTextConfig(width=1024, layers=23, num_heads=16, mlp=4096, activation="gelu")
    return replace(
        one,
        unet=replace(one.unet, num_heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True),
        text=tower,
        process=replace(one.process, prediction=prediction),
        size=768 if prediction == "v" else 512,
    )


@dataclass(frozen=True)
class Stored:
    """Where a stage's tensors are: the files, their layout, and what stands before every key."""

    files: LazyTensors
    layout: Layout
    prefix: str = ""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline on disk. Each of `text`, `network` and `codec` reads its stage anew; hold one, and that is in memory.

    Attributes:
        source: where it is.
        config: everything but the weights and the words.
        stored: where each stage's tensors are.
        read_tokenizer: reads the words.
    """

    source: str
    config: PipelineConfig
    stored: Mapping[Stage, Stored]
    read_tokenizer: Callable[[], Tokenizer]

    def text(self) -> TextEncoder:
        """The text encoder, in float32."""
        tokenizer = self.read_tokenizer()
        tower = self._read("text", torch.float32)
        assert isinstance(tower, ClipText)
        return TextEncoder(tokenizer, tower, self.config.layer)

    def network(self, precision: Precision = "float32") -> nn.Module:
        """The U-Net; in bf16 half as large, with float32 at its door (for sampling, not for saving)."""
        if precision == "float32":
            return self._read("unet", torch.float32)
        return prepare_inference(self._read("unet", torch.bfloat16), precision, copy=False)

    def codec(self) -> LatentCodec:
        """The autoencoder with its scale, in float32."""
        return make_codec(self.config, self._read("vae", torch.float32))

    def load(self, precision: Precision = "float32") -> Model:
        """All stages at once."""
        return assemble(self.config, self.network(precision), self.codec(), self.text(), self.source)

    def _read(self, stage: Stage, dtype: torch.dtype) -> nn.Module:
        stored = self.stored[stage]
        module, own = on_meta(self.config, stage)
        table = stage_table(self.config, stage, own, stored.layout, stored.prefix)
        tensors = read_tensors(table, stored.files, {name: t.shape for name, t in own.items()}, dtype)
        module.load_state_dict(tensors, assign=True)
        return module.eval().requires_grad_(False)


def make_codec(config: PipelineConfig, autoencoder: nn.Module) -> LatentCodec:
    """The bookends of an autoencoder, at the pipeline's scale."""
    assert isinstance(autoencoder, ConvAutoencoder)
    scale = torch.tensor([1 / config.scaling_factor])
    return LatentCodec(autoencoder, torch.tensor([config.shift_factor]), scale)


def assemble(
    config: PipelineConfig, network: nn.Module, codec: LatentCodec, text: TextEncoder | None, source: str
) -> Model:
    """A `Model`, whose card remembers the timesteps that the files ask for."""
    card = {"source": source, "spacing": config.spacing, "steps_offset": config.steps_offset}
    return Model(network, config.process, codec, config.size, config.vae.image_channels, card, text)


def say(line: str) -> None:
    """Tell the user what a file left open and what was taken for it."""
    print(f"alphabar: {line}", file=sys.stderr)


def build_stage(config: PipelineConfig, stage: Stage) -> nn.Module:
    """A stage with fresh weights from torch's generator."""
    match stage:
        case "unet":
            return UNet(config.unet)
        case "vae":
            return ConvAutoencoder(config.vae)
        case "text":
            return ClipText(config.text)


def on_meta(config: PipelineConfig, stage: Stage) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A stage without numbers and its state: building it costs neither time nor memory."""
    with torch.device("meta"):
        module = build_stage(config, stage)
    return module, module.state_dict()


def stage_table(
    config: PipelineConfig, stage: Stage, own: Mapping[str, Any], layout: Layout, prefix: str = ""
) -> Table:
    """The key table of a stage whose keys are `own`."""
    return make_table(_rules(config, stage), own, layout, prefix)


def _rules(config: PipelineConfig, stage: Stage) -> Iterator[Rule]:
    match stage:
        case "unet":
            return unet_rules(config.unet)
        case "vae":
            return vae_rules(config.vae)
        case "text":
            return text_rules(config.text)


def group_count(module: nn.Module) -> int:
    """The one number of groups that every group norm of a network has.

    Raises:
        AlphabarError: they differ, which Stable Diffusion's files cannot say.
    """
    counts = sorted({part.num_groups for part in module.modules() if isinstance(part, nn.GroupNorm)})
    if len(counts) != 1:
        raise AlphabarError(
            f"the group norms of this {type(module).__name__} have {' and '.join(map(str, counts))} groups, and Stable "
            "Diffusion's files hold one number for all; widths that are multiples of 128 have 32 everywhere"
        )
    return counts[0]


def random_pipeline(config: PipelineConfig, seed: int = 0, tokenizer: Tokenizer | None = None) -> Model:
    """A model with random weights, for tests, tracing and timing: no layer is left at zero.

    Args:
        config: its shapes, such as `sd15()`.
        seed: of the weights.
        tokenizer: of its words; where not given, one whose every byte is a piece.
    """
    generator = torch.Generator().manual_seed(seed)
    stages: dict[Stage, nn.Module] = {}
    for stage in get_args(Stage):
        module, own = on_meta(config, stage)
        state = {name: _random(name, tensor.shape, generator) for name, tensor in own.items()}
        module.load_state_dict(state, assign=True)
        stages[stage] = module.eval().requires_grad_(False)
    tokenizer = tokenizer or Tokenizer.train([""], vocab_size=514, length=config.text.length)
    tower = stages["text"]
    assert isinstance(tower, ClipText)
    text = TextEncoder(tokenizer, tower, config.layer)
    return assemble(config, stages["unet"], make_codec(config, stages["vae"]), text, "random weights")


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Normal, of a size that keeps activations at about 1: 1 / sqrt(inputs) for matrices, about 1 for gains."""
    values = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return values * (0.02 if "embedding" in name else shape[1:].numel() ** -0.5)
    return 0.1 * values + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
