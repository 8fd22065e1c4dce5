"""CLIP's text tower against transformers with copied weights, and a small CLIP of our own that learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from alphabar.errors import AlphabarError
from alphabar.io import load_weights
from alphabar.nn.clip import (
    Clip,
    ClipConfig,
    ClipImage,
    ClipImageConfig,
    ClipText,
    ClipTextConfig,
    contrastive_loss,
    retrieval,
    same_captions,
)

NAMES = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding": "position_embedding",
    "encoder.layers": "layers",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.q_proj": "attention.to_q",
    "self_attn.k_proj": "attention.to_k",
    "self_attn.v_proj": "attention.to_v",
    "self_attn.out_proj": "attention.to_out",
    "mlp.fc1": "mlp.linear1",
    "mlp.fc2": "mlp.linear2",
    "final_layer_norm": "final_norm",
    "text_projection": "projection",
    "text_model.": "",
}
END = 47
TOKENS = torch.tensor([[46, 3, 1, 4, 1, END, END, END], [46, END, 0, 0, 0, 0, 0, 0], [46, 9, 8, 7, 6, 5, 4, END]])
"""Padded with end-of-text, padded with 0 as in Stable Diffusion 2.x, and full."""


def pair(activation: str, projection: int | None, end: int | None) -> tuple[ClipText, Any]:
    """One tower here and there, with the same weights, none of them at its initial 0 or 1."""
    torch.manual_seed(0)
    shape = {"vocab_size": 48, "num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 3}
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    theirs = kind(
        transformers.CLIPTextConfig(
            **shape,
            intermediate_size=40,
            max_position_embeddings=8,
            hidden_act=activation,
            projection_dim=projection or 512,
            eos_token_id=2 if end is None else end,
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours = ClipText(
        ClipTextConfig.from_dict(
            {
                "vocab_size": 48,
                "length": 8,
                "width": 24,
                "layers": 3,
                "num_heads": 3,
                "mlp": 40,
                "activation": activation,
                "projection_dim": projection,
                "end_token": end,
            }
        )
    ).eval()
    tensors = {}
    for key, tensor in theirs.state_dict().items():
        for old, new in NAMES.items():
            key = key.replace(old, new)
        tensors[key] = tensor
    load_weights(ours, tensors, "transformers")
    return ours, theirs


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize("end", [None, END, 4])
@pytest.mark.parametrize("projection", [None, 10])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_text_tower(activation: str, projection: int | None, end: int | None) -> None:
    """`end` None is the convention of configs with eos_token_id 2; 4 is another token, absent from one row."""
    ours, theirs = pair(activation, projection, end)
    mine, golden = ours(TOKENS), theirs(TOKENS, output_hidden_states=True)
    assert len(mine.hidden) == len(golden.hidden_states) == 4
    for a, b in zip(mine.hidden, golden.hidden_states, strict=True):
        assert error(a, b) < 1e-5
    assert error(mine.last, golden.last_hidden_state) < 1e-5
    assert error(mine.pooled, golden.pooler_output if projection is None else golden.text_embeds) < 1e-5
    if projection is None:
        places = {None: [5, 1, 7], END: [5, 1, 7], 4: [3, 0, 6]}[end]
        assert torch.equal(mine.pooled, mine.last[torch.arange(3), places])


@torch.no_grad()
def test_a_token_sees_only_those_before_it() -> None:
    tower, _ = pair("gelu", None, None)
    changed = TOKENS.clone()
    changed[:, 4:] = 11
    a, b = tower(TOKENS).last, tower(changed).last
    assert torch.equal(a[:, :4], b[:, :4])
    assert (a[:, 4:] - b[:, 4:]).abs().amax(dim=2).min() > 1e-3
    short = tower(TOKENS[:, :4]).last
    torch.testing.assert_close(short, a[:, :4], rtol=1e-5, atol=1e-6)


def test_full_sizes() -> None:
    """The text towers of Stable Diffusion 1.x (CLIP ViT-L/14) and 2.x (OpenCLIP ViT-H/14, 23 of its 24 layers)."""
    h14 = {"width": 1024, "layers": 23, "num_heads": 16, "mlp": 4096, "activation": "gelu"}
    shape = {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16, "intermediate_size": 4096}
    with torch.device("meta"):
        ours = ClipText(ClipTextConfig()), ClipText(ClipTextConfig.from_dict(h14))
        theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**shape))
    first, second, golden = (sum(p.numel() for p in tower.parameters()) for tower in (*ours, theirs))
    assert first == 123_060_480
    assert second == golden


def test_what_the_configs_refuse() -> None:
    with pytest.raises(AlphabarError, match=r"clip-text.num_heads must divide width 10, 3 does not"):
        ClipTextConfig(width=10, num_heads=3)
    with pytest.raises(AlphabarError, match=r"clip-text.end_token must be in 0..47, not 48"):
        ClipTextConfig(vocab_size=48, end_token=48)
    with pytest.raises(AlphabarError, match="activation cannot be 'relu'"):
        ClipTextConfig.from_dict({"activation": "relu"})
    with pytest.raises(AlphabarError, match=r"clip-image.channels must name at least one level"):
        ClipImageConfig(channels=())
    with pytest.raises(AlphabarError, match=r"clip.text.projection_dim must equal .*, 128, not None"):
        ClipConfig(text=ClipTextConfig())
    tower, _ = pair("gelu", None, None)
    with pytest.raises(AlphabarError, match="this text tower takes at most 8 tokens, not 9"):
        tower(torch.zeros(1, 9, dtype=torch.int64))


def test_configs_come_back_from_plain_values() -> None:
    shape = ClipConfig(image=ClipImageConfig(channels=(8, 16)))
    values = shape.to_dict()
    assert values.pop("type") == "clip"
    assert ClipConfig.from_dict(values) == shape


def test_the_image_tower() -> None:
    tower = ClipImage(ClipImageConfig())
    assert 1_000_000 < sum(p.numel() for p in tower.parameters()) < 2_000_000
    assert tower(torch.zeros(2, 3, 64, 64)).shape == (2, 128)
    assert tower(torch.zeros(1, 3, 33, 40)).shape == (1, 128)


def unit(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def test_the_loss_is_the_formula() -> None:
    a, b, scale = unit(5, 4, 0), unit(5, 4, 1), 7.0
    loss = contrastive_loss(a, b, scale)
    assert loss.shape == (5,)
    for k in range(5):
        rows = [math.exp(scale * float(a[k] @ b[j])) for j in range(5)]
        columns = [math.exp(scale * float(a[j] @ b[k])) for j in range(5)]
        by_hand = -0.5 * (math.log(rows[k] / sum(rows)) + math.log(columns[k] / sum(columns)))
        assert abs(loss[k].item() - by_hand) < 1e-12
    torch.testing.assert_close(contrastive_loss(b, a, scale), loss)  # symmetric


def test_an_identical_caption_is_no_negative() -> None:
    """Two images of one caption: each is judged as if the other were not in the batch."""
    tokens = torch.tensor([[1, 2], [1, 3], [1, 2], [4, 2]])
    same = same_captions(tokens)
    assert same.tolist() == [[True, False, True, False], [False, True, False, False], [True, False, True, False]] + [
        [False, False, False, True]
    ]
    images, texts = unit(4, 6, 0), unit(4, 6, 1)
    texts[2] = texts[0]
    loss = contrastive_loss(images, texts, 5.0, same)
    first, third = [0, 1, 3], [1, 2, 3]
    torch.testing.assert_close(loss[0], contrastive_loss(images[first], texts[first], 5.0)[0])
    torch.testing.assert_close(loss[2], contrastive_loss(images[third], texts[third], 5.0)[1])
    torch.testing.assert_close(loss[1], contrastive_loss(images, texts, 5.0)[1])
    assert (contrastive_loss(images, texts, 5.0)[[0, 2]] > loss[[0, 2]]).all()
    perfect = torch.eye(3, dtype=torch.float64)[[0, 1, 0, 2]]
    assert contrastive_loss(perfect, perfect, 100.0, same).max() < 1e-12
    assert contrastive_loss(perfect, perfect, 100.0)[0] > 0.6  # half of it, log 2, cannot be learned away


def test_a_rival_is_one_more_wrong_answer_for_its_image_alone() -> None:
    images, texts, rivals = unit(4, 6, 0), unit(4, 6, 1), unit(4, 6, 2)
    rivals[1] = 0  # there is none
    loss, without = contrastive_loss(images, texts, 5.0, rivals=rivals), contrastive_loss(images, texts, 5.0)
    assert loss[1] == without[1]
    for k in (0, 2, 3):
        wrong = math.exp(5 * float(images[k] @ rivals[k]))
        among = sum(math.exp(5 * float(images[k] @ text)) for text in texts)
        assert abs(float(loss[k] - without[k]) - 0.5 * math.log(1 + wrong / among)) < 1e-12


def test_retrieval_counts() -> None:
    images = torch.eye(4)
    texts = torch.eye(4)[[0, 1, 3, 2]]  # the last two are swapped
    texts[2, 2] = 0.5  # the third text's own image comes second
    found = retrieval(images, texts, ks=(1, 2, 9))
    assert found.text_to_image == {1: 0.5, 2: 0.75, 9: 1.0}
    assert found.image_to_text[1] == 0.5
    assert found.image_to_text[9] == 1.0
    twins = torch.eye(3)[[0, 1, 2, 0]]
    assert retrieval(twins, twins, ks=(1,)).image_to_text == {1: 0.5}
    same = twins @ twins.T > 0.5
    assert retrieval(twins, twins, ks=(1,), same=same) == ({1: 1.0}, {1: 1.0})
    constant = torch.ones(4, 3)
    assert retrieval(constant, constant, ks=(1, 3)) == ({1: 0.0, 3: 0.0}, {1: 0.0, 3: 0.0})


def test_a_small_clip_learns_which_is_which() -> None:
    torch.manual_seed(0)
    text = ClipTextConfig(vocab_size=20, length=4, width=16, layers=1, num_heads=2, mlp=32, projection_dim=8)
    clip = Clip(ClipConfig(text=text, image=ClipImageConfig(channels=(8, 16), projection_dim=8)))
    assert abs(clip.scale.item() - 1 / 0.07) < 1e-4
    colours = torch.rand(8, 3, 1, 1) * 2 - 1
    images, tokens = colours.expand(8, 3, 8, 8), torch.stack([torch.full((8,), 18), torch.arange(8)], 1)
    tokens = torch.cat([tokens, torch.full((8, 2), 19)], 1)
    before = contrastive_loss(*clip(images, tokens), clip.scale).mean()
    optimizer = torch.optim.Adam(clip.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        contrastive_loss(*clip(images, tokens), clip.scale).mean().backward()
        optimizer.step()
    image_features, text_features = clip(images, tokens)
    torch.testing.assert_close(image_features.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(text_features.norm(dim=1), torch.ones(8))
    assert contrastive_loss(image_features, text_features, clip.scale).mean() < 0.3 * before
    assert retrieval(image_features, text_features, ks=(1,)) == ({1: 1.0}, {1: 1.0})


def test_the_temperature_is_clamped() -> None:
    clip = Clip(ClipConfig(image=ClipImageConfig(channels=(8,))))
    with torch.no_grad():
        clip.logit_scale.fill_(9.0)
    assert abs(clip.scale.item() - 100) < 1e-3
