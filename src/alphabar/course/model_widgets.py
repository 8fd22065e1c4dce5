"""The two widgets with a network: on a page the engine answers, in a notebook Python does, with one's own model.

TrainingStep(model, images)                       # a Model, or TrainingStep(network, images, process)
Trajectory(model)                                 # or Trajectory(network, process, (1, 28, 28))
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.codec import Codec, PixelCodec
from alphabar.course.export import describe_network, export_network, step_counts
from alphabar.course.widget_data import CALLED, State, image_record
from alphabar.course.widgets import Widget
from alphabar.data import fallback_dataset, open_dataset, to_uint8, to_unit
from alphabar.diffusion import Grid, Process, Step, ddim, ddpm, dpmpp_2m, heun
from alphabar.errors import AlphabarError, nearest
from alphabar.evaluate import single_prediction
from alphabar.evaluate.mode import evaluating
from alphabar.io import write_json
from alphabar.models import Model, load_model
from alphabar.rng import Rng
from alphabar.types import Cond, Denoiser, Estimate

SHIPPED = "fashion-pixel"
"""The network of the pages."""
TEST_IMAGES = 64
"""The batch that the mean errors of a page are over: with `LEVELS` calls each, some seconds of a build."""
LEVELS = 21

SAMPLERS: Mapping[str, Callable[[Denoiser, Tensor, Grid, Process, Rng], Iterator[Step]]] = {
    "ddim": lambda denoise, x, grid, process, rng: ddim(denoise, x, grid, process.schedule),
    "ddpm": lambda denoise, x, grid, process, rng: ddpm(denoise, x, grid, process.schedule, rng=rng),
    "heun": lambda denoise, x, grid, process, rng: heun(denoise, x, grid, process.schedule),
    "dpmpp-2m": lambda denoise, x, grid, process, rng: dpmpp_2m(denoise, x, grid, process.schedule),
}


@dataclass(frozen=True)
class Subject:
    """A network with what is needed to ask it and to show its answers.

    Args:
        network: called as network(x, t, cond).
        process: its schedule, and what it answers with.
        shape: of one x0.
        codec: the bookends.
        clip: x0 lies in [-clip, clip], or None.
        name: what it is called.
    """

    network: nn.Module
    process: Process
    shape: tuple[int, ...]
    codec: Codec
    clip: float | None = None
    name: str = "of your own"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def timesteps(self) -> int:
        """T."""
        return self.process.schedule.timesteps

    def denoise(self, x: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        """What the network believes, in evaluation mode for this call alone: its owner may be training it."""
        with evaluating(self.network):
            return self.process.denoiser(self.network, self.clip)(x, t, cond)

    def about(self, shape: Sequence[int]) -> State:
        """What the widget is told of it, as the engine's worker tells it of its own; shape: of a picture."""
        return {
            "name": self.name,
            "shape": list(shape),
            "prediction": self.process.prediction.name,
            "clip": self.clip,
            "alphasBar": self.process.schedule.alphas_bar.tolist(),
            "steps": step_counts(self.timesteps),
            "samplers": list(SAMPLERS),
        }

    def inlined(self) -> State:
        """The network for the page's engine, inside the state.

        Raises:
            AlphabarError: the engine cannot run it, or it works on latents, which need a decoder.
        """
        if not isinstance(self.codec, PixelCodec):
            raise AlphabarError("to_html() holds networks of pixels only, and this one needs its decoder")
        described, weights = describe_network(self.network, self.process, self.shape, self.clip, self.name)
        return {"description": described, "weights": base64.b64encode(weights).decode()}


def _subject(model: Model | nn.Module, process: Process | None, shape: Sequence[int] | None) -> Subject:
    """What was given, as one."""
    if isinstance(model, Model):
        if process is not None:
            raise AlphabarError("a Model has its process: give the network alone to show it with another")
        if model.text is not None or model.extra_channels:
            raise AlphabarError("the widgets show models of x and t alone, not those shown a text or a mask")
        name = str(model.card.get("name", "of your own"))
        return Subject(model.network, model.process, model.shape(1)[1:], model.codec, model.settings.clip, name)
    if process is None or shape is None:
        raise AlphabarError("a network alone does not say how it was trained: give its process and the shape of one x0")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise AlphabarError(f"an image's shape is (C, H, W) with C 1 or 3, not {tuple(shape)}")
    return Subject(model, process, tuple(shape), PixelCodec(shape[0]))


def errors_by_timestep(subject: Subject, x0: Tensor, levels: int = LEVELS, source: str = "") -> State:
    """How far the network's eps and x0 are off at each noise level: mean squared errors over x0 [N, ...].

    The two are one number seen twice: eps - eps_hat = (alpha / sigma) (x0_hat - x0), so that the error in eps is the
    SNR times the error in x0.

    Args:
        subject: whose errors.
        x0: samples, in the space in which the network works.
        levels: at so many timesteps, evenly spread over 0..T-1.
        source: what the samples are, for the caption.
    """
    snr, last = subject.process.schedule.snr, subject.timesteps - 1
    timesteps = sorted({round(i * last / (levels - 1)) for i in range(levels)})
    of_x0 = [single_prediction(subject.denoise, subject.process, x0, [t]).mse[0] for t in timesteps]
    of_eps = [float(snr[t]) * error for t, error in zip(timesteps, of_x0, strict=True)]
    return {"timesteps": timesteps, "eps": of_eps, "x0": of_x0, "images": len(x0), "source": source}


def page_data(out: Path) -> None:
    """Write into `out`, a site's `_static` folder, the shipped network and its errors on test images.

    Raises:
        AlphabarError: when no data set of images can be had, or a file cannot be written.
    """
    model = load_model(SHIPPED)
    name = fallback_dataset()
    data = open_dataset(name, "test", size=model.size, channels=model.channels)
    images = to_unit(data.rows(range(min(TEST_IMAGES, len(data)))))
    errors = errors_by_timestep(_subject(model, None, None), images, source=f"the test set of {CALLED[name]}")
    export_network(model, out / "data" / SHIPPED)
    write_json(out / "data" / "training-step.json", {"errors": errors})


class TrainingStep(Widget):
    """One step of the training of one's own model: an image, its noise, what the network makes of them, its error.

    Args:
        model: a `Model`, or a network called as network(x, t, cond), which then needs its process.
        images: [N, C, H, W] in [-1, 1], such as a test batch: the first can be chosen, all make the mean errors.
        process: of a network: the schedule, and what it answers with.
        t: where it starts, in 0..T-1; None: the middle.
        seed: of the noise.
        shown: how many of the images can be chosen.

    Raises:
        AlphabarError: images of another shape or range, or a model that is told words.
    """

    def __init__(
        self,
        model: Model | nn.Module,
        images: Tensor,
        process: Process | None = None,
        t: int | None = None,
        seed: int = 0,
        shown: int = 6,
    ) -> None:
        if images.ndim != 4 or len(images) == 0:
            raise AlphabarError(f"images must be [N, C, H, W], at least one, not {list(images.shape)}")
        self.subject = subject = _subject(model, process, images.shape[1:])
        own = [model.channels, model.size, model.size] if isinstance(model, Model) else list(images.shape[1:])
        if list(images.shape[1:]) != own:
            raise AlphabarError(f"images of this model are {own}, not {list(images.shape[1:])}")
        records = [image_record(f"image {i}", x, f"Image {i} of yours") for i, x in enumerate(images[:shown])]
        unit = to_unit(images) if images.dtype == torch.uint8 else images
        start = subject.timesteps // 2 if t is None else t
        if not 0 <= start < subject.timesteps:
            raise AlphabarError(f"t must lie in 0..{subject.timesteps - 1}, not {start}")
        with torch.no_grad():
            x0 = subject.codec.encode(unit.float().to(subject.device), Rng(seed, range(len(unit)), "posterior"))
        self.x0 = {record["label"]: x for record, x in zip(records, x0, strict=False)}
        state = {
            "kernel": True,
            "about": subject.about(_sheet(x0[:1])[0].shape),
            "images": records,
            "image": records[0]["label"],
            "errors": errors_by_timestep(subject, x0),
            "t": start,
            "seed": seed,
        }
        super().__init__("training-step", state)

    def answer(self, message: State, buffers: list[bytes]) -> tuple[State, list[bytes]]:
        """The image noised, the noise, and what the network believes, float32, one after the other."""
        if message.get("type") != "predict":
            return super().answer(message, buffers)
        subject, clean = self.subject, self.x0[message["image"]][None]
        t = torch.full((1,), int(message["t"]), dtype=torch.int64, device=clean.device)
        noise = Rng(int(message["seed"]), [0], "widget").normal(*clean.shape[1:], device=clean.device)
        x = subject.process.noise(clean, noise, t)
        began = time.perf_counter()
        estimate = subject.denoise(x, t)
        milliseconds = 1000 * (time.perf_counter() - began)
        arrays = {"clean": clean, "noise": noise, "x": x, "x0": estimate.x0, "eps": estimate.eps}
        packed = _sheet(torch.cat(list(arrays.values()))).float().cpu().contiguous().numpy().tobytes()
        return {"type": "predicted", "arrays": list(arrays), "milliseconds": milliseconds}, [packed]

    def html_state(self) -> State:
        """With the network inside, for the page's engine."""
        return {**super().html_state(), "kernel": False, "network": self.subject.inlined()}


class Trajectory(Widget):
    """One's own model walks from noise to an image, by the library's samplers; a seed gives what `generate` gives.

    Args:
        model: a `Model`, or a network called as network(x, t, cond), which then needs process and shape.
        process: of a network: the schedule, and what it answers with.
        shape: of a network: (C, H, W) of an image.
        seed: of the noise.
        steps: how many; one of `step_counts(T)`. None: 20, or the most that T has room for.
        sampler: ddim, ddpm, heun or dpmpp-2m.

    Raises:
        AlphabarError: an unknown sampler or number of steps, or a model that is told words.
    """

    def __init__(
        self,
        model: Model | nn.Module,
        process: Process | None = None,
        shape: Sequence[int] | None = None,
        seed: int = 0,
        steps: int | None = None,
        sampler: str = "ddim",
    ) -> None:
        self.subject = subject = _subject(model, process, shape)
        self.walks: dict[str, Iterator[tuple[State, list[bytes]]]] = {}
        counts = step_counts(subject.timesteps)
        steps = max(n for n in counts if n <= 20 or n == counts[0]) if steps is None else steps
        if steps not in counts:
            raise AlphabarError(f"steps must be one of {', '.join(map(str, counts))}, not {steps}")
        if sampler not in SAMPLERS:
            raise AlphabarError(f"unknown sampler {sampler!r}{nearest(sampler, SAMPLERS)}")
        about = subject.about(_picture_shape(subject))
        super().__init__(
            "trajectory", {"kernel": True, "about": about, "seed": seed, "steps": steps, "sampler": sampler}
        )

    def answer(self, message: State, buffers: list[bytes]) -> tuple[State, list[bytes]]:
        """One step of a walk each time it is asked for, so that a walk can be left between two."""
        kind, walk = message.get("type"), str(message.get("id"))
        if kind == "sample":
            self.walks[walk] = self._walk(int(message["seed"]), int(message["steps"]), str(message["sampler"]))
        elif kind == "cancel":
            self.walks.pop(walk, None)
        elif kind != "next":
            return super().answer(message, buffers)
        if walk not in self.walks:
            return {"type": "cancelled"}, []
        try:
            return next(self.walks[walk])
        except StopIteration:
            del self.walks[walk]
            return {"type": "done"}, []

    def _walk(self, seed: int, steps: int, sampler: str) -> Iterator[tuple[State, list[bytes]]]:
        """Each step as a message and its pictures as uint8: x at t, the x0 seen in it, x at s."""
        subject = self.subject
        x = Rng(seed, [0], "initial").normal(*subject.shape, device=subject.device)
        grid, rng = Grid.trailing(steps, subject.timesteps), Rng(seed, [0], "sampler")
        walk = SAMPLERS[sampler](subject.denoise, x, grid, subject.process, rng)
        for index in range(steps):
            began = time.perf_counter()
            step = next(walk)
            milliseconds = 1000 * (time.perf_counter() - began)
            with torch.no_grad():
                pictures = subject.codec.decode(torch.cat([x, step.estimate.x0, step.x]))
            packed = to_uint8(pictures).cpu().contiguous().numpy().tobytes()
            place: dict[str, Any] = {"index": index, "count": steps, "t": step.t, "s": step.s}
            yield {"type": "step", "arrays": ["before", "x0", "x"], "milliseconds": milliseconds, **place}, [packed]
            x = step.x

    def html_state(self) -> State:
        """With the network inside, for the page's engine."""
        state = {**super().html_state(), "kernel": False, "network": self.subject.inlined()}
        return state if state["sampler"] in ("ddim", "ddpm") else {**state, "sampler": "ddim"}  # those the engine has


def _picture_shape(subject: Subject) -> tuple[int, ...]:
    """[C, H, W] of what the codec makes of one x0."""
    with torch.no_grad():
        return tuple(subject.codec.decode(torch.zeros(1, *subject.shape, device=subject.device)).shape[1:])


def _sheet(x: Tensor) -> Tensor:
    """Samples as pictures: latents [N, C, H, W], C other than 1 or 3, become [N, 1, 2 H, W C / 2] (or one row)."""
    n, channels, height, width = x.shape
    if channels in (1, 3):
        return x
    rows = 2 if channels % 2 == 0 else 1
    tiles = x.reshape(n, rows, channels // rows, height, width).transpose(2, 3)
    return tiles.reshape(n, 1, rows * height, channels // rows * width)
