"""What is trained: to reconstruct, to denoise or to classify. The trainer knows none of the three."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar import models
from alphabar.codec import Codec, LatentCodec, PixelCodec
from alphabar.data import Batch, Dataset, Rows, to_unit
from alphabar.errors import AlphabarError
from alphabar.generate import SamplerConfig, sample
from alphabar.models import Model
from alphabar.nn import Autoencoder, Classifier, SmallUNet, UNet
from alphabar.nn.layers import check_divisible
from alphabar.rng import Rng
from alphabar.train.cache import encode_dataset
from alphabar.train.config import LossConfig, Recipe

if TYPE_CHECKING:
    from PIL import Image

QUARTILES = 4


class Loss(NamedTuple):
    """The loss of each sample [N], and named sums for the log: (sum, count), both scalars."""

    per_sample: Tensor
    parts: dict[str, tuple[Tensor, Tensor]]


@dataclass
class Task(ABC):
    """One thing to train.

    Args:
        network: what the optimizer changes.
        dataset: the pictures.
        source: what the loader draws rows from: the pictures, or their cached moments.
        recipe: the recipe.
    """

    network: nn.Module
    dataset: Dataset
    source: Rows
    recipe: Recipe

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        """The loss of a batch; everything random in it is keyed by the batch's positions."""

    @abstractmethod
    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        """A picture of what the network can do by now."""

    @abstractmethod
    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        """Write the model folder."""

    def identity(self) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        plain = self.recipe.to_dict()
        keep = {key: plain[key] for key in ("task", "network", "process", "loss")}
        keep |= {key: plain["train"][key] for key in ("seed", "batch_size", "accumulate")}
        return {**keep, "data": self.dataset.fingerprint}


def _inputs(rows: Tensor) -> Tensor:
    """Pictures become [-1, 1]; cached moments are taken as they are."""
    return to_unit(rows) if rows.dtype == torch.uint8 else rows


class Denoise(Task):
    """Train a denoiser in the space of a codec: the seven steps of DDPM's algorithm 1."""

    codec: Codec

    def __init__(self, network: nn.Module, dataset: Dataset, source: Rows, recipe: Recipe, codec: Codec) -> None:
        super().__init__(network, dataset, source, recipe)
        self.codec = codec
        self.process = recipe.process.build()

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        seed, device = self.recipe.train.seed, batch.rows.device
        x0 = self.codec.draw(_inputs(batch.rows), Rng(seed, batch.positions, "posterior"))
        rng = Rng(seed, batch.positions, "train")
        t = rng.integers(self.process.schedule.timesteps, device=device)
        eps = rng.normal(*x0.shape[1:], device=device)
        loss = self.process.loss(network, x0, t, eps)
        return Loss(loss, self._by_quartile(loss.detach(), t))

    def _by_quartile(self, loss: Tensor, t: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The loss split by how noisy the input was; the mean hides that the quartiles learn at their own pace."""
        quartile = t * QUARTILES // self.process.schedule.timesteps
        count = torch.bincount(quartile, minlength=QUARTILES)
        total = torch.bincount(quartile, weights=loss.double(), minlength=QUARTILES)
        return {f"loss_q{q + 1}": (total[q], count[q]) for q in range(QUARTILES)}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "codec": self.codec.fingerprint}

    def _model(self, network: nn.Module, card: dict[str, Any] | None = None) -> Model:
        return Model(
            network=network,
            settings=self.recipe.process,
            codec=self.codec,
            size=self.dataset.size,
            channels=self.dataset.channels,
            card=card or {},
        )

    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        from alphabar.report.grid import image_grid

        steps = min(20, self.process.schedule.timesteps)
        images = sample(self._model(network), 32, SamplerConfig(name="ddpm", steps=steps), seed=self.recipe.train.seed)
        return image_grid(images, columns=8)

    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        if self.recipe.codec is not None:
            first_stage = models.read_card(self.recipe.codec)
            spent = first_stage.get("train_seconds", 0.0) + first_stage.get("encode_seconds", 0.0)
            card = {**card, "codec_seconds": spent, "codec_card": first_stage}
        self._model(network, card).save(folder)


class Reconstruct(Task):
    """Train an autoencoder, then fit the scale of its latents over the data."""

    network: Autoencoder

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        images = to_unit(batch.rows)
        shape = self.network.latent_shape(*images.shape[2:])
        noise = Rng(self.recipe.train.seed, batch.positions, "posterior").normal(*shape, device=images.device)
        reconstruction, posterior = network(images, noise)
        error = _reconstruction_error(self.recipe.loss, reconstruction.float(), images)
        count = torch.tensor(len(images), device=images.device)
        parts = {"reconstruction": (error.detach().sum(), count)}
        if not self.network.variational:
            return Loss(error, parts)
        kl = posterior.kl() / images[0].numel()
        parts["kl"] = (kl.detach().sum(), count)
        return Loss(error + self.recipe.loss.kl_weight * kl, parts)

    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        from alphabar.report.grid import image_grid

        images = to_unit(self.dataset.rows(range(min(16, len(self.dataset)))))
        codec = LatentCodec(network)  # type: ignore[arg-type]
        mean, _ = codec.moments(images.to(device)).chunk(2, dim=1)
        return image_grid(torch.cat([images, codec.decode(mean).cpu().clamp(-1, 1)]), columns=16)

    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        """The scale is fitted on all of the data at the end, on the first images before."""
        assert isinstance(network, Autoencoder)
        codec = LatentCodec(network)
        device = next(network.parameters()).device
        if final:
            started = time.perf_counter()
            codec = LatentCodec.fit(network, encode_dataset(codec, self.dataset, cache, device).batches())
            card = {**card, "encode_seconds": round(time.perf_counter() - started, 1)}
        else:
            rows = to_unit(self.dataset.rows(range(min(512, len(self.dataset)))))
            codec = LatentCodec.fit(network, [codec.moments(rows.to(device))])
        models.save_autoencoder(codec, self.dataset.size, self.dataset.channels, card, folder)


def _reconstruction_error(loss: LossConfig, output: Tensor, images: Tensor) -> Tensor:
    error = (output - images).abs() if loss.reconstruction == "l1" else (output - images).square()
    return error.flatten(1).mean(dim=1)


class Classify(Task):
    """Train the classifier whose features the evaluation measures distances in."""

    network: Classifier

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        assert batch.labels is not None
        images = _flip_half(to_unit(batch.rows), Rng(self.recipe.train.seed, batch.positions, "flip"))
        logits = network(images).float()
        loss = F.cross_entropy(logits, batch.labels, reduction="none")
        right = (logits.argmax(dim=1) == batch.labels).sum()
        return Loss(loss, {"accuracy": (right, torch.tensor(len(logits), device=logits.device))})

    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        from alphabar.report.grid import labelled_grid

        rows = self.dataset.rows(range(min(32, len(self.dataset))))
        names = self.dataset.class_names or ()
        guesses = network(to_unit(rows).to(device)).argmax(dim=1).tolist()
        return labelled_grid(rows, [names[g] for g in guesses], columns=8)

    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        models.save_classifier(network, self.dataset.size, self.dataset.channels, card, folder)


def _flip_half(images: Tensor, rng: Rng) -> Tensor:
    """Mirror about half of the pictures: a garment is the same garment from the left."""
    flip = rng.integers(2, device=images.device).bool().view(-1, 1, 1, 1)
    return torch.where(flip, images.flip(3), images)


def make_task(recipe: Recipe, dataset: Dataset, network: nn.Module, cache: Path, device: torch.device) -> Task:
    """The task of a recipe, checked against the data.

    Args:
        recipe: the recipe.
        dataset: its pictures.
        network: built from `recipe.network`.
        cache: a folder for cached moments.
        device: where encoding runs.
    """
    if recipe.task == "classify":
        if dataset.labels is None or not isinstance(network, Classifier):
            raise AlphabarError("the classify task needs a labelled data set and a network of type 'classifier'")
        _check_equal("network.in_channels", network.config.in_channels, dataset.channels, "image channels")
        _check_equal("network.num_classes", network.config.num_classes, int(dataset.labels.max()) + 1, "classes")
        return Classify(network, dataset, dataset, recipe)
    if recipe.task == "reconstruct":
        if not isinstance(network, Autoencoder):
            raise AlphabarError("the reconstruct task needs an autoencoder, such as network.type='conv-autoencoder'")
        _check_images(network, dataset)
        return Reconstruct(network, dataset, dataset, recipe)
    codec: Codec = PixelCodec(dataset.channels) if recipe.codec is None else models.load_autoencoder(recipe.codec)
    if isinstance(codec, LatentCodec):
        _check_images(codec.autoencoder, dataset)
    _check_denoiser(network, codec.shape(1, dataset.size, dataset.size))
    codec.to(device)
    source = encode_dataset(codec, dataset, cache, device) if codec.cacheable else dataset
    return Denoise(network, dataset, source, recipe, codec)


def _check_equal(key: str, value: int, needed: int, what: str) -> None:
    if value != needed:
        raise AlphabarError(f"{key} is {value}, but there are {needed} {what}; set {key}={needed}")


def _check_images(network: Autoencoder, dataset: Dataset) -> None:
    """An autoencoder fits its images."""
    network.latent_shape(dataset.size, dataset.size)
    own = network.image_channels
    if own != dataset.channels:
        raise AlphabarError(
            f"the autoencoder is for images of {own} channels, those of {dataset.name} have {dataset.channels}"
        )


def _check_denoiser(network: nn.Module, shape: tuple[int, ...]) -> None:
    """A denoiser fits what is diffused."""
    if not isinstance(network, UNet | SmallUNet):
        raise AlphabarError("the denoise task needs a U-Net, such as network.type='small-unet'")
    if len(shape) != 4:
        raise AlphabarError("a U-Net needs latents that are maps: train the codec with network.type='conv-autoencoder'")
    for key in ("in_channels", "out_channels"):
        _check_equal(f"network.{key}", getattr(network.config, key), shape[1], "channels to diffuse")
    check_divisible(shape[2], shape[3], network.factor, f"network.type={network.config.type_name!r}")
