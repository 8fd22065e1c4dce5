"""What trains a first stage besides the pixels: the perceptual distance, the discriminator and its weight."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.nn import Classifier, ClassifierConfig, ConvAutoencoder, ConvAutoencoderConfig
from alphabar.nn.perceptual import (
    LEARNED_METRIC,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    PerceptualLoss,
    adaptive_weight,
    discriminator_hinge,
    generator_hinge,
    learned_metric,
)

SMALL = PatchDiscriminatorConfig(image_channels=1, width=8, layers=2)
installed = pytest.mark.skipif(find_spec(LEARNED_METRIC[0]) is None, reason="stlpips_pytorch is not installed")


def classifier() -> Classifier:
    """A classifier whose batch norms have seen something."""
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(channels=(8, 12, 16)))
    network(torch.randn(32, 1, 16, 16))
    return network


def pictures(n: int = 4, channels: int = 1, size: int = 32) -> Tensor:
    """Smooth images with edges, in [-1, 1]."""
    torch.manual_seed(1)
    return F.interpolate(torch.randn(n, channels, 6, 6), size=size, mode="bicubic").mul(3).clamp(-1, 1)


def test_a_classifier_shows_its_levels() -> None:
    network, x = classifier().eval(), pictures()
    levels = network.features_by_level(x)
    assert [tuple(maps.shape) for maps in levels] == [(4, 8, 32, 32), (4, 12, 16, 16), (4, 16, 8, 8)]
    torch.testing.assert_close(levels[-1].mean(dim=(2, 3)), network.features(x))


class Given(nn.Module):
    """Features that are the image and its negative."""

    def features_by_level(self, x: Tensor) -> list[Tensor]:
        return [x, -x]


def test_the_distance_by_hand() -> None:
    """Two channels; directions (1, 0) and (0, 1) at half of the positions, equal ones at the others."""
    a, b = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    a[:, 0], b[:, 0, 0], b[:, 1, 1] = 3.0, 0.1, 7.0
    assert PerceptualLoss(Given())(a, b).tolist() == pytest.approx([2 * 0.5 * (1 + 1)])
    heads = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0])]
    assert PerceptualLoss(Given(), heads)(a, b).tolist() == pytest.approx([0.5 * 1 + 0.5 * 2.5])


def test_the_distance_orders_what_it_should() -> None:
    loss, x = PerceptualLoss(classifier()), pictures()
    noise = torch.randn_like(x)
    assert torch.equal(loss(x, x), torch.zeros(4))
    torch.testing.assert_close(loss(x, x + 0.1 * noise), loss(x + 0.1 * noise, x))
    near, far = loss(x, x + 0.05 * noise), loss(x, x + 0.5 * noise)
    assert (near > 0).all()
    assert (near < far).all()


def test_the_network_is_frozen_and_the_images_are_not() -> None:
    loss, x = PerceptualLoss(classifier()).train(), pictures()
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    assert not any(module.training for module in loss.modules())
    made = torch.zeros_like(x).requires_grad_()  # all alike: features of length 0 are met
    loss(made, x).sum().backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()
    assert made.grad.norm() > 0
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())
    assert not any(weight.requires_grad for weight in loss.parameters())


def test_descending_the_distance_brings_images_nearer() -> None:
    loss, x = PerceptualLoss(classifier()), pictures()
    made = nn.Parameter(x + 0.5 * torch.randn_like(x))
    start = loss(made, x).mean().item()
    optimizer = torch.optim.Adam([made], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        loss(made, x).mean().backward()
        optimizer.step()
    assert loss(made, x).mean().item() < 0.5 * start


def test_what_a_distance_refuses() -> None:
    with pytest.raises(AlphabarError, match="needs a network that has features_by_level, not Linear"):
        PerceptualLoss(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(AlphabarError, match=r"differ in shape: \(4, 1, 32, 32\) and \(4, 1, 16, 16\)"):
        PerceptualLoss(classifier())(pictures(), pictures(size=16))


def test_the_patches_of_a_discriminator_are_70_pixels() -> None:
    """Where there are three layers and no norms; the number of values is that of pix2pix."""
    network = PatchDiscriminator(PatchDiscriminatorConfig(image_channels=3, width=4, norm="none"))
    x = torch.randn(1, 3, 256, 256, requires_grad=True)
    logits = network(x)
    assert logits.shape == (1, 1, 30, 30)
    (gradient,) = torch.autograd.grad(logits[0, 0, 15, 15], x)
    seen = gradient[0].abs().sum(dim=0).nonzero()
    assert (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist() == [70, 70]
    full = PatchDiscriminator(PatchDiscriminatorConfig())
    biases = 128 + 256 + 512  # theirs has none before a norm
    assert sum(weight.numel() for weight in full.parameters()) - biases == 2_765_633


def test_logits_do_not_depend_on_the_batch() -> None:
    network, x = PatchDiscriminator(SMALL), pictures()
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


def test_a_discriminator_refuses_what_no_patch_fits() -> None:
    network = PatchDiscriminator(SMALL)
    assert network(torch.zeros(1, 1, 12, 12)).shape == (1, 1, 1, 1)
    with pytest.raises(AlphabarError, match="of 2 layers takes sides from 12 up, not 11x16; use fewer layers"):
        network(torch.zeros(1, 1, 11, 16))
    with pytest.raises(AlphabarError, match=r"patch-discriminator\.layers must be at least 1, not 0"):
        replace(SMALL, layers=0)
    with pytest.raises(AlphabarError, match="norm cannot be 'batch'"):
        PatchDiscriminatorConfig.from_dict({"norm": "batch"})


def test_hinge_losses_by_hand() -> None:
    real, made = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert discriminator_hinge(real, made).item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert generator_hinge(made).item() == pytest.approx(1.5)


def test_a_discriminator_learns_to_tell() -> None:
    torch.manual_seed(0)
    network, real = PatchDiscriminator(SMALL), pictures(8, size=16)
    made = real + 0.5 * torch.randn_like(real)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        discriminator_hinge(network(real), network(made)).backward()
        optimizer.step()
    assert network(real).mean() > 0.5
    assert network(made).mean() < -0.5


def test_the_adaptive_weight_makes_both_gradients_equally_long() -> None:
    torch.manual_seed(0)
    autoencoder = ConvAutoencoder(ConvAutoencoderConfig(channels=(8, 8)))
    discriminator, x = PatchDiscriminator(SMALL), pictures()
    made, _ = autoencoder(x, torch.randn(4, 4, 16, 16))
    reconstruction, adversarial = (made - x).abs().mean(), generator_hinge(discriminator(made))
    last = autoencoder.decoder.conv_out.weight
    weight = adaptive_weight(reconstruction, adversarial, last)
    assert not weight.requires_grad

    def length(loss: Tensor) -> float:
        return torch.autograd.grad(loss, last, retain_graph=True)[0].norm().item()

    assert length(weight * adversarial) == pytest.approx(length(reconstruction), rel=1e-3)
    assert adaptive_weight(reconstruction, 0 * adversarial, last).item() == 1e4  # no gradient: the limit
    assert adaptive_weight(reconstruction, adversarial, last, limit=1e-3).item() == pytest.approx(1e-3)
    (reconstruction + weight * adversarial).backward()  # the graph is still there


def test_a_metric_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(AlphabarError, match=r"not installed: pip install --no-deps stlpips_pytorch==0\.0\.2"):
        learned_metric()


def test_files_that_are_not_the_metrics(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match=r"no such file: .*absent\.pth"):
        learned_metric(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(AlphabarError, match=r"text\.pth is not a file of the learned metric's weights"):
        learned_metric(tmp_path / "text.pth")
    torch.save({"net.slice1.0.bias": torch.zeros(64)}, tmp_path / "other.pth")
    with pytest.raises(AlphabarError, match=r"other\.pth does not fit PerceptualLoss: it lacks 'heads.0'"):
        learned_metric(tmp_path / "other.pth")


@installed
def test_the_learned_metric_is_its_formula() -> None:
    """Written out once more, straight over the file's own names; grey images count as colour ones."""
    metric = learned_metric()
    spec = find_spec(LEARNED_METRIC[0])
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / LEARNED_METRIC[1]
    weights = torch.load(file, map_location="cpu", weights_only=True)
    assert LEARNED_METRIC[0] not in sys.modules  # found, never imported

    def down(h: Tensor, name: str) -> Tensor:
        return F.conv2d(F.pad(h, (2, 2, 2, 2), mode="reflect"), weights[name], stride=2, groups=h.shape[1])

    def conv(h: Tensor, name: str, padding: int) -> Tensor:
        return F.conv2d(h, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def features(x: Tensor) -> list[Tensor]:
        h = (x - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"]
        one = down(conv(h, "net.slice1.0", 2), "net.slice1.1.filt").relu()
        two = conv(down(F.max_pool2d(one, 3, 1), "net.slice2.4.filt"), "net.slice2.5", 2).relu()
        three = conv(down(F.max_pool2d(two, 3, 1), "net.slice3.8.filt"), "net.slice3.9", 1).relu()
        four = conv(three, "net.slice4.11", 1).relu()
        return [one, two, three, four, conv(four, "net.slice5.13", 1).relu()]

    a, b = pictures(2, channels=3, size=48), pictures(2, channels=3, size=48).roll(1, dims=0)
    expected = torch.zeros(2)
    for level, (one, other) in enumerate(zip(features(a), features(b), strict=True)):
        square = (
            one / (one.norm(dim=1, keepdim=True) + 1e-10) - other / (other.norm(dim=1, keepdim=True) + 1e-10)
        ) ** 2
        expected += F.conv2d(square, weights[f"lin{level}.model.1.weight"]).mean(dim=(1, 2, 3))
    torch.testing.assert_close(metric(a, b), expected, rtol=1e-5, atol=1e-6)
    grey, other = a[:, :1], b[:, :1]
    torch.testing.assert_close(metric(grey, other), metric(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1)))


@installed
def test_the_learned_metric_forgives_a_shift_and_not_a_blur() -> None:
    metric, x = learned_metric(), pictures(channels=3, size=64)
    moved, blurred = x.roll(1, dims=3), F.avg_pool2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), 7, stride=1)
    assert (moved - x).square().mean() > (blurred - x).square().mean() / 4  # neither is small in pixels
    assert (metric(moved, x) < 0.5 * metric(blurred, x)).all()
    with pytest.raises(AlphabarError, match="1 or 3 channels and sides from 21 up, not 3x20x64; enlarge them"):
        metric(x[:, :, :20], x[:, :, :20])
