"""Words cut into the pieces that networks read: a vocabulary learned from captions, read from files, or CLIP's own.

Tokenizers are of CLIP's kind: lower-cased byte-pair encoding (Sennrich et al. 2016) over bytes, in which a piece that
ends a word carries `</w>`, between a start and an end token, padded to one length. It needs the `tokenizers` package.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alphabar import config
from alphabar.errors import AlphabarError
from alphabar.io import read_json, write_json, write_text

if TYPE_CHECKING:
    import tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
SD2_PADDING = "!"
"""What Stable Diffusion 2.x pads prompts with; 1.x pads with `END`."""
CLIP_LENGTH = 77
CLIP_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
CLIP_MERGES = 49152 - 256 - 2
"""The file holds 262,144 lines, of which CLIP's vocabulary uses these after the first."""
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP keeps apart before it merges: words, single digits, runs of signs."""


class Tokenizer:
    """Prompts -> token ids [N, length]: start, the prompt's pieces, end, padding.

    A prompt of more than length - 2 pieces is cut behind; the end token is kept, and `cut` says what was lost.

    Attributes:
        length: L, of every row.
        start, end, padding: ids of the special tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer, source: object = "this tokenizer") -> None:
        self._backend = backend
        empty = backend.encode("")
        if backend.padding is None or backend.truncation is None or len(empty.ids) != backend.truncation["max_length"]:
            raise AlphabarError(f"{source} pads to no fixed length; load it with Tokenizer.from_folder")
        if sum(empty.attention_mask) != 2:
            raise AlphabarError(f"{source} puts no start and end token around a prompt; it is not one of CLIP's kind")
        self.length = len(empty.ids)
        self.start, self.end = empty.ids[:2]
        self.padding: int = backend.padding["pad_id"]
        self._padding_token: str = backend.padding["pad_token"]

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 2048, length: int = 24) -> Tokenizer:
        """Learn the merges of a vocabulary from captions; the same captions give the same one. Pads with end.

        Args:
            captions: what to learn from.
            vocab_size: at most this many tokens; 514 of them are the bytes, inside and at the end of a word, and the
                special ones, so every text can be written.
            length: of the rows.
        """
        library = _library()
        fixed = len(_vocabulary([]))
        config.check(vocab_size >= fixed, f"a vocabulary holds every byte, so vocab_size is at least {fixed}")
        backend = _pipeline(library.models.BPE())
        words: Counter[str] = Counter()
        for caption in captions:
            words.update(
                w for w, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption))
            )
        merges = _learn_merges(words, vocab_size - fixed)
        return cls(_finish(_byte_pairs(_vocabulary(merges), merges), END, length))

    @classmethod
    def from_folder(cls, folder: Path, length: int | None = None) -> Tokenizer:
        """Read the tokenizer folder of Stable Diffusion weights: tokenizer.json, or vocab.json with merges.txt.

        Padding and length are what the folder says, in special_tokens_map.json and tokenizer_config.json; where it says
        nothing they are CLIP's, end-of-text and 77.

        Args:
            folder: where the files are.
            length: of the rows, whatever the folder says; that of the text tower.

        Raises:
            AlphabarError: naming the file that is missing or broken.
        """
        whole = folder / "tokenizer.json"
        if whole.is_file():
            backend = _read(whole)
        else:
            vocabulary = read_json(folder / "vocab.json")
            merges = _merges(_read_lines(folder / "merges.txt"), folder / "merges.txt")
            _require(vocabulary, (START, END), folder / "vocab.json")
            backend = _byte_pairs(vocabulary, merges)
        padding, said = _padding_and_length(folder)
        _require(backend.get_vocab(), (padding,), folder)
        return cls(_finish(backend, padding, length or said), folder)

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """The way back from `save`."""
        return cls(_read(path), path)

    def save(self, path: Path) -> None:
        """Write everything into one JSON file, in the format of the `tokenizers` package."""
        write_text(path, self.to_json())

    def save_folder(self, folder: Path) -> None:
        """Write a tokenizer folder as Stable Diffusion weights have it, which transformers and diffusers read too."""
        model = json.loads(self.to_json())["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": self._padding_token}
        write_json(folder / "vocab.json", model["vocab"])
        write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
        write_json(folder / "special_tokens_map.json", special)
        write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.length, "do_lower_case": True, **special},
        )

    def to_json(self) -> str:
        """What `save` writes."""
        return self._backend.to_str(pretty=True)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self._backend.get_vocab_size()

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> ids [N, length] int64."""
        rows = [self._encode(prompt).ids for prompt in prompts]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), self.length)

    def pieces(self, prompt: str) -> list[str]:
        """The pieces of a prompt that fit, as they stand in it; piece k is token k + 1, behind the start token.

        A character of several bytes that are pieces of their own appears once for each.
        """
        return self._split(prompt)[0]

    def cut(self, prompt: str) -> str:
        """The end of a prompt that did not fit, "" when all of it did."""
        return self._split(prompt)[1]

    def _split(self, prompt: str) -> tuple[list[str], str]:
        """The pieces that fit, and what is left of the prompt."""
        prompt = _composed(prompt)
        encoding = self._encode(prompt)
        places = encoding.offsets[1 : sum(encoding.attention_mask) - 1]  # without start, end and padding
        rest = prompt[places[-1][1] :] if places and encoding.overflowing else ""
        return [prompt[start:end] for start, end in places], rest.strip()

    def _encode(self, prompt: str) -> tokenizers.Encoding:
        try:
            return self._backend.encode(_composed(prompt))
        except (TypeError, UnicodeError) as error:
            raise AlphabarError(f"a prompt is text in Unicode, not {prompt!r}") from error


def _composed(prompt: str) -> str:
    """An accent and its letter as one character: the backend does so too, but then loses the accent's place."""
    return unicodedata.normalize("NFC", prompt)


def find_clip_vocabulary() -> Path:
    """CLIP's merges file inside an installed distribution that carries it; nothing of the distribution is imported.

    Raises:
        AlphabarError: when none is installed, with the command that mends it.
    """
    for name in ("open_clip_torch", "openai-clip", "clip-anytorch"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            path = Path(str(file.locate()))
            if file.name == CLIP_VOCABULARY and path.is_file():
                return path
    raise AlphabarError(
        "CLIP's vocabulary is not on this machine, and a single-file checkpoint carries none: give another's tokenizer "
        "folder (--tokenizer DIR), or pip install --no-deps open_clip_torch"
    )


def clip_vocabulary(gz_path: Path, folder: Path, padding: str = END) -> None:
    """Write a tokenizer folder with CLIP's vocabulary, for weights that come without one.

    The folder is as `Tokenizer.save_folder` writes it.

    Args:
        gz_path: `bpe_simple_vocab_16e6.txt.gz` of CLIP, such as `find_clip_vocabulary` finds.
        folder: where to write.
        padding: what prompts are padded with: `END` for Stable Diffusion 1.x, `SD2_PADDING` for 2.x.
    """
    try:
        lines = gzip.decompress(gz_path.read_bytes()).decode("utf-8").splitlines()
    except (OSError, EOFError, ValueError) as error:
        raise AlphabarError(f"cannot read CLIP's vocabulary {gz_path}: {error}") from error
    if len(lines) <= CLIP_MERGES:
        raise AlphabarError(f"{gz_path} is not CLIP's vocabulary: it has {len(lines)} lines, not {CLIP_MERGES} or more")
    merges = _merges(lines[: CLIP_MERGES + 1], gz_path)
    backend = _finish(_byte_pairs(_vocabulary(merges), merges), padding, CLIP_LENGTH)
    Tokenizer(backend, gz_path).save_folder(folder)


def _library() -> Any:
    """The `tokenizers` package, which is loaded on use."""
    try:
        import tokenizers
    except ImportError as error:
        raise AlphabarError("words need the tokenizers package: pip install tokenizers") from error
    return tokenizers


def _letters() -> list[str]:
    """The visible character that stands for each byte, in the order of CLIP's vocabulary (as in GPT-2's).

    Bytes that print in Latin-1 stand for themselves and come first; the others take the characters from 256 on.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in printing] + [chr(256 + k) for k in range(256 - len(printing))]


def _learn_merges(words: Mapping[str, int], limit: int) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1): join the most frequent pair, again and again.

    The library's own trainer breaks ties by an order that changes from run to run; here they go by the text.
    """
    pieces = [[*word[:-1], word[-1] + WORD_END] for word in words]
    counts, places = Counter[tuple[str, str]](), defaultdict[tuple[str, str], set[int]](set)
    weights = list(words.values())

    def count(index: int, sign: int) -> None:
        for pair in pairwise(pieces[index]):
            counts[pair] += sign * weights[index]
            places[pair].add(index)

    for index in range(len(pieces)):
        count(index, 1)
    merges: list[tuple[str, str]] = []
    while len(merges) < limit and any(counts.values()):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for index in places.pop(best):
            count(index, -1)
            pieces[index] = _joined(pieces[index], best)
            count(index, 1)
        counts.pop(best, None)
    return merges


def _joined(word: Sequence[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def _vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """CLIP's numbering: bytes, bytes that end a word, what each merge makes, start, end."""
    letters = _letters()
    ends = [letter + WORD_END for letter in letters]
    tokens = dict.fromkeys([*letters, *ends, *(left + right for left, right in merges), START, END])
    return {token: number for number, token in enumerate(tokens)}


def _pipeline(model: Any) -> Any:
    """A backend with CLIP's steps before a model: composed characters, single spaces, lower case; pieces; bytes."""
    library = _library()
    backend = library.Tokenizer(model)
    normal, split = library.normalizers, library.pre_tokenizers
    backend.normalizer = normal.Sequence([normal.NFC(), normal.Replace(library.Regex(r"\s+"), " "), normal.Lowercase()])
    backend.pre_tokenizer = split.Sequence(
        [
            split.Split(library.Regex(PIECES), behavior="removed", invert=True),
            split.ByteLevel(add_prefix_space=False),
        ]
    )
    return backend


def _byte_pairs(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Any:
    """A backend of byte-pair encoding with CLIP's start and end."""
    library = _library()
    try:
        model = library.models.BPE(
            vocab=dict(vocabulary), merges=list(merges), end_of_word_suffix=WORD_END, unk_token=END
        )
    except Exception as error:  # the package raises no narrower one
        raise AlphabarError(f"the tokenizer's merges do not fit its vocabulary: {error}") from error
    backend = _pipeline(model)
    around = [(token, vocabulary[token]) for token in (START, END)]
    backend.add_special_tokens([START, END])
    backend.post_processor = library.processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=around)
    return backend


def _finish(backend: Any, padding: str, length: int) -> Any:
    """Pad and cut to one length. The padding becomes a special token, as transformers has it."""
    config.check(length >= 3, f"a tokenizer's length must hold start, end and one piece, so at least 3, not {length}")
    backend.add_special_tokens([padding])
    backend.enable_truncation(length)
    backend.enable_padding(length=length, pad_id=backend.token_to_id(padding), pad_token=padding)
    return backend


def _padding_and_length(folder: Path) -> tuple[str, int]:
    """What a folder pads with, and to which length; of two files that name a padding, special_tokens_map.json holds."""
    files = (folder / "tokenizer_config.json", folder / "special_tokens_map.json")
    says: dict[str, Any] = {}
    for file in files:
        says |= read_json(file) if file.is_file() else {}
    padding, length = says.get("pad_token") or END, says.get("model_max_length", CLIP_LENGTH)
    if isinstance(padding, dict):  # written out with its stripping rules
        padding = config.read(padding, "content", str, f"{folder}: pad_token")
    if not isinstance(length, int) or length > 1_000_000:  # transformers' way to write that there is no limit
        length = CLIP_LENGTH
    return str(padding), length


def _require(vocabulary: Mapping[str, int], tokens: Iterable[str], source: object) -> None:
    for token in tokens:
        if token not in vocabulary:
            raise AlphabarError(f"{source} has no token {token!r} in its vocabulary")


def _merges(lines: Sequence[str], source: object) -> list[tuple[str, str]]:
    """The pairs of a merges file, whose first line is its version."""
    pairs = []
    for number, line in enumerate(lines[1:], start=2):
        left, space, right = line.partition(" ")
        if not (left and space and right):
            raise AlphabarError(f"{source}, line {number}: a merge is two pieces with a space between, not {line!r}")
        pairs.append((left, right))
    return pairs


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, ValueError) as error:
        raise AlphabarError(f"cannot read {path}: {error}") from error


def _read(path: Path) -> Any:
    """A backend from a file of the `tokenizers` package."""
    if not path.is_file():
        raise AlphabarError(f"no such file: {path}")
    try:
        return _library().Tokenizer.from_file(str(path))
    except AlphabarError:
        raise
    except Exception as error:  # the package raises no narrower one
        raise AlphabarError(f"{path} is not a tokenizer of the tokenizers package: {error}") from error
