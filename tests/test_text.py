"""Prompts to ids and token vectors: against transformers on a tiny vocabulary, and what a folder may say."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from alphabar.errors import AlphabarError
from alphabar.nn.clip import ClipText, ClipTextConfig
from alphabar.text import TextEncoder, load_text
from alphabar.tokenizer import (
    CLIP_MERGES,
    CLIP_VOCABULARY,
    END,
    SD2_PADDING,
    START,
    Tokenizer,
    clip_vocabulary,
    find_clip_vocabulary,
)

CAPTIONS = [
    f"{who}: {tone} skin tone"
    for who in ("woman astronaut", "man cook", "person running", "purple heart", "cat with wry smile")
    for tone in ("light", "medium-light", "medium", "medium-dark", "dark")
] + ["flag: Côte d’Ivoire", "keycap: 10", "8 o'clock", "A button (blood type)", "I don't know, we'll see!"]

PROMPTS = [
    "",
    "woman astronaut: medium-dark skin tone",
    "Purple   HEART\n\tof a cat ",
    "wow! great !!! (really)",
    "don't we'll THEY'RE 1234",
    "naïve cafe\u0301 日本語 ß İ 👩🏽‍🚀",
    f"{END} in the middle {START}",
    "a very " * 20,
    "x" * 50,
]


def trained(vocab_size: int = 610, length: int = 16) -> Tokenizer:
    return Tokenizer.train(CAPTIONS, vocab_size, length)


def folder_of(path: Path, **settings: Any) -> Path:
    """A tokenizer folder of the old kind, of our vocabulary, whose config has the given settings added."""
    trained().save_folder(path)
    (path / "special_tokens_map.json").unlink()  # it would have the last word
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return path


def encoder(**settings: Any) -> TextEncoder:
    tokenizer = trained(600, 12)
    torch.manual_seed(0)
    shape = ClipTextConfig(vocab_size=600, length=12, width=16, layers=3, num_heads=2, mlp=32, end_token=tokenizer.end)
    return TextEncoder(tokenizer, ClipText(shape), **settings)


def test_training_is_repeatable_and_keeps_its_promise() -> None:
    tokenizer = trained()
    assert all(trained().to_json() == tokenizer.to_json() for _ in range(3))
    assert tokenizer.vocab_size == 610
    assert trained(560).vocab_size == 560
    assert Tokenizer.train([], 1000).vocab_size == 514  # bytes, bytes that end a word, start and end
    assert (tokenizer.start, tokenizer.end, tokenizer.padding) == (608, 609, 609)
    ids = tokenizer(PROMPTS)
    assert ids.shape == (len(PROMPTS), 16)
    assert ids.dtype == torch.int64
    assert (ids[:, 0] == tokenizer.start).all()
    assert ((ids == tokenizer.end).any(dim=1)).all()
    assert tokenizer([]).shape == (0, 16)
    empty = [tokenizer.start] + [tokenizer.end] * 15
    assert tokenizer([""])[0].tolist() == empty


def test_words_that_were_learned_are_one_piece() -> None:
    tokenizer = trained(1000)
    assert tokenizer.pieces("Woman astronaut: medium-dark skin tone") == [
        *("Woman", "astronaut", ":", "medium", "-", "dark", "skin", "tone")
    ]
    assert torch.equal(tokenizer(["PURPLE  heart"]), tokenizer(["purple heart"]))
    assert not torch.equal(tokenizer(["purple heart"]), tokenizer(["heart purple"]))


def test_every_text_can_be_written() -> None:
    """Bytes that the captions never had are in the vocabulary: nothing is dropped, nothing unknown."""
    tokenizer = trained()
    for prompt in ("Ωmega", "日本", "~", "z", "\U0001f680"):
        ids = tokenizer([prompt])[0]
        body = ids[1 : ids.tolist().index(tokenizer.end)]
        assert len(body) == len(tokenizer.pieces(prompt)) >= 1
    assert not torch.equal(tokenizer(["日"]), tokenizer(["本"]))
    assert tokenizer.pieces("日") == ["日"] * 3  # of three bytes, each a piece


def test_what_does_not_fit_is_cut_and_said() -> None:
    tokenizer = Tokenizer.train(CAPTIONS, 1000, length=6)
    prompt = "woman astronaut: medium-dark skin tone"
    assert tokenizer.pieces(prompt) == ["woman", "astronaut", ":", "medium"]
    assert tokenizer.cut(prompt) == "-dark skin tone"
    ids = tokenizer([prompt])[0].tolist()
    assert ids[0] == tokenizer.start
    assert ids[-1] == tokenizer.end
    assert tokenizer.end not in ids[:-1]
    for whole in ("", "purple heart", "  purple heart cat smile  "):
        assert tokenizer.cut(whole) == ""
    assert tokenizer.cut("purple heart cat smile tone") == "tone"


@pytest.mark.parametrize("padding", [END, SD2_PADDING])
def test_a_folder_reads_as_transformers_reads_it(tmp_path: Path, padding: str) -> None:
    folder = folder_of(tmp_path / "words", pad_token=padding)
    ours, theirs = Tokenizer.from_folder(folder), transformers.CLIPTokenizer.from_pretrained(str(folder))
    assert len(theirs) == ours.vocab_size == 610
    golden = theirs(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ours(PROMPTS), golden)
    assert ours.padding == (ours.end if padding == END else 0)
    theirs.save_pretrained(str(tmp_path / "new"))  # as one tokenizer.json
    assert not (tmp_path / "new" / "vocab.json").exists()
    assert torch.equal(Tokenizer.from_folder(tmp_path / "new")(PROMPTS), golden)


@pytest.mark.parametrize("pad", ["!", {"content": "!", "lstrip": False, "normalized": True, "rstrip": False}])
def test_the_special_tokens_map_goes_before_the_config(tmp_path: Path, pad: object) -> None:
    """Stable Diffusion 2's folder says end-of-text in one file and "!" in the other; transformers takes the latter."""
    folder = folder_of(tmp_path / "words", pad_token=END)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad}))
    theirs = transformers.CLIPTokenizer.from_pretrained(str(folder))
    assert theirs.pad_token_id == Tokenizer.from_folder(folder).padding == 0


def test_a_folder_that_says_nothing_is_clip_s(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "words")
    (folder / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.length == 77
    assert tokenizer.padding == tokenizer.end
    assert Tokenizer.from_folder(tmp_path / "words", length=20).length == 20
    assert Tokenizer.from_folder(folder_of(tmp_path / "other", model_max_length=int(1e30))).length == 77


def test_a_file_comes_back(tmp_path: Path) -> None:
    tokenizer = trained()
    tokenizer.save(tmp_path / "tokenizer.json")
    back = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert back.to_json() == tokenizer.to_json()
    assert torch.equal(back(PROMPTS), tokenizer(PROMPTS))
    assert [back.cut(p) for p in PROMPTS] == [tokenizer.cut(p) for p in PROMPTS]


def test_what_tokenizers_refuse(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match="vocab_size is at least 514"):
        trained(513)
    with pytest.raises(AlphabarError, match="at least 3, not 2"):
        trained(length=2)
    for prompt in ("\udc80", 5):
        with pytest.raises(AlphabarError, match="a prompt is text in Unicode, not "):
            trained()([prompt])  # type: ignore[list-item]
    path = tmp_path / "tokenizer.json"
    with pytest.raises(AlphabarError, match=r"no such file: .*tokenizer.json"):
        Tokenizer.from_file(path)
    path.write_text("{}")
    with pytest.raises(AlphabarError, match=r"tokenizer.json is not a tokenizer of the tokenizers package"):
        Tokenizer.from_file(path)
    values = json.loads(trained().to_json())
    path.write_text(json.dumps({**values, "padding": None}))
    with pytest.raises(AlphabarError, match=r"tokenizer.json pads to no fixed length; load it with"):
        Tokenizer.from_file(path)
    path.write_text(json.dumps({**values, "post_processor": None}))
    with pytest.raises(AlphabarError, match=r"tokenizer.json puts no start and end token around a prompt"):
        Tokenizer.from_file(path)


def test_what_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match=r"cannot read .*vocab.json: No such file"):
        Tokenizer.from_folder(tmp_path)
    folder = folder_of(tmp_path / "words", pad_token="[PAD]")
    with pytest.raises(AlphabarError, match=r"words has no token '\[PAD\]' in its vocabulary"):
        Tokenizer.from_folder(folder)
    merges = (folder / "merges.txt").read_text()
    (folder / "merges.txt").write_text(merges + "one two three\nalone\n")
    with pytest.raises(AlphabarError, match=r"merges.txt, line \d+: a merge is two pieces .*, not 'alone'"):
        Tokenizer.from_folder(folder)
    (folder / "merges.txt").write_text(merges + "qq zz\n")
    with pytest.raises(AlphabarError, match="merges do not fit its vocabulary"):
        Tokenizer.from_folder(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(AlphabarError, match=r"cannot read .*merges.txt"):
        Tokenizer.from_folder(folder)
    (folder / "vocab.json").write_text('{"a": 0}')
    (folder / "merges.txt").write_text(merges)
    with pytest.raises(AlphabarError, match=r"vocab.json has no token '<\|startoftext\|>'"):
        Tokenizer.from_folder(folder)


def test_clip_s_numbering(tmp_path: Path) -> None:
    """A file of CLIP's form with merges of our own: bytes, word ends, merges, start, end; lines after those unused."""
    letters = [chr(c) for c in range(0x21, 0x100) if chr(c).isprintable() and c != 0xA0]
    first = ["c a", "ca t</w>"]
    rest = [f"{a} {b}{end}" for end in ("", "</w>") for a in letters for b in letters if f"{a} {b}{end}" not in first]
    lines = ["version", *first, *rest]
    assert len(lines) > CLIP_MERGES + 50
    gz = tmp_path / CLIP_VOCABULARY
    gz.write_bytes(gzip.compress("\n".join(lines).encode()))
    clip_vocabulary(gz, tmp_path / "words", padding=SD2_PADDING)
    tokenizer = Tokenizer.from_folder(tmp_path / "words")
    assert tokenizer.vocab_size == 49408
    assert tokenizer.length == 77
    assert tokenizer(["a cat"])[0].tolist() == [49406, 320, 513, 49407] + [0] * 73
    gz.write_bytes(gzip.compress("\n".join(lines[:100]).encode()))
    with pytest.raises(AlphabarError, match="is not CLIP's vocabulary: it has 100 lines"):
        clip_vocabulary(gz, tmp_path / "words")
    gz.write_bytes(b"not a gz file")
    with pytest.raises(AlphabarError, match="cannot read CLIP's vocabulary"):
        clip_vocabulary(gz, tmp_path / "words")


def test_the_vocabulary_is_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real distribution folder on the path; its package is never imported, and would fail if it were."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(AlphabarError, match="pip install --no-deps open_clip_torch"):
        find_clip_vocabulary()
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "__init__.py").write_text("raise ImportError")
    record = f"open_clip/{CLIP_VOCABULARY},,\n"
    (tmp_path / "open_clip_torch-3.3.0.dist-info").mkdir()
    (tmp_path / "open_clip_torch-3.3.0.dist-info" / "METADATA").write_text("Name: open_clip_torch\nVersion: 3.3.0\n")
    (tmp_path / "open_clip_torch-3.3.0.dist-info" / "RECORD").write_text(record)
    with pytest.raises(AlphabarError, match="not on this machine"):  # listed, but not there
        find_clip_vocabulary()
    file = tmp_path / "open_clip" / CLIP_VOCABULARY
    file.write_bytes(b"")
    assert find_clip_vocabulary() == file


def test_the_encoder_takes_the_layer_asked_for() -> None:
    last, before, raw = encoder(), encoder(layer=-2), encoder(layer=-2, final_norm=False)
    out = last.tower(last.tokenizer(CAPTIONS))
    assert torch.equal(last.encode(CAPTIONS), out.last)
    assert torch.equal(before.encode(CAPTIONS), before.tower.final_norm(out.hidden[2]))
    assert torch.equal(raw.encode(CAPTIONS), out.hidden[2])
    assert len({e.fingerprint for e in (last, before, raw)}) == 3


def test_the_encoder_is_frozen_and_takes_any_number() -> None:
    one = encoder(slice_size=4)
    vectors = one.encode(CAPTIONS)
    assert vectors.shape == (len(CAPTIONS), 12, one.width)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    assert not one.tower.training
    assert not any(p.requires_grad for p in one.tower.parameters())
    torch.testing.assert_close(vectors[7:8], one.encode(CAPTIONS[7:8]), rtol=1e-5, atol=1e-6)
    assert one.encode([]).shape == (0, 12, 16)
    assert one.to("cpu") is one


def test_the_encoder_comes_back(tmp_path: Path) -> None:
    one = encoder(layer=-2)
    description = json.loads(json.dumps(one.save(tmp_path)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["text.safetensors", "tokenizer.json"]
    back = load_text(tmp_path, description)
    assert back.fingerprint == one.fingerprint == description["sha256"]
    assert torch.equal(back.encode(CAPTIONS), one.encode(CAPTIONS))


def test_half_precision_weights_have_one_fingerprint(tmp_path: Path) -> None:
    one = encoder()
    half = TextEncoder(one.tokenizer, ClipText(one.tower.config).half())
    assert load_text(tmp_path, half.save(tmp_path)).fingerprint == half.fingerprint


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    description = encoder().save(tmp_path)
    differs = "is not the text encoder that this model was trained with"
    with pytest.raises(AlphabarError, match=differs):
        load_text(tmp_path, {**description, "layer": -2})
    Tokenizer.train(CAPTIONS[:3], 600, 12).save(tmp_path / "tokenizer.json")
    with pytest.raises(AlphabarError, match=differs):
        load_text(tmp_path, description)
    changed = encoder()
    with torch.no_grad():
        changed.tower.final_norm.bias[0] += 1e-6
    changed.save(tmp_path)
    with pytest.raises(AlphabarError, match=differs):
        load_text(tmp_path, description)
    with pytest.raises(AlphabarError, match=r"model.json: \[text\] sha256: this key is required"):
        load_text(tmp_path, {key: value for key, value in description.items() if key != "sha256"})
    with pytest.raises(AlphabarError, match=r"\[text\] network: .*unknown key; did you mean 'width'"):
        load_text(tmp_path, {**description, "network": {"widht": 16}})


def test_an_encoder_that_does_not_fit_is_refused() -> None:
    with pytest.raises(AlphabarError, match=r"layer must be in -3..-1, not -4"):
        encoder(layer=-4)
    small = ClipTextConfig(vocab_size=599, length=12, width=16, layers=1, num_heads=2, mlp=32)
    with pytest.raises(AlphabarError, match="the tokenizer has 600 tokens, the text tower knows 599"):
        TextEncoder(trained(600, 12), ClipText(small))
    with pytest.raises(AlphabarError, match="gives rows of 13 tokens, the text tower takes 12"):
        TextEncoder(trained(599, 13), ClipText(small))


def test_a_vocabulary_that_lacks_bytes_reads_as_transformers_reads_it(tmp_path: Path) -> None:
    """What cannot be written becomes end-of-text, as CLIP's unknown token is."""
    words = ["a", "b", "c", "a</w>", "b</w>", "ab</w>", START, END]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    prompts = ["ab", "ab x aab", "xyz!", "c"]
    theirs = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    golden = theirs(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert torch.equal(tokenizer(prompts), golden)
    assert tokenizer.pieces("ab x aab") == ["ab", "x", "a", "ab"]


def test_pieces_stand_in_the_prompt_as_it_was_typed() -> None:
    """Normalising shortens this prompt and folds its case; what is shown is what was typed, accents composed."""
    tokenizer = Tokenizer.train(["café noir"], 1000, length=5)
    prompt = "CAFE\u0301   NOIR  \U0001f680 end"
    assert tokenizer.pieces(prompt)[:2] == ["CAF\u00c9", "NOIR"]
    assert tokenizer.cut("cafe\u0301 noir cafe\u0301 e\u0301nd") == "\u00e9nd"


def test_a_vocabulary_is_the_same_in_another_process() -> None:
    """Hashes, and with them the order of sets, differ from process to process; ties must not be broken by them."""
    captions = [f"{a}{b} {b}{a}" for a in "abcdefgh" for b in "stuvwxyz"]
    code = f"from alphabar.tokenizer import Tokenizer; print(Tokenizer.train({captions}, 600, 8).to_json())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == Tokenizer.train(captions, 600, 8).to_json()


def test_the_most_frequent_pair_is_joined_first_and_of_equals_the_last_by_name() -> None:
    tokenizer = Tokenizer.train(["ad ad ad ab ab cd"], vocab_size=517, length=8)
    merges = json.loads(tokenizer.to_json())["model"]["merges"]
    assert merges == [["a", "d</w>"], ["a", "b</w>"], ["c", "d</w>"]]
    tied = json.loads(Tokenizer.train(["abab abab"], vocab_size=517, length=8).to_json())["model"]["merges"]
    assert tied == [["b", "a"], ["ba", "b</w>"], ["a", "bab</w>"]]
