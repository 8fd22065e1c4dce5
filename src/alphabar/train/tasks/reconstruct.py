"""The first stage: an autoencoder, on pixels alone or also on a perceptual distance and a discriminator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alphabar import models
from alphabar.codec import LatentCodec
from alphabar.data import Batch, Dataset, to_unit
from alphabar.errors import AlphabarError
from alphabar.io import hash_tensors
from alphabar.nn import Autoencoder
from alphabar.nn.perceptual import (
    PatchDiscriminator,
    PerceptualLoss,
    adaptive_weight,
    discriminator_hinge,
    generator_hinge,
    learned_metric,
)
from alphabar.rng import Rng, derive_seed
from alphabar.train.cache import encode_dataset
from alphabar.train.config import LossConfig, Recipe
from alphabar.train.tasks.base import Loss, Task, check_equal, check_images

if TYPE_CHECKING:
    from PIL import Image

LEARNED = "learned"
"""What recipes call `learned_metric`."""


class Reconstruct(Task):
    """Train an autoencoder, then fit the scale of its latents over the data.

    The discriminator plays against it as in latent diffusion (Rombach et al. 2022, appendix G): it joins late, learns
    from the same reconstructions, and pulls no harder at the decoder's last layer than the reconstruction does.
    """

    network: Autoencoder

    def __init__(
        self,
        network: Autoencoder,
        dataset: Dataset,
        recipe: Recipe,
        perceptual: PerceptualLoss | None = None,
        discriminator: PatchDiscriminator | None = None,
    ) -> None:
        super().__init__(network, dataset, dataset, recipe, discriminator)
        self.perceptual = perceptual
        self._last: tuple[Tensor, Tensor] | None = None  # images and their reconstructions, for the discriminator

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        images = to_unit(batch.rows)
        shape = self.network.latent_shape(*images.shape[2:])
        noise = Rng(self.recipe.train.seed, batch.positions, "posterior").normal(*shape, device=images.device)
        output, posterior = network(images, noise)
        output = output.float()  # [N, C, H, W]
        parts = {"reconstruction": _reconstruction_error(self.recipe.loss, output, images)}
        total = parts["reconstruction"]
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(output, images)
            total = total + self.recipe.loss.perceptual_weight * parts["perceptual"]
        if self._playing:
            self._last = images, output.detach()
            parts["adversarial"], weight = self._adversarial(total.mean(), output)
            parts["adversarial_weight"] = weight.expand(len(images))
            total = total + weight * parts["adversarial"]
        if self.network.variational:
            parts["kl"] = posterior.kl() / images[0].numel()
            total = total + self.recipe.loss.kl_weight * parts["kl"]
        count = torch.tensor(len(images), device=images.device)
        return Loss(total, {name: (part.detach().sum(), count) for name, part in parts.items()})

    @property
    def _playing(self) -> bool:
        return self.adversary is not None and self.step >= self.recipe.loss.adversarial_start

    def _adversarial(self, reconstruction: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """How real the outputs look, as a loss, for each sample [N]; and its weight, a number."""
        assert self.adversary is not None
        self.adversary.requires_grad_(False)  # it judges here; it learns in `adversary_loss`
        hinge = generator_hinge(self.adversary(output).float())
        last_layer = [p for p in self.network.decoder.parameters() if p.ndim > 1][-1]  # type: ignore[union-attr]
        weight = self.recipe.loss.adversarial_weight * adaptive_weight(reconstruction, hinge, last_layer)
        return hinge.expand(len(output)), weight

    def adversary_loss(self, adversary: nn.Module) -> Tensor | None:
        if self._last is None:
            return None
        images, output = self._last
        self._last = None
        adversary.requires_grad_(True)
        logits = adversary(torch.cat([images, output])).float()  # one pass: a wrapped network is called once a step
        return discriminator_hinge(*logits.chunk(2))

    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        from alphabar.report.grid import image_grid

        images = to_unit(self.dataset.rows(range(min(16, len(self.dataset)))))
        codec = LatentCodec(network)  # type: ignore[arg-type]
        mean, _ = codec.moments(images.to(device)).chunk(2, dim=1)
        return image_grid(torch.cat([images, codec.decode(mean).cpu().clamp(-1, 1)]), columns=16)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), **self._judge()}

    def _judge(self) -> dict[str, Any]:
        """The perceptual network by name and hash; nothing where there is none."""
        if self.perceptual is None:
            return {}
        sha256 = hash_tensors(self.perceptual.state_dict())
        return {"perceptual": {"name": self.recipe.loss.perceptual, "sha256": sha256}}

    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        """The scale is fitted on all of the data at the end, on the first images before."""
        assert isinstance(network, Autoencoder)
        codec = LatentCodec(network)
        device = next(network.parameters()).device
        card = {**card, **self._judge()}
        if final:
            started = time.perf_counter()
            codec = LatentCodec.fit(network, encode_dataset(codec, self.dataset, cache, device).batches())
            card = {**card, "encode_seconds": round(time.perf_counter() - started, 1)}
        else:
            rows = to_unit(self.dataset.rows(range(min(512, len(self.dataset)))))
            codec = LatentCodec.fit(network, [codec.moments(rows.to(device))])
        models.save_autoencoder(codec, self.dataset.size, self.dataset.channels, card, folder)


def _reconstruction_error(loss: LossConfig, output: Tensor, images: Tensor) -> Tensor:
    difference = (output - images).flatten(1)  # [N, pixel values]
    error = difference.abs() if loss.reconstruction == "l1" else difference.square()
    if loss.l1_weight:
        error = error + loss.l1_weight * difference.abs()
    return error.mean(dim=1)


def make_reconstruct(recipe: Recipe, dataset: Dataset, network: nn.Module, device: torch.device) -> Reconstruct:
    """The task, checked against the data."""
    if not isinstance(network, Autoencoder):
        raise AlphabarError("the reconstruct task needs an autoencoder, such as network.type='conv-autoencoder'")
    check_images(network, dataset)
    loss, shape = recipe.loss, (1, dataset.channels, dataset.size, dataset.size)
    perceptual, discriminator = None, None
    if loss.perceptual is not None:
        perceptual = _perceptual(loss.perceptual, dataset).to(device)
        perceptual(*torch.zeros(2, *shape, device=device))  # says now, in one line, if it does not take such images
    if loss.adversarial_weight > 0:
        if recipe.train.compile:
            raise AlphabarError("train.compile does not go with loss.adversarial_weight; set one of them to false or 0")
        channels = loss.discriminator.image_channels
        check_equal("loss.discriminator.image_channels", channels, dataset.channels, "image channels")
        torch.manual_seed(derive_seed(recipe.train.seed, 0, "adversary"))
        discriminator = PatchDiscriminator(loss.discriminator).to(device)
        discriminator(torch.zeros(shape, device=device))
    return Reconstruct(network, dataset, recipe, perceptual, discriminator)


def _perceptual(name: str, dataset: Dataset) -> PerceptualLoss:
    """The learned metric, or a classifier of just such images as those of the data set."""
    if name == LEARNED:
        return learned_metric()
    classifier = models.load_classifier(name)
    (size, channels), own = models.read_image(name), (dataset.size, dataset.channels)
    if (size, channels) != own:
        raise AlphabarError(
            f"loss.perceptual: {name} judges images of {size}x{size} with {channels} channel(s), those of "
            f"{dataset.name} are {own[0]}x{own[0]} with {own[1]}; name another classifier, or {LEARNED!r}"
        )
    return PerceptualLoss(classifier)
