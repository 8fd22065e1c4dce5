"""The section on cost and quality: the headline figures, the table, the charts, and the count at another size."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from alphabar.report import plots
from alphabar.report.html import chart, number, pair, road_name, si, table, times
from alphabar.report.result import Cost, DemoResult, Road, sampler_name
from alphabar.report.sections import TIE


def verdict(result: DemoResult) -> str:
    """Which road ends nearer to the real images, in words made from the numbers."""
    pixel, latent = (road.best() for road in result.roads)
    if pixel is None or latent is None or result.floor is None:
        return ""
    ratio = max(pixel.frechet, latent.frechet) / max(min(pixel.frechet, latent.frechet), 1e-9)
    nearer = "latent" if latent.frechet < pixel.frechet else "pixel"
    end = (
        "the two are too close to call from one training run each"
        if ratio < TIE
        else f"the {nearer} road is nearer to the real images, in one training run each"
    )
    return (
        f"Best of at most 50 steps: pixel {number(pixel.frechet)} ({escape(pixel.label)}), latent "
        f"{number(latent.frechet)} ({escape(latent.label)}). Real images score {number(result.floor)}; {end}."
    )


def headlines(result: DemoResult) -> str:
    """Four ratios, each computed; one that was not measured on both roads is left out."""

    def best(road: Road) -> float | None:
        found = road.best()
        return found.frechet if found else None

    cells: list[tuple[str, str, str, Callable[[Road], float | None]]] = [
        ("fewer numbers per image", "more numbers per image", "", lambda road: road.cost.values_per_image),
        ("fewer operations per call", "more operations per call", "FLOPs", lambda road: road.cost.flops_per_call),
        (
            "less time for 64 images, DDIM 50",
            "more time for 64 images, DDIM 50",
            "s",
            lambda road: road.cost.seconds_ddim50_n64,
        ),
        ("smaller Fréchet distance", "larger Fréchet distance", "", best),
    ]
    out = ""
    for less, more, unit, of in cells:
        pixel, latent = of(result.pixel), of(result.latent)
        if not pixel or not latent or pixel < 0 or latent < 0:
            continue
        ratio, words = times(pixel, latent, less, more)
        shown = [si(value, unit) if unit == "FLOPs" else f"{number(value)} {unit}".strip() for value in (pixel, latent)]
        what = words if words != "equal" else f"{less.split(' ', 1)[1]}: equal"
        out += (
            f'<li><b>{ratio}</b> <span>{what}</span> <small><span class="road pixel">{shown[0]}</span> → '
            f'<span class="road latent">{shown[1]}</span></small></li>'
        )
    return f'<ul class="headlines" aria-label="The latent road against the pixel road">{out}</ul>' if out else ""


def _rows(result: DemoResult) -> list[tuple[str, ...]]:
    def row(name: str, of: Callable[[Cost], str]) -> tuple[str, ...]:
        return name, of(result.pixel.cost), of(result.latent.cost)

    rows = [
        row("parameters of the denoiser", lambda c: number(c.parameters)),
        row("parameters of the autoencoder", lambda c: number(c.codec_parameters) if c.codec_parameters else "none"),
        row("numbers per image", lambda c: number(c.values_per_image)),
        row("one call, one image", lambda c: si(c.flops_per_call, "FLOPs")),
        row("one call, batch of 64, ms", lambda c: number(c.ms_per_call_batch64)),
        row("its peak memory", lambda c: si(c.peak_bytes_batch64, "B")),
        row("64 images, DDPM 1000, s", lambda c: number(c.seconds_ddpm1000_n64)),
        row("64 images, DDIM 50, s", lambda c: number(c.seconds_ddim50_n64)),
        row("training, s", lambda c: number(c.train_seconds)),
        row("of which autoencoder, s", lambda c: number(c.codec_seconds) if c.codec_seconds else "none"),
        row("images seen in training", lambda c: number(c.images_seen)),
    ]
    if result.floor is not None:
        rows.append(("Fréchet distance, best of at most 50 steps", *(_best(road) for road in result.roads)))
        rows.append(("floor: real images", number(result.floor), number(result.floor)))
    return rows


def _best(road: Road) -> str:
    best = road.best()
    return f"{number(best.frechet)}<small>{escape(best.label)}</small>" if best else number(None)


def distances(result: DemoResult) -> str:
    """Every measured distance: a row per sampler, a column per number of steps, pixel above latent in each cell."""
    measured = [one for road in result.roads for one in road.distances]
    if not measured:
        return ""
    steps = sorted({one.steps for one in measured})
    rows = []
    for sampler in dict.fromkeys(one.sampler for one in measured):
        cells = []
        for count in steps:
            found = [(road.space, road.distance(sampler, count)) for road in result.roads]
            shown = [f'<span class="road {space}">{number(one.frechet)}</span>' for space, one in found if one]
            cells.append("<br>".join(shown))
        rows.append((escape(sampler_name(sampler)), *cells))
    legend = " above ".join(f'<span class="road {road.space}">{road.space}</span>' for road in result.roads)
    return (
        f"<h3>Distance by sampler and steps</h3><p>In each cell, {legend}; an empty one was not measured.</p>"
        + table("Fréchet distance by sampler and steps", ["sampler", *map(str, steps)], rows)
    )


def at_size(result: DemoResult) -> str:
    """What the roads would cost at a larger size, counted and not run."""
    part = result.at_size
    if part is None:
        return ""
    rows = [
        ("numbers per image", number(part.pixel_values), number(part.latent_values)),
        ("one call, one image", si(part.pixel_flops, "FLOPs"), si(part.latent_flops, "FLOPs")),
        ("1000 calls, one image", si(1000 * part.pixel_flops, "FLOPs"), si(1000 * part.latent_flops, "FLOPs")),
    ]
    ratio, words = times(part.pixel_flops, part.latent_flops, "fewer", "more")
    said = "as many operations" if words == "equal" else f"{ratio} {words} operations"
    return (
        f"<h3>At {part.size}×{part.size}, by count</h3><p>The same networks on a larger image: the latent road needs "
        f"{said} per call. Nothing was run at this size.</p>"
        + table(f"Cost at {part.size}×{part.size}, by count", ["", *map(road_name, result.roads)], rows)
    )


def charts(result: DemoResult) -> str:
    """Distance against steps on each road, and against time on both."""
    measured = [road for road in result.roads if road.distances]
    if not measured or result.floor is None:
        return ""
    limits = [one.frechet for road in measured for one in road.distances]
    out = [
        chart(
            plots.frechet_by_steps(road, result.floor, limits),
            f"Fréchet distance of the {road.space} road: "
            + ", ".join(f"{d.label}: {number(d.frechet)}" for d in road.distances),
            f"{road_name(road)}: distance against sampling steps, per sampler",
        )
        for road in measured
    ]
    if any(one.seconds for road in measured for one in road.distances):
        fronts = "; ".join(
            f"{road.space} "
            + ", ".join(f"{d.label} {number(d.seconds)} s: {number(d.frechet)}" for d in plots.front(road.distances))
            for road in measured
        )
        out.append(
            chart(
                plots.frechet_by_seconds(measured, result.floor),
                f"Best Fréchet distance for the time that 64 images take: {fronts}",
                "Both roads: distance against the time for 64 images; joined points are the best for their time",
            )
        )
    return pair(out)


def cost(result: DemoResult) -> str:
    """The whole section."""
    said = ""
    if result.floor is not None:
        features = f"the features of {escape(result.classifier)}, n = {number(result.frechet_n)}"
        said = (
            f"<p>The Fréchet distance is taken on {features}. The floor, real training images against real test images "
            f"at the same n, is {number(result.floor)}. It compares only with distances taken the same way.</p>"
        )
    head = ["", *(f"{road_name(road)}<br><small>{escape(road.name)}</small>" for road in result.roads)]
    return (
        said
        + table("Cost and quality of both roads", head, _rows(result))
        + distances(result)
        + charts(result)
        + at_size(result)
    )
