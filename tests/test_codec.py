"""The bookends: pixels as they are, latents at unit scale."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from alphabar.codec import LatentCodec, PixelCodec, load_codec
from alphabar.engine import Precision
from alphabar.errors import AlphabarError
from alphabar.nn import Autoencoder, ConvAutoencoderConfig, DenseAutoencoder, DenseAutoencoderConfig, build
from alphabar.nn.layers import double
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


class Local(Autoencoder):
    """Convolutions alone: half the size, and no value looks further than 4 pixels; it notes what it is given."""

    variational, factor, image_channels = True, 2, 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.code = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.seen: list[tuple[int, ...]] = []

    def encode(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return self.code(self.down(x).tanh())

    def decode(self, z: Tensor) -> Tensor:
        self.seen.append(tuple(z.shape))
        return self.last(double(self.first(z).tanh()))

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return (2, height // 2, width // 2)


class Halves(Local):
    """No network at all: every value is the mean of its four pixels, and comes back four times."""

    def encode(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x, 2)
        return torch.cat([mean, mean, torch.zeros_like(mean), torch.zeros_like(mean)], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        return double(z[:, :1])


def wave(height: int, width: int) -> Tensor:
    """Two smooth images [2, 1, H, W] that are bright on one side."""
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return torch.stack([(3 * x + 2 * y).sin(), x * y + x])[:, None].clamp(-1, 1)


@pytest.mark.parametrize("size", [(64, 64), (40, 100), (24, 70), (34, 32)])
def test_tiles_of_a_local_network_equal_the_whole(size: tuple[int, int]) -> None:
    """Everywhere: what a tile made near its rim is not used."""
    codec, x = LatentCodec(Local()), Rng(0, range(2), "images").normal(1, *size)
    tiled, cut = codec.tiled(32, 16), codec.tiled(32, 0)
    moments = codec.moments(x)
    z = torch.randn(2, 2, size[0] // 2, size[1] // 2)
    torch.testing.assert_close(tiled.moments(x), moments, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled.decode(z), codec.decode(z), rtol=0, atol=1e-5)
    assert (cut.moments(x) - moments).abs().max() > 1e-2  # without an overlap the rims show
    assert (cut.decode(z) - codec.decode(z)).abs().max() > 1e-2


@hypothesis.given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n // 2))),
)
def test_tiles_cover_every_size_evenly(height: int, width: int, tiles: tuple[int, int]) -> None:
    """With a network that looks nowhere else the blend is the whole: the weights sum to 1 at every pixel."""
    tile, overlap = tiles
    codec, x = LatentCodec(Halves()), torch.randn(1, 1, 2 * height, 2 * width)
    tiled = codec.tiled(2 * tile, 2 * overlap)
    moments = codec.moments(x)
    torch.testing.assert_close(tiled.moments(x), moments, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled.decode(moments[:, :2]), codec.decode(moments[:, :2]), rtol=0, atol=1e-5)


def test_an_image_within_one_tile_is_bitwise_the_same() -> None:
    codec, x = LatentCodec(conv(attention=True)), images()
    z = codec.encode(x, rng())
    for tile in (8, 16):
        assert torch.equal(codec.tiled(tile).encode(x, rng()), z)
        assert torch.equal(codec.tiled(tile).decode(z), codec.decode(z))


def test_tiles_leave_no_seams() -> None:
    """Group norms make each tile differ from the whole, but the difference does not jump where tiles meet.

    From one column to the next it changes no more there than where the picture has one tile only.
    """
    codec = LatentCodec(conv(channels=[8, 8, 8]))
    z = codec.moments(wave(32, 96)).chunk(2, dim=1)[0]
    whole = codec.decode(z)

    def jumps(overlap: int) -> tuple[float, float]:
        """The largest where tiles overlap, and the largest elsewhere: in the first and last 16 columns."""
        error = codec.tiled(32, overlap).decode(z) - whole
        columns = error.diff(dim=3).abs().amax(dim=(0, 1, 2))
        return columns[16:-16].max().item(), max(columns[:16].max().item(), columns[-16:].max().item())

    inside, elsewhere = jumps(16)
    assert 1e-3 < inside < elsewhere
    inside, elsewhere = jumps(0)
    assert inside > 3 * elsewhere  # the seams of tiles laid edge to edge


def test_large_images_go_alone_and_in_tiles() -> None:
    network = Local()
    codec = LatentCodec(network)
    codec.moments(torch.zeros(300, 1, 32, 32))
    codec.moments(torch.zeros(3, 1, 512, 300))
    codec.decode(torch.zeros(2, 2, 256, 256))
    assert (
        network.seen
        == [(256, 1, 32, 32), (44, 1, 32, 32), (1, 1, 512, 300), (1, 1, 512, 300), (1, 1, 512, 300)]
        + [(1, 2, 256, 256)] * 2
    )
    network.seen.clear()
    codec.tiled(256, 64).moments(torch.zeros(2, 1, 640, 256))
    assert network.seen == [(2, 1, 256, 256)] * 3


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bf16", 3e-2)])
def test_a_prepared_codec_is_float32_at_its_doors(precision: Precision, tolerance: float, tmp_path: Path) -> None:
    codec = LatentCodec(conv(), torch.tensor([0.3, -1.0]), torch.tensor([2.0, 0.5]), slice_size=4, tile=8, overlap=4)
    before = codec.fingerprint
    fast, x = codec.prepared(precision), images()
    assert (fast.slice_size, fast.tile, fast.overlap) == (4, 8, 4)
    expected = torch.bfloat16 if precision == "bf16" else torch.float32
    assert {weight.dtype for weight in fast.autoencoder.parameters()} == {expected}
    z = codec.encode(x, rng())
    for made, own in ((fast.encode(x, rng()), z), (fast.decode(z), codec.decode(z))):
        assert made.dtype == torch.float32
        assert (made - own).norm() / own.norm() < tolerance
    assert codec.fingerprint == before
    if precision == "bf16":
        with pytest.raises(AlphabarError, match="has rounded weights; save the one that it was made from"):
            fast.save(tmp_path)
    else:
        assert fast.fingerprint == before


def test_which_tiles_are_refused() -> None:
    with pytest.raises(AlphabarError, match="tile must be a multiple of 2 pixels, the autoencoder's factor, not 7"):
        LatentCodec(conv(), tile=7)
    with pytest.raises(AlphabarError, match="tile must be a multiple of 2 pixels, the autoencoder's factor, not 0"):
        LatentCodec(conv(), tile=0)
    for overlap in (5, 10, -2):
        with pytest.raises(AlphabarError, match=f"a multiple of 2 and at most half the tile 16, not {overlap}"):
            LatentCodec(conv(), tile=16, overlap=overlap)
    with pytest.raises(AlphabarError, match="whose latent is a map without a border; leave tile out"):
        LatentCodec(conv(border=2), tile=16)
    with pytest.raises(AlphabarError, match="whose latent is a map without a border; leave tile out"):
        LatentCodec(DenseAutoencoder(DenseAutoencoderConfig(image_shape=(1, 8, 8))), tile=8)
    with pytest.raises(AlphabarError, match="takes sizes that are a multiple of 2, not 33x32"):
        LatentCodec(conv(), tile=16).moments(torch.zeros(1, 1, 33, 32))
