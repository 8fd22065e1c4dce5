"""A traced prompt as lines for the terminal and as a page: the pipeline drawn, its steps in pictures, its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from PIL import Image
from torch import Tensor

from alphabar.evaluate.stages import MEMORY, Stage, Trace, Values
from alphabar.report.document import document, footer, read_style
from alphabar.report.grid import tiles
from alphabar.report.html import (
    channels_tile,
    figure,
    image_strip,
    number,
    picture,
    scale_of,
    si,
    strip,
    table,
    thumbnails,
    ticks,
)

STEPS_SHOWN = 6  # rows of denoising steps in a table; the JSON has all
HEAD = (
    "stage",
    "in",
    "out",
    "numbers out",
    "from … to",
    "mean ± std",
    "time",
    "memory",
    "parameters",
    "FLOPs",
    "in pixels",
)

ARROW = (
    '<svg viewBox="0 0 20 20" aria-hidden="true"><path d="M1 10H17M11 4l6 6-6 6" fill="none" stroke="currentColor" '
    'stroke-width="2" stroke-linecap="round" stroke-linejoin="round"/></svg>'
)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Lines for the terminal: the first column to the left, the others to the right, as wide as needed."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def lines(trace: Trace) -> str:
    """The stages as a table for the terminal; of many denoising steps, some."""
    rows: list[Sequence[str]] = [HEAD]
    for stage, left_out in _shown(trace.stages):
        if left_out:
            rows.append((f"… {left_out} more steps", *("",) * (len(HEAD) - 1)))
        rows.append(_text_row(stage))
    facts = ", ".join(f"{key} {value!r}" for key, value in trace.settings.items() if value is not None)
    pieces = f"\npieces: {' | '.join(trace.pieces)}" if trace.pieces else ""
    total = sum(stage.seconds for stage in trace.stages)
    same = sum(stage.same for stage in trace.stages)
    closing = f"{_seconds(total)} in all; {same} of {len(trace.stages)} stages are the same in pixel diffusion"
    return f"{trace.title}: {facts}{pieces}\n\n{text_table(rows)}\n\n{closing}"


def _shown(stages: Sequence[Stage]) -> list[tuple[Stage, int]]:
    """The stages of a table, each with how many denoising steps are left out before it."""
    steps = [stage for stage in stages if stage.kind == "step"]
    if len(steps) <= STEPS_SHOWN:
        return [(stage, 0) for stage in stages]
    half = STEPS_SHOWN // 2
    hidden = steps[half:-half]
    first = steps[-half]
    return [(stage, len(hidden) if stage is first else 0) for stage in stages if stage not in hidden]


def _text_row(stage: Stage) -> tuple[str, ...]:
    out = stage.outs[0] if stage.outs else None
    return (
        stage.name,
        " + ".join(_shape(one) for one in stage.ins) or "-",
        " + ".join(_shape(one) for one in stage.outs) or "-",
        f"{out.count:,}" if out else "-",
        f"{out.low:.3g} … {out.high:.3g}" if out else "-",
        f"{out.mean:.3g} ± {out.std:.3g}" if out else "-",
        "-" if stage.idle else _seconds(stage.seconds),
        _memory(stage) or "-",
        f"{stage.parameters:,} {stage.weights}" if stage.parameters else "-",
        si(stage.flops, "FLOPs") if stage.flops else "-",
        _verdict(stage),
    )


def _shape(values: Values) -> str:
    return "x".join(map(str, values.shape)) or "1"


def _memory(stage: Stage) -> str:
    return "" if stage.idle or stage.peak_bytes is None else si(stage.peak_bytes, "B")


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def render_trace(traces: Sequence[Trace], command: str, facts: Mapping[str, object], notes: Sequence[str] = ()) -> str:
    """The page of a traced sampling, and of a traced training step where there is one.

    Args:
        traces: of `trace_sampling`, and then perhaps of `trace_training`.
        command: what made the page.
        facts: versions, hardware and the like, for the footer.
        notes: what to know before reading.
    """
    sampling, *training = traces
    prompt = sampling.settings.get("prompt")
    asked = f"“{escape(str(prompt))}”" if prompt else "A sample"
    header = (
        f"<h1>{asked}, <span>stage by stage.</span></h1>"
        + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
        + f"<p>{_summary(sampling)}</p>{_headlines(sampling)}"
    )
    sections = [("The pipeline", _pipeline(sampling)), ("From noise to image", _moments(sampling))]
    sections.append(("Every stage in numbers", _stage_table(sampling)))
    for trace in training:
        sections.append(("One training step", _training(trace)))
    device = str(sampling.settings["device"]).split(":")[0]
    told = [
        f"Memory is {MEMORY[device]}: a stage's own tensors at the worst moment, weights and inputs not included."
        if device in MEMORY
        else f"Memory is not told by {device}.",
        "Every stage ran once: the first denoising step includes what PyTorch sets up on a first call.",
        "FLOPs are counted from the shapes of matrix products and convolutions; a multiply-add is two.",
    ]
    title = f"alphabar: {prompt or 'a sample'}, stage by stage"
    return document(title, header, sections, footer(command, facts, told), read_style("trace.css"))


def _summary(trace: Trace) -> str:
    words = f"{len(trace.pieces)} pieces of a prompt, " if trace.pieces else ""
    steps = trace.settings["steps"]
    if trace.latent:
        return (
            f"{words}{steps} denoising steps on latents, one decoding. Green is what pixel diffusion does in the very "
            "same way; blue is what working on latents adds."
        )
    return f"{words}{steps} denoising steps on the pixels themselves: where latents have a decoder, nothing is to do."


def _headlines(trace: Trace) -> str:
    steps = [stage for stage in trace.stages if stage.kind == "step"]
    total = sum(stage.seconds for stage in trace.stages)
    values, pixels = steps[0].outs[0].count, trace.image.numel()
    same = sum(stage.same for stage in trace.stages)
    cells = [
        (number(values), "numbers are denoised", f"the image has {number(pixels)}"),
        (_seconds(total), "in all", f"{sum(stage.seconds for stage in steps) / total:.0%} of it in {len(steps)} steps"),
        (si(sum(stage.flops for stage in trace.stages), "FLOPs"), "counted", "products and convolutions"),
        (f"{same} of {len(trace.stages)}", "stages as in pixel diffusion", "the others are the bookends"),
    ]
    items = "".join(f"<li><b>{a}</b> <span>{b}</span> <small>{c}</small></li>" for a, b, c in cells)
    return f'<ul class="headlines" aria-label="In short">{items}</ul>'


def _arrow(place: str, label: str = "") -> str:
    return f'<div class="arrow {place}"><span>{label}</span>{ARROW}</div>'


def _box(place: str, title: str, said: Sequence[str], css: str, inside: str = "") -> str:
    """A box of the drawing; `said` are lines of HTML."""
    small = "".join(f"<small>{line}</small>" for line in said)
    return f'<div class="box {place} {css}"><b>{title}</b>{small}{inside}</div>'


def _look(stage: Stage) -> str:
    """The classes of a stage's box."""
    if stage.idle:
        return "idle"
    return ("same" if stage.same else "only") + (" frozen" if stage.weights == "frozen" else "")


def _cost_said(stage: Stage) -> list[str]:
    """Parameters, frozen or trained, and time: the small lines of a box."""
    if stage.idle:
        return [escape(stage.what)]
    return [*_held(stage), _seconds(stage.seconds)]


def _held(stage: Stage) -> list[str]:
    return [f"{si(stage.parameters, '').strip()} parameters, {stage.weights}"] if stage.parameters else []


def _label(values: Values) -> str:
    """The shape on an arrow, without the batch of one."""
    shape = values.shape[1:] if len(values.shape) > 1 else values.shape
    return "×".join(map(str, shape))


def _thumbnail(tensor: Tensor, alt: str) -> str:
    """An image [C, H, W], or latents as heat maps."""
    return picture(_tile(tensor), alt)


def _tile(tensor: Tensor) -> Image.Image:
    if len(tensor) in (1, 3):
        small = thumbnails(tensor[None])
        return tiles(small, scale_of(small))[0]
    return channels_tile(tensor)


def _pipeline(trace: Trace) -> str:
    """The drawing: a grid on a wide page, one column on a narrow one."""
    by_kind = {stage.kind: stage for stage in trace.stages}  # of the steps, the last
    tokens, words, noise, step, decode = (by_kind[k] for k in ("tokens", "embeddings", "noise", "step", "decode"))
    assert trace.noise is not None
    negative = trace.settings["negative"]
    prompt = trace.settings["prompt"]
    quotes = [f"“{escape(str(prompt or ''))}”"] if words.outs else ["nothing is asked for"]
    quotes += [f"not: “{escape(str(negative))}”"] if negative else []
    pieces = "".join(f"<i>{escape(piece)}</i>" for piece in trace.pieces)
    token_said = [f"{len(trace.pieces)} pieces, padded to {tokens.outs[0].shape[1]}"] if tokens.outs else [tokens.what]
    parts = [
        _legend(),
        _box("prompt", "prompt", quotes, "" if words.outs else "idle"),
        _arrow("to-tokens"),
        _box("tokens", "tokens", token_said, _look(tokens), f'<div class="pieces">{pieces}</div>' if pieces else ""),
        _arrow("to-text", _label(tokens.outs[0]) if tokens.outs else ""),
        _box("embeddings", "text encoder", _cost_said(words), _look(words)),
        _arrow("down", f"text {_label(words.outs[0])},<br>into every step" if words.outs else "nothing"),
        _box("seed", "seed", [str(trace.settings["seed"])], ""),
        _arrow("to-noise"),
        _box("noise", "noise", _cost_said(noise), _look(noise), _thumbnail(trace.noise, "the initial noise")),
        _arrow("to-loop", _label(noise.outs[0])),
        _loop(trace, step),
        _arrow("to-decode", _label(step.outs[0])),
        _box("decode", "decoder", _cost_said(decode), _look(decode)),
        _arrow("to-image", _label(decode.outs[0])),
        _box("image", "image", [], "", _thumbnail(trace.image, "the image that was made")),
    ]
    return f'<div class="pipeline sampling">{"".join(parts)}</div>'


def _legend() -> str:
    entries = [
        ("same", "the same in pixel diffusion"),
        ("only", "only for latents: the bookends"),
        ("frozen", "dashed: frozen while diffusion trains"),
    ]
    return '<ul class="legend">' + "".join(f'<li><i class="{c}"></i>{said}</li>' for c, said in entries) + "</ul>"


def _loop(trace: Trace, step: Stage) -> str:
    """What happens at every step: the network, guidance, the sampler."""
    steps = [stage for stage in trace.stages if stage.kind == "step"]
    mean = sum(stage.seconds for stage in steps) / len(steps)
    scale = trace.settings["guidance"]
    asked = ["asked with and without the prompt"] if scale is not None else []
    inner = [
        _box("", "U-Net", [*_held(step), *asked], "same"),
        _arrow("", _label(step.outs[0])),
    ]
    if scale is not None:
        inner += [_box("", "guidance", [f"the difference × {scale:g}"], "same"), _arrow("")]
    inner.append(_box("", "sampler", [f"{escape(str(trace.settings['sampler']))}: one step from t to s"], "same"))
    again = f'<div class="again">{len(steps)} times, {_seconds(mean)} each{ARROW}</div>'
    return f'<div class="loop"><div class="inner">{"".join(inner)}</div>{again}</div>'


def _moments(trace: Trace) -> str:
    """Rows of pictures: what the sampler holds, what it believes in, and that decoded."""
    if not trace.moments:
        return ""

    def row(of: Callable[[int], Tensor], alt: str, said: str) -> str:
        shown = [of(k) for k in range(len(trace.moments))]
        return figure(strip([_tile(one) for one in shown], alt), said, "above")

    maps = f", its {len(trace.moments[0].x)} channels as heat maps" if len(trace.moments[0].x) not in (1, 3) else ""
    times = ticks(f"t = {one.t}<br><b>{'clean' if one.s < 0 else f's = {one.s}'}</b>" for one in trace.moments)
    body = row(lambda k: trace.moments[k].x, "what the sampler holds after some steps", f"what the sampler holds{maps}")
    body += row(lambda k: trace.moments[k].x0, "its estimates of x0", f"the x<sub>0</sub> that it estimates{maps}")
    shown = [one.shown for one in trace.moments if one.shown is not None]
    if trace.latent and len(shown) == len(trace.moments):
        import torch

        images = torch.stack(shown)
        body += figure(image_strip(images, "the estimates, decoded"), "that estimate, decoded", "above")
    else:
        times += (
            '<p class="caption">Estimates are decoded at the end only: here a decoding costs too much to repeat.</p>'
            * (trace.latent and len(shown) < len(trace.moments))
        )
    return (
        f"<p>{len(trace.moments)} of {trace.settings['steps']} steps, from left to right. Each goes from timestep t to "
        f'timestep s.</p><div style="max-width: {12 * len(trace.moments)}rem">{body}{times}</div>'
    )


def _stage_table(trace: Trace) -> str:
    head = ("stage", "in", "out", "numbers out", "time, memory", "parameters", "FLOPs", "in pixel diffusion")
    rows: list[Sequence[str]] = []
    for stage, left_out in _shown(trace.stages):
        if left_out:
            rows.append((f"… {left_out} more steps", *("",) * (len(head) - 1)))
        rows.append(_html_row(stage))
    return f'<div class="stages">{table(trace.title, head, rows)}</div>'


def _html_row(stage: Stage) -> tuple[str, ...]:
    shown = [f"{one.low:.3g} … {one.high:.3g}<small>{one.mean:.3g} ± {one.std:.3g}</small>" for one in stage.outs]
    name = "same" if stage.same else "only"
    return (
        f"<b>{escape(stage.name)}</b><br><small>{escape(stage.what)}</small>",
        "".join(map(_named, stage.ins)),
        "".join(map(_named, stage.outs)),
        "".join(shown).replace("-", "−"),
        "" if stage.idle else f"{_seconds(stage.seconds)}<small>{_memory(stage)}</small>",
        f"{stage.parameters:,}<small>{stage.weights}</small>" if stage.parameters else "",
        si(stage.flops, "FLOPs") if stage.flops else "",
        f'<span style="color:var(--{name})">{_verdict(stage)}</span><small>{escape(stage.why)}</small>',
    )


def _named(values: Values) -> str:
    """A tensor's shape over its name and number of values."""
    shape = "×".join(map(str, values.shape)) or "1"
    return f"{shape}<small>{escape(values.name)}, {values.count:,}</small>"


def _verdict(stage: Stage) -> str:
    """What pixel diffusion has in the place of a stage."""
    if stage.same:
        return "the same"
    return "this: nothing" if stage.idle else "nothing here"


def _training(trace: Trace) -> str:
    """The seven steps as boxes, and their table."""
    boxes = []
    seven = [stage for stage in trace.stages if stage.kind not in ("tokens", "embeddings")]
    for index, stage in enumerate(seven):
        extra = _thumbnail(trace.image, "the training image") if stage.kind == "encode" else ""
        boxes.append(_box("", f"{index + 1}. {escape(stage.name)}", _cost_said(stage), _look(stage), extra))
        if index < len(seven) - 1:
            boxes.append(_arrow("", _label(stage.outs[0]) if stage.outs else ""))
    words = "" if trace.settings["caption"] is None else f" Its caption: “{escape(str(trace.settings['caption']))}”."
    frozen = "the bookends are frozen" if trace.latent else "there is nothing to encode"
    return (
        f"<p>The same network learning from one image, on a copy; {frozen}.{words}</p>"
        f'<div class="pipeline training">{"".join(boxes)}</div>' + _stage_table(trace)
    )
