"""The engine of the course's pages, run by Node, answers and samples as torch does."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from alphabar.codec import PixelCodec
from alphabar.course.export import STATIC, export_network, worker_source
from alphabar.diffusion import Grid, ddim
from alphabar.errors import AlphabarError
from alphabar.models import Model, ProcessConfig, load_model
from alphabar.nn import UNetConfig
from alphabar.rng import Rng

NODE = shutil.which("node")
if NODE is None and os.environ.get("ALPHABAR_REQUIRE_NODE") != "1":
    pytest.skip("the page's engine is tested under Node, which is not installed", allow_module_level=True)

PRELUDE = """
import fs from "node:fs";
import {{ CLEAN, Engine, OPERATIONS, SAMPLERS, gaussian, widen }} from "{static}/engine.js";
const read = (path) => new Uint8Array(fs.readFileSync(path)).buffer;
const floats = (name) => new Float32Array(read(`${{folder}}/${{name}}`));
const write = (name, array) => fs.writeFileSync(`${{folder}}/${{name}}`, new Uint8Array(array.buffer));
const folder = process.argv[1];
const description = () => JSON.parse(fs.readFileSync(`${{folder}}/network.json`));
const load = (changed = {{}}) => new Engine({{ ...description(), ...changed }}, read(`${{folder}}/weights.bin`));
const complaint = (act) => {{ try {{ act(); }} catch (error) {{ return error.message; }} return null; }};
const give = (value) => console.log(JSON.stringify(value));
"""


def node(script: str, folder: Path) -> Any:
    """What a script gives, run by Node beside the engine; `folder` is where it loads from and writes to."""
    assert NODE is not None, "ALPHABAR_REQUIRE_NODE is set and there is no node"
    program = PRELUDE.format(static=STATIC.as_uri()) + script
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", program, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def save(folder: Path, name: str, x: Tensor) -> None:
    x.contiguous().numpy().tofile(folder / name)


def load(folder: Path, name: str, shape: Sequence[int]) -> Tensor:
    return torch.frombuffer(bytearray((folder / name).read_bytes()), dtype=torch.float32).reshape(tuple(shape))


def unet_model(**changes: Any) -> Model:
    """An untrained U-Net with self-attention, odd sizes and three channels."""
    values = {"channels": (8, 16), "blocks": 1, "attention": (1,), "num_heads": 2, "emb_dim": 16, **changes}
    settings = ProcessConfig(schedule="linear", timesteps=200, prediction="eps", clip=1.0)
    return Model(tiny.network(UNetConfig(**values)), settings, PixelCodec(3), 10, 3)


MODELS = {
    "fashion": lambda: load_model("fashion-pixel"),
    "unet": unet_model,
    "add": lambda: replace(
        unet_model(mode="add", attention=(0, 1)), settings=ProcessConfig(timesteps=150, prediction="x0")
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model, folder = MODELS[request.param](), tmp_path_factory.mktemp(request.param)
    export_network(model, folder)
    return model, folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A network of 8x8 and 20 timesteps, for what needs no trained one."""
    model, folder = tiny.pixel_model(), tmp_path_factory.mktemp("small")
    export_network(model, folder)
    return model, folder


def noise(model: Model, n: int) -> Tensor:
    return Rng(0, range(n), "test").normal(*model.shape(1)[1:])


CALLS = """
const engine = load(), last = engine.alphasBar.length - 1;
for (const t of [0, 10, 100, last]) {
  const x = floats(`x-${t}.bin`), { x0, eps } = engine.predict(x, t);
  write(`answer-${t}.bin`, engine.call(x, t));
  write(`x0-${t}.bin`, x0);
  write(`eps-${t}.bin`, eps);
}
const sample = floats("x-100.bin").subarray(0, engine.size), times = Array.from({ length: 15 }, () => {
  const start = performance.now();
  engine.call(sample, 100);
  return performance.now() - start;
});
give(times.sort((a, b) => a - b)[7]);
"""


def test_one_call_answers_as_torch_does(exported: tuple[Model, Path], record_property: Any) -> None:
    model, folder = exported
    timesteps = (0, 10, 100, model.settings.timesteps - 1)
    image = torch.full(model.shape(3), -1.0)
    image[..., 2:-2, 3:-3] = torch.tensor([-0.5, 0.0, 0.5]).view(3, 1, 1, 1)
    noised = {t: model.process.noise(image, noise(model, 3), torch.full((3,), t)) for t in timesteps}
    for t, x in noised.items():
        save(folder, f"x-{t}.bin", x)
    milliseconds = node(CALLS, folder)
    record_property("milliseconds per call", milliseconds)
    print(f"{milliseconds:.1f} ms per call under Node")
    for t, x in noised.items():
        with torch.no_grad():
            answer = model.network(x, torch.full((3,), t))
        got = {name: load(folder, f"{name}-{t}.bin", x.shape) for name in ("answer", "x0", "eps")}
        print(f"t {t}: {float((got['answer'] - answer).abs().max()):.1e} from torch")
        torch.testing.assert_close(got["answer"], answer, atol=2e-3, rtol=0)
        # What follows from this answer, told apart from what half precision does to it.
        estimate = model.process.denoiser(lambda x, t, cond, y=got["answer"]: y, model.settings.clip)
        follows = estimate(x, torch.full((3,), t))
        torch.testing.assert_close(got["x0"], follows.x0, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got["eps"], follows.eps, atol=1e-4, rtol=1e-4)


def test_twenty_steps_of_ddim_make_the_same_image(exported: tuple[Model, Path]) -> None:
    model, folder = exported
    x = noise(model, 2)
    save(folder, "noise.bin", x)
    script = """
    const steps = [...load().sample({ x: floats("noise.bin"), steps: 20 })];
    write("sample.bin", steps.at(-1).x);
    give(steps.map(({ index, count, t, s }) => [index, count, t, s]));
    """
    walked = node(script, folder)
    grid = Grid.trailing(20, model.settings.timesteps)
    assert walked == [[index, 20, t, s] for index, (t, s) in enumerate(grid.pairs())]
    *_, last = ddim(model.denoiser(), x, grid, model.process.schedule)
    got = load(folder, "sample.bin", x.shape)
    print(f"{float((got - last.x).abs().max()):.1e} from torch")
    assert float((got - last.x).abs().max()) < 1e-2


def test_ddpm_draws_from_the_posterior(small: tuple[Model, Path]) -> None:
    """Each step less its mean, over the posterior's deviation (DDPM, equations 6 and 7), is standard normal."""
    model, folder = small
    script = """
    const x = floats("many.bin"), steps = [...load().sample({ x, seed: 5, steps: 4, sampler: "ddpm" })];
    for (const [k, step] of steps.entries()) for (const key of ["x", "x0"]) write(`${key}-${k}.bin`, step[key]);
    give(steps.map(({ t, s }) => [t, s]));
    """
    x = noise(model, 100)
    save(folder, "many.bin", x)
    for k, (t, s) in enumerate(node(script, folder)):
        x0, after = (load(folder, f"{name}-{k}.bin", x.shape) for name in ("x0", "x"))
        bar_t, bar_s = model.process.schedule.alpha_bar(t), model.process.schedule.alpha_bar(s)
        beta = 1 - bar_t / bar_s
        mean = (math.sqrt(bar_s) * beta * x0 + math.sqrt(1 - beta) * (1 - bar_s) * x) / (1 - bar_t)
        fresh = (after - mean) / math.sqrt(max(beta * (1 - bar_s) / (1 - bar_t), 1e-12))
        if s == -1:
            torch.testing.assert_close(after, x0, atol=1e-6, rtol=0)
        else:
            assert abs(float(fresh.mean())) < 0.05
            assert abs(float(fresh.std()) - 1) < 0.05
        x = after


def test_noise_is_normal_and_belongs_to_a_sample(small: tuple[Model, Path]) -> None:
    _, folder = small
    script = """
    const draw = (seed, index, n) => { const next = gaussian(seed, index); return Array.from({ length: n }, next); };
    const many = draw(1, 0, 100000), other = draw(1, 1, 100000), moment = (f) =>
      many.reduce((sum, x, i) => sum + f(x, i), 0) / many.length;
    const engine = load(), last = (options) => Array.from([...engine.sample({ steps: 2, ...options })].at(-1).x);
    give({
      mean: moment((x) => x), variance: moment((x) => x * x), fourth: moment((x) => x ** 4),
      together: moment((x, i) => x * other[i]), successive: moment((x, i) => x * many[(i + 1) % many.length]),
      repeatable: draw(7, 3, 9).join() === draw(7, 3, 9).join(), seeds: draw(7, 3, 9).join() !== draw(8, 3, 9).join(),
      batch: last({ seed: 4, n: 2, sampler: "ddpm" }).slice(0, 64).join() === last({ seed: 4, sampler: "ddpm" }).join(),
      first: draw(0, 0, 3),
    });
    """
    got = node(script, folder)
    assert abs(got["mean"]) < 0.02
    assert abs(got["variance"] - 1) < 0.02
    assert abs(got["fourth"] - 3) < 0.1
    assert abs(got["together"]) < 0.02
    assert abs(got["successive"]) < 0.02
    assert got["repeatable"]
    assert got["seeds"]
    assert got["batch"]


def test_every_operation_is_used_by_a_network_here(tmp_path: Path) -> None:
    used = set()
    for name, make in MODELS.items():
        export_network(make(), tmp_path / name)
        used |= {op["op"] for op in json.loads((tmp_path / name / "network.json").read_text())["ops"]}
    assert used == set(node("give(Object.keys(OPERATIONS));", tmp_path))


def test_schedule_and_grids_are_the_librarys(exported: tuple[Model, Path]) -> None:
    model, folder = exported
    timesteps = model.settings.timesteps
    got = node("const { alphasBar, grids } = load(); give({ alphasBar, grids });", folder)
    assert got["alphasBar"] == model.process.schedule.alphas_bar.tolist()  # every bit, through JSON and JavaScript
    assert {"1", "20", str(timesteps)} <= got["grids"].keys()
    for n, grid in got["grids"].items():
        assert tuple(grid) == Grid.trailing(int(n), timesteps).timesteps


def test_half_precision_is_read_exactly(tmp_path: Path) -> None:
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    save(tmp_path, "bits.bin", bits)
    node('write("wide.bin", widen(new Uint16Array(read(`${folder}/bits.bin`)))); give(0);', tmp_path)
    torch.testing.assert_close(
        load(tmp_path, "wide.bin", (65536,)), bits.view(torch.float16).float(), atol=0, rtol=0, equal_nan=True
    )


def test_files_are_small_and_counted(tmp_path: Path) -> None:
    written = export_network(load_model("fashion-pixel"), tmp_path)
    assert written.parameters == 961_537
    assert written.weight_bytes == (tmp_path / "weights.bin").stat().st_size < 2.05 * written.parameters
    assert written.description_bytes == (tmp_path / "network.json").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ('load({ ops: [{ op: "fold", inputs: [0], size: 64 }] })', "unknown operation fold; known: silu, cos"),
        ('load({ prediction: "score" })', "unknown prediction score; known: eps, x0, v"),
        ("load({ format: 2 })", "network.json has format 2; this engine reads 1"),
        ("load().call(new Float32Array(65), 0)", "x holds 65 numbers, which is no whole number of samples of 64"),
        ("load().predict(new Float32Array(64), 20)", "timestep 20 is outside 0..19"),
        ("[...load().sample({ steps: 7 })]", "unknown number of steps 7; known: 1, 2, 4, 5, 8, 10, 15, 20"),
        ("[...load().sample({ steps: [3, 3, 1] })]", "a grid must fall: 3, 3, 1"),
        ('[...load().sample({ sampler: "euler" })]', "unknown sampler euler; known: ddim, ddpm"),
    ],
)
def test_the_engine_says_what_is_wrong(small: tuple[Model, Path], act: str, words: str) -> None:
    assert words in node(f"give(complaint(() => {act}));", small[1])


class Around(nn.Module):
    """A network with something after it."""

    def __init__(self, after: Any) -> None:
        super().__init__()
        self.network = tiny.pixel_model().network
        self.after = after

    def forward(self, x: Tensor, t: Tensor, cond: None = None) -> Tensor:
        out: Tensor = self.after(self.network(x, t))
        return out


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (torch.tanh, "lacks the operation 'tanh'"),
        (lambda x: x.mul_(2), "lacks the operation 'mul_'"),
        (nn.SiLU(inplace=True), "cannot do a silu in place"),
        (lambda x: x[:, :, torch.arange(7, -1, -1)], "lacks the operation '__getitem__'"),
        (lambda x: torch.cat([x, x], dim=3), "a concatenation that is not of the channels"),
        (lambda x: torch.cat(x.chunk(2, dim=3), dim=1), "a chunk that is not of the channels"),
        (lambda x: x + x[:, :, :1], "lacks the operation '__getitem__'"),
        (lambda x: x * torch.ones(8), "'mul' of a tensor of shape [8] repeated to [1, 1, 8, 8]"),
        (lambda x: torch.add(x, x, alpha=2), "lacks a form of 'add'"),
        (lambda x: nn.functional.interpolate(x, scale_factor=0.5), "another resize than repeating"),
        (lambda x: nn.functional.conv2d(x, torch.ones(1, 1, 1, 1), None), "a form of 'conv2d'"),
        (nn.Conv2d(1, 1, (3, 1)), "a convolution that has groups, dilation or sides that differ"),
        (nn.Linear(8, 8, bias=False), "a linear without a weight or a bias"),
    ],
)
def test_a_network_that_the_engine_cannot_run_is_refused(tmp_path: Path, after: Any, words: str) -> None:
    with pytest.raises(AlphabarError) as error:
        export_network(replace(tiny.pixel_model(), network=Around(after)), tmp_path / "out")
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_network_told_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match="x and t alone"):
        export_network(tiny.word_model(), tmp_path)


@pytest.mark.parametrize(
    ("weight", "value", "words"),
    [
        ("decoder.0.res.conv1.weight", 1e6, "float16 cannot hold the weight 'decoder.0.res.conv1.weight'"),
        ("conv_in.bias", math.nan, "float32 cannot hold the weight 'conv_in.bias'"),
    ],
)
def test_a_weight_that_cannot_be_held_is_named(tmp_path: Path, weight: str, value: float, words: str) -> None:
    model = unet_model()
    with torch.no_grad():
        model.network.get_parameter(weight).view(-1)[0] = value
    with pytest.raises(AlphabarError, match=words):
        export_network(model, tmp_path)


def test_exporting_changes_nothing(tmp_path: Path) -> None:
    model = tiny.pixel_model()
    model.network.train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    export_network(model, tmp_path)
    assert model.network.training
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


IN_A_THREAD = """
import { Worker } from "node:worker_threads";
const around = `
  import { parentPort } from "node:worker_threads";
  globalThis.self = { postMessage: (message) => parentPort.postMessage(message) };
  const ready = import("SOURCE");
  parentPort.on("message", async (data) => { await ready; self.onmessage({ data }); });
`;
const worker = new Worker(new URL("data:text/javascript," + encodeURIComponent(around)));
const got = [];
worker.on("message", (message) => {
  got.push(message);
  const { id, type, index } = message;
  if (id === 3 && type === "done") worker.postMessage({ id: 4, type: "sample", seed: 9, steps: 20 });
  if (id === 4 && type === "step" && index === 1) worker.postMessage({ id: 5, type: "cancel", job: 4 });
  if (id === 4 && type === "cancelled") worker.postMessage({ id: 6, type: "nonsense" });
  if (id === 6) {
    give(got.map(({ x, x0, eps, ...rest }) => ({ ...rest, arrays: [x, x0, eps].map((a) => a?.length) })));
    write("worker.bin", got.filter((m) => m.id === 3 && m.type === "step").at(-1).x);
    write("alone.bin", [...load().sample({ seed: 9, steps: 4 })].at(-1).x);
    worker.terminate();
  }
});
const content = { description: description(), weights: read(`${folder}/weights.bin`) };
worker.postMessage({ id: 0, type: "predict", x: new Float32Array(64), t: 3 });
worker.postMessage({ id: 1, type: "load", ...content });
worker.postMessage({ id: 2, type: "predict", x: new Float32Array(64), t: 3 });
worker.postMessage({ id: 3, type: "sample", seed: 9, steps: 4 });
"""


@pytest.mark.parametrize("bundled", [False, True])
def test_the_worker_loads_predicts_samples_and_stops(small: tuple[Model, Path], bundled: bool) -> None:
    """In a thread of Node, which has no `self`: it is given one of two lines."""
    _, folder = small
    source = folder / "bundle.mjs"
    source.write_text(worker_source())
    script = IN_A_THREAD.replace("SOURCE", source.as_uri() if bundled else (STATIC / "worker.js").as_uri())
    got = node(script, folder)
    by_id = {i: [message for message in got if message["id"] == i] for i in range(7)}
    assert [m["message"] for m in by_id[0]] == ["no network is loaded: send a load first"]
    assert [(m["type"], m["shape"], len(m["alphasBar"])) for m in by_id[1]] == [("loaded", [1, 8, 8], 20)]
    assert by_id[1][0]["steps"] == [1, 2, 4, 5, 8, 10, 15, 20]
    assert [(m["type"], m["arrays"]) for m in by_id[2]] == [("predicted", [None, 64, 64])]
    assert [m["type"] for m in by_id[3]] == ["step"] * 4 + ["done"]
    assert all(m["arrays"] == [64, 64, 64] and m["milliseconds"] >= 0 for m in by_id[3][:4])
    assert by_id[4][-1]["type"] == "cancelled"
    assert 2 <= len(by_id[4]) - 1 < 20
    assert by_id[5] == []
    assert [m["message"] for m in by_id[6]] == ["unknown message nonsense; known: load, predict, sample, cancel"]
    assert torch.equal(load(folder, "worker.bin", (64,)), load(folder, "alone.bin", (64,)))
