"""The table of bad inputs: what a user can get wrong, and the one line that each gets.

Each row prepares its situation and returns the act. The act must raise exactly that line (`{tmp}` is the folder of the
test, `...` is another library's wording), and every file that was there must be there after it, to the byte.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tiny
from alphabar import models
from alphabar.diffusion import Grid
from alphabar.errors import AlphabarError
from alphabar.generate import SamplerConfig, sample
from alphabar.io import load_tensors, read_json, save_tensors
from alphabar.models import load_autoencoder, load_model
from alphabar.train import load_recipe, read_metrics, train

Act = Callable[[], object]
Row = Callable[[Path], Act]
TABLE: list[tuple[str, Row]] = []


def bad(message: str) -> Callable[[Row], Row]:
    """Add a row to the table."""

    def add(row: Row) -> Row:
        TABLE.append((message, row))
        return row

    return add


def training(tmp: Path, **overrides: Any) -> Act:
    """Training a recipe into a new folder."""
    return lambda: train(tiny.recipe(**overrides), tmp / "run", quiet=True)


def reading(tmp: Path, *more: str, **overrides: Any) -> Act:
    """Reading a recipe file, with overrides of the command line."""
    path = tiny.write_recipe(tmp / "r.toml", **overrides)
    return lambda: load_recipe(path, more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(tiny.recipe(), run, quiet=True)
    return run


def resuming(tmp: Path, **overrides: Any) -> Act:
    """Resuming the finished run, for two more steps."""
    overrides["train"] = {"steps": 8, **overrides.get("train", {})}
    return lambda: train(tiny.recipe(**overrides), tmp / "done", resume=True, quiet=True)


def saved_model(tmp: Path, **changes: Any) -> Path:
    """A model folder, with changes to its description."""
    folder = tmp / "model"
    tiny.pixel_model().save(folder)
    if changes:
        description = read_json(folder / "model.json")
        (folder / "model.json").write_text(json.dumps({**description, **changes}))
    return folder


def pictures(tmp: Path, n: int = 3) -> Path:
    """A folder of images."""
    folder = tmp / "photos"
    folder.mkdir()
    for k in range(n):
        Image.new("RGB", (12, 10), (40 * k, 0, 0)).save(folder / f"{k}.png")
    return folder


PHOTOS = {"size": 8, "channels": 1}

# Recipes


@bad("no recipe 'fashion-pixle'; did you mean 'fashion-pixel'?")
def unknown_recipe(tmp: Path) -> Act:
    return lambda: load_recipe("fashion-pixle")


@bad("no recipe file '{tmp}/r.toml'")
def missing_recipe_file(tmp: Path) -> Act:
    return lambda: load_recipe(tmp / "r.toml")


@bad("{tmp}/r.toml is not valid TOML: ...")
def broken_toml(tmp: Path) -> Act:
    (tmp / "r.toml").write_text('name = "x\n')
    return lambda: load_recipe(tmp / "r.toml")


@bad("{tmp}/r.toml: unknown key 'trian'; did you mean 'train'?")
def unknown_section(tmp: Path) -> Act:
    return reading(tmp, trian={"steps": 1})


@bad("{tmp}/r.toml: [train] learning_rate: unknown key; known: ...")
def unknown_key(tmp: Path) -> Act:
    return reading(tmp, train={"learning_rate": 1e-3})


@bad("{tmp}/r.toml: [train] batchsize: unknown key; did you mean 'batch_size'?")
def misspelt_key(tmp: Path) -> Act:
    return reading(tmp, train={"batchsize": 8})


@bad("{tmp}/r.toml: [train] batch_size should be a whole number, got 'many'")
def wrong_type(tmp: Path) -> Act:
    return reading(tmp, train={"batch_size": "many"})


@bad("{tmp}/r.toml: [train] batch_size must be positive, got 0")
def out_of_range(tmp: Path) -> Act:
    return reading(tmp, train={"batch_size": 0})


@bad("{tmp}/r.toml: [train] give train.steps or train.minutes, or both")
def no_end(tmp: Path) -> Act:
    return reading(tmp, "train.steps=none")


@bad("{tmp}/r.toml: [train] lr_schedule cannot be 'cosin'; did you mean 'cosine'?")
def unknown_choice(tmp: Path) -> Act:
    return reading(tmp, train={"lr_schedule": "cosin"})


@bad("{tmp}/r.toml: key 'network' is required")
def missing_section(tmp: Path) -> Act:
    (tmp / "r.toml").write_text('name = "x"\ntask = "denoise"\n')
    return lambda: load_recipe(tmp / "r.toml")


@bad("{tmp}/r.toml: [train] should be a table, got 3")
def value_for_a_section(tmp: Path) -> Act:
    return reading(tmp, train=3)


@bad("{tmp}/r.toml: task cannot be 'denoize'; did you mean 'denoise'?")
def unknown_task(tmp: Path) -> Act:
    return reading(tmp, task="denoize")


@bad("{tmp}/r.toml: [process] unknown schedule 'cosin'; did you mean 'cosine'?")
def unknown_schedule(tmp: Path) -> Act:
    return reading(tmp, process={"schedule": "cosin"})


@bad("{tmp}/r.toml: [process] unknown prediction 'epsilon'; did you mean 'eps'?")
def unknown_prediction(tmp: Path) -> Act:
    return reading(tmp, process={"prediction": "epsilon"})


@bad("{tmp}/r.toml: [process] eps-prediction cannot recover x0 where no signal is left: with zero terminal SNR use v")
def eps_without_signal(tmp: Path) -> Act:
    return reading(tmp, process={"prediction": "eps", "zero_terminal_snr": True})


@bad("{tmp}/r.toml: [network] unknown network type 'u-net'; did you mean 'unet'?")
def unknown_network(tmp: Path) -> Act:
    return reading(tmp, network={"type": "u-net"})


@bad("{tmp}/r.toml: [network] channels needs 3 values, got 2")
def wrong_number_of_widths(tmp: Path) -> Act:
    return reading(tmp, network={"type": "small-unet", "channels": [8, 8]})


@bad("'train.lr' is not an override; write key=value, such as train.lr=1e-3")
def override_without_a_value(tmp: Path) -> Act:
    return reading(tmp, "train.lr")


@bad("'name.x=1': 'name' is a value, not a section")
def override_inside_a_value(tmp: Path) -> Act:
    return reading(tmp, "name.x=1")


# Data


@bad("unknown dataset 'fashion-mnits': no such folder, and no set of that name; did you mean 'fashion-mnist'?")
def unknown_dataset(tmp: Path) -> Act:
    return training(tmp, data={"name": "fashion-mnits"})


@bad(
    "unknown dataset '{tmp}/photos': no such folder, and no set of that name; "
    "known: digits, emoji, fashion-mnist, mnist"
)
def missing_data_folder(tmp: Path) -> Act:
    return training(tmp, data={"name": f"{tmp}/photos", **PHOTOS})


@bad("no PNG, JPEG or WebP images in {tmp}/photos")
def no_images(tmp: Path) -> Act:
    (pictures(tmp, 0) / "notes.txt").write_text("none yet")
    return training(tmp, data={"name": f"{tmp}/photos", **PHOTOS})


@bad("{tmp}/photos is a folder of images: say which size they should have, as in size=64")
def no_size(tmp: Path) -> Act:
    return training(tmp, data={"name": str(pictures(tmp))})


@bad("cannot read the image {tmp}/photos/cut.png: ...truncated...")
def truncated_image(tmp: Path) -> Act:
    path = pictures(tmp, 0) / "cut.png"
    Image.effect_noise((32, 32), 50).save(path)
    path.write_bytes(path.read_bytes()[:500])
    return training(tmp, data={"name": f"{tmp}/photos", **PHOTOS})


@bad("cannot read the image {tmp}/photos/page.png: ...")
def no_image_inside(tmp: Path) -> Act:
    (pictures(tmp, 0) / "page.png").write_text("<html>404</html>")
    return training(tmp, data={"name": f"{tmp}/photos", **PHOTOS})


@bad("cannot read the image {tmp}/photos/bomb.png: ...exceeds limit...")
def decompression_bomb(tmp: Path) -> Act:
    """A header that promises 40,000 x 40,000 pixels in 60 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0))
    (pictures(tmp, 0) / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""))
    return training(tmp, data={"name": f"{tmp}/photos", **PHOTOS})


@bad("{tmp}/photos/metadata.jsonl, line 2: not valid JSON: ...")
def broken_metadata(tmp: Path) -> Act:
    lines = '{"file_name": "0.png", "text": "red"}\n{"file_name": "1.png", \n'
    (pictures(tmp) / "metadata.jsonl").write_text(lines)
    return training(tmp, data={"name": f"{tmp}/photos", **PHOTOS})


@bad("{tmp}/photos/metadata.jsonl, line 1: no such image: 9.png")
def metadata_of_a_missing_image(tmp: Path) -> Act:
    (pictures(tmp) / "metadata.jsonl").write_text('{"file_name": "9.png", "text": "red"}\n')
    return training(tmp, data={"name": f"{tmp}/photos", **PHOTOS})


# Task, network, codec and data that do not go together


@bad("the reconstruct task needs an autoencoder, such as network.type='conv-autoencoder'")
def reconstruct_with_a_unet(tmp: Path) -> Act:
    return training(tmp, task="reconstruct")


@bad("the denoise task needs a U-Net, such as network.type='small-unet'")
def denoise_with_an_autoencoder(tmp: Path) -> Act:
    return training(tmp, network=tiny.AUTOENCODER)


@bad("the classify task needs a labelled data set and a network of type 'classifier'")
def classify_without_labels(tmp: Path) -> Act:
    data = {"name": str(pictures(tmp)), "size": 28, "channels": 1}
    return training(tmp, task="classify", network={"type": "classifier"}, data=data)


@bad("network.num_classes is 3, but there are 10 classes; set network.num_classes=10")
def too_few_classes(tmp: Path) -> Act:
    return training(tmp, task="classify", network={"type": "classifier", "num_classes": 3})


@bad("network.in_channels is 1, but there are 3 channels to diffuse; set network.in_channels=3")
def network_of_other_channels(tmp: Path) -> Act:
    return training(tmp, data={"channels": 3})


@bad("network.type='small-unet' takes sizes that are a multiple of 4, not 10x10")
def size_that_does_not_divide(tmp: Path) -> Act:
    return training(tmp, data={"size": 10})


@bad("a ConvAutoencoder of 2 levels takes sizes that are a multiple of 2, not 9x9")
def size_that_the_autoencoder_does_not_divide(tmp: Path) -> Act:
    return training(tmp, task="reconstruct", network=tiny.AUTOENCODER, data={"size": 9})


@bad("the autoencoder is for images of 3 channels, those of digits have 1")
def codec_of_other_channels(tmp: Path) -> Act:
    config = {"type": "conv-autoencoder", "image_channels": 3, "channels": [8, 8], "latent_channels": 2}
    codec = models.LatentCodec(tiny.network(tiny.recipe(network=config).network))
    models.save_autoencoder(codec, 8, 3, {}, tmp / "codec")
    return training(tmp, codec=f"{tmp}/codec")


@bad("a U-Net needs latents that are maps: train the codec with network.type='conv-autoencoder'")
def codec_of_vectors(tmp: Path) -> Act:
    config = {"type": "dense-autoencoder", "image_shape": [1, 8, 8], "hidden": [8], "latent_dim": 4}
    codec = models.LatentCodec(tiny.network(tiny.recipe(network=config).network))
    models.save_autoencoder(codec, 8, 1, {}, tmp / "codec")
    return training(tmp, codec=f"{tmp}/codec")


@bad("{tmp}/model holds a model of kind 'denoiser' without an autoencoder")
def codec_of_another_kind(tmp: Path) -> Act:
    return training(tmp, codec=str(saved_model(tmp)))


# Models


@bad("no model at 'fashion-pixle': not a model or run folder...")
def unknown_model(tmp: Path) -> Act:
    return lambda: load_model("fashion-pixle")


@bad("{tmp}/run has no finished checkpoint yet; let `alphabar train` run longer")
def model_of_a_run_that_just_began(tmp: Path) -> Act:
    (tmp / "run").mkdir()
    (tmp / "run" / "recipe.json").write_text("{}")
    return lambda: load_model(tmp / "run")


@bad("{tmp}/model holds a model of kind 'autoencoder', not denoiser")
def model_of_another_kind(tmp: Path) -> Act:
    models.save_autoencoder(tiny.latent_codec(), 8, 1, {}, tmp / "model")
    return lambda: load_model(tmp / "model")


@bad("{tmp}/model/model.json: format 2 is not the 1 that this alphabar reads")
def newer_format(tmp: Path) -> Act:
    folder = saved_model(tmp, format=2)
    return lambda: load_model(folder)


@bad("{tmp}/model/model.json is not valid JSON: ...")
def broken_json(tmp: Path) -> Act:
    (saved_model(tmp) / "model.json").write_text('{"format": 1,')
    return lambda: load_model(tmp / "model")


@bad("{tmp}/model/model.json: [process] unknown prediction 'flow'; known: eps, v, x0")
def model_of_an_unknown_prediction(tmp: Path) -> Act:
    folder = saved_model(tmp, process={"prediction": "flow"})
    return lambda: load_model(folder)


@bad("no such file: {tmp}/model/network.safetensors")
def missing_weights(tmp: Path) -> Act:
    (saved_model(tmp) / "network.safetensors").unlink()
    return lambda: load_model(tmp / "model")


@bad("{tmp}/model/network.safetensors is not a whole safetensors file: ...")
def truncated_weights(tmp: Path) -> Act:
    path = saved_model(tmp) / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return lambda: load_model(tmp / "model")


@bad("{tmp}/weights.pt is a pickle, which can run code when it is loaded; convert it to .safetensors first")
def pickle(tmp: Path) -> Act:
    torch.save({"a": torch.ones(1)}, tmp / "weights.pt")
    return lambda: load_tensors(tmp / "weights.pt")


def edit_weights(tmp: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Act:
    path = saved_model(tmp) / "network.safetensors"
    tensors = load_tensors(path)
    edit(tensors)
    save_tensors(path, tensors)
    return lambda: load_model(tmp / "model")


@bad("{tmp}/model/network.safetensors does not fit SmallUNet: it lacks 'conv_in.bias' (1 keys differ)")
def missing_key(tmp: Path) -> Act:
    return edit_weights(tmp, lambda tensors: tensors.pop("conv_in.bias"))


@bad("{tmp}/model/network.safetensors does not fit SmallUNet: it has an unknown key 'extra' (1 keys differ)")
def extra_key(tmp: Path) -> Act:
    return edit_weights(tmp, lambda tensors: tensors.update(extra=torch.ones(1)))


@bad("{tmp}/model/network.safetensors does not fit SmallUNet: 'conv_in.bias' has shape [5], not [8]")
def wrong_shape(tmp: Path) -> Act:
    return edit_weights(tmp, lambda tensors: tensors.update({"conv_in.bias": torch.ones(5)}))


@bad("{tmp}/model/network.safetensors is not the network that model.json describes (its hash differs)")
def other_weights(tmp: Path) -> Act:
    return edit_weights(tmp, lambda tensors: tensors["conv_in.bias"].add_(1e-3))


@bad("{tmp}/model/codec.safetensors is not the codec that this model was trained with (its hash differs)")
def other_codec(tmp: Path) -> Act:
    models.save_autoencoder(tiny.latent_codec(), 8, 1, {}, tmp / "model")
    path = tmp / "model" / "codec.safetensors"
    tensors = load_tensors(path)
    tensors["codec.scale"].mul_(2)
    save_tensors(path, tensors)
    return lambda: load_autoencoder(tmp / "model")


# Sampling


@bad("a grid needs 1..20 steps, got 50")
def more_steps_than_timesteps(tmp: Path) -> Act:
    return lambda: sample(tiny.pixel_model(), 1, SamplerConfig(steps=50))


@bad("unknown sampler 'dpm'; did you mean 'ddpm'?")
def unknown_sampler(tmp: Path) -> Act:
    return lambda: sample(tiny.pixel_model(), 1, SamplerConfig("dpm", 5))  # type: ignore[arg-type]


@bad("unknown spacing 'karras'; known: leading, linspace, trailing")
def unknown_spacing(tmp: Path) -> Act:
    return lambda: SamplerConfig(spacing="karras")  # type: ignore[arg-type]


@bad("eta must lie in 0..1, got 2.0")
def too_much_noise(tmp: Path) -> Act:
    return lambda: SamplerConfig("ddim", eta=2.0)


@bad("a grid must fall strictly and end at 0 or above, got [5, 5, 1]")
def grid_with_a_duplicate(tmp: Path) -> Act:
    return lambda: Grid((5, 5, 1))


@bad("1000 leading steps with offset 1 would start at timestep 1000 of 1000")
def grid_past_the_end(tmp: Path) -> Act:
    return lambda: Grid.leading(1000, offset=1)


# Runs


@bad("{tmp}/done already holds a run; add --resume to continue it, or choose another --out")
def folder_of_another_run(tmp: Path) -> Act:
    return lambda: train(tiny.recipe(), tmp / "done", quiet=True)


@bad("cannot resume from {tmp}/done/checkpoints/step-00000006: its seed is 0, the recipe's is 1")
def resume_with_another_seed(tmp: Path) -> Act:
    return resuming(tmp, train={"seed": 1})


@bad(
    "cannot resume from {tmp}/done/checkpoints/step-00000006: its network is {{'type': 'small-unet', "
    "'in_channels': 1, 'out_channels': 1, 'channels': [8, 8, 8], 'emb_dim': 16}}, the recipe's is {{'type': "
    "'small-unet', 'in_channels': 1, 'out_channels': 1, 'channels': [8, 8, 16], 'emb_dim': 16}}"
)
def resume_with_another_architecture(tmp: Path) -> Act:
    return resuming(tmp, network={"type": "small-unet", "channels": [8, 8, 16], "emb_dim": 16})


@bad("cannot resume from {tmp}/done/checkpoints/step-00000006: its data is '...', the recipe's is '...'")
def resume_with_other_data(tmp: Path) -> Act:
    return resuming(tmp, data={"size": 16})


@bad("{tmp}/done/checkpoints/step-00000006/ema.safetensors is not a whole safetensors file: ...")
def resume_from_a_damaged_checkpoint(tmp: Path) -> Act:
    path = tmp / "done" / "checkpoints" / "step-00000006" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return resuming(tmp)


@bad("{tmp}/done/checkpoints/step-00000006/state.json: identity: this key is required")
def resume_from_an_edited_checkpoint(tmp: Path) -> Act:
    path = tmp / "done" / "checkpoints" / "step-00000006" / "state.json"
    state = read_json(path)
    del state["identity"]
    path.write_text(json.dumps(state))
    return resuming(tmp)


@bad("{tmp}/done/checkpoints/step-00000006: format 7 is not the 1 that this alphabar reads")
def resume_from_a_newer_format(tmp: Path) -> Act:
    path = tmp / "done" / "checkpoints" / "step-00000006" / "state.json"
    path.write_text(json.dumps({**read_json(path), "format": 7}))
    return resuming(tmp)


@bad("cannot write {tmp}/file/recipe.json: ...; what was there before is untouched")
def out_is_a_file(tmp: Path) -> Act:
    (tmp / "file").write_text("precious")
    return lambda: train(tiny.recipe(), tmp / "file", quiet=True)


@bad(
    "the loss is nan near step 8: lower train.lr or use train.precision=float32; "
    "the last checkpoint in {tmp}/done is still good"
)
def loss_that_is_not_a_number(tmp: Path) -> Act:
    return resuming(tmp, train={"lr": 1e30})


@bad(
    "cannot write {tmp}/done/checkpoints/step-00000008/...safetensors: ...File too large...; "
    "what was there before is untouched"
)
def full_disk(tmp: Path) -> Act:
    """As far as the process can tell: its files may not grow past 30 kB while it trains."""
    act = resuming(tmp)

    def limited() -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
        try:
            act()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@bad("{tmp}/cache/... is not a whole cache of moments (...); delete it to make it anew")
def truncated_cache(tmp: Path) -> Act:
    models.save_autoencoder(tiny.latent_codec(), 8, 1, {}, tmp / "codec")
    network = {"type": "small-unet", "in_channels": 2, "out_channels": 2, "channels": [8, 8, 8], "emb_dim": 16}
    training(tmp, codec=f"{tmp}/codec", network=network, train={"steps": 1})()
    (path,) = (tmp / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    shutil.rmtree(tmp / "run")
    return training(tmp, codec=f"{tmp}/codec", network=network)


@bad("{tmp} is not a run folder: it has no metrics.jsonl")
def metrics_of_no_run(tmp: Path) -> Act:
    return lambda: read_metrics(tmp)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file but TensorBoard's, which grows, and the metrics, which lose what comes after a checkpoint."""
    files = (p for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.parts)
    return {p: p.read_bytes() for p in files if p.name not in ("metrics.jsonl", "recipe.json")}


@pytest.mark.parametrize(("message", "row"), TABLE, ids=[row.__name__ for _, row in TABLE])
def test_bad_input(message: str, row: Row, tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "done")
    act = row(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(AlphabarError) as error:
        act()
    line = str(error.value)
    pattern = ".*".join(re.escape(part) for part in message.format(tmp=tmp_path).split("..."))
    assert re.fullmatch(pattern, line), line
    after = contents(tmp_path)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after.keys() - before.keys() if path.name.startswith(".")]


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 60
    assert len({message for message, _ in TABLE}) == len(TABLE)
