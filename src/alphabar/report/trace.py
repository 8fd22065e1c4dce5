"""A traced prompt as lines for the terminal and as a page: the pipeline drawn, its steps in pictures, its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources

from PIL import Image
from torch import Tensor

from alphabar.evaluate.trace import MEMORY, Stage, Trace, Values
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

STYLE = """
:root { --same: #00795c; --same-tint: #e3f4ee; --only: #0067a8; --only-tint: #e2f0fa; }
@media (prefers-color-scheme: dark) {
  :root { --same: #5cd0ab; --same-tint: #15302a; --only: #62b6f5; --only-tint: #142c40; }
}
main > section > .scroll { max-width: none; }
.legend { list-style: none; margin: 0; padding: 0; font-size: .82rem; color: var(--muted); align-self: center; }
.legend li { display: flex; align-items: center; gap: .55rem; margin: .3rem 0; line-height: 1.3; }
.legend i { flex: none; width: 1.5rem; height: 1rem; border-radius: .25rem; border: 1.5px solid var(--line); }
.legend .same, .box.same { border-color: var(--same); background: var(--same-tint); }
.legend .only, .box.only { border-color: var(--only); background: var(--only-tint); }
.legend .frozen { border-color: var(--muted); }
.legend .frozen, .box.frozen { border-style: dashed; }
.box { border: 1.5px solid var(--line); border-radius: .6rem; background: var(--card); padding: .55rem .7rem;
  min-width: 0; font-size: .8rem; line-height: 1.35; align-self: center; overflow-wrap: anywhere; }
.box b { display: block; font-size: .95rem; }
.box small { display: block; font-size: .76rem; }
.box.idle { background: none; border: 1.5px dotted var(--muted); color: var(--muted); }
.box img { max-width: 6rem; margin-top: .45rem; }
.box .pieces { display: flex; flex-wrap: wrap; gap: .2rem; margin-top: .3rem; }
.box .pieces i { font-style: normal; border: 1px solid var(--same); border-radius: .25rem; padding: 0 .3rem; }
.arrow { display: flex; flex-direction: column; align-items: center; justify-content: center; gap: .1rem;
  padding: .25rem 0; color: var(--muted); font-size: .7rem; line-height: 1.2; text-align: center; }
.arrow svg { width: 1.1rem; height: 1.1rem; transform: rotate(90deg); }
.loop { border: 1.5px solid var(--same); border-radius: .8rem; padding: .8rem .7rem .8rem .8rem; min-width: 0;
  display: grid; grid-template-columns: minmax(0, 1fr) 5rem; }
.loop .box { align-self: stretch; }
.loop .inner { display: flex; flex-direction: column; }
.again { margin: 1.4rem 0; padding: .2rem 0 .2rem .6rem; display: flex; align-items: center; color: var(--same);
  position: relative; border: 2px solid var(--same); border-left: 0; border-radius: 0 .7rem .7rem 0; font-size: .8rem;
  line-height: 1.35; }
.again svg { position: absolute; top: -.6rem; left: -.15rem; width: 1.1rem; height: 1.1rem; transform: rotate(180deg); }
.pipeline { display: grid; margin: 1.2rem 0; }
.pipeline .legend { margin-bottom: 1rem; }
.training { counter-reset: step; }
td small, th small { white-space: normal; }
.stages table { font-size: .85rem; line-height: 1.4; }
.stages th, .stages td { vertical-align: top; padding: .45rem .7rem; }
.stages tbody th { min-width: 13rem; }
.stages td small { white-space: nowrap; }
.stages th:last-child, .stages td:last-child { text-align: left; }
.stages td:last-child small { white-space: normal; min-width: 10rem; }
@media (max-width: 61.99rem) {
  .pipeline > .down { padding-bottom: 1.4rem; }
  .pipeline > .down svg { display: none; }
}
@media (min-width: 62rem) {
  .pipeline.sampling { column-gap: .3rem;
    grid-template-columns: 8.4rem 3.3rem 9rem 3.6rem minmax(0, 1fr) 3.6rem 8.4rem 3.8rem 8.2rem; }
  .pipeline.sampling .legend { grid-area: 1 / 7 / 2 / 10; margin: 0; }
  .prompt { grid-area: 1 / 1; }
  .to-tokens { grid-area: 1 / 2; }
  .tokens { grid-area: 1 / 3; }
  .to-text { grid-area: 1 / 4; }
  .embeddings { grid-area: 1 / 5; }
  .pipeline .down { grid-area: 2 / 5; flex-direction: row; min-height: 3rem; margin-right: 5rem; }
  .seed { grid-area: 3 / 1; }
  .to-noise { grid-area: 3 / 2; }
  .noise { grid-area: 3 / 3; }
  .to-loop { grid-area: 3 / 4; }
  .loop { grid-area: 3 / 5; }
  .to-decode { grid-area: 3 / 6; }
  .decode { grid-area: 3 / 7; }
  .to-image { grid-area: 3 / 8; }
  .image { grid-area: 3 / 9; }
  .pipeline > .arrow svg { transform: none; }
  .pipeline > .down svg { transform: rotate(90deg); }
  .pipeline.training { grid-template-columns: repeat(4, minmax(0, 1fr) 3.4rem); row-gap: 1.2rem; column-gap: .3rem; }
}
"""

ARROW = (
    '<svg viewBox="0 0 20 20" aria-hidden="true"><path d="M1 10H17M11 4l6 6-6 6" fill="none" stroke="currentColor" '
    'stroke-width="2" stroke-linecap="round" stroke-linejoin="round"/></svg>'
)


def document(title: str, header: str, sections: Sequence[tuple[str, str]], footer: str, style: str = "") -> str:
    """A page that loads nothing: a header, sections as (heading, body), a footer; all but the title are HTML."""
    css = resources.files("alphabar.report").joinpath("report.css").read_text(encoding="utf-8")
    body = "".join(f"<section><h2>{heading}</h2>{text}</section>" for heading, text in sections if text)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}{style}</style>\n</head>\n<body>\n<header>{header}</header>\n"
        f"<main>{body}</main>\n<footer>{footer}</footer>\n</body>\n</html>\n"
    )


def footer(command: str, facts: Mapping[str, object], notes: Sequence[str]) -> str:
    """How a page was made, and what to know of its numbers."""
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>How this page was made</h2><dl><dt>Command</dt><dd><code>{escape(command)}</code></dd>{rows}</dl>" + (
        f"<ul>{said}</ul>" if said else ""
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
    return document(
        f"alphabar: {prompt or 'a sample'}, stage by stage", header, sections, footer(command, facts, told), STYLE
    )


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
