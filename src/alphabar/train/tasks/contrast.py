"""CLIP on the captions of the data: words and pictures learn to find each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alphabar import models
from alphabar.data import Batch, Dataset, open_dataset, to_unit
from alphabar.data.parts import Parted
from alphabar.data.sources import note
from alphabar.errors import AlphabarError
from alphabar.nn.clip import Clip, contrastive_loss, retrieval, same_captions
from alphabar.rng import Rng
from alphabar.tokenizer import Tokenizer
from alphabar.train.augment import warp
from alphabar.train.config import Recipe
from alphabar.train.tasks.base import Loss, Task, check_equal

if TYPE_CHECKING:
    from PIL import Image

SHIFT = 0.06
"""Pictures are moved by up to this share of their side, each way."""
ZOOM = 0.1
"""And made larger or smaller by up to this share."""
SLICE = 256
"""Pictures or captions that are encoded at once outside of training."""
SHOWN, CHOICES = 32, 256
"""Pictures of a preview, and the pictures whose captions they choose from."""


class Contrast(Task):
    """Train both towers of a CLIP (Radford et al. 2021), on a vocabulary learned from the captions.

    A picture must find its caption among those of its batch, and the reverse; identical captions are no wrong answers.
    Where the data set knows the parts of its captions, the choice holds one more, of the same subject: a batch seldom
    shows a person in two skin tones, and without it those words are hardly learned (0.74 of the tones were right).
    Each process, and each of accumulated batches, contrasts its own batch.
    """

    network: Clip

    def __init__(self, network: Clip, dataset: Dataset, recipe: Recipe, captions: Sequence[str]) -> None:
        super().__init__(network, dataset, dataset, recipe)
        shape = network.config.text
        self.captions = captions
        self.tokenizer = Tokenizer.train(captions, shape.vocab_size, shape.length)
        self.tokens = self.tokenizer(captions)  # [len(dataset), L]
        self.families: dict[str, list[int]] = {}  # the rows of each subject
        if isinstance(dataset, Parted):
            for row, subject in enumerate(dataset.subjects):
                self.families.setdefault(subject, []).append(row)

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        seed = self.recipe.train.seed
        images = jitter(to_unit(batch.rows), Rng(seed, batch.positions, "jitter"))
        tokens = self.tokens[batch.indices].to(images.device)
        same, texts, rivals = same_captions(tokens), tokens, None
        if self.families:
            others = self.tokens[self._siblings(batch)].to(images.device)
            texts = torch.cat([tokens, others])  # [2N, L]
        of_images, of_texts = (features.float() for features in network(images, texts))  # [N, D], [N or 2N, D]
        if self.families:
            of_texts, rivals = of_texts.chunk(2)
            rivals = rivals.masked_fill((others == tokens).all(dim=1, keepdim=True), 0)
        loss = contrastive_loss(of_images, of_texts, self.network.scale, same, rivals)
        found = retrieval(of_images.detach(), of_texts.detach(), (1,), same)
        count = torch.tensor(len(images), device=images.device)
        named = {"image_to_text": found.image_to_text[1], "text_to_image": found.text_to_image[1]}
        parts = {f"top1_{key}": (share * count, count) for key, share in named.items()}
        return Loss(loss, {**parts, "scale": (self.network.scale.detach() * count, count)})

    def _siblings(self, batch: Batch) -> list[int]:
        """A row of the subject of each of the batch's rows, at random; it may be the row itself."""
        assert isinstance(self.dataset, Parted)
        families = [self.families[self.dataset.subjects[row]] for row in batch.indices.tolist()]
        draws = Rng(self.recipe.train.seed, batch.positions, "siblings").integers(1 << 30).tolist()
        return [family[draw % len(family)] for family, draw in zip(families, draws, strict=True)]

    def identity(self) -> dict[str, Any]:
        tokenizer = hashlib.sha256(self.tokenizer.to_json().encode()).hexdigest()
        return {**super().identity(), "tokenizer": tokenizer}

    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        from alphabar.report.grid import labelled_grid

        assert isinstance(network, Clip)
        shown = _spread(len(self.dataset), SHOWN)
        choices = sorted({self.captions[k] for k in (*shown, *_spread(len(self.dataset), CHOICES))})
        of_images = encode_images(network, self.dataset, shown)
        of_texts = encode_texts(network, self.tokenizer, choices)
        best = (of_images @ of_texts.T).argmax(dim=1).tolist()
        return labelled_grid(self.dataset.rows(shown), [choices[k] for k in best], columns=8)

    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        assert isinstance(network, Clip)
        if final:
            card = {**card, "metrics": {"kind": "clip", **self._metrics(network)}}
        models.save_clip(network, self.tokenizer, self.dataset.size, self.dataset.channels, card, folder)

    def _metrics(self, network: Clip) -> dict[str, Any]:
        """Zero-shot retrieval: of the train split among its captions, of the test split among those of both."""
        metrics = {"train": find_captions(network, self.tokenizer, self.dataset, self.captions)}
        held_out = self._test_split()
        if held_out is not None and held_out.captions is not None:
            choices = [*self.captions, *held_out.captions]
            metrics["held_out"] = find_captions(network, self.tokenizer, held_out, choices)
        return metrics

    def _test_split(self) -> Dataset | None:
        data = self.recipe.data
        root = Path(data.root) if data.root else None
        try:
            return open_dataset(data.name, "test", size=self.dataset.size, channels=self.dataset.channels, root=root)
        except AlphabarError as error:  # such as a folder too small to hold anything out
            note(f"no retrieval of held-out pictures: {error}")
            return None


def jitter(images: Tensor, rng: Rng) -> Tensor:
    """Move and zoom pictures a little, each by its own stream.

    Nothing is mirrored: captions speak of left and right.

    Args:
        images: [N, C, H, W].
        rng: of N streams.
    """
    fine = 10_000
    zoom, x, y = (rng.integers(2 * fine + 1) / fine - 1 for _ in range(3))  # [N], in [-1, 1]
    return warp(images, SHIFT * x, SHIFT * y, ZOOM * zoom, torch.zeros_like(zoom))


def _spread(n: int, count: int) -> list[int]:
    """At most `count` numbers, evenly over 0..n-1."""
    count = min(n, count)
    return [k * n // count for k in range(count)]


@torch.no_grad()
def encode_images(network: Clip, dataset: Dataset, indices: Sequence[int]) -> Tensor:
    """Unit vectors of some images of a data set, [len(indices), D]."""
    device = network.logit_scale.device
    parts = [indices[k : k + SLICE] for k in range(0, len(indices), SLICE)]
    return torch.cat([network.encode_images(to_unit(dataset.rows(part)).to(device)).float() for part in parts])


@torch.no_grad()
def encode_texts(network: Clip, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Unit vectors of some texts, [len(texts), D]."""
    tokens = tokenizer(texts).to(network.logit_scale.device)
    return torch.cat([network.encode_texts(part).float() for part in tokens.split(SLICE)])


def find_captions(network: Clip, tokenizer: Tokenizer, dataset: Dataset, captions: Sequence[str]) -> dict[str, float]:
    """How often a picture's own caption is the nearest, or among the five nearest, of some captions.

    An equally near caption counts as nearer, as in `retrieval`.

    Args:
        network, tokenizer: the CLIP.
        dataset: pictures with captions.
        captions: what to choose from; it holds the pictures' own. Identical ones count once.
    """
    assert dataset.captions is not None
    numbers = {caption: k for k, caption in enumerate(dict.fromkeys(captions))}
    own = torch.tensor([numbers[caption] for caption in dataset.captions])  # [len(dataset)]
    of_texts = encode_texts(network, tokenizer, list(numbers))
    ranks = []
    for start in range(0, len(dataset), SLICE):
        indices = range(start, min(start + SLICE, len(dataset)))
        scores = (encode_images(network, dataset, indices) @ of_texts.T).cpu()  # [n, captions]
        mine = scores.gather(1, own[indices.start : indices.stop, None])  # [n, 1]
        ranks.append((scores >= mine).sum(dim=1) - 1)  # [n]: captions before its own
    rank = torch.cat(ranks)
    top = {f"top{k}": (rank < k).float().mean().item() for k in (1, 5)}
    return {**top, "images": len(dataset), "captions": len(numbers)}


def make_contrast(recipe: Recipe, dataset: Dataset, network: nn.Module) -> Contrast:
    """The task, checked against the data."""
    if not isinstance(network, Clip):
        raise AlphabarError("the contrast task needs a network of type 'clip'")
    if dataset.captions is None:
        raise AlphabarError(f"{dataset.name} has no captions for the contrast task: add a metadata.jsonl")
    check_equal("network.image.image_channels", network.config.image.image_channels, dataset.channels, "image channels")
    return Contrast(network, dataset, recipe, dataset.captions)
