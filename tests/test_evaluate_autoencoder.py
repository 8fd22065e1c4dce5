"""The quality of an autoencoder: on one whose latents are known, and on the library's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.codec import LatentCodec
from alphabar.errors import AlphabarError
from alphabar.evaluate import arithmetic, interpolate, latent_share, mean_latents, psnr, quality_ladder
from alphabar.nn import ConvAutoencoder, ConvAutoencoderConfig, DenseAutoencoder, DenseAutoencoderConfig


class Halving(nn.Module):
    """Worked out by hand: latent channel 0 is the image at half size, channel 1 is nothing of it."""

    factor = 2

    def __init__(self, std: float = 0.0) -> None:
        super().__init__()
        self.std = std

    def moments(self, x: Tensor) -> Tensor:
        small = F.avg_pool2d(x, 2)
        mean = torch.cat([small, torch.full_like(small, 0.5)], dim=1)
        return torch.cat([mean, torch.full_like(mean, self.std)], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        return z[:, :1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return 2, height // 2, width // 2


def blocks(n: int, seed: int = 0) -> Tensor:
    """Images of 2x2 blocks, which `Halving` keeps exactly: [n, 1, 8, 8] in [-1, 1]."""
    return Halving().decode(torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1)


def soft(n: int) -> Tensor:
    """Smooth images [n, 1, 8, 8] in [-1, 1]."""
    corners = torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(corners, size=(8, 8), mode="bilinear")


def conv_codec() -> LatentCodec:
    torch.manual_seed(0)
    config = ConvAutoencoderConfig(channels=(8, 16), latent_channels=3)
    return LatentCodec(
        ConvAutoencoder(config), shift=torch.tensor([0.1, 0.2, 0.3]), scale=torch.tensor([1.0, 2.0, 3.0])
    )


def test_psnr() -> None:
    a = torch.zeros(3, 1, 2, 2)
    b = a.clone()
    b[1] += 0.2
    b[2, 0, 0, 0] += 2
    assert psnr(a, b).tolist() == pytest.approx([math.inf, 20.0, 10 * math.log10(4)])
    with pytest.raises(AlphabarError, match="differ in shape"):
        psnr(a, b[:1])


def test_mean_latents_are_the_middle_of_what_is_drawn() -> None:
    codec, images = conv_codec(), blocks(2)
    mean, std = codec.moments(images).chunk(2, dim=1)
    expected = (mean - codec.shift.view(1, 3, 1, 1)) / codec.scale.view(1, 3, 1, 1)
    torch.testing.assert_close(mean_latents(codec, images), expected)
    assert (std > 0).all()


def test_quality_ladder_of_a_perfect_autoencoder() -> None:
    images = blocks(3)
    ladder = quality_ladder(LatentCodec(Halving()), images)
    assert torch.equal(ladder.reconstructions, images)
    assert ladder.psnr == math.inf
    assert ladder.samples.shape == images.shape


def test_quality_ladder_of_a_noisy_autoencoder() -> None:
    images = blocks(200)
    ladder = quality_ladder(LatentCodec(Halving(std=0.2)), images, seed=1)
    assert ladder.psnr == pytest.approx(20, abs=0.5)  # 10 log10(4 / 0.04)
    assert float(ladder.samples.std()) == pytest.approx(1, abs=0.05)
    alone = quality_ladder(LatentCodec(Halving(std=0.2)), images[:1], seed=1)
    assert torch.equal(alone.samples, ladder.samples[:1])
    assert torch.equal(alone.reconstructions, ladder.reconstructions[:1])


@pytest.mark.parametrize("variational", [True, False])
def test_the_ladder_of_a_dense_autoencoder(variational: bool) -> None:
    config = DenseAutoencoderConfig(image_shape=(1, 8, 8), hidden=(16,), latent_dim=4, variational=variational)
    ladder = quality_ladder(LatentCodec(DenseAutoencoder(config)), blocks(2))
    assert ladder.originals.shape == ladder.reconstructions.shape == ladder.samples.shape == (2, 1, 8, 8)


def test_interpolation_ends_at_the_images() -> None:
    codec, a, b = conv_codec(), blocks(2, 1), blocks(2, 2)
    walk = interpolate(codec, a, b, steps=5)
    assert walk.weights == (0, 0.25, 0.5, 0.75, 1)
    assert walk.latent.shape == walk.pixel.shape == (5, 2, 1, 8, 8)
    torch.testing.assert_close(walk.latent[0], codec.decode(mean_latents(codec, a)))
    torch.testing.assert_close(walk.latent[-1], codec.decode(mean_latents(codec, b)))
    assert torch.equal(walk.pixel[0], a)
    torch.testing.assert_close(walk.pixel[2], (a + b) / 2)
    with pytest.raises(AlphabarError, match="2 or more steps"):
        interpolate(codec, a, b, steps=1)
    with pytest.raises(AlphabarError, match="equal stacks"):
        interpolate(codec, a, b[:1])


def test_arithmetic_in_a_linear_latent_space_is_that_of_the_pixels() -> None:
    images, labels = blocks(30) * 0.3, torch.arange(30) % 3
    result = arithmetic(LatentCodec(Halving()), images, labels, start=0, plus=2, minus=1, count=4)
    assert torch.equal(result.start, images[0:12:3])
    torch.testing.assert_close(result.latent, result.pixel)
    torch.testing.assert_close(result.plus_mean, images[labels == 2].mean(dim=0))
    torch.testing.assert_close(result.minus_mean, images[labels == 1].mean(dim=0))
    torch.testing.assert_close(result.latent, result.start + result.plus_mean - result.minus_mean)


def test_arithmetic_needs_every_class() -> None:
    with pytest.raises(AlphabarError, match="no image of class 7"):
        arithmetic(conv_codec(), blocks(4), torch.tensor([0, 1, 0, 1]), start=0, plus=7, minus=1)


def test_latent_share_of_known_channels() -> None:
    images = soft(20)
    share = latent_share(LatentCodec(Halving()), images)
    assert share.latents.shape == (20, 2, 4, 4)
    assert share.r2[0] > 0.95  # a small picture
    assert share.r2[1] == 0  # constant
    assert share.r2_all == pytest.approx(share.r2[0])
    assert share.psnr > share.psnr_without[0] + 5
    assert share.psnr_without[1] == pytest.approx(share.psnr)


def test_latent_share_of_a_colour_picture_and_of_a_mixture() -> None:
    class Mixing(Halving):
        """Picture plus and minus a pattern: neither channel alone is the picture, their sum is."""

        def moments(self, x: Tensor) -> Tensor:
            small = F.avg_pool2d(x.mean(dim=1, keepdim=True), 2)
            pattern = torch.randn(small.shape, generator=torch.Generator().manual_seed(1))
            mean = torch.cat([small + pattern, small - pattern], dim=1)
            return torch.cat([mean, torch.zeros_like(mean)], dim=1)

        def decode(self, z: Tensor) -> Tensor:
            return super().decode(z.mean(dim=1, keepdim=True)).expand(-1, 3, -1, -1)

    images = soft(20).expand(-1, 3, -1, -1)
    share = latent_share(LatentCodec(Mixing()), images)
    assert max(share.r2) < 0.5
    assert share.r2_all > 0.95


def test_flat_pictures_have_nothing_to_explain() -> None:
    assert math.isnan(latent_share(LatentCodec(Halving()), torch.zeros(2, 1, 8, 8)).r2_all)


def test_latent_share_needs_maps() -> None:
    config = DenseAutoencoderConfig(image_shape=(1, 8, 8), hidden=(16,), latent_dim=4)
    with pytest.raises(AlphabarError, match=r"only in a spatial latent, not in one of \[4\]"):
        latent_share(LatentCodec(DenseAutoencoder(config)), blocks(2))
