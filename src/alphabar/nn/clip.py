"""CLIP: words and images in one space (Radford et al. 2021, "Learning Transferable Visual Models").

The text tower is CLIP's to the number: its weights, and those of OpenCLIP, load into `ClipText`, which is what Stable
Diffusion reads its prompts with. The image tower is a small one of our own, for a CLIP trained from scratch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.nn.config import NetworkConfig
from alphabar.nn.layers import Downsample, ResBlock, conv3x3, group_norm

MAX_LOGIT_SCALE = math.log(100.0)
"""Where the learned temperature is clamped, as in section 2.5 of the paper: logits are scaled by at most 100."""


@dataclass(frozen=True)
class ClipTextConfig(NetworkConfig):
    """Shape of a `ClipText`; the defaults are the text tower of CLIP ViT-L/14, which Stable Diffusion 1.x has.

    Stable Diffusion 2.x has that of OpenCLIP ViT-H/14: width 1024, 24 layers, 16 heads, mlp 4096, "gelu".

    Attributes:
        vocab_size: number of tokens.
        length: most tokens of a text.
        width: D, of the token vectors.
        layers: transformer layers.
        num_heads: heads that share the width; must divide it.
        mlp: width of the layers' perceptrons.
        activation: of the perceptrons; "quick_gelu" is x * sigmoid(1.702 x), which OpenAI's weights were trained with.
        projection_dim: width of the space shared with images; None for a tower without the projection.
        end_token: id of end-of-text, at whose first place a text is pooled. None pools at the highest id of each text,
            which end-of-text is in CLIP's own vocabulary (transformers' old configs mean this by `eos_token_id: 2`).
        eps: of the layer norms.
    """

    type_name: ClassVar[str] = "clip-text"

    vocab_size: int = 49408
    length: int = 77
    width: int = 768
    layers: int = 12
    num_heads: int = 12
    mlp: int = 3072
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    projection_dim: int | None = None
    end_token: int | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        self.at_least(1, "vocab_size", "length", "width", "layers", "num_heads", "mlp")
        if self.width % self.num_heads:
            raise AlphabarError(f"clip-text.num_heads must divide width {self.width}, {self.num_heads} does not")
        if self.projection_dim is not None:
            self.at_least(1, "projection_dim")
        if self.end_token is not None and not 0 <= self.end_token < self.vocab_size:
            raise AlphabarError(f"clip-text.end_token must be in 0..{self.vocab_size - 1}, not {self.end_token}")


class ClipTextOutput(NamedTuple):
    """What a text tower says of texts.

    Attributes:
        hidden: the token vectors before the first layer and after each, layers + 1 tensors [N, L, D].
        last: [N, L, D], the last of them after the final norm.
        pooled: [N, projection_dim or D], of each whole text: `last` at its end-of-text token, projected if the tower
            has a projection.
    """

    hidden: tuple[Tensor, ...]
    last: Tensor
    pooled: Tensor


class ClipText(nn.Module):
    """Tokens [N, L] int64, L <= length -> token vectors and a vector per text.

    A pre-norm transformer in which a token sees itself and those before it, so the end-of-text token sees all.
    """

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.length, config.width)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.projection = (
            None if config.projection_dim is None else nn.Linear(config.width, config.projection_dim, bias=False)
        )
        nn.init.normal_(self.token_embedding.weight, std=0.02)  # as CLIP was trained; torch's 1 would drown the layers
        nn.init.normal_(self.position_embedding.weight, std=0.01)

    def forward(self, tokens: Tensor) -> ClipTextOutput:
        if tokens.shape[1] > self.config.length:
            raise AlphabarError(f"this text tower takes at most {self.config.length} tokens, not {tokens.shape[1]}")
        h = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]  # [N, L, D]
        hidden = [h]
        for layer in self.layers:
            h = layer(h)  # [N, L, D]
            hidden.append(h)
        last = self.final_norm(h)  # [N, L, D]
        pooled = last[torch.arange(len(tokens), device=tokens.device), self._end(tokens)]  # [N, D]
        if self.projection is not None:
            pooled = self.projection(pooled)  # [N, projection_dim]
        return ClipTextOutput(tuple(hidden), last, pooled)

    def _end(self, tokens: Tensor) -> Tensor:
        """The place of each text's first end-of-text token, [N]; argmax takes the first of equals."""
        marks = tokens if self.config.end_token is None else (tokens == self.config.end_token).int()
        return marks.argmax(dim=1)


class TextLayer(nn.Module):
    """Causal self-attention and a perceptron, each behind a norm and around a skip: [N, L, D] -> [N, L, D]."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.attention = CausalAttention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = Perceptron(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # [N, L, D]
        out: Tensor = x + self.mlp(self.norm2(x))  # [N, L, D]
        return out


class CausalAttention(nn.Module):
    """Self-attention in which a token sees itself and those before it: [N, L, D] -> [N, L, D]."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [N, heads, L, d]
            for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [N, heads, L, d]
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))  # [N, L, D]
        return out


class Perceptron(nn.Module):
    """Two linear layers with CLIP's or the usual GELU between them: [N, L, D] -> [N, L, D]."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.linear1 = nn.Linear(config.width, config.mlp)
        self.linear2 = nn.Linear(config.mlp, config.width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear1(x)  # [N, L, mlp]
        h = h * torch.sigmoid(1.702 * h) if self.activation == "quick_gelu" else F.gelu(h)
        out: Tensor = self.linear2(h)  # [N, L, D]
        return out


@dataclass(frozen=True)
class ClipImageConfig(NetworkConfig):
    """Shape of a `ClipImage`; the default is 1.1 million parameters for images of about 64x64.

    Attributes:
        image_channels: channels of the images.
        channels: width per level; every level after the first halves the size.
        blocks: ResBlocks per level.
        projection_dim: width of the space shared with words.
    """

    type_name: ClassVar[str] = "clip-image"

    image_channels: int = 3
    channels: tuple[int, ...] = (32, 64, 128, 192)
    blocks: int = 1
    projection_dim: int = 128

    def __post_init__(self) -> None:
        self.at_least(1, "image_channels", "channels", "blocks", "projection_dim")
        if not self.channels:
            raise AlphabarError("clip-image.channels must name at least one level")


class ClipImage(nn.Module):
    """Images [N, C, H, W] in [-1, 1], of any size -> [N, projection_dim]."""

    def __init__(self, config: ClipImageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels[0]
        self.conv_in = conv3x3(config.image_channels, width)
        levels: list[nn.Module] = []
        for level, out in enumerate(config.channels):
            if level > 0:
                levels.append(Downsample(width, width))
            levels += [ResBlock(width if index == 0 else out, out) for index in range(config.blocks)]
            width = out
        self.levels = nn.Sequential(*levels)
        self.norm_out = group_norm(width)
        self.projection = nn.Linear(width, config.projection_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        h = self.levels(self.conv_in(images))  # [N, c_last, h, w]
        h = F.silu(self.norm_out(h)).mean(dim=(2, 3))  # [N, c_last]
        out: Tensor = self.projection(h)  # [N, projection_dim]
        return out


@dataclass(frozen=True)
class ClipConfig(NetworkConfig):
    """Shape of a `Clip`; the default is a small one, for short captions of small images.

    Attributes:
        text: of the text tower, which needs a projection.
        image: of the image tower, which projects to the same width.
    """

    type_name: ClassVar[str] = "clip"

    text: ClipTextConfig = field(
        default_factory=lambda: ClipTextConfig(
            vocab_size=2048, length=24, width=192, layers=4, num_heads=4, mlp=768, activation="gelu", projection_dim=128
        )
    )
    image: ClipImageConfig = field(default_factory=ClipImageConfig)

    def __post_init__(self) -> None:
        if self.text.projection_dim != self.image.projection_dim:
            raise AlphabarError(
                f"clip.text.projection_dim must equal clip.image.projection_dim, {self.image.projection_dim}, "
                f"not {self.text.projection_dim}"
            )


class Clip(nn.Module):
    """Images [N, C, H, W] and tokens [N, L] -> the unit vectors of both, [N, projection_dim] each.

    `scale` is the learned inverse temperature of `contrastive_loss`, which starts at 1 / 0.07.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text = ClipText(config.text)
        self.image = ClipImage(config.image)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """By what cosines are multiplied to be logits; at most 100."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def encode_images(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> unit vectors [N, projection_dim]."""
        return F.normalize(self.image(images), dim=1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] -> unit vectors [N, projection_dim]."""
        return F.normalize(self.text(tokens).pooled, dim=1)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode_images(images), self.encode_texts(tokens)


def same_captions(tokens: Tensor) -> Tensor:
    """Which texts of a batch are the same: tokens [N, L] -> [N, N] bool."""
    return (tokens[:, None] == tokens[None, :]).all(dim=2)


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor | float,
    same: Tensor | None = None,
    rivals: Tensor | None = None,
) -> Tensor:
    """How hard it is to find an image's text among the batch's and a text's image: per sample [N], in nats.

    The mean of the two cross entropies of Radford et al. (2021), figure 3.

    Args:
        image_features: unit vectors [N, D].
        text_features: unit vectors [N, D], row k of which belongs to image k.
        scale: the inverse temperature.
        same: [N, N] bool, from `same_captions`: which captions are identical. The image of an identical caption is not
            a wrong answer, so it is left out. None: all captions differ.
        rivals: unit vectors [N, D]: row k is a text that is nearly right for image k, and is wrong for it alone; a row
            of zeros where there is none. So are learned the words that no other caption of a batch turns on
            (Yuksekgonul et al. 2023, section 4).
    """
    logits = scale * image_features @ text_features.T  # [N, N], images down, texts across
    if same is not None:
        logits = logits.masked_fill(_others(same), -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    choices = logits  # [N, N], or [N, N + 1]
    if rivals is not None:
        rival = (scale * image_features * rivals).sum(dim=1, keepdim=True)  # [N, 1]
        absent = ~rivals.any(dim=1, keepdim=True)
        choices = torch.cat([logits, rival.masked_fill(absent, -torch.inf)], dim=1)
    of_images = F.cross_entropy(choices, own, reduction="none")  # [N]
    of_texts = F.cross_entropy(logits.T, own, reduction="none")  # [N]
    return (of_images + of_texts) / 2


class Retrieval(NamedTuple):
    """Top-k accuracies by k, each in 0..1."""

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]


def retrieval(
    image_features: Tensor, text_features: Tensor, ks: Sequence[int] = (1, 5, 10), same: Tensor | None = None
) -> Retrieval:
    """How often an image's own text is among the k texts nearest to it, and a text's own image among the k images.

    An equally near wrong answer counts as nearer, so a network that says the same of everything scores 0, not 1.

    Args:
        image_features: unit vectors [N, D].
        text_features: unit vectors [N, D], row k of which belongs to image k.
        ks: how many answers are looked at.
        same: [N, N] bool, identical captions, which are not wrong answers; see `contrastive_loss`.
    """
    scores = image_features @ text_features.T  # [N, N]
    not_wrong = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    if same is not None:
        not_wrong = not_wrong | same
    own = scores.diagonal()  # [N]
    wrong = scores.masked_fill(not_wrong, -torch.inf)
    before_text = (wrong >= own[:, None]).sum(dim=1)  # [N]: texts that an image would name before its own
    before_image = (wrong >= own[None, :]).sum(dim=0)  # [N]
    return Retrieval(
        {k: (before_text < k).float().mean().item() for k in ks},
        {k: (before_image < k).float().mean().item() for k in ks},
    )


def _others(same: Tensor) -> Tensor:
    """Identical captions [N, N], without each one itself."""
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
