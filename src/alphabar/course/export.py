"""A trained network as the page's engine takes it: `network.json`, a list of operations, beside `weights.bin`.

The list is recorded while the network answers once, so it is what the modules really do and no second description of
them. It is made with a batch of one and says how one sample is answered; the engine (`static/engine.js`) answers a
batch sample by sample. Every value is a flat array: views of it in another shape cost nothing and are not recorded.

`network.json`:
    shape: [C, H, W] of one sample.
    prediction, clip: what the network answers with (eps, x0 or v), and where x0 is known to lie.
    alphas_bar: the schedule, T float64 numbers; grids: step count -> the timesteps visited, noisiest first.
    weights: name -> type (float16 or float32), size and where it starts in weights.bin, in bytes.
    ops: each with its inputs (a weight's name, or the number of a value: 0 is x, 1 is t, k + 2 what ops[k] gives), the
        size of what it gives and its own numbers; output: the number of the value that is the network's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from alphabar.diffusion import Grid, Process
from alphabar.errors import AlphabarError
from alphabar.evaluate.mode import evaluating
from alphabar.io import atomic_file, write_json
from alphabar.models import Model

FORMAT = 1
STATIC = Path(__file__).parent / "static"
STEPS = (1, 2, 4, 5, 8, 10, 15, 20, 30, 50, 100)
"""Step counts whose grids a page is given, besides every timestep."""
SMALL = 4096
"""Weights of no more numbers than this stay float32: 2% of fashion-pixel's bytes. In half precision the 144 numbers of
its first convolution alone move its answer at t = 0 by 1.3e-2; all that are larger, together, by 8e-4."""


class Export(NamedTuple):
    """What `export_network` wrote."""

    operations: int
    parameters: int
    description_bytes: int
    weight_bytes: int


def export_network(model: Model, folder: Path, steps: Iterable[int] = STEPS) -> Export:
    """Write `network.json` and `weights.bin`, the large weights in half precision: what `static/engine.js` runs.

    Args:
        model: takes no text and no extra channels; its network may be any whose operations the engine has, such as a
            `SmallUNet`, or a `UNet` with self-attention.
        folder: made where it is missing.
        steps: step counts, below T, whose trailing grids the page may choose; the grid of every timestep is given too.

    Raises:
        AlphabarError: naming the operation that the engine lacks, or the weight that its number type cannot hold.
    """
    if model.text is not None or model.extra_channels:
        raise AlphabarError("the page's engine runs networks of x and t alone, not those shown a text or a mask")
    name, shape = model.card.get("name", "network"), model.shape(1)[1:]
    description, packed = describe_network(model.network, model.process, shape, model.settings.clip, name, steps)
    write_json(folder / "network.json", description)
    with atomic_file(folder / "weights.bin") as temporary:
        temporary.write_bytes(packed)
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return Export(len(description["ops"]), parameters, (folder / "network.json").stat().st_size, len(packed))


def describe_network(
    network: nn.Module,
    process: Process,
    shape: Sequence[int],
    clip: float | None = None,
    name: str = "network",
    steps: Iterable[int] = STEPS,
) -> tuple[dict[str, Any], bytes]:
    """What `network.json` and `weights.bin` hold, for a network that answers in terms of `process`; x is [*shape]."""
    table = process.schedule.alphas_bar.tolist()
    recorder = Recorder(network, shape, next(network.parameters()).device)
    packed, places = _pack(recorder.weights)
    description = {
        "format": FORMAT,
        "name": name,
        "shape": list(shape),
        "prediction": process.prediction.name,
        "clip": clip,
        "alphas_bar": table,
        "grids": {str(n): list(Grid.trailing(n, len(table)).timesteps) for n in step_counts(len(table), steps)},
        "weights": places,
        "ops": recorder.ops,
        "output": recorder.output,
    }
    return description, packed


def step_counts(timesteps: int, steps: Iterable[int] = STEPS) -> list[int]:
    """Those of `steps` that a schedule of T timesteps has room for, and T itself, rising."""
    return sorted({n for n in steps if n < timesteps} | {timesteps})


def worker_source() -> str:
    """The worker and its engine as one classic script, for a page that may load no second file (a notebook's output).

    Not as a module: Chromium starts no module from a blob in a document without an origin, such as a file or a frame.
    """
    engine, worker = ((STATIC / name).read_text(encoding="utf-8") for name in ("engine.js", "worker.js"))
    return engine.replace("\nexport ", "\n") + worker.split("\n", 1)[1]  # without its first line, the import


def _pack(weights: Mapping[str, Tensor]) -> tuple[bytes, dict[str, dict[str, Any]]]:
    """One block of bytes, each tensor at a multiple of four, and where each lies."""
    block, places = bytearray(), {}
    for name, tensor in weights.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if not tensor.isfinite().all():
            raise AlphabarError(f"{kind} cannot hold the weight {name!r} of this network")
        places[name] = {"type": kind, "size": tensor.numel(), "start": len(block)}
        block += tensor.cpu().contiguous().numpy().tobytes()
        block += bytes(-len(block) % 4)
    return bytes(block), places


class Op(NamedTuple):
    """An operation of the engine: its name, the tensors it reads, its numbers."""

    name: str
    inputs: Sequence[Tensor | float]
    numbers: Mapping[str, float] = {}


class Recorder(TorchFunctionMode):
    """What a network does for x of `shape` [C, H, W] at t: every torch function that reads them, or what came of them.

    The others, such as those that make an embedding's frequencies, give constants.
    """

    def __init__(self, network: nn.Module, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__()
        x, t = torch.zeros(1, *shape, device=device), torch.zeros(1, dtype=torch.int64, device=device)
        self.parameters = {id(p): name for name, p in [*network.named_parameters(), *network.named_buffers()]}
        self.values = {id(x): 0, id(t): 1}
        self.seen: list[Tensor] = [x, t]  # kept, so that no id is given twice
        self.ops: list[dict[str, Any]] = []
        self.weights: dict[str, Tensor] = {}
        with evaluating(network), torch.enable_grad(), self:  # without gradients, blocks may overwrite a value
            self.output = self.values[id(network(x, t))]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if any(id(leaf) in self.values for leaf in tree_leaves((args, kwargs))):
            self._follow(getattr(function, "__name__", str(function)), out, args, kwargs)
        return out

    def _follow(self, name: str, out: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if name == "__get__" and not isinstance(out, Tensor):
            return  # a shape, a type or a device
        whole = (
            name == "__getitem__" and out.numel() == args[0].numel() and {*map(type, args[1])} <= {slice, type(None)}
        )
        if name in VIEWS or whole:
            self._name(out, self.values[id(args[0])])
        elif name == "chunk":
            for i, part in enumerate(out):  # all as large as the first, but for the last
                _check(part.is_contiguous(), "a chunk that is not of the channels")
                self._note(Op("slice", args[:1], {"start": i * out[0].numel()}), part)
        elif name in TRANSLATIONS:
            try:
                op = TRANSLATIONS[name](out, *args, **kwargs)
            except TypeError as error:  # an argument that the translation does not know
                raise AlphabarError(f"the page's engine lacks a form of {name!r} in this network: {error}") from error
            self._note(op, out)
        else:
            raise AlphabarError(f"the page's engine lacks the operation {name!r} of this network")

    def _note(self, op: Op, out: Tensor) -> None:
        _check(all(x is not None for x in op.inputs), f"a {op.name} without a weight or a bias")
        _check(id(out) not in self.values, f"a {op.name} in place")
        inputs = [self._reference(x) for x in op.inputs]
        self._name(out, len(self.ops) + 2)
        self.ops.append({"op": op.name, "inputs": inputs, "size": out.numel(), **op.numbers})

    def _name(self, out: Tensor, number: int) -> None:
        self.values[id(out)] = number
        self.seen.append(out)

    def _reference(self, x: Tensor | float) -> int | str:
        """A value's number, or the name of a weight; constants stay float32."""
        if id(x) in self.values:
            return self.values[id(x)]
        weight, name = torch.as_tensor(x).detach(), self.parameters.get(id(x))
        half = name is not None and weight.numel() > SMALL
        name = name or f"constant {len(self.weights)}"
        self.weights[name] = weight.to(torch.float16 if half else torch.float32)
        return name


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise AlphabarError(f"the page's engine cannot do {what}")


def _convolution(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> Op:
    kernel, sides = weight.shape[2], (stride, padding, weight.shape[2:])
    plain = groups == 1 and set(dilation) == {1} and all(len(set(side)) == 1 for side in sides)
    _check(plain, "a convolution that has groups, dilation or sides that differ")
    numbers = {"kernel": kernel, "stride": stride[0], "padding": padding[0]}
    return Op("conv", (x, weight, bias), {**numbers, "height": x.shape[2], "width": x.shape[3]})


def _elementwise(name: str, out: Tensor, a: Tensor | float, b: Tensor | float) -> Op:
    for x in (a, b):
        shape = tuple(x.shape) if isinstance(x, Tensor) else ()
        padded = (1,) * (out.ndim - len(shape)) + shape
        same = [size == full for size, full in zip(padded, out.shape, strict=True)]
        blocks = all(same) or set(padded[same.index(False) :]) == {1}  # each number over a block of the other
        _check(blocks, f"{name!r} of a tensor of shape {list(shape)} repeated to {list(out.shape)}")
    return Op(name, (a, b))


def _concatenate(out: Tensor, tensors: Sequence[Tensor], dim: int) -> Op:
    _check(prod(out.shape[:dim]) == 1, "a concatenation that is not of the channels")
    return Op("concat", tensors)


def _upsample(out: Tensor, x: Tensor, *_: object, mode: str, **__: object) -> Op:
    factor = out.shape[2] // x.shape[2]
    whole = mode == "nearest" and tuple(out.shape[2:]) == (x.shape[2] * factor, x.shape[3] * factor)
    _check(whole, "another resize than repeating every pixel a whole number of times")
    return Op("upsample", (x,), {"width": x.shape[3], "factor": factor})


def _transpose(out: Tensor, x: Tensor, first: int, second: int) -> Op:
    first, second = sorted((first % x.ndim, second % x.ndim))
    sizes = {"rows": x.shape[first], "between": prod(x.shape[first + 1 : second]), "columns": x.shape[second]}
    return Op("transpose", (x,), {**sizes, "inner": prod(x.shape[second + 1 :])})


VIEWS = {"reshape", "view", "flatten", "unflatten", "contiguous", "to", "float", "dropout"}
"""Functions that, in evaluation, leave every number where it is."""

TRANSLATIONS: dict[str, Callable[..., Op]] = {
    "conv2d": _convolution,
    "group_norm": lambda out, x, groups, weight, bias, eps: Op(
        "group_norm", (x, weight, bias), {"groups": groups, "eps": eps}
    ),  # its gain and bias may be values: adaptive group norm
    "linear": lambda out, x, weight, bias=None: Op("linear", (x, weight, bias)),
    "silu": lambda out, x, inplace: Op("silu", (x,)),
    "cos": lambda out, x: Op("cos", (x,)),
    "sin": lambda out, x: Op("sin", (x,)),
    "add": partial(_elementwise, "add"),
    "mul": partial(_elementwise, "mul"),
    "cat": _concatenate,
    "interpolate": _upsample,
    "transpose": _transpose,
    "scaled_dot_product_attention": lambda out, q, k, v: Op(
        "attention", (q, k, v), {"heads": q.shape[1], "width": q.shape[3]}
    ),
}
"""Torch's function, by its name -> (what it gave, its arguments) -> the engine's operation."""
