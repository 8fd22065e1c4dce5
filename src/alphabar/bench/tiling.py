"""What tiles change in a real photograph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from alphabar.bench.measure import relative_error
from alphabar.codec import LatentCodec
from alphabar.errors import AlphabarError
from alphabar.rng import Rng


def measure_tiling(
    codec: LatentCodec, image: Tensor, tiles: Sequence[int] = (128, 256, 320, 384)
) -> dict[str, dict[str, float]]:
    """What tiles change in the reconstruction of a picture, against the same codec without tiles.

    Args:
        codec: a trained one; random weights say nothing about it.
        image: [1, 3, H, W] in [-1, 1].
        tiles: sides in pixels.

    Returns:
        Per tile the relative error (L2) of the latent means and of the decoded picture, and the PSNR against the
        original, in dB, of what was decoded in tiles and whole.
    """
    if codec.autoencoder.image_channels != image.shape[1]:
        raise AlphabarError(
            f"the photograph has colours, and this autoencoder {codec.autoencoder.image_channels} channel"
        )
    whole = _with_tiles(codec, None)
    means = _means(whole, image)
    z = whole.draw(torch.cat([means, torch.zeros_like(means)], dim=1), Rng(0, range(1), "bench"))
    picture = whole.decode(z)
    rows = {}
    for tile in tiles:
        tiled = _with_tiles(codec, tile)
        decoded = tiled.decode(z)
        rows[str(tile)] = {
            "encode_error": relative_error(_means(tiled, image).numpy(), means.numpy()),
            "decode_error": relative_error(decoded.numpy(), picture.numpy()),
            "psnr": _psnr(decoded, image),
            "psnr_whole": _psnr(picture, image),
        }
    return rows


def _with_tiles(codec: LatentCodec, tile: int | None) -> LatentCodec:
    return LatentCodec(codec.autoencoder, codec.shift, codec.scale, codec.slice_size, tile)


def _means(codec: LatentCodec, image: Tensor) -> Tensor:
    return codec.moments(image).chunk(2, dim=1)[0]


def _psnr(picture: Tensor, image: Tensor) -> float:
    """In dB, of values in [-1, 1]."""
    return float(10 * torch.log10(4 / F.mse_loss(picture.clamp(-1, 1), image)))


def photograph() -> Tensor:
    """A real one, [1, 3, 512, 512] in [-1, 1]: the astronaut of scikit-image (NASA, public domain)."""
    from skimage import data

    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 127.5 - 1
