"""What the machine can do, and how a network runs fastest on it without a compile wait."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

import alphabar
from alphabar.errors import AlphabarError
from alphabar.types import Cond

Precision: TypeAlias = Literal["float32", "bf16"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # the option numbers of glibc's malloc.h


def tune_allocator() -> bool:
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system.

    Large blocks otherwise cost a page fault per 4 KiB at every call of a network: eager float32 runs 1.3 times as fast
    with this, outputs unchanged, at the price of memory kept. Affects the whole process; does nothing where the C
    library is another. Returns whether it was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(ctypes.c_int(key), ctypes.c_int(value)) == 1 for key, value in options)


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


class InferenceNetwork(nn.Module):
    """A denoiser in another number type, with float32 at its door: float32 in, float32 out."""

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        told = None if cond is None else {key: rows.to(self.dtype) for key, rows in cond.items()}
        out: Tensor = self.network(x.to(self.dtype), t, told)
        return out.float()


def prepare_inference(network: nn.Module, precision: Precision) -> nn.Module:
    """A frozen copy of a denoiser for sampling, its weights cast once instead of at every call as autocast does.

    "float32" gives the network's very numbers; "bf16" agrees to about 1e-2. x and the result stay float32, so that a
    sampler's arithmetic does. The layout stays NCHW: with group norm in one pass (`adaptive_group_norm`) channels_last
    is no faster in float32, and in bf16 its group norm is 12 times slower.
    """
    prepared = InferenceNetwork(copy.deepcopy(network), precision)
    return prepared.to(dtype=prepared.dtype).eval().requires_grad_(False)


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
