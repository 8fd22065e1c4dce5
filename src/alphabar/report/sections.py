"""The sections of the report's page. Each gives its HTML, or nothing where its numbers were not measured.

A sentence that depends on a number is made from the number.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from alphabar.data import to_uint8
from alphabar.report import plots
from alphabar.report.grid import heat_map, sheet, tiles
from alphabar.report.html import (
    channels_tile,
    chart,
    figure,
    grid,
    image_strip,
    number,
    pair,
    picture,
    road_name,
    scale_of,
    small,
    strip,
    table,
    thumbnails,
    ticks,
)
from alphabar.report.result import DemoResult, LatentChannels, LossByNoise, Road, Samples, Trajectory

SETTLED = 0.9  # of the last image's variation
TIE = 1.1  # one training run per road cannot tell smaller ratios of distances apart


def _range(part: LossByNoise, i: int) -> str:
    return f"{part.edges[i]}–{part.edges[i + 1] - 1}"


def forward(result: DemoResult) -> str:
    """One real image dissolving under each schedule."""
    parts = []
    for one in result.dissolve:
        alt = f"One real image under the {one.schedule} schedule at t = {', '.join(map(str, one.timesteps))}"
        labels = [
            f"t&nbsp;=&nbsp;{t}<br><b>ᾱ&nbsp;{small(a)}</b>" for t, a in zip(one.timesteps, one.alphas_bar, strict=True)
        ]
        parts.append(
            figure(image_strip(one.images, alt) + ticks(labels), f"{escape(one.schedule).capitalize()} schedule")
        )
    if not parts:
        return ""
    return (
        "<p>x<sub>t</sub> = √ᾱ<sub>t</sub> · x<sub>0</sub> + √(1 − ᾱ<sub>t</sub>) · ε. The dial ᾱ<sub>t</sub> is the "
        "weight of the image's power against the noise's. Nothing is learned here, and both roads use it.</p>"
        + pair(parts)
    )


def reconstruction(result: DemoResult) -> str:
    """Originals above what encode and decode leave of them."""
    part = result.reconstruction
    if part is None:
        return ""
    count = min(len(part.originals), 8)
    rows = [
        figure(image_strip(part.originals[:count], f"{count} real images"), "Real"),
        figure(
            image_strip(part.decoded[:count], f"The same {count} images, encoded and decoded"), "Encoded, then decoded"
        ),
    ]
    pixels, latents = result.pixel.cost.values_per_image, result.latent.cost.values_per_image
    return (
        f"<p>The VAE turns {number(pixels)} numbers into {number(latents)} and back: {number(part.psnr)} dB PSNR. It "
        "is trained first and then frozen. What it loses, no sample of the latent road can have.</p>" + "".join(rows)
    )


def channels(result: DemoResult) -> str:
    """The latent's channels as heat maps, and two measures of how much of a picture each is."""
    part = result.channels
    if part is None:
        return ""
    names = [f"channel {i}" for i in range(len(part.r_squared))]
    r2, lost = list(part.r_squared), [part.psnr - without for without in part.psnr_without]
    most, worst = r2.index(max(r2)), lost.index(max(lost))
    rows = [
        (
            name,
            f"{share:.2f}",
            f"{without:.1f} dB",
            f"−{part.psnr - without:.1f} dB" if part.psnr >= without else f"+{without - part.psnr:.1f} dB",
        )
        for name, share, without in zip(names, part.r_squared, part.psnr_without, strict=True)
    ]
    head = ["", "R²", "PSNR without it", f"against {part.psnr:.1f} dB"]
    return (
        "<p>R² is the share of the grey picture's variance that a straight line on the channel, enlarged to the "
        "picture's size, explains: 1 is a thumbnail, 0 is nothing like one. Most like a thumbnail is channel "
        f"{most} (R² {r2[most]:.2f}); the best mixture of all channels reaches {part.r_squared_all:.2f}. Setting "
        f"channel {worst} to its mean costs the reconstruction most, {lost[worst]:.1f} dB.</p>"
        + figure(
            _channel_sheet(part) + ticks(["image", *names]),
            "Dark is low, yellow is high; one scale per channel.",
            "narrow",
        )
        + table("How much of a picture each channel is", head, rows)
    )


def _channel_sheet(part: LatentChannels) -> str:
    images, latents = thumbnails(part.images[:3]), part.latents[:3]
    side = images.shape[-1] * scale_of(images), images.shape[-2] * scale_of(images)
    ranges = [(float(channel.min()), float(channel.max())) for channel in latents.unbind(1)]
    cells: list[Image.Image] = []
    for image, latent in zip(tiles(images, scale_of(images)), latents, strict=True):
        maps = [heat_map(channel, *span) for channel, span in zip(latent, ranges, strict=True)]
        cells += [image, *(one.resize(side, Image.Resampling.NEAREST) for one in maps)]
    alt = f"{len(images)} real images, each beside the {len(ranges)} channels of its latent as heat maps"
    return picture(sheet(cells, 1 + len(ranges), pad=3), alt)


def curves(result: DemoResult) -> str:
    """Both roads' loss against seconds, on one time axis."""
    roads = [(road, road.curve) for road in result.roads if road.curve is not None and len(road.curve.loss)]
    if not roads:
        return ""
    end = max(curve.seconds[-1] for _, curve in roads)
    drawn = [
        chart(
            plots.training_curve(curve, road.space, road.cost.codec_seconds, end),
            f"Training loss of the {road.space} road over {number(curve.seconds[-1])} seconds",
            road_name(road),
        )
        for road, curve in roads
    ]
    return (
        "<p>The same objective on both roads. The levels cannot be compared, because the two losses live in different "
        "spaces; the shapes can.</p>" + pair(drawn)
    )


def by_noise(result: DemoResult) -> str:
    """The loss split by timestep."""
    roads = [(road.space, road.by_noise) for road in result.roads if road.by_noise is not None]
    if not roads:
        return ""
    said = [
        f"on the {space} road it is largest at t = {_range(part, list(part.loss).index(max(part.loss)))}"
        for space, part in roads
    ]
    alt = "Loss by timestep range: " + "; ".join(
        f"{space} " + ", ".join(f"{_range(part, i)}: {loss:.2g}" for i, loss in enumerate(part.loss))
        for space, part in roads
    )
    return f"<p>One average hides which noise levels are hard: {'; '.join(said)}.</p>" + chart(
        plots.loss_by_noise(roads), alt, "Mean loss per range of timesteps. Compare shapes, not levels."
    )


def trajectories(result: DemoResult) -> str:
    """x_t above the predicted x0, from noise to image, on each road."""
    parts = [_trajectory(road, road.trajectory) for road in result.roads if road.trajectory is not None]
    if not parts:
        return ""
    return (
        "<p>Read each from left to right, from noise to image. Each prediction is compared with the last one in two "
        "parts: coarse is the average over blocks an eighth of the image wide, fine is the rest. At 100% the part is "
        "already what it will be.</p>" + "".join(parts)
    )


def _trajectory(road: Road, walk: Trajectory) -> str:
    at = ", ".join(map(str, walk.timesteps))
    if road.space == "pixel":
        x, shown = image_strip(walk.x, f"x_t on the pixel road at t = {at}"), "x<sub>t</sub>"
    else:
        x = strip([channels_tile(one) for one in walk.x], f"x_t on the latent road at t = {at}, as heat maps")
        shown = f"x<sub>t</sub>, its {walk.x.shape[1]} channels as heat maps"
    coarse, fine = settled(walk.x0)
    x0 = image_strip(walk.x0, f"The image predicted from each x_t of the {road.space} road")
    said = "predicted x<sub>0</sub>" + (", decoded" if road.space == "latent" else "")
    return (
        f"<h3>{road_name(road)} <small>{escape(Samples(walk.sampler, walk.steps, walk.x0).label)}</small></h3>"
        + figure(x, shown, "above")
        + ticks(f"<b>{t}</b>" for t in walk.timesteps)
        + x0
        + ticks(f"{max(c, 0):.0%}<br>{max(f, 0):.0%}" for c, f in zip(coarse, fine, strict=True))
        + f'<p class="caption">{said}; under it the share that is settled, coarse above fine. '
        f"{_when(walk, coarse, fine)}</p>"
    )


def _when(walk: Trajectory, coarse: Sequence[float], fine: Sequence[float]) -> str:
    def first(shares: Sequence[float]) -> int:
        return next(t for t, share in zip(walk.timesteps, shares, strict=True) if share >= SETTLED)

    return f"The coarse part passes {SETTLED:.0%} by t = {first(coarse)}, the fine part by t = {first(fine)}."


def settled(x0: Tensor) -> tuple[list[float], list[float]]:
    """How much of the last of [K, C, H, W] each already is, in its coarse and its fine part: 1 - error / power."""
    images = (x0 if x0.dtype == torch.uint8 else to_uint8(x0.float())).double()
    block = max(2, images.shape[-1] // 8)
    means = functional.avg_pool2d(images, block, ceil_mode=True, count_include_pad=False)
    coarse = functional.interpolate(means, scale_factor=block)[..., : images.shape[-2], : images.shape[-1]]
    return _shares(coarse), _shares(images - coarse)


def _shares(parts: Tensor) -> list[float]:
    last = parts[-1]
    power = (last - last.mean()).square().sum().clamp_min(1e-12)
    return [1 - float((part - last).square().sum() / power) for part in parts]


def _spread(images: Tensor) -> float:
    """How much the images differ from each other: the mean over pixels of their standard deviation, on 0..1."""
    unit = (images if images.dtype == torch.uint8 else to_uint8(images.float())).float() / 255
    return float(unit.std(dim=0).mean())


def one_shot(result: DemoResult) -> str:
    """A single jump to x0 from noise, above a real walk from the same noise."""
    parts, said = [], []
    for road in result.roads:
        part = road.one_shot
        if part is None:
            continue
        count = min(len(part.one), 8)
        if count > 1:
            said.append(f"{road.space} {_spread(part.one):.3f} against {_spread(part.many):.3f}")
        parts.append(
            f"<div><h3>{road_name(road)}</h3>"
            + figure(image_strip(part.one[:count], f"{count} one-shot images"), f"One jump from t = {part.t}")
            + figure(
                image_strip(part.many[:count], f"{count} images in {part.steps} steps"),
                f"{part.steps} DDIM steps, same noise",
            )
            + "</div>"
        )
    if not parts:
        return ""
    measured = (
        f" Standard deviation between the images, one jump against many steps: {'; '.join(said)}." if said else ""
    )
    return (
        "<p>Asked for x<sub>0</sub> straight from noise, a network trained on squared error answers with the mean of "
        f"every image that the noise could have been. Many small steps are what turns the mean into one image."
        f"{measured}</p>" + pair(parts)
    )


def _sample_figure(road: Road, made: Samples, columns: int, most: int) -> str:
    distance = road.distance(made.sampler, made.steps)
    facts = [road_name(road), escape(made.label)]
    if distance is not None:
        facts.append(f"Fréchet distance {number(distance.frechet)}")
    alt = f"Samples of the {road.space} road: {made.label}"
    return figure(grid(made.images, alt, columns, most), " · ".join(facts))


def _noise_said(result: DemoResult, steps: int) -> str:
    said = []
    for road in result.roads:
        fresh, none = road.distance("ddpm", steps), road.distance("ddim", steps)
        if fresh and none:
            verdict = "fresh noise helps" if fresh.frechet < none.frechet else "fresh noise hurts"
            if max(fresh.frechet, none.frechet) < TIE * min(fresh.frechet, none.frechet):
                verdict = "too close to call"
            with_and_without = f"{number(fresh.frechet)} with fresh noise, {number(none.frechet)} without"
            said.append(f"{road.space} {with_and_without}: {verdict}")
    return f"<p>Fréchet distance at {steps} steps: {'; '.join(said)}.</p>" if said else ""


def samples(result: DemoResult) -> str:
    """Grids of all samplers that the issue of this page is about: 1000 steps, then 50 and 20 with and without noise."""
    out = ""
    for steps, columns, most in ((1000, 8, 64), (50, 6, 24), (20, 6, 24)):
        sets = [
            _sample_figure(road, made, columns, most)
            for road in result.roads
            for sampler in ("ddpm", "ddim")
            if (made := road.made_by(sampler, steps)) is not None
        ]
        if sets:
            out += f"<h3>{steps} steps</h3>{_noise_said(result, steps)}" + pair(sets)
    if not out:
        return ""
    return (
        "<p>DDPM adds fresh noise at every step (ancestral sampling); on fewer than 1000 steps it jumps between the "
        "chosen timesteps. DDIM adds none. Neither touches the training.</p>" + out
    )


def algorithms(result: DemoResult) -> str:
    """The two roads' source side by side, with the lines that differ marked."""
    if result.algorithms is None:
        return ""
    left, right = (text.strip("\n").splitlines() for text in (result.algorithms.pixel, result.algorithms.latent))
    rows = diff_rows(left, right)
    differ = sum(a != b for a, b in rows)
    listings = [
        f'<figure class="code"><figcaption>{road_name(road)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Source of the {road.space} road">'
        f"<pre>{_listing(rows, k)}</pre></div></figure>"
        for k, road in enumerate(result.roads)
    ]
    return f"<p>The library's own source. {differ} of {len(rows)} lines differ, marked ≠.</p>" + pair(listings)


def diff_rows(left: Sequence[str], right: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Both listings line by line, aligned; None where only the other has a line."""
    rows: list[tuple[str | None, str | None]] = []
    for _, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for i in range(max(b - a, d - c)):
            rows.append((left[a + i] if a + i < b else None, right[c + i] if c + i < d else None))
    return rows


def _listing(rows: Sequence[tuple[str | None, str | None]], side: int) -> str:
    lines = []
    for row in rows:
        text = escape(row[side] or "")
        lines.append(f"<mark>≠ {text}</mark>" if row[0] != row[1] else f"<span>  {text}</span>")
    return "".join(lines)
