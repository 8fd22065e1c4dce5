"""Whether pictures show what they were asked to show.

A judge reads subject, colour and tone off each sample. It is a classifier that learned the training pictures alone, so
what it says of the real held-out pictures is the ceiling, and stands beside every number. So does how near each sample
is to a training picture: a model that copies gets seen captions right, and unseen ones wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alphabar.codec import Codec, LatentCodec
from alphabar.data import Dataset, to_uint8, to_unit
from alphabar.data.parts import HEADS, Parted, Vocabulary
from alphabar.errors import AlphabarError
from alphabar.evaluate.features import extract_features
from alphabar.evaluate.mode import evaluating
from alphabar.generate import Guidance, SamplerConfig, sample
from alphabar.models import Model, load_classifier, read_card
from alphabar.nn import Classifier, Clip, Retrieval, retrieval, same_captions
from alphabar.rng import Rng, permutation
from alphabar.tokenizer import Tokenizer
from alphabar.train.augment import augment
from alphabar.train.tasks.contrast import encode_images, encode_texts

GROUPS = (
    "seen, without tone",
    "seen, with tone",
    "seen, recoloured",
    "unseen colour × shape",
    "unseen colour × object",
    "unseen tone × person",
)
"""What captions ask for; the last two parts of the name are of the held-out combinations."""
SAME = 0.05
"""Root mean square difference, in [-1, 1], below which two pictures look the same (32 dB)."""
QUANTILE = 0.95
SHRUNK, CANDIDATES = 16, 8
"""Neighbours are sought at this size; so many of them are then compared in full."""


class Share(NamedTuple):
    """So many of so many."""

    right: int
    n: int

    @property
    def value(self) -> float:
        """The share, 0..1."""
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies with 95% confidence (Wilson 1927), if the n are independent."""
        z = 1.96
        centre = (self.right + z * z / 2) / (self.n + z * z)
        half = z / (self.n + z * z) * math.sqrt(self.n * self.value * (1 - self.value) + z * z / 4)
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class GroupScore:
    """What the judge says of the pictures of one group.

    Attributes:
        group: one of GROUPS.
        captions: how many different ones were asked for.
        subject, colour, tone: how often each is right; None where no caption of the group asks for it.
        everything: how often all that was asked for is right.
        own_nearest: how often no training picture is nearer, in pixels, than the real picture of the caption.
        reproduced: how many are that real picture, to within the copy distance; of unseen captions none can be learned.
        copies: how many are, to within the copy distance, another training picture than was asked for.
        distance: to the nearest training picture, root mean square in [-1, 1]; the median.
    """

    group: str
    captions: int
    subject: Share
    colour: Share | None
    tone: Share
    everything: Share
    own_nearest: Share
    reproduced: Share
    copies: Share
    distance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a share as right, n, value and interval."""
        shares = {key: value for key, value in vars(self).items() if isinstance(value, Share)}
        plain = {key: {**s._asdict(), "value": s.value, "interval": s.interval} for key, s in shares.items()}
        return {**vars(self), **plain}


class Judged(NamedTuple):
    """Pictures, real or made, and what was found.

    Attributes:
        source: what made them.
        images: uint8 [n, C, H, W].
        rows: the real picture that each should be like, [n] int64: rows of the judge's `images`.
        right: whether subject, colour and tone are right, [n, 3] bool; True where not asked for.
        nearest: the training picture nearest in pixels, [n] int64.
        nearest_features: the same in the judge's features.
        distances: to the nearest in pixels, [n].
        scores: one for each group.
    """

    source: str
    images: Tensor
    rows: Tensor
    right: Tensor
    nearest: Tensor
    nearest_features: Tensor
    distances: Tensor
    scores: tuple[GroupScore, ...]


class WordJudge:
    """A classifier with all real pictures, train split first.

    Args:
        classifier: trained on the train split, with one question for each of subject, colour and tone.
        train, test: the splits; the test split holds combinations of parts that the train split shows apart.

    Attributes:
        images: uint8 [N, C, H, W]; the first `known` are the train split.
        captions: of each.
        labels: [N, 3], see `Vocabulary.labels`.
        groups: [N], places in GROUPS.

    Raises:
        AlphabarError: a classifier with other classes.
    """

    def __init__(self, classifier: Classifier, train: Parted, test: Parted) -> None:
        vocabulary = Vocabulary.of(train)
        if classifier.config.heads != vocabulary.sizes:
            raise AlphabarError(
                f"the judge has {classifier.config.heads} classes, {train.name} has {vocabulary.sizes} "
                f"({', '.join(HEADS)}); train it anew"
            )
        self.classifier, self.known = classifier, len(train)
        splits = (train, test)
        self.images = torch.cat([split.rows(range(len(split))) for split in splits])
        self.captions = [caption for split in splits for caption in split.captions or ()]
        self.labels = torch.cat([vocabulary.labels(split) for split in splits])
        self.groups = torch.tensor([*_groups(train, 0, 1, 2), *_groups(test, 3, 5, 4)])
        self._pixels = to_unit(self.images[: self.known]).flatten(1)
        self._shrunk = _shrunk(self.images[: self.known])
        self._features = self.features(self.images[: self.known])

    def choose(self, n: int, seed: int = 0) -> Tensor:
        """About n rows of each group, group by group: chosen by the seed, or all of a small group repeatedly."""
        chosen = []
        for group in range(len(GROUPS)):
            rows = (self.groups == group).nonzero().flatten()
            if len(rows):
                some = rows[permutation(seed, len(rows), group)[:n]].sort().values
                chosen.append(some.repeat(max(1, n // len(rows))))
        return torch.cat(chosen)

    def features(self, images: Tensor) -> Tensor:
        """The judge's features [n, D] of images [n, C, H, W], uint8 or float in [-1, 1]."""
        return torch.from_numpy(extract_features(self.classifier, images))

    def read(self, features: Tensor) -> Tensor:
        """The classes that the judge sees, [n, 3], from its features [n, D]."""
        with evaluating(self.classifier):
            logits = self.classifier.head(features.to(self.classifier.head.weight.device)).cpu()
        return torch.stack([answer.argmax(dim=1) for answer in self.classifier.split(logits)], dim=1)

    def judge(self, source: str, images: Tensor, rows: Tensor, copy_distance: float) -> Judged:
        """What pictures show, and what they are near to.

        Args:
            source: what made them.
            images: [n, C, H, W], uint8 or float in [-1, 1].
            rows: the real picture that each should be like, [n].
            copy_distance: from a training picture, below which a picture counts as its copy.

        Raises:
            AlphabarError: images that are not finite.
        """
        features = self.features(images)
        images = images if images.dtype == torch.uint8 else to_uint8(images)
        pixels = to_unit(images).flatten(1)
        asked = self.labels[rows]  # [n, 3]
        right = (self.read(features) == asked) | (asked < 0)
        nearest, distances = self._nearest_training(images)
        to_asked = _rms(pixels, to_unit(self.images[rows]).flatten(1))
        found = Judged(source, images, rows, right, nearest, _nearest(features, self._features)[:, 0], distances, ())
        groups = self.groups[rows]
        scores = [self._score(found, to_asked, groups == group, copy_distance) for group in groups.unique().tolist()]
        return found._replace(scores=tuple(scores))

    def _nearest_training(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The training picture nearest in pixels to each of uint8 images, and its distance, both [n].

        Sought among those that are nearest when shrunk, which is many times faster.
        """
        rows, distances = [], []
        for part in images.split(64):
            candidates = _nearest(_shrunk(part), self._shrunk, CANDIDATES)  # [64, k]
            exact = torch.stack([_rms(to_unit(part).flatten(1), self._pixels[k]) for k in candidates.T], dim=1)
            best = exact.min(dim=1)
            rows.append(candidates.gather(1, best.indices[:, None])[:, 0])
            distances.append(best.values)
        return torch.cat(rows), torch.cat(distances)

    def _score(self, found: Judged, to_asked: Tensor, chosen: Tensor, copy_distance: float) -> GroupScore:
        rows, right, distances = found.rows[chosen], found.right[chosen], found.distances[chosen]
        asked, own = self.labels[rows] >= 0, to_asked[chosen] <= distances  # [n, 3], [n]
        subject, colour, tone = (_share(ok[ask]) for ok, ask in zip(right.T, asked.T, strict=True))
        return GroupScore(
            group=GROUPS[int(self.groups[rows[0]])],
            captions=len(rows.unique()),
            subject=subject,
            colour=colour if colour.n else None,
            tone=tone,
            everything=_share(right.all(dim=1)),
            own_nearest=_share(own),
            reproduced=_share(to_asked[chosen] < copy_distance),
            copies=_share((distances < copy_distance) & ~own),
            distance=float(distances.median()),
        )

    def copy_distance(self, codec: Codec, device: torch.device, seed: int = 0, n: int = 256) -> float:
        """How far a training picture lands from itself through the codec, nearly always; at least `SAME`.

        A sample that is nearer than this to a training picture is that picture, as far as the codec can tell.
        """
        rows = permutation(seed, self.known, 0)[:n]
        back = through(codec, self.images[rows], device, seed)
        return max(SAME, float(_rms(back.flatten(1), self._pixels[rows]).quantile(QUANTILE)))


def load_word_judge(name: str, train: Dataset, test: Dataset) -> WordJudge:
    """The judge from a run or model folder, or by the name of a shipped one, checked against the data.

    Raises:
        AlphabarError: a judge of other pictures, or pictures whose captions have no known parts.
    """
    if not isinstance(train, Parted) or not isinstance(test, Parted):
        raise AlphabarError(f"words are judged by subject, colour and tone, which the captions of {train.name} lack")
    classifier, card = load_classifier(name), read_card(name)
    if card.get("data_sha256") != train.fingerprint:
        raise AlphabarError(
            f"the judge {name} learned other pictures than those of {train.name} here; train it anew: "
            "alphabar train emoji-judge --out runs/emoji-judge, then --judge runs/emoji-judge"
        )
    return WordJudge(classifier, train, test)


def judge_words(
    model: Model,
    judge: WordJudge,
    guidances: Sequence[Guidance],
    n: int = 60,
    sampler: SamplerConfig | None = None,
    *,
    seed: int = 0,
    on_step: Callable[[], object] | None = None,
) -> tuple[tuple[Judged, ...], float]:
    """Real pictures, the same through the codec, then samples of the same captions at each guidance, all judged.

    The noise of a sample is the same at every guidance.

    Args:
        model: a denoiser that is told words.
        judge: who looks.
        guidances: how closely to follow the captions.
        n: about how many pictures in each group.
        sampler: DPM-Solver++ in 20 steps where not given.
        seed: of the choice of captions and of the noise.
        on_step: called after each step of each batch of 64.

    Returns:
        What was found, and the distance below which a picture counts as a copy.
    """
    if model.text is None:
        raise AlphabarError("this model is not told any words")
    sampler = sampler or SamplerConfig("dpmpp-2m", 20)
    rows, limit = judge.choose(n, seed), judge.copy_distance(model.codec, model.device, seed)
    real = judge.images[rows]
    found = [judge.judge("real pictures", real, rows, limit)]
    if isinstance(model.codec, LatentCodec):
        found.append(
            judge.judge("through the autoencoder", through(model.codec, real, model.device, seed), rows, limit)
        )
    prompts = [judge.captions[row] for row in rows.tolist()]
    for guidance in guidances:
        made = sample(model, len(rows), sampler, seed=seed, prompts=prompts, guidance=guidance, on_step=on_step)
        found.append(judge.judge(guidance_name(guidance), made, rows, limit))
    return tuple(found), limit


def ceiling(judge: WordJudge, seed: int = 0) -> tuple[Judged, ...]:
    """What the judge says of all real pictures as they are, and disturbed as it learned them."""
    rows = torch.arange(len(judge.images))
    disturbed = [
        augment(to_unit(judge.images[part]), Rng(seed, part.tolist(), "evaluate/words")).clamp(-1, 1)
        for part in rows.split(256)
    ]
    return (
        judge.judge("real pictures", judge.images, rows, SAME),
        judge.judge("augmented", torch.cat(disturbed), rows, SAME),
    )


def guidance_name(guidance: Guidance) -> str:
    """`guidance 3, rescale 0.7`."""
    return f"guidance {guidance.scale:g}" + (f", rescale {guidance.rescale:g}" if guidance.rescale else "")


@torch.no_grad()
def through(codec: Codec, images: Tensor, device: torch.device, seed: int = 0) -> Tensor:
    """uint8 [n, C, H, W] -> float [n, C, H, W] in [-1, 1]: encoded and decoded."""
    parts = []
    for first in range(0, len(images), 64):
        part = to_unit(images[first : first + 64])
        rng = Rng(seed, range(first, first + len(part)), "evaluate/words")
        parts.append(codec.decode(codec.encode(part.to(device), rng)).clamp(-1, 1).cpu())
    return torch.cat(parts)


def caption_retrieval(clip: Clip, tokenizer: Tokenizer, dataset: Dataset) -> Retrieval:
    """How often a CLIP finds the caption of a picture among all of the data set's, and the picture of a caption."""
    if not dataset.captions:
        raise AlphabarError(f"{dataset.name} has no captions to look for")
    with evaluating(clip):
        images = encode_images(clip, dataset, range(len(dataset)))
        texts = encode_texts(clip, tokenizer, dataset.captions)
    return retrieval(images.cpu(), texts.cpu(), same=same_captions(tokenizer(dataset.captions)))


def _groups(split: Parted, plain: int, toned: int, recoloured: int) -> list[int]:
    """The group of each picture of a split."""
    return [
        toned if tone else recoloured if copy else plain
        for tone, copy in zip(split.tones, split.recoloured, strict=True)
    ]


def _share(right: Tensor) -> Share:
    return Share(int(right.sum()), right.numel())


def _nearest(points: Tensor, among: Tensor, k: int = 1) -> Tensor:
    """The places of the k nearest of `among` [M, D] to each of the points [n, D], nearest first, [n, k] int64."""
    count = min(k, len(among))
    return torch.cat([torch.cdist(part, among).topk(count, largest=False).indices for part in points.split(256)])


def _shrunk(images: Tensor) -> Tensor:
    """uint8 [n, C, H, W] -> [n, D]: at SHRUNK x SHRUNK."""
    return F.interpolate(to_unit(images), (SHRUNK, SHRUNK), mode="area").flatten(1)


def _rms(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of rows [n, D], [n]."""
    return (a - b).square().mean(dim=1).sqrt()
