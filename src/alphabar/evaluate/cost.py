"""What one call of a network costs: values, parameters, FLOPs (counted, not guessed), memory and time (measured)."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from alphabar.errors import AlphabarError
from alphabar.evaluate.mode import evaluating
from alphabar.types import Cond

Shape = tuple[int, ...]


class CallCost(NamedTuple):
    """One call of a network. Counts are per image, time and memory per call."""

    values_per_image: int
    parameters: int
    flops_per_image: int
    peak_bytes: int
    """Memory in use at the worst moment, above the inputs and the weights; the answer is included."""
    ms_per_call: float
    """Median."""
    batch: int


class CountedCost(NamedTuple):
    """What the same network would cost at another size, by count."""

    shape: Shape
    values_per_image: int
    flops_per_image: int


def count_flops(fn: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions that `fn` runs; a multiply-add is two.

    The rest (norms, activations, softmax) is not counted: it is about a hundredth of a U-Net. Works on the `meta`
    device, where nothing is computed.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with counter:
        fn()
    return int(counter.get_total_flops())


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(grad: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


# PyTorch's counter has no formula for the CPU's fused attention and silently counts it as zero.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def call_cost(
    network: nn.Module,
    shape: Shape,
    device: torch.device | str = "cpu",
    batch: int = 64,
    repeats: int = 7,
    cond: Cond = None,
) -> CallCost:
    """Measure one call of a denoising network, as a sampler makes it (eval mode, no gradients).

    Args:
        network: called as network(x, t, cond); must be on `device`. Call under `torch.autocast` to measure that.
        shape: of one sample, such as (1, 28, 28).
        device: where to measure.
        batch: samples per call.
        repeats: timed calls after two that warm up, at least 1; the median is given.
        cond: `batch` rows, where the network needs it.
    """
    if batch < 1 or repeats < 1:
        raise AlphabarError(f"batch and repeats must be at least 1, got {batch} and {repeats}")
    device = torch.device(device)
    x = torch.zeros(batch, *shape, device=device)
    t = torch.zeros(batch, dtype=torch.int64, device=device)

    def call() -> None:
        network(x, t, cond)

    with evaluating(network):
        seconds = median_seconds(call, repeats, device)
        flops = count_flops(call) // batch
        peak = peak_bytes(call, device)
    parameters = sum(p.numel() for p in network.parameters())
    return CallCost(x[0].numel(), parameters, flops, peak, 1000 * seconds, batch)


def scale_by_count(network: nn.Module, shapes: Iterable[Shape], cond: Cond = None) -> list[CountedCost]:
    """What the same network would cost on samples of other shapes, such as (1, 512, 512), without doing the work.

    The parameters are replaced by ones on the `meta` device, which have shapes and no numbers.

    Args:
        network: called as network(x, t, cond); its own weights stay as they are.
        shapes: of one sample each.
        cond: one row, where the network needs it.
    """
    weights = {name: tensor.to("meta") for name, tensor in _tensors(network)}
    told = None if cond is None else {key: value[:1].to("meta") for key, value in cond.items()}

    def count(shape: Shape) -> CountedCost:
        x = torch.empty(1, *shape, device="meta")
        t = torch.empty(1, dtype=torch.int64, device="meta")
        flops = count_flops(lambda: torch.func.functional_call(network, weights, (x, t, told)))
        return CountedCost(tuple(shape), x.numel(), flops)

    with evaluating(network), torch.device("meta"):
        return [count(shape) for shape in shapes]


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def median_seconds(fn: Callable[[], object], repeats: int, device: torch.device | str = "cpu") -> float:
    """Median wall time of `fn` over `repeats` calls, after two that warm up."""
    for _ in range(2):
        fn()
    return statistics.median(_seconds(fn, torch.device(device)) for _ in range(repeats))


def _seconds(fn: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    fn()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(fn: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most memory of its own that `fn` holds at any moment, in bytes: its temporary tensors and its answer.

    On the CPU this is the running sum of what PyTorch's allocator reports to its profiler, the scratch memory inside of
    an operation included; on CUDA it is the caching allocator's own peak above what was held before.
    """
    device = torch.device(device)
    if device.type == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        fn()
        return int(torch.cuda.max_memory_allocated(device)) - before
    if device.type != "cpu":
        raise AlphabarError(f"peak memory can be measured on cpu and cuda, not on {device.type}")
    return _peak_bytes_on_cpu(fn)


def _peak_bytes_on_cpu(fn: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes "USDT" lines to stderr below that
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        fn()
    assert profile.kineto_results is not None  # it is there once the block has ended
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):  # stable: ties stay in the order of recording
        held += event.nbytes()
        peak = max(peak, held)
    return peak
