"""The bench: what it reports, that it compares equals, and what it says when it cannot run. Never how fast."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from typing import Any

import pytest
import torch

from alphabar.bench import GOALS, TOLERANCE, VARIANTS, Kind, measure, table
from alphabar.bench.subjects import PLAIN, prepare
from alphabar.bench.workers import Worker
from alphabar.cli import bench
from alphabar.errors import AlphabarError

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
    failing = Worker("sampling", PLAIN, 1, torch.device("meta"))
    with pytest.raises(AlphabarError, match="plain eager: "):
        failing.receive()
    failing.close()
    killed = Worker("sampling", PLAIN, 1, CPU)
    killed.process.kill()
    with pytest.raises(AlphabarError, match="ended with status -9"):
        killed.receive()
    killed.close()


def test_startup(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("startup", "--repeats", "1") == 0
    assert "alphabar --help answers in" in capsys.readouterr().out
    assert command("startup", "--repeats", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 0
