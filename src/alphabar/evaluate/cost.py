"""What one call of a network costs: values, parameters, FLOPs (counted, not guessed), memory and time (measured)."""

from __future__ import annotations

import os
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from alphabar.errors import AlphabarError
from alphabar.evaluate.mode import evaluating
from alphabar.nn import (
    Autoencoder,
    ClipTextConfig,
    ConvAutoencoderConfig,
    DenseAutoencoderConfig,
    SmallUNetConfig,
    UNetConfig,
    build,
)
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


class Counted(NamedTuple):
    """A call counted from the shapes of its tensors, without being computed."""

    flops: int
    attention_flops: int
    """Of which the products of queries, keys and values, the part that grows with the square of the positions."""
    peak_bytes: int
    """Tensors alive at the worst moment, above weights and inputs. The scratch inside of an operation is not seen."""


def count_call(fn: Callable[[], object]) -> Counted:
    """Count `fn`, which calls modules that lie on the `meta` device; new tensors are made there, without gradients."""
    memory = _Alive()
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        torch.device("meta"),
        memory,
        _Attention() as fused,
    ):
        fn()
    return Counted(int(counter.get_total_flops()) + fused.flops, fused.flops, memory.peak)


class _Attention(TorchFunctionMode):
    """Attention as one operation, as it runs: the meta device would write out its scores, [L, S], and hold them."""

    flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args
        self.flops += _attention_flops(query.shape, key.shape, value.shape)
        return query.new_empty(*query.shape[:-1], value.shape[-1])


class _Alive(TorchDispatchMode):
    """Sums the bytes of the storages that operations made and that are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        old = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        for one in tree_leaves(out):
            if isinstance(one, Tensor) and id(one.untyped_storage()) not in old:  # a view has its input's storage
                self._hold(one.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.held -= size


Denoising = UNetConfig | SmallUNetConfig
FirstStage = ConvAutoencoderConfig | DenseAutoencoderConfig


class NetworkCost(NamedTuple):
    """One call of a network on one sample, counted."""

    shape: Shape
    """Of what goes in."""
    parameters: int
    flops: int
    attention_flops: int
    peak_bytes: int

    @property
    def values(self) -> int:
        """How many numbers go in."""
        return prod(self.shape)


class SpaceCosts(NamedTuple):
    """The same network on the pixels of an image and on its latents, and its bookends; None: there is none."""

    size: int
    pixels: NetworkCost | None
    latents: NetworkCost | None
    encode: NetworkCost | None
    decode: NetworkCost | None
    text: NetworkCost | None


def count_spaces(
    network: Denoising | None,
    autoencoder: FirstStage | None,
    text: ClipTextConfig | None,
    size: int,
    channels: int,
    length: int = 77,
) -> SpaceCosts:
    """Count a diffusion model at an image size, by its shapes alone: no weights are needed and nothing is computed.

    Args:
        network: the denoiser; on pixels it is the same but for the channels that go in and out.
        autoencoder: of the latents; None for a model of pixels.
        text: the tower that reads prompts.
        size: height and width of the image, such as 512; must suit the network on either side of the autoencoder.
        channels: of the image.
        length: tokens of a prompt.

    Raises:
        AlphabarError: the size does not fit.
    """
    pixels = latents = encode = decode = words = None
    if network is not None:
        concat = 1 + channels if network_extra(network) else 0  # a mask and the image that it leaves
        wide = replace(network, in_channels=channels, out_channels=channels)
        if isinstance(wide, UNetConfig):
            wide = replace(wide, extra_channels=concat)
        pixels = count_denoiser(wide, (channels, size, size), length)
    if autoencoder is not None:
        encode, decode = count_autoencoder(autoencoder, channels, size)
        if network is not None:
            latents = count_denoiser(network, decode.shape, length)
    if text is not None:
        words = count_text(text, length)
    return SpaceCosts(size, pixels, latents, encode, decode, words)


def network_extra(network: Denoising) -> int:
    """Channels that a denoiser is given beside those of x."""
    return network.extra_channels if isinstance(network, UNetConfig) else 0


def count_denoiser(config: Denoising, shape: Shape, length: int = 77) -> NetworkCost:
    """One call on one sample [c, h, w], with a prompt of `length` tokens where the network reads one."""
    network = _on_meta(config)
    with torch.device("meta"):
        x, t = torch.empty(1, *shape), torch.empty(1, dtype=torch.int64)
        cond: dict[str, Tensor] = {}
        if isinstance(config, UNetConfig) and config.context_dim is not None:
            cond["text"] = torch.empty(1, length, config.context_dim)
        if network_extra(config):
            cond["concat"] = torch.empty(1, network_extra(config), *shape[1:])
    counted = count_call(lambda: network(x, t, cond or None))
    return NetworkCost(tuple(shape), _parameters(network), *counted)


def count_autoencoder(config: FirstStage, channels: int, size: int) -> tuple[NetworkCost, NetworkCost]:
    """Encoding and decoding one image of `size` x `size`."""
    autoencoder = _on_meta(config)
    assert isinstance(autoencoder, Autoencoder)
    image = torch.empty(1, channels, size, size, device="meta")
    z = torch.empty(1, *autoencoder.latent_shape(size, size), device="meta")
    encoder, decoder = encoder_parameters(autoencoder)
    return (
        NetworkCost(tuple(image.shape[1:]), encoder, *count_call(lambda: autoencoder.moments(image))),
        NetworkCost(tuple(z.shape[1:]), decoder, *count_call(lambda: autoencoder.decode(z))),
    )


def count_text(config: ClipTextConfig, length: int) -> NetworkCost:
    """Reading one prompt of `length` tokens."""
    tower = _on_meta(config)
    tokens = torch.empty(1, length, dtype=torch.int64, device="meta")
    return NetworkCost((length,), _parameters(tower), *count_call(lambda: tower(tokens)))


def encoder_parameters(autoencoder: Autoencoder) -> tuple[int, int]:
    """Parameters of the way in and of the way out."""
    ways = {True: 0, False: 0}
    for name, parameter in autoencoder.named_parameters():
        ways[name.startswith(("encoder.", "quant."))] += parameter.numel()
    return ways[True], ways[False]


def _on_meta(config: Denoising | FirstStage | ClipTextConfig) -> nn.Module:
    """A network with shapes and no numbers, which takes neither time nor memory."""
    with torch.device("meta"):
        return build(config).eval()


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
