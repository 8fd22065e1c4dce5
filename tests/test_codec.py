"""The bookends: pixels as they are, latents at unit scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from alphabar.codec import LatentCodec, PixelCodec, load_codec
from alphabar.errors import AlphabarError
from alphabar.nn import Autoencoder, ConvAutoencoderConfig, DenseAutoencoderConfig, build
from alphabar.rng import Rng


def conv(**values: object) -> Autoencoder:
    torch.manual_seed(0)
    config = ConvAutoencoderConfig.from_dict({"channels": [8, 8], "latent_channels": 2, **values})
    network = build(config)
    assert isinstance(network, Autoencoder)
    return network


def images(n: int = 6, channels: int = 1) -> Tensor:
    return Rng(0, range(n), "images").normal(channels, 8, 8).clamp(-1, 1)


def rng(n: int = 6) -> Rng:
    return Rng(0, range(n), "posterior")


def test_pixels_are_left_alone(tmp_path: Path) -> None:
    codec, x = PixelCodec(3), images(channels=3)
    assert torch.equal(codec.encode(x, rng()), x)
    assert torch.equal(codec.decode(x), x)
    assert codec.shape(2, 8, 16) == (2, 3, 8, 16)
    assert codec.to("cpu") is codec
    assert not codec.cacheable
    back = load_codec(tmp_path, codec.save(tmp_path))
    assert isinstance(back, PixelCodec)
    assert back.channels == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variational", [True, False])
def test_latents_over_the_data_have_unit_scale(variational: bool) -> None:
    """Fitted on the moments, checked on draws: mean 0 and standard deviation 1 in every channel."""
    network, x = conv(variational=variational), images(64)
    plain = LatentCodec(network)
    codec = LatentCodec.fit(network, plain.moments(x).split(20))
    many = torch.cat([codec.encode(x, Rng(seed, range(64), "posterior")) for seed in range(20)])
    assert many.shape[1:] == codec.shape(1, 8, 8)[1:] == (2, 4, 4)
    mean, std = many.transpose(0, 1).flatten(1).mean(1), many.transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(mean, torch.zeros(2), rtol=0, atol=0.02)
    torch.testing.assert_close(std, torch.ones(2), rtol=0, atol=0.02)


def test_fitting_does_not_depend_on_the_batches() -> None:
    network = conv()
    moments = LatentCodec(network).moments(images(10))
    a = LatentCodec.fit(network, [moments])
    b = LatentCodec.fit(network, moments.split(3))
    torch.testing.assert_close(a.shift, b.shift, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(a.scale, b.scale, rtol=1e-6, atol=1e-7)


def test_decode_undoes_the_scale() -> None:
    network, x = conv(), images()
    codec = LatentCodec(network, torch.tensor([0.3, -1.0]), torch.tensor([2.0, 0.5]))
    posterior = network.posterior(x)
    noise = rng().normal(2, 4, 4)
    z = codec.encode(x, rng())
    torch.testing.assert_close(z[:, 0], (posterior.sample(noise)[:, 0] - 0.3) / 2)
    torch.testing.assert_close(codec.decode(z), network.decode(posterior.sample(noise)), rtol=1e-4, atol=1e-5)


def test_slices_change_nothing() -> None:
    network, x = conv(), images(7)
    whole, sliced = LatentCodec(network), LatentCodec(network, slice_size=2)
    torch.testing.assert_close(sliced.moments(x), whole.moments(x), rtol=1e-5, atol=1e-6)
    z = whole.encode(x, rng(7))
    torch.testing.assert_close(sliced.decode(z), whole.decode(z), rtol=1e-5, atol=1e-6)


def test_the_draw_belongs_to_the_sample() -> None:
    codec, x = LatentCodec(conv()), images(5)
    moments = codec.moments(x)
    together = codec.draw(moments, rng(5))
    alone = torch.cat([codec.draw(moments[k : k + 1], Rng(0, [k], "posterior")) for k in range(5)])
    assert torch.equal(together, alone)


def test_the_autoencoder_is_frozen() -> None:
    codec = LatentCodec(conv())
    assert not codec.autoencoder.training
    assert not any(p.requires_grad for p in codec.autoencoder.parameters())


def test_a_dense_latent_is_a_vector() -> None:
    torch.manual_seed(0)
    network = build(DenseAutoencoderConfig(image_shape=(1, 8, 8), hidden=(16,), latent_dim=4))
    assert isinstance(network, Autoencoder)
    codec = LatentCodec.fit(network, [LatentCodec(network).moments(images(32))])
    assert codec.shape(3, 8, 8) == (3, 4)
    assert codec.decode(codec.encode(images(3), rng(3))).shape == (3, 1, 8, 8)


def test_the_fingerprint_is_of_weights_and_scale(tmp_path: Path) -> None:
    codec = LatentCodec(conv(), torch.zeros(2), torch.ones(2))
    other = LatentCodec(conv(), torch.zeros(2), torch.full((2,), 2.0))
    assert codec.fingerprint != other.fingerprint
    assert codec.encoder_fingerprint == other.encoder_fingerprint  # moments are cached before shift and scale
    changed = conv()
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-6
    assert LatentCodec(changed).encoder_fingerprint != codec.encoder_fingerprint
    description = other.save(tmp_path)
    assert description["sha256"] == other.fingerprint
    back = load_codec(tmp_path, description)
    assert back.fingerprint == other.fingerprint
    assert torch.equal(back.encode(images(), rng()), other.encode(images(), rng()))


def test_what_is_refused() -> None:
    network = conv()
    with pytest.raises(AlphabarError, match="the latent scale must be positive and finite, got "):
        LatentCodec(network, torch.zeros(1), torch.zeros(1))
    with pytest.raises(AlphabarError, match="the latent scale must be positive and finite"):
        LatentCodec(network, torch.zeros(1), torch.tensor([float("nan")]))
    with pytest.raises(AlphabarError, match="cannot fit the latent scale: there are no images"):
        LatentCodec.fit(network, [])
    dead = torch.randn(8, 4, 2, 2)
    dead[:, 1] = 0.5
    dead[:, 2:] = 0
    with pytest.raises(AlphabarError, match=r"latent channels \[1\] do not vary over the data; lower the KL weight"):
        LatentCodec.fit(network, [dead])
