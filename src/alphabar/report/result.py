"""What the report shows, as plain data: tensors for pictures, numbers for tables. Who measures fills it in.

Images are [N, C, H, W], uint8 or float in [-1, 1], decoded: what a viewer sees. A part that is None or empty was not
measured; the page leaves its section out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from alphabar.errors import AlphabarError

Space = Literal["pixel", "latent"]

SAMPLER_NAMES = {"ddpm": "DDPM", "ddim": "DDIM", "heun": "Heun", "dpmpp-2m": "DPM++ 2M"}


@dataclass(frozen=True)
class Curve:
    """A training run: the loss logged at `seconds` since the road began (its autoencoder included)."""

    seconds: Sequence[float]
    loss: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.seconds) != len(self.loss):
            raise AlphabarError(f"a curve needs one loss per time, not {len(self.loss)} for {len(self.seconds)}")


@dataclass(frozen=True)
class LossByNoise:
    """The mean loss where edges[i] <= t < edges[i + 1]."""

    edges: Sequence[int]
    loss: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.loss) + 1:
            raise AlphabarError(f"{len(self.loss)} losses need {len(self.loss) + 1} edges, not {len(self.edges)}")


@dataclass(frozen=True)
class Trajectory:
    """One sample on its way, from noise to image, at K timesteps.

    Args:
        timesteps: K values of t, falling.
        x: [K, c, h, w], x_t in the space where diffusion runs (for the latent road: latents, not decoded).
        x0: [K, C, H, W], the clean image predicted at that t, decoded.
        sampler, steps: what made it.
    """

    timesteps: Sequence[int]
    x: Tensor
    x0: Tensor
    sampler: str
    steps: int

    def __post_init__(self) -> None:
        if not len(self.timesteps) == len(self.x) == len(self.x0):
            raise AlphabarError("a trajectory needs one x and one x0 for each timestep")


@dataclass(frozen=True)
class OneShot:
    """The same starting noise, `one` jump to x0 from timestep t, and `many` after a real walk of `steps` DDIM steps."""

    t: int
    one: Tensor
    many: Tensor
    steps: int


@dataclass(frozen=True)
class Samples:
    """The first images of one sampler, not picked; "ddpm" adds fresh noise at each step, "ddim" adds none."""

    sampler: str
    steps: int
    images: Tensor

    @property
    def label(self) -> str:
        """For a caption: `"DDIM, 50 steps"`."""
        return f"{sampler_name(self.sampler)}, {self.steps} steps"


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance of one sampler, and the seconds that it takes for 64 images (decoding included)."""

    sampler: str
    steps: int
    frechet: float
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.frechet < math.inf:
            raise AlphabarError(f"{self.label}: a Fréchet distance must be a positive number, not {self.frechet}")

    @property
    def label(self) -> str:
        """For a table or a chart: `"DDIM 50"`."""
        return f"{sampler_name(self.sampler)} {self.steps}"


@dataclass(frozen=True)
class Cost:
    """What a road costs; None is not measured.

    Args:
        parameters: of the denoising network.
        values_per_image: numbers that the network sees for one image.
        flops_per_call: floating point operations of one network call for one image, a multiply-add counted as 2.
        ms_per_call_batch64: milliseconds of one network call on 64 images.
        peak_bytes_batch64: the most memory that such a call holds beyond weights and input.
        seconds_ddpm1000_n64, seconds_ddim50_n64: sampling 64 images, decoding included.
        train_seconds: training of the whole road, its autoencoder included.
        images_seen: by the denoiser in training, counted with repetition.
        codec_parameters, codec_seconds: of the autoencoder; 0 on the pixel road.
    """

    parameters: int
    values_per_image: int
    flops_per_call: int | None = None
    ms_per_call_batch64: float | None = None
    peak_bytes_batch64: int | None = None
    seconds_ddpm1000_n64: float | None = None
    seconds_ddim50_n64: float | None = None
    train_seconds: float | None = None
    images_seen: int | None = None
    codec_parameters: int = 0
    codec_seconds: float = 0.0


@dataclass(frozen=True)
class Road:
    """All that was measured on one road."""

    space: Space
    name: str
    cost: Cost
    distances: Sequence[Distance] = ()
    samples: Sequence[Samples] = ()
    curve: Curve | None = None
    by_noise: LossByNoise | None = None
    trajectory: Trajectory | None = None
    one_shot: OneShot | None = None

    def distance(self, sampler: str, steps: int) -> Distance | None:
        """The measured distance of one sampler at one number of steps, if any."""
        return next((d for d in self.distances if (d.sampler, d.steps) == (sampler, steps)), None)

    def best(self, most_steps: int = 50) -> Distance | None:
        """The smallest distance in at most `most_steps` steps, if any."""
        return min((d for d in self.distances if d.steps <= most_steps), key=lambda d: d.frechet, default=None)

    def made_by(self, sampler: str, steps: int) -> Samples | None:
        """The images of one sampler at one number of steps, if any."""
        return next((s for s in self.samples if (s.sampler, s.steps) == (sampler, steps)), None)


@dataclass(frozen=True)
class Dissolve:
    """One real image under one schedule: x_t [K, C, H, W] at K timesteps, with alpha-bar at each."""

    schedule: str
    timesteps: Sequence[int]
    alphas_bar: Sequence[float]
    images: Tensor

    def __post_init__(self) -> None:
        if not len(self.timesteps) == len(self.alphas_bar) == len(self.images):
            raise AlphabarError("a dissolving strip needs one image and one alpha-bar for each timestep")


@dataclass(frozen=True)
class Reconstruction:
    """Real images, and what is left after encode and decode; `psnr` in dB over a test set."""

    originals: Tensor
    decoded: Tensor
    psnr: float


@dataclass(frozen=True)
class LatentChannels:
    """How much of a picture the latent channels are.

    Args:
        images: [N, C, H, W], real.
        latents: [N, c, h, w], theirs.
        r_squared: c numbers, the share of the grey picture's variance that a straight line on the channel, enlarged to
            the picture's size, explains: 1 is a thumbnail, 0 is nothing like one.
        r_squared_all: the same for the best mixture of all channels.
        psnr_without: c numbers, PSNR in dB of the reconstruction when the channel is set to its mean.
        psnr: of the reconstruction with all channels, on the same images.
    """

    images: Tensor
    latents: Tensor
    r_squared: Sequence[float]
    r_squared_all: float
    psnr_without: Sequence[float]
    psnr: float

    def __post_init__(self) -> None:
        if not self.latents.shape[1] == len(self.r_squared) == len(self.psnr_without):
            raise AlphabarError("latent channels need one R² and one PSNR each")


@dataclass(frozen=True)
class CostAtSize:
    """What each road would cost for one image of `size` x `size`, by count: nothing was run at this size."""

    size: int
    pixel_values: int
    latent_values: int
    pixel_flops: int
    latent_flops: int


@dataclass(frozen=True)
class Algorithms:
    """The library's own source of the same work on both roads."""

    pixel: str
    latent: str


@dataclass(frozen=True)
class DemoResult:
    """All that one report shows.

    Args:
        dataset: its name, for people.
        budget_seconds: training budget of each road, or None where the runs had no common one.
        floor: Fréchet distance of real training images to the real test images, at the same n.
        frechet_n: images in each distance.
        classifier: the classifier behind the distances, in words with its accuracy.
        seed, versions, hardware, command: how to get this report again.
        notes: what a reader must know first (a fallback data set).
        not_measured: what a reader might expect and was not measured, a sentence each.
    """

    dataset: str
    pixel: Road
    latent: Road
    seed: int
    versions: Mapping[str, str]
    hardware: str
    command: str
    budget_seconds: float | None = None
    floor: float | None = None
    frechet_n: int | None = None
    classifier: str = "our own classifier"
    dissolve: Sequence[Dissolve] = ()
    reconstruction: Reconstruction | None = None
    channels: LatentChannels | None = None
    at_size: CostAtSize | None = None
    algorithms: Algorithms | None = None
    notes: Sequence[str] = field(default=())
    not_measured: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        if (self.pixel.space, self.latent.space) != ("pixel", "latent"):
            raise AlphabarError(
                f"a report needs a pixel road and a latent road, not {self.pixel.space} and {self.latent.space}"
            )
        if any(road.distances for road in self.roads) and (self.floor is None or self.frechet_n is None):
            raise AlphabarError("Fréchet distances mean nothing without their floor and n; give both")

    @property
    def roads(self) -> tuple[Road, Road]:
        """Pixel, latent: the order of everything on the page."""
        return self.pixel, self.latent


def sampler_name(sampler: str) -> str:
    """How people write it; an unknown one stays as it is."""
    return SAMPLER_NAMES.get(sampler, sampler)


def _road_summary(road: Road) -> dict[str, Any]:
    cost, best, ddim50 = road.cost, road.best(), road.distance("ddim", 50)
    return {
        "parameters": cost.parameters,
        "values_per_image": cost.values_per_image,
        "flops_per_call": cost.flops_per_call,
        "ms_per_call_batch64": cost.ms_per_call_batch64,
        "seconds_ddpm1000_n64": cost.seconds_ddpm1000_n64,
        "seconds_ddim50_n64": cost.seconds_ddim50_n64,
        "frechet_ddim50": ddim50.frechet if ddim50 else None,
        "frechet_best": best.frechet if best else None,
        "best_sampler": f"{best.sampler}-{best.steps}" if best else None,
        "train_seconds": cost.train_seconds,
        "images_seen": cost.images_seen,
    }


def summary(result: DemoResult) -> dict[str, Any]:
    """The content of `summary.json`; a number that was not measured is None. Best is over at most 50 steps."""
    return {
        "pixel": _road_summary(result.pixel),
        "latent": _road_summary(result.latent),
        "floor": result.floor,
        "versions": dict(result.versions),
        "seed": result.seed,
        "hardware": result.hardware,
    }
