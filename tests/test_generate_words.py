"""Words to pictures: prompts, guidance, image-to-image and filling in, on untrained networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from alphabar.errors import AlphabarError
from alphabar.generate import Guidance, SamplerConfig, Start, begin_from, encode_prompts, generate, sample
from alphabar.models import Model, load_model
from alphabar.rng import Rng
from tiny import latent_model, word_model

DDIM = SamplerConfig("ddim", 5)
PROMPTS = ["red heart", "blue circle", "man"]


@pytest.fixture(scope="module")
def model() -> Model:
    return word_model()


def last(model: Model, prompts: list[str], negative: str = "", **given: object) -> Tensor:
    cond, null = encode_prompts(model, prompts, negative)
    *_, step = generate(model, range(len(prompts)), DDIM, cond=cond, null=null, **given)  # type: ignore[arg-type]
    return step.x


def test_words_change_the_picture_and_the_same_words_give_the_same(model: Model) -> None:
    one, other = last(model, ["red heart"]), last(model, ["blue circle"])
    assert torch.equal(one, last(model, ["red heart"]))
    assert (one - other).abs().max() > 1e-3


def test_a_picture_is_the_same_alone_and_in_any_batch(model: Model) -> None:
    together = sample(model, 3, DDIM, prompts=PROMPTS, guidance=Guidance(4.0))
    for k, prompt in enumerate(PROMPTS):
        alone = sample(model, 1, DDIM, first=k, prompts=[prompt], guidance=Guidance(4.0))
        torch.testing.assert_close(alone[0], together[k], rtol=1e-4, atol=1e-5)
    split = sample(model, 3, DDIM, batch_size=2, prompts=PROMPTS, guidance=Guidance(4.0))
    torch.testing.assert_close(split, together, rtol=1e-4, atol=1e-5)


def test_guidance_of_one_is_no_guidance_and_costs_one_call(model: Model) -> None:
    calls = []
    handle = model.network.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(last(model, PROMPTS, guidance=Guidance(1.0)), last(model, PROMPTS))
    assert len(calls) == 2 * DDIM.steps
    handle.remove()
    assert (last(model, PROMPTS, guidance=Guidance(5.0)) - last(model, PROMPTS)).abs().max() > 1e-3


def test_guidance_of_zero_hears_the_negative_prompt_only(model: Model) -> None:
    found = last(model, ["red heart"], "blue circle", guidance=Guidance(0.0))
    assert torch.equal(found, last(model, ["blue circle"]))


def test_a_model_with_words_survives_its_folder(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert torch.equal(last(back, PROMPTS), last(model, PROMPTS))
    assert back.text is not None
    assert model.text is not None
    assert back.text.fingerprint == model.text.fingerprint


def test_half_precision_hears_words_too(model: Model) -> None:
    exact, fast = last(model, PROMPTS), last(model.prepared("bf16"), PROMPTS)
    assert 0 < (fast - exact).norm() / exact.norm() < 0.1


def test_no_prompt_is_the_null_condition(model: Model) -> None:
    assert torch.equal(sample(model, 2, DDIM), sample(model, 2, DDIM, prompts=["", ""]))


def test_words_for_a_model_without_them_are_one_line() -> None:
    with pytest.raises(AlphabarError, match=r"^this model was trained without words: it takes no prompt$"):
        sample(latent_model(), 1, DDIM, prompts=["red heart"])
    with pytest.raises(ValueError, match="2 images need 2 prompts, not 1"):
        sample(latent_model(), 2, DDIM, prompts=["red heart"])


def picture() -> Tensor:
    return torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_less_strength_the_nearer_to_the_image(model: Model) -> None:
    x0 = begin_from(model, picture()).x0
    far = [
        (last(model, ["man"], start=begin_from(model, picture(), strength)) - x0).norm() for strength in (0.2, 0.6, 1.0)
    ]
    assert far[0] < far[1] < far[2]
    walk = generate(model, [0], DDIM, cond=encode_prompts(model, ["man"])[0], start=begin_from(model, picture(), 0.4))
    assert len(list(walk)) == 2


def test_full_strength_forgets_the_image(model: Model) -> None:
    assert torch.equal(last(model, ["man"], start=begin_from(model, picture())), last(model, ["man"]))


def test_filling_in_keeps_what_the_mask_leaves(model: Model) -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 5:] = 1  # touches the right half of the 4 x 4 latents
    start = begin_from(model, picture(), mask=mask)
    assert start.mask is not None
    assert start.mask[0, 0, 0].tolist() == [0, 0, 1, 1]
    found = last(model, ["man"], start=start)
    torch.testing.assert_close(found[..., :2], start.x0[..., :2], rtol=1e-4, atol=1e-5)
    assert (found[..., 2:] - start.x0[..., 2:]).abs().min() > 1e-4


def test_a_network_that_was_trained_to_fill_in_is_shown_mask_and_image() -> None:
    model = word_model(extra_channels=3)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    start = begin_from(model, picture(), mask=mask)
    assert start.mask is None
    assert start.concat is not None
    assert start.concat.shape == (1, 3, 4, 4)
    assert torch.equal(start.concat[:, 1:], encoded(model, picture() * (mask < 0.5)))
    # What the walk begins from is the whole image, else there would be grey, not the image, to vary under the mask.
    assert torch.equal(start.x0, encoded(model, picture()))
    images = sample(model, 2, DDIM, prompts=["man", "heart"], guidance=Guidance(3.0), start=start)
    assert images.shape == (2, 1, 8, 8)
    with pytest.raises(AlphabarError, match=r"^this model was trained to fill in: give it a mask with the image$"):
        begin_from(model, picture())
    with pytest.raises(AlphabarError, match=r"^this model was trained to fill in: give it an image and a mask$"):
        sample(model, 1, DDIM, prompts=["man"])


def encoded(model: Model, image: Tensor) -> Tensor:
    return model.codec.encode(image, Rng(0, [0], "posterior"))


def test_a_strength_out_of_range_is_one_line() -> None:
    with pytest.raises(AlphabarError, match=r"^strength must lie in 0\.\.1 \(0 excluded\), got 0\.0$"):
        Start(picture(), 0.0)


def test_guidance_that_makes_no_sense_is_one_line() -> None:
    with pytest.raises(AlphabarError, match=r"^guidance must be a finite number, got nan$"):
        Guidance(float("nan"))
    with pytest.raises(AlphabarError, match=r"^guidance acts from the lower timestep to the higher: 3 9, not 9 3$"):
        Guidance(2.0, interval=(9, 3))
