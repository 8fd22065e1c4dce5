"""The parts of captions as class numbers: which subject, in which colour, in which skin tone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from alphabar.data.datasets import Dataset
from alphabar.errors import AlphabarError

HEADS = ("subject", "colour", "tone")
"""The questions that a judge of words is asked, in the order of the columns of labels."""
UNASKED = -100
"""The label of a question that a picture does not answer; what `cross_entropy` leaves out by itself."""


@runtime_checkable
class Parted(Dataset, Protocol):
    """A data set that knows the parts of its captions, such as `emoji`."""

    @property
    def subjects(self) -> Sequence[str]:
        """What each image shows, without its colour and tones."""
        ...

    @property
    def colours(self) -> Sequence[str | None]:
        """The colour word of each caption, or None."""
        ...

    @property
    def tones(self) -> Sequence[str | None]:
        """The tone words of each caption, or None."""
        ...

    @property
    def recoloured(self) -> Sequence[bool]:
        """Whether each image is a copy in another colour."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """All subjects, colours and tones that a judge knows, each sorted; a class is a place in its list.

    Having no tone is a tone: an untoned person is yellow, and a model that leaves a tone out must be found out. Having
    no colour word is no colour, as an apple is red without saying so; that question is then not asked.
    """

    subjects: tuple[str, ...]
    colours: tuple[str, ...]
    tones: tuple[str, ...]

    @classmethod
    def of(cls, train: Parted) -> Vocabulary:
        """Of the train split, which shows every part."""
        colours = {colour for colour in train.colours if colour}
        tones = {tone or "" for tone in train.tones}
        return cls(tuple(sorted(set(train.subjects))), tuple(sorted(colours)), tuple(sorted(tones)))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The number of classes of each question."""
        return len(self.subjects), len(self.colours), len(self.tones)

    def labels(self, dataset: Parted) -> Tensor:
        """The classes of each image, [N, 3] int64, `UNASKED` for the colour where none is named.

        Raises:
            AlphabarError: naming a word that the vocabulary lacks.
        """
        return torch.tensor(
            [
                [
                    _place(self.subjects, subject),
                    UNASKED if colour is None else _place(self.colours, colour),
                    _place(self.tones, tone or ""),
                ]
                for subject, colour, tone in zip(dataset.subjects, dataset.colours, dataset.tones, strict=True)
            ]
        )


def _place(words: Sequence[str], word: str) -> int:
    place = bisect_left(words, word)
    if place == len(words) or words[place] != word:
        raise AlphabarError(f"no picture of the train split shows {word!r}")
    return place
