"""The frozen encoder that reads prompts: what a denoiser is told of words."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar import config
from alphabar.errors import AlphabarError
from alphabar.io import hash_tensors, load_tensors, load_weights, save_tensors
from alphabar.nn.clip import ClipText, ClipTextConfig
from alphabar.tokenizer import Tokenizer


class TextEncoder:
    """A frozen text tower with its tokenizer: prompts -> the token vectors that a denoiser attends to.

    Args:
        tokenizer: of the tower's vocabulary.
        tower: switched to float32 and evaluation, its gradients turned off.
        layer: whose output is taken: -1 the last, -2 the one before (Stable Diffusion 2.x on OpenCLIP's 24 layers).
        final_norm: whether the tower's final norm is applied to it.
        slice_size: how many prompts go through the tower at once.
    """

    def __init__(
        self, tokenizer: Tokenizer, tower: ClipText, layer: int = -1, final_norm: bool = True, slice_size: int = 256
    ) -> None:
        shape = tower.config
        config.check(-shape.layers <= layer <= -1, f"layer must be in {-shape.layers}..-1, not {layer}")
        config.check(
            tokenizer.vocab_size <= shape.vocab_size,
            f"the tokenizer has {tokenizer.vocab_size} tokens, the text tower knows {shape.vocab_size}",
        )
        config.check(
            tokenizer.length <= shape.length,
            f"the tokenizer gives rows of {tokenizer.length} tokens, the text tower takes {shape.length}",
        )
        self.tokenizer = tokenizer
        self.tower = tower.float().eval().requires_grad_(False)
        self.layer = layer
        self.final_norm = final_norm
        self.slice_size = slice_size

    @property
    def width(self) -> int:
        """D, of a token vector."""
        return self.tower.config.width

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return self.tower.token_embedding.weight.device

    @property
    def fingerprint(self) -> str:
        """A hash of everything that `encode` depends on."""
        return _fingerprint(self.tower.state_dict(), self.tokenizer, self.layer, self.final_norm, self.tower.config)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> token vectors [N, L, D] float32, on the tower's device."""
        tokens = self.tokenizer(prompts).to(self.device)  # [N, L]
        return torch.cat([self._vectors(part) for part in tokens.split(self.slice_size)])

    def _vectors(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.tower(tokens).hidden[self.layer]  # [N, L, D]
        return self.tower.final_norm(hidden) if self.final_norm else hidden

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move to a device, in place."""
        self.tower.to(device)
        return self

    def save(self, folder: Path) -> dict[str, Any]:
        """Write text.safetensors and tokenizer.json into a model folder; returns the description for model.json."""
        save_tensors(folder / "text.safetensors", self.tower.state_dict())
        self.tokenizer.save(folder / "tokenizer.json")
        return {
            "layer": self.layer,
            "final_norm": self.final_norm,
            "network": config.to_dict(self.tower.config),
            "sha256": self.fingerprint,
        }


def load_text(folder: Path, description: Mapping[str, Any]) -> TextEncoder:
    """The way back from `TextEncoder.save`; the files must be the ones that the description was written for."""
    where = f"{folder / 'model.json'}: [text]"
    layer = config.read(description, "layer", int, where)
    final_norm = config.read(description, "final_norm", bool, where)
    shape = config.from_dict(ClipTextConfig, config.read(description, "network", dict, where), f"{where} network")
    weights, words = folder / "text.safetensors", folder / "tokenizer.json"
    tensors, tokenizer = load_tensors(weights), Tokenizer.from_file(words)
    fingerprint = _fingerprint(tensors, tokenizer, layer, final_norm, shape)
    if fingerprint != config.read(description, "sha256", str, where):
        raise AlphabarError(
            f"{weights} with {words.name} is not the text encoder that this model was trained with (its hash differs)"
        )
    tower = ClipText(shape)
    load_weights(tower, tensors, weights)
    return TextEncoder(tokenizer, tower, layer, final_norm)


def _fingerprint(
    tensors: Mapping[str, Tensor], tokenizer: Tokenizer, layer: int, final_norm: bool, shape: ClipTextConfig
) -> str:
    parts = (hash_tensors(tensors), tokenizer.to_json(), f"{layer} {final_norm} {shape}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
