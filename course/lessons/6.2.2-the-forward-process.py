"""What lesson 6.2.2 computes and draws. The page's `{compute}` sees the public names; `{drawing}` calls the functions.

Blue is the image's share and orange the noise's, in every drawing; violet is the linear schedule and green the cosine,
as in the widget.
"""

from __future__ import annotations

import math
from functools import cache, partial

import torch
from torch import Tensor

from alphabar.course import drawing
from alphabar.course.drawing import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, Panel, box, dot, picture, rule, text
from alphabar.data import fallback_dataset, open_dataset, to_unit
from alphabar.diffusion import NoiseSchedule, Process, make_prediction

LINEAR, COSINE, CONSTANT = NoiseSchedule.linear(), NoiseSchedule.cosine(), NoiseSchedule.constant()
STEPS = LINEAR.timesteps
STATIC = 0.01  # below this alpha-bar the page calls an image static

# one pixel, three steps: betas so large that each is seen
PIXEL = 0.8
BETAS = (0.1, 0.2, 0.3)
EPS = (0.5, -1.2, 0.7)
SHORT = NoiseSchedule.from_betas(torch.tensor(BETAS, dtype=torch.float64))

# many walks of the same pixel, on the schedule that is really used
WALKS, WALK_STEPS = 2000, 300


def process(schedule: NoiseSchedule) -> Process:
    """The library's walk and jump on a schedule; what a network would predict plays no part here."""
    return Process(schedule, make_prediction("eps"))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard Gaussian draws, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# values


def sums(first: float, second: float, n: int = 100_000) -> Tensor:
    """Sums of two independent draws with these variances, [n]."""
    one, other = normal(2, n)
    return math.sqrt(first) * one + math.sqrt(second) * other


def static_steps(schedule: NoiseSchedule) -> int:
    """How many timesteps hold less than `STATIC` of the image's variance."""
    return int((schedule.alphas_bar < STATIC).sum())


def first_below(schedule: NoiseSchedule, share: float) -> int:
    """The first t, counted as in the papers, at which alpha-bar is below a share."""
    return int((schedule.alphas_bar >= share).sum()) + 1


@cache
def walked() -> tuple[float, ...]:
    """The pixel after 0..3 steps of the library's walk with the draws `EPS`."""
    walk, x, states = process(SHORT), torch.tensor([PIXEL], dtype=torch.float64), [PIXEL]
    for t, eps in enumerate(EPS):
        x = walk.walk(x, torch.tensor([t]), torch.tensor([eps], dtype=torch.float64))
        states.append(x.item())
    return tuple(states)


@cache
def moments() -> tuple[tuple[float, float], ...]:
    """(mean, variance) of the pixel after 0..3 steps, by the two tools, one step after the other."""
    mean, variance, out = PIXEL, 0.0, [(PIXEL, 0.0)]
    for beta in SHORT.betas.tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        out.append((mean, variance))
    return tuple(out)


def shares(steps: int) -> tuple[float, ...]:
    """What x_0 and each noise so far hold of the variance after some steps of the short walk; they sum to 1."""
    parts = [1.0]
    for beta in SHORT.betas.tolist()[:steps]:
        parts = [(1 - beta) * part for part in parts] + [beta]
    return tuple(parts)


def merged() -> float:
    """The single draw that stands for the three of `EPS`: their weighted sum, scaled back to variance 1."""
    weights = [math.sqrt(share) for share in shares(3)[1:]]
    return sum(w * eps for w, eps in zip(weights, EPS, strict=True)) / SHORT.coefficients(2)[1]


def jumped() -> float:
    """The pixel after three steps, by the library's closed form and the merged draw."""
    x0, eps = (torch.tensor([value], dtype=torch.float64) for value in (PIXEL, merged()))
    return process(SHORT).noise(x0, eps, torch.tensor([2])).item()


@cache
def walks() -> Tensor:
    """The same pixel walked many times on the linear schedule, [1 + WALK_STEPS, WALKS]."""
    walk, states = process(LINEAR), [torch.full((WALKS,), PIXEL, dtype=torch.float64)]
    for t, eps in enumerate(normal(WALK_STEPS, WALKS)):
        states.append(walk.walk(states[-1], torch.full((WALKS,), t), eps))
    return torch.stack(states)


@cache
def growth() -> tuple[Tensor, Tensor]:
    """The variance of 4,000 pixel values that begin with variance 1, naive and preserving, [1 + STEPS] each."""
    walk, naive = process(LINEAR), normal(4000)
    naive /= naive.std(correction=0)
    kept, out = naive, [(naive.var(), naive.var())]
    for t, eps in enumerate(normal(STEPS, 4000, seed=1)):
        at = torch.full((4000,), t)
        naive, kept = walk.walk_exploding(naive, at, eps), walk.walk(kept, at, eps)
        out.append((naive.var(), kept.var()))
    return torch.tensor([a for a, _ in out]), torch.tensor([b for _, b in out])


@cache
def images() -> tuple[str, Tensor]:
    """The name of the set that can be had here, and its test images in [-1, 1], float32 [N, 1, 28, 28]."""
    name = fallback_dataset()
    data = open_dataset(name, "test", size=28, channels=1)
    return name, to_unit(data.rows(torch.arange(len(data))))


def image_variance() -> float:
    """The variance of all pixels of the test images, scaled to [-1, 1]."""
    return images()[1].double().var().item()


def set_name() -> str:
    """The test images' set, as a reader would write it."""
    return {"fashion-mnist": "Fashion-MNIST", "mnist": "MNIST", "digits": "scikit-learn's digits"}[images()[0]]


# drawing

SIGNAL, NOISE, LINEAR_INK, COSINE_INK = BLUE, ORANGE, PURPLE, GREEN
svg = partial(drawing.svg, widest=540)


def _density(x: float, mean: float, variance: float) -> float:
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def _range(low: float, high: float, n: int) -> list[float]:
    return [low + (high - low) * k / (n - 1) for k in range(n)]


def gaussians() -> str:
    """Two Gaussians of variance 3 and 5, and the histogram and density of their sums."""
    panel = Panel(10, 6, 460, 170, (-9, 9), (0, _density(0, 0, 3) * 1.02))
    xs, edges = _range(-9, 9, 121), torch.linspace(-9, 9, 37, dtype=torch.float64)
    drawn = sums(3, 5)
    heights = torch.histogram(drawn, edges).hist / len(drawn) / (edges[1] - edges[0])
    bars = (
        panel.bar((x, x + 0.46), (0, tall), NOISE, 0.25)
        for x, tall in zip(edges[:-1].tolist(), heights.tolist(), strict=True)
    )
    curves = [
        panel.line(xs, [_density(x, 0, 3) for x in xs], GREY, 1.6, 'stroke-dasharray="2 4"'),
        panel.line(xs, [_density(x, 0, 5) for x in xs], GREY, 1.6, 'stroke-dasharray="7 4"'),
        panel.line(xs, [_density(x, 0, 8) for x in xs], NOISE),
    ]
    labels = [
        panel.label(1.0, 0.21, "variance 3", INK),
        panel.label(2.3, 0.128, "variance 5", INK),
        panel.label(9, 0.066, "sum: variance 8", NOISE, "end"),
    ]
    return svg(202, [*bars, *curves, *labels, panel.across([-8, -4, 0, 4, 8])])


def variances() -> str:
    """The variance of pixel values over the steps, naive and preserving."""
    naive, kept = growth()
    panel = Panel(30, 26, 300, 190, (0, STEPS), (0, 12))
    ts = list(range(0, STEPS + 1, 10))
    tail = [1 + b for b in LINEAR.betas.cumsum(0).tolist()]
    return svg(
        256,
        [
            panel.up([1, 4, 8, 12]),
            panel.across([0, 250, 500, 750, 1000], "steps taken"),
            text(0, 12, "variance of the pixel values"),
            panel.line(ts, naive[::10].tolist(), NOISE),
            panel.line(ts, kept[::10].tolist(), SIGNAL),
            text(342, panel.y(tail[-1]) + 1, "noise added", NOISE),
            text(342, panel.y(tail[-1]) + 18, "and nothing else", NOISE),
            text(342, panel.y(1) - 4, "room made", SIGNAL),
            text(342, panel.y(1) + 13, "before adding", SIGNAL),
        ],
    )


def bucket() -> str:
    """Four columns of height 1: what the image and each noise hold of the variance after 0..3 strong steps."""
    panel, wide = Panel(8, 26, 472, 190, (0, 4), (0, 1)), 48
    opacity, names = (1.0, 0.95, 0.65, 0.4), ("x₀", "ε₁", "ε₂", "ε₃")
    parts = []
    for step in range(4):
        low, left = 0.0, panel.x(step) + 6
        for k, share in enumerate(shares(step)):
            top, tall = panel.y(low + share), panel.y(low) - panel.y(low + share)
            colour = NOISE if k else SIGNAL
            parts.append(box(left, top + 1, wide, tall - 2, colour, opacity[k], 0, 2))
            parts.append(text(left + wide + 6, top + tall / 2 + 5, f"{names[k]} {share:.2f}", colour))
            low += share
        name = "the image" if step == 0 else f"after step {step}"
        parts.append(text(left + wide / 2, panel.y(0) + 20, name, anchor="middle"))
        if step:
            parts.append(text(left + wide / 2, 16, f"β = {BETAS[step - 1]:g}", anchor="middle"))
    return svg(244, parts)


def schedules() -> str:
    """Left: beta over time, linear and constant. Right: what is left of the image."""
    ts, at = list(range(1, STEPS + 1, 9)), slice(0, None, 9)
    left = Panel(44, 40, 170, 170, (0, STEPS), (0, 0.02))
    right = Panel(290, 40, 170, 170, (0, STEPS), (0, 1))
    static = first_below(CONSTANT, STATIC)
    return svg(
        256,
        [
            left.up([0, 0.01, 0.02]),
            left.across([0, 500, 1000], "timestep t"),
            text(0, 16, "noise added at step t (β)", INK),
            left.line(ts, CONSTANT.betas[at].tolist(), GREY, 2, 'stroke-dasharray="6 4"'),
            left.line(ts, LINEAR.betas[at].tolist(), LINEAR_INK),
            left.label(80, 0.0108, "constant", GREY),
            left.label(640, 0.0165, "linear", LINEAR_INK, "end"),
            right.bar((static, STEPS), (0, 1), GREY, 0.12),
            right.up([0, 0.5, 1]),
            right.across([0, 500, 1000], "timestep t"),
            text(250, 16, "variance left of the image", INK),
            right.line([0, *ts], [1, *CONSTANT.alphas_bar[at].tolist()], GREY, 2, 'stroke-dasharray="6 4"'),
            right.line([0, *ts], [1, *LINEAR.alphas_bar[at].tolist()], LINEAR_INK),
            right.label((static + STEPS) / 2, 0.8, "constant:", GREY, "middle"),
            right.label((static + STEPS) / 2, 0.7, "all static", GREY, "middle"),
        ],
    )


def pixel_walks() -> str:
    """Left: some walks of one pixel. Right: where all of them end, beside the density that the jump gives."""
    states, (signal, sd) = walks(), LINEAR.coefficients(WALK_STEPS - 1)
    low, high = -2.4, 3.4
    left = Panel(30, 26, 270, 200, (0, WALK_STEPS), (low, high))
    ts = list(range(0, WALK_STEPS + 1, 5))
    edges = torch.linspace(low, high, 30, dtype=torch.float64)
    heights = torch.histogram(states[-1], edges).hist / WALKS / (edges[1] - edges[0])
    right = Panel(312, 26, 110, 200, (0, 0.62), (low, high))
    tall = right.height / (len(edges) - 1) - 1
    bars = (
        box(right.left, right.y(top) + 0.5, right.x(long) - right.left, tall, SIGNAL, 0.35, 0, 0)
        for top, long in zip(edges[1:].tolist(), heights.tolist(), strict=True)
    )
    ys = _range(low, high, 81)
    return svg(
        268,
        [
            left.up([-2, 0, PIXEL, 2]),
            left.across([0, 100, 200, 300], "steps walked"),
            text(0, 12, "value of the pixel"),
            *(left.line(ts, states[::5, k].tolist(), SIGNAL, 0.8, 'stroke-opacity="0.4"') for k in range(36)),
            dot(left.x(0), left.y(PIXEL), SIGNAL),
            *bars,
            right.line([_density(y, signal * PIXEL, sd**2) for y in ys], ys, NOISE),
            text(right.left + 42, 44, f"{WALKS:,} walks", SIGNAL),
            text(right.left + 42, 61, "the jump", NOISE),
        ],
    )


def _noisy(index: int, schedule: NoiseSchedule, t: int, seed: int) -> Tensor:
    """A test image at the papers' t, 0 for the image itself: [1, 28, 28] within -1..1.

    The grey scale widens with the noise, as otherwise most of it would be cut to plain black and white.
    """
    image = images()[1][index]
    if t == 0:
        return image
    eps, (signal, noise) = normal(*image.shape, seed=seed).float(), schedule.coefficients(t - 1)
    noisy = process(schedule).noise(image[None], eps[None], torch.tensor([t - 1]))[0]
    return noisy / (signal + 2 * noise)


def linear_and_cosine() -> str:
    """Both curves of alpha-bar over one axis, and one image under each schedule at the same timesteps."""
    panel = Panel(44, 30, 392, 150, (0, STEPS), (0, 1))
    at, ts = slice(4, None, 5), list(range(5, STEPS + 1, 5))
    parts = [
        panel.up([0, 0.5, 1]),
        text(0, 14, "ᾱ, the variance left of the image", INK),
        panel.line([0, *ts], [1, *LINEAR.alphas_bar[at].tolist()], LINEAR_INK),
        panel.line([0, *ts], [1, *COSINE.alphas_bar[at].tolist()], COSINE_INK),
        panel.label(320, 0.2, "linear", LINEAR_INK, "end"),
        panel.label(530, 0.56, "cosine", COSINE_INK),
    ]
    columns, side = range(0, STEPS + 1, 125), 44
    for row, (schedule, name, colour) in enumerate(((LINEAR, "linear", LINEAR_INK), (COSINE, "cosine", COSINE_INK))):
        top = 216 + row * 70
        parts.append(text(panel.x(0) - side / 2, top - 6, name, colour))
        for t in columns:
            parts.append(picture(_noisy(0, schedule, t, seed=7), panel.x(t) - side / 2, top, side))
    for t in columns:
        parts.append(rule(panel.x(t), panel.y(0), panel.x(t), panel.y(0) + 5))
    parts += [panel.across([]), *(text(panel.x(t), 348, f"{t:,}", anchor="middle") for t in columns if t % 250 == 0)]
    return svg(372, [*parts, text(panel.x(500), 367, "timestep t", anchor="middle")])


def two_rows() -> str:
    """The check's riddle: another image under both schedules at the same timesteps, unnamed."""
    parts, side, timesteps = [], 72, (100, 300, 500, 700, 900)
    for row, (schedule, name) in enumerate(((COSINE, "A"), (LINEAR, "B"))):
        top = 2 + row * 82
        parts.append(text(8, top + side / 2 + 5, name, INK, more="font-size:17px"))
        for k, t in enumerate(timesteps):
            parts.append(picture(_noisy(2, schedule, t, seed=3), 40 + k * 88, top, side))
    parts += [text(40 + k * 88 + side / 2, 182, f"t = {t}", anchor="middle") for k, t in enumerate(timesteps)]
    return svg(190, parts)
