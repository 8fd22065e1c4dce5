"""What the machine can do: precision, device, allocator, and networks prepared for sampling."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from alphabar import engine
from alphabar.errors import AlphabarError
from alphabar.nn import SmallUNet, SmallUNetConfig, UNet, UNetConfig

NETWORKS = [
    SmallUNet(SmallUNetConfig(channels=(8, 16, 16), emb_dim=16)),
    UNet(UNetConfig(in_channels=1, out_channels=1, channels=(8, 16), blocks=1, attention=(1,), emb_dim=16)),
]


def awake(network: nn.Module) -> nn.Module:
    """Weights from which nothing is zero, so that a comparison has something to compare."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize("network", NETWORKS, ids=["small-unet", "unet"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.0), ("bf16", 3e-2)])
def test_a_prepared_network_agrees(network: nn.Module, precision: engine.Precision, tolerance: float) -> None:
    awake(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    prepared = engine.prepare_inference(network, precision)
    out, exact = prepared(x, t), network(x, t)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    assert (out - exact).norm() / exact.norm() <= tolerance
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


WIDE = UNetConfig(
    in_channels=4, out_channels=4, channels=(64, 64), blocks=1, attention=(1,), emb_dim=16, mode="add", context_dim=8
)


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every network as a large one."""
    monkeypatch.setattr(engine, "PACK_FROM", 0)


@pytest.mark.parametrize("copy", [True, False], ids=["copied", "in-place"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 3e-6), ("bf16", 3e-2)])
def test_a_wide_network_is_laid_out_and_packed(
    precision: engine.Precision, tolerance: float, copy: bool, packing: None
) -> None:
    network = awake(UNet(WIDE))
    x, t, cond = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), {"text": torch.randn(2, 5, 8)}
    with torch.no_grad():
        exact = network(x, t, cond)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    prepared = engine.prepare_inference(network, precision, copy=copy)
    assert isinstance(prepared, engine.InferenceNetwork)
    out = prepared(x, t, cond)
    assert out.dtype == torch.float32
    assert (out - exact).norm() / exact.norm() <= tolerance
    kinds = {type(part) for part in prepared.modules()}
    assert {engine.PackedLinear, engine.PackedConv2d} <= kinds
    assert not {nn.Linear, nn.Conv2d} & kinds
    if copy:
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert all(weight.is_contiguous() for weight in network.parameters())
    else:
        assert prepared.network is network
    assert engine.prepare_inference(prepared, precision) is prepared


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_give_the_same_numbers_at_any_size(dtype: torch.dtype) -> None:
    conv, linear = nn.Conv2d(32, 48, kernel_size=3, padding=1, stride=2).to(dtype), nn.Linear(32, 48).to(dtype)
    packed = engine.PackedConv2d(conv)
    with torch.no_grad():
        for height, width in ((8, 8), (16, 6), (8, 8)):
            x = torch.randn(2, 32, height, width, dtype=dtype)
            torch.testing.assert_close(packed(x), conv(x))
        x = torch.randn(2, 5, 32, dtype=dtype)
        torch.testing.assert_close(engine.PackedLinear(linear)(x), linear(x))


def test_wide_networks_are_laid_out_by_pixel() -> None:
    weights = [weight for weight in engine.laid_out(UNet(WIDE), "bf16").parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_narrow_networks_keep_their_layout() -> None:
    laid = engine.laid_out(NETWORKS[1], "bf16")
    assert all(weight.is_contiguous() and weight.dtype == torch.bfloat16 for weight in laid.parameters())


def test_a_copy_shares_nothing_with_its_network() -> None:
    layer = nn.Linear(2, 2)
    laid = engine.laid_out(layer, "float32")
    assert laid.weight.data_ptr() != layer.weight.data_ptr()
    assert layer.weight.requires_grad
    assert not laid.weight.requires_grad


def test_without_the_operators_layers_stay(monkeypatch: pytest.MonkeyPatch, packing: None) -> None:
    def missing(layer: nn.Linear) -> None:
        raise AttributeError("no _reorder_linear_weight")

    monkeypatch.setattr(engine, "PackedLinear", missing)
    prepared = engine.prepare_inference(UNet(WIDE), "float32")
    kinds = {type(part) for part in prepared.modules()}
    assert nn.Linear in kinds
    assert engine.PackedConv2d in kinds


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux how much memory the process holds")
def test_freed_memory_is_given_back() -> None:
    """In a process of its own, whose allocator is tuned to keep it."""
    program = """
import torch
from alphabar import engine
from alphabar.bench.memory import resident
engine.tune_allocator()
kept = [torch.ones(1 << 22) for _ in range(16)]
last = torch.ones(1 << 22)  # above the others in the heap
full = resident()
del kept
engine.release_memory()
print(full - resident() > 150e6)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True"]


def test_autocast_computes_in_what_it_is_told() -> None:
    layer = nn.Linear(2, 2)
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        with engine.autocast("cpu", precision):
            assert layer(torch.ones(1, 2)).dtype == dtype


def test_auto_precision_follows_the_hardware() -> None:
    assert engine.choose_precision("float32", "cpu") == "float32"
    assert engine.choose_precision("bf16", "cpu") == "bf16"
    assert engine.choose_precision("auto", "cpu") == ("bf16" if engine.has_bf16("cpu") else "float32")
    assert engine.has_bf16("meta") is False


def test_devices_are_checked() -> None:
    assert engine.choose_device("cpu") == torch.device("cpu")
    assert engine.choose_device() is not None
    with pytest.raises(AlphabarError, match="unknown device 'gpu'"):
        engine.choose_device("gpu")
    with pytest.raises(AlphabarError, match="there is no meta on this machine"):
        engine.choose_device("meta")


def test_tuning_the_allocator_changes_no_number() -> None:
    """In a process of its own: the setting is for the whole process and cannot be undone."""
    program = """
import torch
from alphabar import engine
torch.manual_seed(0)
x = torch.randn(300, 300)
before = x @ x
print(engine.tune_allocator() in (True, False), torch.equal(x @ x, before))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "True"]
