"""Cost of a call: FLOPs against hand counts, memory against known operations, counting without computing."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.evaluate import call_cost, count_flops, median_seconds, peak_bytes, scale_by_count
from alphabar.nn import SmallUNet, SmallUNetConfig, UNet, UNetConfig
from alphabar.types import Cond


class Convolution(nn.Module):
    """The smallest network: 3x3, two channels in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        out: Tensor = self.conv(x)
        return out if cond is None else out + cond["shift"]


def tiny_unet() -> UNet:
    return UNet(UNetConfig(in_channels=1, out_channels=1, channels=(8, 16), blocks=1, attention=(1,), num_heads=2))


def test_flops_of_a_convolution() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert count_flops(lambda: conv(torch.zeros(2, 3, 10, 12))) == 2 * 2 * (10 * 12) * 8 * (3 * 9)


def test_flops_of_a_strided_and_a_grouped_convolution() -> None:
    conv = nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=2)
    assert count_flops(lambda: conv(torch.zeros(1, 4, 8, 8))) == 2 * (4 * 4) * 8 * (2 * 9)


@pytest.mark.parametrize("bias", [True, False])
def test_flops_of_a_linear_layer(bias: bool) -> None:
    linear = nn.Linear(5, 7, bias=bias)
    assert count_flops(lambda: linear(torch.zeros(3, 11, 5))) == 2 * 3 * 11 * 5 * 7


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flops_of_attention(device: str, dtype: torch.dtype) -> None:
    n, heads, length, sources, width = 2, 4, 16, 10, 8
    q = torch.zeros(n, heads, length, width, device=device, dtype=dtype)
    k = torch.zeros(n, heads, sources, width, device=device, dtype=dtype)
    with torch.no_grad():
        flops = count_flops(lambda: F.scaled_dot_product_attention(q, k, k))
    assert flops == 4 * n * heads * length * sources * width


def test_flops_of_a_training_step_with_attention() -> None:
    q = torch.zeros(1, 2, 16, 8, requires_grad=True)
    flops = count_flops(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward())
    # Forward 2 products; backward 4, and the scores once more, which fused attention does not keep.
    assert flops == (2 + 5) * 2 * 1 * 2 * 16 * 16 * 8


def test_autocast_and_grad_mode_change_no_count() -> None:
    network, x, t = tiny_unet(), torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)
    plain = count_flops(lambda: network(x, t, None))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert count_flops(lambda: network(x, t, None)) == plain > 0


def test_counting_on_meta_equals_counting_on_the_machine() -> None:
    network = tiny_unet()
    measured = call_cost(network, (1, 16, 16), batch=2, repeats=1)
    counted, larger = scale_by_count(network, [(1, 16, 16), (1, 32, 32)])
    assert counted.flops_per_image == measured.flops_per_image
    assert counted.values_per_image == measured.values_per_image == 256
    assert larger.flops_per_image > 4 * counted.flops_per_image  # convolutions times 4, attention times 16
    assert all(p.device.type == "cpu" for p in network.parameters())


def test_a_convolutional_network_scales_with_the_pixels() -> None:
    small, large = scale_by_count(Convolution(), [(2, 8, 8), (2, 512, 512)])
    assert small.flops_per_image == 2 * 64 * 2 * 18
    assert large.flops_per_image == 64**2 * small.flops_per_image
    assert large.shape == (2, 512, 512)


def test_the_small_unet_at_512_is_counted_and_not_computed() -> None:
    network = SmallUNet(SmallUNetConfig())
    small, large = scale_by_count(network, [(1, 32, 32), (1, 512, 512)])
    assert 250 < large.flops_per_image / small.flops_per_image <= 256  # all but the time embedding grows
    assert peak_bytes(lambda: scale_by_count(network, [(1, 512, 512)])) < 1_000_000


def test_peak_of_known_operations() -> None:
    def work() -> None:
        first = torch.empty(1000)  # 4,000
        second = torch.empty(3000)  # 16,000
        del first  # 12,000
        third = torch.empty(500)  # 14,000
        del second, third

    assert peak_bytes(work) == 16_000


def test_peak_leaves_out_what_was_there_before() -> None:
    x = torch.zeros(10_000)
    assert peak_bytes(lambda: x.neg_()) == 0
    assert peak_bytes(lambda: -x) == 40_000
    assert peak_bytes(lambda: x.neg().neg()) == 80_000


def test_the_profiler_writes_nothing_on_the_terminal() -> None:
    code = "import torch; from alphabar.evaluate import peak_bytes; print(peak_bytes(lambda: torch.empty(10)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("40\n", "")


def test_call_cost() -> None:
    network = Convolution()
    network.train()
    cost = call_cost(network, (2, 8, 8), batch=4, repeats=3)
    assert cost.values_per_image == 128
    assert cost.parameters == 2 * 2 * 9 + 2
    assert cost.flops_per_image == 2 * 64 * 2 * 18
    assert cost.batch == 4
    assert cost.ms_per_call > 0
    answer = 4 * 4 * 128
    assert answer <= cost.peak_bytes < 100 * answer
    assert network.training


def test_cost_with_a_condition() -> None:
    cond = {"shift": torch.zeros(4, 2, 1, 1)}
    cost = call_cost(Convolution(), (2, 8, 8), batch=4, repeats=1, cond=cond)
    (counted,) = scale_by_count(Convolution(), [(2, 8, 8)], cond=cond)
    assert counted.flops_per_image == cost.flops_per_image


def test_median_of_repeats() -> None:
    calls = []
    assert median_seconds(lambda: calls.append(0), repeats=7) >= 0
    assert len(calls) == 2 + 7


@pytest.mark.parametrize(("batch", "repeats"), [(0, 7), (1, 0)])
def test_bad_counts(batch: int, repeats: int) -> None:
    with pytest.raises(AlphabarError, match=f"at least 1, got {batch} and {repeats}"):
        call_cost(Convolution(), (2, 8, 8), batch=batch, repeats=repeats)


def test_memory_of_an_unknown_device() -> None:
    with pytest.raises(AlphabarError, match="not on meta"):
        peak_bytes(lambda: None, "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_and_cost_on_cuda() -> None:
    x = torch.zeros(1 << 20, device="cuda")
    assert peak_bytes(lambda: -x, "cuda") == 4 << 20
    assert call_cost(Convolution().cuda(), (2, 8, 8), "cuda").ms_per_call > 0
