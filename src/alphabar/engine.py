"""What the machine can do, and how a network runs fastest on it without a compile wait."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

import alphabar
from alphabar.errors import AlphabarError
from alphabar.types import Cond

Precision: TypeAlias = Literal["float32", "bf16"]
N = TypeVar("N", bound=nn.Module)

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # the option numbers of glibc's malloc.h


_TUNED = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: 1 << 30, _M_TOP_PAD: 64 << 20}
_tuned = False


def tune_allocator() -> bool:
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system.

    Large blocks otherwise cost a page fault per 4 KiB at every call of a network: eager float32 runs 1.3 times as fast
    with this, outputs unchanged, at the price of memory kept. Affects the whole process; does nothing where the C
    library is another. Returns whether it was done.
    """
    global _tuned
    _tuned = _mallopt(_TUNED)
    return _tuned


@contextlib.contextmanager
def frugal_allocator(*, release: bool = True) -> Iterator[None]:
    """Inside, blocks of 4 MB and more go back to the system as soon as they are freed, tuned or not.

    For a few calls on huge maps, such as the decoding of a large image: what was freed between tensors of many sizes
    else adds up. A 512x512 decode in bf16 grew the process by 550 to 570 MB tuned, and by 480 to 520 like this.

    Args:
        release: give back first what is free already; it takes a moment.
    """
    if not _tuned:
        yield
        return
    if release:
        release_memory()
    _mallopt({_M_MMAP_THRESHOLD: 4 << 20})
    try:
        yield
    finally:
        _mallopt(_TUNED)


def _mallopt(options: Mapping[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(ctypes.c_int(key), ctypes.c_int(value)) == 1 for key, value in options.items())


def release_memory() -> None:
    """Give freed memory back to the system, which glibc else keeps for the next tensor, the more so when tuned.

    After weights of gigabytes are dropped or cast: a Stable Diffusion U-Net cast to bf16 in place held 4.4 GB, and 2.1
    after this.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def has_bf16(device: torch.device | str) -> bool:
    """Whether the device computes in bfloat16 by itself; an emulation is slower than float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu":
        return bool(_cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
    return False


def _cpu_flags() -> set[str]:
    """The CPU's features as Linux lists them; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":", 1)[1].split())
    return set()


@contextlib.contextmanager
def autocast(device: torch.device | str, precision: Precision) -> Iterator[None]:
    """Run networks inside in the given precision, parameters staying float32: what training uses."""
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


WIDE = 64
"""From how many channels in the narrowest group norm on a map is stored pixel by pixel: see `laid_out`."""


def laid_out(network: N, precision: Precision, *, copy: bool = True) -> N:
    """A network frozen for inference, in its fastest number type and memory layout; its keys stay what they are.

    Networks whose every group norm has `WIDE` channels or more are laid out channels last, which Stable Diffusion's
    convolutions like: its U-Net takes 0.87 of its time in float32, its decoder 0.74 (in bf16 0.37). Narrow ones stay
    NCHW and keep their very numbers: below 32x32 pixels they would gain nothing (at 64x64 a tenth).

    Args:
        network: any; its float32 numbers agree to 1e-6 when laid out channels last, and are the same when not.
        precision: of its weights.
        copy: False changes the network that is given, so that one of gigabytes is never in memory twice.
    """
    dtype = _dtype(precision)
    if copy:
        # Handed to deepcopy as already copied: cast on the way, a copy in the old type never exists.
        memo = {id(p): nn.Parameter(p.detach().to(dtype, copy=True), requires_grad=False) for p in network.parameters()}
        network = deepcopy(network, memo)
    network = network.to(dtype=dtype)
    norms = [part.num_channels for part in network.modules() if isinstance(part, nn.GroupNorm)]
    if norms and min(norms) >= WIDE:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def _dtype(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


class PackedLinear(nn.Module):
    """A frozen `nn.Linear` for CPUs, its weights in the blocks that oneDNN computes in.

    torch hands float32 products to MKL, which takes twice as long on CPUs that are not Intel's, and bf16 ones to
    oneDNN, which then orders the weights anew at every call. The same weights give the same numbers to 1e-6. The
    operators are torch's own for compiled models, not public: `pack` does without where they are missing. The weights
    are no parameter, so a packed network is neither saved nor moved.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.bias = layer.bias
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


class PackedConv2d(nn.Module):
    """A frozen `nn.Conv2d` for CPUs; see `PackedLinear`.

    The best order depends on the size of the map, and one that is not can double the time: the weights are ordered when
    a size is first met, and again when another one is. A bf16 convolution of 1280 channels on 8x8 then takes 0.7 of its
    time, one of 320 on 64x64 all of it.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.bias = layer.bias
        self.sides = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
        self.weight = layer.weight.detach()
        self.size: torch.Size | None = None  # that the weights are ordered for

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.size:
            self._order(x.shape)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.sides, "none", [], "")
        return out

    def _order(self, shape: torch.Size) -> None:
        with frugal_allocator(release=False):  # else the old weights of all layers would stay in the heap
            plain = self.weight if self.size is None else self.weight.to_dense()
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(plain, *self.sides, list(shape))
        self.size = shape[2:]


def pack(network: nn.Module) -> nn.Module:
    """Replace, in place, the linear layers and convolutions on the CPU by packed ones, where this torch can."""
    for part in list(network.modules()):
        for name, layer in part.named_children():
            if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.device.type == "cpu":
                with contextlib.suppress(AttributeError, RuntimeError):
                    setattr(part, name, _packed(layer))
    return network


def _packed(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """The layer packed, tried once."""
    packed = PackedLinear(layer) if isinstance(layer, nn.Linear) else PackedConv2d(layer)
    sides = (8, 8) if isinstance(layer, nn.Conv2d) else ()
    packed(layer.weight.new_zeros(1, layer.weight.shape[1], *sides))
    return packed


class InferenceNetwork(nn.Module):
    """A denoiser in another number type, with float32 at its door: float32 in, float32 out."""

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.config = getattr(network, "config", None)
        self.dtype = _dtype(precision)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        told = None if cond is None else {key: rows.to(self.dtype) for key, rows in cond.items()}
        out: Tensor = self.network(x.to(self.dtype), t, told)
        return out.float()


PACK_FROM = 50_000_000
"""From how many parameters on `prepare_inference` packs layers; small networks keep their very numbers."""


def prepare_inference(network: nn.Module, precision: Precision, *, copy: bool = True) -> nn.Module:
    """A denoiser in its fastest form for sampling, frozen; x and the result stay float32, as a sampler's arithmetic.

    The weights are cast once, instead of at every call as autocast does, and laid out for the hardware (`laid_out`);
    the layers of a large network are packed (`PackedLinear`). "float32" gives the network's very numbers, or in
    a network that is wide or large agrees to 1e-6; "bf16" agrees to about 1e-2.

    Args:
        network: a denoiser, on the device where it will run; one that is prepared already is returned as it is.
        precision: what it computes in.
        copy: False for a network that is not needed otherwise: it is changed, and never in memory twice.
    """
    if isinstance(network, InferenceNetwork):
        return network
    large = sum(p.numel() for p in network.parameters()) >= PACK_FROM
    network = laid_out(network, precision, copy=copy)
    if large:
        pack(network)
        release_memory()  # of the weights that were cast, laid out or packed
    return InferenceNetwork(network, precision).eval()


def choose_precision(asked: Literal["auto", "float32", "bf16"], device: torch.device | str) -> Precision:
    """What "auto" means on a device: bf16 where the hardware has it."""
    if asked != "auto":
        return asked
    return "bf16" if has_bf16(device) else "float32"


def choose_device(asked: str | None = None) -> torch.device:
    """The device asked for, or the best there is: CUDA, then Apple's, then the CPU.

    Raises:
        AlphabarError: a device that this machine does not have.
    """
    best = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if asked is None:
        return best
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise AlphabarError(f"unknown device {asked!r}; this machine has cpu and {best.type}") from error
    if device.type not in ("cpu", best.type):
        raise AlphabarError(f"there is no {device.type} on this machine; use --device {best.type}")
    return device


def hardware(device: torch.device | str = "cpu") -> dict[str, str | int | None]:
    """The machine, for whoever reads a measurement: device, CPU model, cores and threads."""
    device = torch.device(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Of Python, alphabar, torch and the named packages."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "alphabar": alphabar.__version__, "torch": torch.__version__, **found}
