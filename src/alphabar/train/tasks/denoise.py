"""Diffusion, in pixels or latents, told words or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alphabar import models
from alphabar.codec import Codec, LatentCodec, PixelCodec
from alphabar.data import Batch, Dataset, Rows, to_uint8, to_unit
from alphabar.errors import AlphabarError
from alphabar.generate import Guidance, SamplerConfig, sample
from alphabar.models import Model
from alphabar.nn import SmallUNet, UNet
from alphabar.nn.layers import check_divisible
from alphabar.rng import Rng
from alphabar.text import TextEncoder
from alphabar.train.cache import encode_dataset
from alphabar.train.config import Recipe
from alphabar.train.tasks.base import Loss, Task, check_equal, check_images
from alphabar.types import Cond

if TYPE_CHECKING:
    from PIL import Image

QUARTILES = 4


def _inputs(rows: Tensor) -> Tensor:
    """Pictures become [-1, 1]; cached moments are taken as they are."""
    return to_unit(rows) if rows.dtype == torch.uint8 else rows


class Captions:
    """The captions of a data set as a denoiser is told them, each encoded once.

    Each is encoded alone and in full precision, as the sampler's null condition is: the numbers of one text must depend
    neither on the texts beside it nor on the precision of training.

    Args:
        text: the frozen encoder.
        captions: one for each image.
        dropout: the share that is replaced by the null condition.
        seed: of the dropout.
    """

    LIMIT = 1 << 30
    """Bytes of encoded captions that are kept; what would go beyond is encoded anew each time."""

    def __init__(self, text: TextEncoder, captions: Sequence[str], dropout: float, seed: int) -> None:
        self.text, self.captions, self.dropout, self.seed = text, captions, dropout, seed
        self._kept: dict[str, Tensor] = {}
        self._bytes = 0

    def chosen(self, batch: Batch) -> list[str]:
        """The caption that each sample is shown: its own, or "" where it is dropped, keyed by its position."""
        million = 1_000_000
        dropped = Rng(self.seed, batch.positions, "drop").integers(million) < self.dropout * million
        own = [self.captions[index] for index in batch.indices.tolist()]
        return ["" if drop else caption for caption, drop in zip(own, dropped.tolist(), strict=True)]

    def cond(self, batch: Batch) -> Cond:
        """What the network is told of a batch."""
        captions = self.chosen(batch)
        fresh = set(captions) - self._kept.keys()
        with torch.autocast(self.text.device.type, enabled=False):
            encoded = {caption: self.text.encode([caption])[0] for caption in fresh}
        rows = torch.stack([encoded[c] if c in encoded else self._kept[c] for c in captions])
        size = sum(row.nbytes for row in encoded.values())
        if self._bytes + size <= self.LIMIT:
            self._kept |= encoded
            self._bytes += size
        return {"text": rows}


class Denoise(Task):
    """Train a denoiser in the space of a codec: the seven steps of DDPM's algorithm 1."""

    codec: Codec

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        source: Rows,
        recipe: Recipe,
        codec: Codec,
        text: TextEncoder | None = None,
    ) -> None:
        super().__init__(network, dataset, source, recipe)
        self.codec, self.text = codec, text
        self.process = recipe.process.build()
        self.captions: Captions | None = None
        if text is not None and recipe.text is not None and dataset.captions is not None:
            self.captions = Captions(text, dataset.captions, recipe.text.dropout, recipe.train.seed)

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        seed, device = self.recipe.train.seed, batch.rows.device
        x0 = self.codec.draw(_inputs(batch.rows), Rng(seed, batch.positions, "posterior"))
        rng = Rng(seed, batch.positions, "train")
        t = rng.integers(self.process.schedule.timesteps, device=device)
        eps = rng.normal(*x0.shape[1:], device=device)
        cond = None if self.captions is None else self.captions.cond(batch)
        loss = self.process.loss(network, x0, t, eps, cond)
        return Loss(loss, self._by_quartile(loss.detach(), t))

    def _by_quartile(self, loss: Tensor, t: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The loss split by how noisy the input was; the mean hides that the quartiles learn at their own pace."""
        quartile = t * QUARTILES // self.process.schedule.timesteps
        count = torch.bincount(quartile, minlength=QUARTILES)
        total = torch.bincount(quartile, weights=loss.double(), minlength=QUARTILES)
        return {f"loss_q{q + 1}": (total[q], count[q]) for q in range(QUARTILES)}

    def identity(self) -> dict[str, Any]:
        told = self.captions
        words = {} if told is None else {"text": told.text.fingerprint, "dropout": told.dropout}
        return {**super().identity(), "codec": self.codec.fingerprint, **words}

    def _model(self, network: nn.Module, card: dict[str, Any] | None = None) -> Model:
        return Model(
            network=network,
            settings=self.recipe.process,
            codec=self.codec,
            size=self.dataset.size,
            channels=self.dataset.channels,
            card=card or {},
            text=self.text,
        )

    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        from alphabar.report.grid import image_grid, labelled_grid

        steps, seed = min(20, self.process.schedule.timesteps), self.recipe.train.seed
        sampler = SamplerConfig(name="ddpm", steps=steps)
        if self.captions is None:
            return image_grid(sample(self._model(network), 32, sampler, seed=seed), columns=8)
        prompts = [self.captions.captions[k * len(self.dataset) // 32] for k in range(32)]
        images = sample(self._model(network), 32, sampler, seed=seed, prompts=prompts, guidance=Guidance(3.0))
        return labelled_grid(to_uint8(images), prompts, columns=8)

    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        if self.recipe.codec is not None:
            first_stage = models.read_card(self.recipe.codec)
            spent = first_stage.get("train_seconds", 0.0) + first_stage.get("encode_seconds", 0.0)
            card = {**card, "codec_seconds": spent, "codec_card": first_stage}
        self._model(network, card).save(folder)


def _check_denoiser(network: nn.Module, shape: tuple[int, ...]) -> None:
    """A denoiser fits what is diffused."""
    if not isinstance(network, UNet | SmallUNet):
        raise AlphabarError("the denoise task needs a U-Net, such as network.type='small-unet'")
    if len(shape) != 4:
        raise AlphabarError("a U-Net needs latents that are maps: train the codec with network.type='conv-autoencoder'")
    for key in ("in_channels", "out_channels"):
        check_equal(f"network.{key}", getattr(network.config, key), shape[1], "channels to diffuse")
    check_divisible(shape[2], shape[3], network.factor, f"network.type={network.config.type_name!r}")


def _check_words(network: nn.Module, dataset: Dataset, text: TextEncoder | None) -> None:
    """A denoiser that hears words has an encoder, and images with captions; one that does not has neither."""
    width = network.config.context_dim if isinstance(network, UNet) else None
    if text is None:
        if width is not None:
            raise AlphabarError("network.context_dim is set, but there are no words: name text.encoder, a CLIP's run")
        return
    if dataset.captions is None:
        raise AlphabarError(f"{dataset.name} has no captions for text.encoder: add a metadata.jsonl, or leave it out")
    if width != text.width:
        raise AlphabarError(f"network.context_dim is {width}, the text encoder's width {text.width}; set it to that")


def make_denoise(recipe: Recipe, dataset: Dataset, network: nn.Module, cache: Path, device: torch.device) -> Denoise:
    """The task, checked against the data and the frozen networks that it uses; latents are cached here."""
    codec: Codec = PixelCodec(dataset.channels) if recipe.codec is None else models.load_autoencoder(recipe.codec)
    if isinstance(codec, LatentCodec):
        check_images(codec.autoencoder, dataset)
    _check_denoiser(network, codec.shape(1, dataset.size, dataset.size))
    text = None if recipe.text is None else models.load_text_encoder(recipe.text.encoder, recipe.text.layer).to(device)
    _check_words(network, dataset, text)
    codec.to(device)
    source = encode_dataset(codec, dataset, cache, device) if codec.cacheable else dataset
    return Denoise(network, dataset, source, recipe, codec, text)
