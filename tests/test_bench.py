"""The bench: what it reports, that it compares equals, and what it says when it cannot run. Never how fast."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alphabar.bench import (
    GOALS,
    QUICK,
    TOLERANCE,
    VARIANTS,
    Kind,
    measure,
    measure_stable_diffusion,
    measure_tiling,
    photograph,
    stable_diffusion,
    table,
    whole,
)
from alphabar.bench.memory import resident, transient
from alphabar.bench.subjects import PLAIN, prepare
from alphabar.bench.workers import Worker
from alphabar.cli import bench
from alphabar.codec import LatentCodec
from alphabar.errors import AlphabarError
from alphabar.nn import ConvAutoencoder, ConvAutoencoderConfig

CPU = torch.device("cpu")


def command(*words: str) -> int:
    """Run `alphabar bench WORDS`."""
    top = argparse.ArgumentParser()
    bench.add_parser(top.add_subparsers())
    args = top.parse_args(["bench", *words])
    return int(args.run(args))


@pytest.fixture(scope="module", params=["sampling", "training"])
def printed(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the command prints with --json, for two images and one round."""
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        assert command(request.param, "--json", "--batch", "2", "--repeats", "1") == 0
    result: dict[str, Any] = json.loads(stdout.getvalue())
    return result


def test_json_holds_figures_ratios_errors_and_the_machine(printed: dict[str, Any]) -> None:
    kind: Kind = printed["bench"]
    assert printed["batch"] == 2
    assert list(printed["variants"]) == [v.name for v in VARIANTS[kind]]
    for name, row in printed["variants"].items():
        assert row["ms_range"][0] <= row["ms"] <= row["ms_range"][1]
        assert row["ms"] > 0
        assert (row["relative_error"] is None) == (name == "diffusers")
    for peer in ("diffusers", "plain"):
        assert printed["ratios"][peer].keys() == GOALS[kind].keys()
        assert all(r["ratio"] > 0 for r in printed["ratios"][peer].values())
    assert printed["versions"].keys() == {"alphabar", "torch", "diffusers", "python"}
    assert printed["hardware"]["threads"] == torch.get_num_threads()


def test_the_peers_are_equal_and_counted(printed: dict[str, Any]) -> None:
    for share in printed["diffusers_over_ours"].values():
        assert abs(share - 1) < TOLERANCE
    ours = printed["variants"]["plain"]
    assert 500_000 < ours["parameters"] < 1_000_000
    for row in printed["variants"].values():
        assert row["flops_per_image"] == pytest.approx(ours["flops_per_image"], rel=TOLERANCE)


def test_our_variants_answer_as_the_plain_one(printed: dict[str, Any]) -> None:
    for row in printed["variants"].values():
        if row["relative_error"] is not None:
            assert row["relative_error"] < (1e-5 if row["precision"] == "float32" else 0.1)


def test_the_sampler_is_timed_beside_its_network(printed: dict[str, Any]) -> None:
    for name in ("float32", "bf16") if printed["bench"] == "sampling" else ():
        shares = printed["variants"][name]["sampler_share"]
        assert shares.keys() == {"ddpm", "ddim"}
        assert all(0 < share < 1 for share in shares.values())


def test_table_has_a_line_per_variant(printed: dict[str, Any]) -> None:
    text = table(printed)
    assert all(row["title"] in text for row in printed["variants"].values())
    assert max(map(len, text.splitlines())) < 140


@pytest.mark.parametrize("kind", ["sampling", "training"])
def test_variants_in_this_process(kind: Kind) -> None:
    """The same code as in the workers, where coverage and debuggers see it."""
    for variant in VARIANTS[kind]:
        subject = prepare(kind, variant, 2, CPU)
        assert subject.answer.isfinite().all()
        assert subject.answer.norm() > 0
        for action, units in subject.actions.values():
            action()
            assert units >= 1


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AlphabarError, match=r'pip install "alphabar\[bench\]"'):
        measure("sampling")


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"repeats": 0}])
def test_counts_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(AlphabarError, match="at least 1"):
        measure("training", **wrong)  # type: ignore[arg-type]


def test_a_worker_that_fails_or_dies_is_one_line() -> None:
    failing = Worker("plain", partial(prepare, "sampling", PLAIN, 1, torch.device("meta")), CPU)
    with pytest.raises(AlphabarError, match="plain: "):
        failing.receive()
    failing.close()
    killed = Worker("plain", partial(prepare, "sampling", PLAIN, 1, CPU), CPU)
    killed.process.kill()
    with pytest.raises(AlphabarError, match="ended with status -9"):
        killed.receive()
    killed.close()


def test_startup(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("startup", "--repeats", "1") == 0
    assert "alphabar --help answers in" in capsys.readouterr().out
    assert command("startup", "--repeats", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 0


@pytest.mark.parametrize("part", ["unet", "decode"])
def test_every_form_of_stable_diffusion_answers_as_diffusers(part: stable_diffusion.Part) -> None:
    answers = {}
    for name, form in stable_diffusion.FORMS[part].items():
        subject = stable_diffusion.prepare(part, name, QUICK)
        answers[name] = subject.answer
        assert subject.facts.precision == form.precision
        assert (subject.facts.transient_bytes is None) == (resident() is None)
        exact = answers["diffusers"]
        error = (subject.answer - exact).norm() / exact.norm()
        if not form.tiled:
            assert error < (1e-5 if form.precision == "float32" else 3e-2)
        else:
            assert 1e-3 < error < 1  # the attention and the norms of random weights see a tile, not the image


def test_stable_diffusion_is_timed_in_turns() -> None:
    turns = []
    result = measure_stable_diffusion(config=QUICK, parts=("unet",), repeats=1, on_turn=lambda: turns.append(1))
    rows = json.loads(json.dumps(result))["parts"]["unet"]
    assert list(rows) == ["diffusers", "float32", "bf16"]
    assert len(turns) == 6
    assert rows["diffusers"]["ratio"] == 1
    assert rows["diffusers"]["relative_error"] == 0
    for row in rows.values():
        assert row["seconds_range"][0] <= row["seconds"] <= row["seconds_range"][1]
        assert row["parameters"] == rows["diffusers"]["parameters"] > 1_000_000
    text = table({**result, "memory": {"bf16": {"title": "all of it", "peak_bytes": 2_500_000_000}}})
    assert all(row["title"] in text for row in rows.values())
    assert "2.50 GB" in text


def test_the_whole_pipeline_is_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code as in the workers."""
    monkeypatch.setattr("sys.argv", [])
    folder = tmp_path / "pipeline"
    whole._write(folder, QUICK)
    for name in ("float32", "float32-low"):
        peak = whole._draw(name, folder).facts.transient_bytes
        assert peak == resident(most=True)
        assert (tmp_path / f"{name}.png").is_file()
    with pytest.raises(AlphabarError, match="ended with status 2"):
        whole._draw("bf16", tmp_path / "nothing")


def test_transient_memory_is_what_a_call_takes() -> None:
    made, grown = transient(lambda: torch.ones(1 << 24).sum())
    assert made == 1 << 24
    assert grown is None or 60e6 < grown < 120e6


def test_tiles_are_measured_on_a_photograph() -> None:
    torch.manual_seed(0)
    codec = LatentCodec(ConvAutoencoder(ConvAutoencoderConfig(image_channels=3, channels=(8, 8))))
    image = photograph()[..., :64, :64]
    rows = measure_tiling(codec, image, tiles=(32, 64))
    assert image.shape == (1, 3, 64, 64)
    assert -1 <= image.min() < image.max() <= 1
    assert rows["32"]["decode_error"] > 0
    assert rows["64"]["decode_error"] == rows["64"]["encode_error"] == 0  # one tile is the whole
    assert rows["64"]["psnr"] == rows["64"]["psnr_whole"]
    tiling = {"autoencoder": "mine", "tiles": rows}
    result = {"bench": "stable-diffusion", "size": 64, "repeats": 1, "parts": {}, "goals": {}, "tiling": tiling}
    result |= {"versions": {}, "hardware": {"cpu": "one", "threads": 1}}
    assert "tiles of 32" in table(result)
    grey = LatentCodec(ConvAutoencoder(ConvAutoencoderConfig(image_channels=1, channels=(8, 8))))
    with pytest.raises(AlphabarError, match="the photograph has colours"):
        measure_tiling(grey, image)


def test_stable_diffusion_refuses_what_it_does_not_measure() -> None:
    with pytest.raises(AlphabarError, match="leave out --batch and --device"):
        command("stable-diffusion", "--batch", "2")
    with pytest.raises(AlphabarError, match="no model at 'nothing'"):
        command("stable-diffusion", "--autoencoder", "nothing")
    with pytest.raises(AlphabarError, match="at least 1"):
        measure_stable_diffusion(config=QUICK, repeats=0)
