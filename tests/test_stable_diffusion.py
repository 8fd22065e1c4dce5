"""Stable Diffusion in and out: every tensor comes back from both layouts, diffusers reads what we write and gives the
same numbers, and every broken file is one clear line.

The shapes are small but wide: below 128 channels our group norms have fewer groups than the one number of the files.
"""

from __future__ import annotations

import gc
import gzip
import json
import re
import struct
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from alphabar.engine import InferenceNetwork
from alphabar.errors import AlphabarError
from alphabar.generate import Guidance, SamplerConfig, sample
from alphabar.models import Model
from alphabar.nn import ClipTextConfig, ConvAutoencoder, UNet, UNetConfig
from alphabar.stable_diffusion import (
    LowMemory,
    Pipeline,
    PipelineConfig,
    is_stable_diffusion,
    load,
    open_pipeline,
    random_pipeline,
    save_folder,
    save_single_file,
    sd15,
    sd21,
)
from alphabar.stable_diffusion.files import metadata
from alphabar.stable_diffusion.pipeline import Stage, on_meta, stage_table
from alphabar.tokenizer import CLIP_MERGES, CLIP_VOCABULARY

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def tiny(full: PipelineConfig, **text: Any) -> PipelineConfig:
    """The structure of a version at a fraction of its size."""
    two = full.unet.linear_projection
    return replace(
        full,
        unet=replace(
            full.unet,
            channels=(128, 128),
            blocks=1,
            attention=(0,),
            num_heads=(2, 4) if two else 8,
            emb_dim=512,
            context_dim=32,
        ),
        vae=replace(full.vae, channels=(128, 128), encoder_blocks=1, decoder_blocks=2),
        text=replace(full.text, **{"vocab_size": 600, "width": 32, "layers": 3, "num_heads": 4, "mlp": 64, **text}),
        size=32,
    )


CONFIGS = {
    "1.x": tiny(sd15()),
    "1.x inpainting": tiny(sd15(inpainting=True)),
    "2.x": tiny(sd21()),
    "2.x base, whole tower": replace(tiny(sd21(prediction="eps"), layers=4, projection_dim=24), layer=-2),
    "2.x inpainting": tiny(sd21(inpainting=True, prediction="eps")),
}
VERSIONS = pytest.mark.parametrize("version", CONFIGS)


@pytest.fixture(scope="module")
def models() -> Callable[[str], Model]:
    """Models of `CONFIGS` with random weights, made once."""
    made: dict[str, Model] = {}

    def get(version: str) -> Model:
        if version not in made:
            made[version] = random_pipeline(CONFIGS[version], seed=len(made))
        return made[version]

    return get


@pytest.fixture(scope="module")
def folder(models: Callable[[str], Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 1.x, not to be written to."""
    out = tmp_path_factory.mktemp("sd") / "folder"
    save_folder(models("1.x"), out)
    return out


@pytest.fixture(scope="module")
def single(models: Callable[[str], Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single file of 1.x, not to be written to."""
    out = tmp_path_factory.mktemp("sd") / "one.safetensors"
    save_single_file(models("1.x"), out)
    return out


def states(model: Model) -> dict[str, dict[str, Tensor]]:
    """Of the three stages."""
    assert model.text is not None
    return {
        "unet": model.network.state_dict(),
        "vae": model.codec.autoencoder.state_dict(),  # type: ignore[attr-defined]
        "text": model.text.tower.state_dict(),
    }


def same_tensors(one: Model, other: Model, dropped: str = "") -> None:
    """All equal to the bit, but for keys that begin with `dropped`."""
    for stage, own in states(one).items():
        kept = {key: tensor for key, tensor in own.items() if not (dropped and key.startswith(dropped))}
        found = states(other)[stage]
        assert kept.keys() == found.keys()
        assert [key for key in kept if not torch.equal(kept[key], found[key])] == []


def same_settings(one: Model, other: Model) -> None:
    assert one.settings == other.settings
    assert (one.size, one.channels) == (other.size, other.channels)
    assert one.network.config == other.network.config
    for name in ("scale", "shift"):
        assert torch.equal(getattr(one.codec, name), getattr(other.codec, name))
    assert {key: one.card[key] for key in ("spacing", "steps_offset")}.items() <= dict(other.card).items()


def tokens(model: Model, folder: Path) -> Path:
    assert model.text is not None
    model.text.tokenizer.save_folder(folder)
    return folder


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object], notes: dict[str, str] | None = None) -> None:
    """Change the tensors of a file in place."""
    tensors = load_file(path)
    change(tensors)
    path.unlink()  # which may be a link
    save_file(tensors, path, {"format": "pt", **(notes or {})})


def edit(path: Path, **values: Any) -> None:
    """Change a JSON file; None removes a key."""
    merged = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))


def copied(source: Path, target: Path) -> Path:
    """A folder of one's own: links to what is large, copies of what is not."""
    for file in source.rglob("*"):
        if file.is_file():
            own = target / file.relative_to(source)
            own.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".safetensors":
                own.hardlink_to(file)
            else:
                own.write_bytes(file.read_bytes())
    return target


class TestTables:
    @pytest.mark.parametrize(
        ("config", "counts"),
        [(sd15(), (686, 248, 196)), (sd21(), (686, 248, 372)), (sd15(inpainting=True), (686, 248, 196))],
        ids=["1.x", "2.x", "inpainting"],
    )
    def test_full_size_keys_map_one_to_one(self, config: PipelineConfig, counts: tuple[int, int, int]) -> None:
        stages: tuple[Stage, ...] = ("unet", "vae", "text")
        for stage, count in zip(stages, counts, strict=True):
            own = on_meta(config, stage)[1]
            assert len(own) == count
            assert len({place.key for place in stage_table(config, stage, own, "diffusers").values()}) == count
            places = stage_table(config, stage, own, "original").values()
            fused = sum(place.form in ("k", "v") for place in places)  # q, k and v share a key
            assert len({place.key for place in places}) == count - fused

    @VERSIONS
    def test_diffusers_names(self, version: str) -> None:
        """Its own networks have exactly the keys that the tables name."""
        config = CONFIGS[version]
        unet = stage_table(config, "unet", on_meta(config, "unet")[1], "diffusers")
        theirs = diffusers_unet(config).state_dict()
        assert {place.key for place in unet.values()} == theirs.keys()

    def test_a_network_of_another_shape_is_refused(self) -> None:
        own = UNet(UNetConfig(channels=(16, 16), blocks=1, attention=(1,))).state_dict()
        with pytest.raises(AlphabarError, match=r"no place for the tensor 'encoder\.2\.attention\.to_q\.weight'"):
            stage_table(CONFIGS["1.x"], "unet", own, "diffusers")


def diffusers_unet(config: PipelineConfig) -> diffusers.UNet2DConditionModel:
    unet = config.unet
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(
            in_channels=unet.in_channels + unet.extra_channels,
            out_channels=unet.out_channels,
            block_out_channels=unet.channels,
            layers_per_block=unet.blocks,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=unet.num_heads,
            cross_attention_dim=unet.context_dim,
            use_linear_projection=unet.linear_projection,
        )


class TestRoundTrips:
    @VERSIONS
    def test_folder(self, version: str, models: Callable[[str], Model], tmp_path: Path) -> None:
        model = models(version)
        save_folder(model, tmp_path / "out")
        back = load(tmp_path / "out")
        whole = CONFIGS[version].layer == -2
        same_tensors(model, back, dropped="layers.3." if whole else "")  # what is not used is not written
        same_settings(model, back)
        prompts = ["a red fox", "x" * 99]
        assert model.text is not None
        assert back.text is not None
        torch.testing.assert_close(model.text.encode(prompts), back.text.encode(prompts), rtol=0, atol=0)

    @VERSIONS
    def test_single_file(
        self, version: str, models: Callable[[str], Model], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        model = models(version)
        save_single_file(model, tmp_path / "one.safetensors")
        back = load(tmp_path / "one.safetensors", tokenizer=tokens(model, tmp_path / "words"))
        same_tensors(model, back)
        same_settings(model, back)
        assert model.text is not None
        assert back.text is not None
        assert torch.equal(model.text.encode(["a red fox"]), back.text.encode(["a red fox"]))
        assert capfd.readouterr().err == ""  # the file says everything

    def test_from_one_layout_to_the_other_and_back(self, folder: Path, tmp_path: Path) -> None:
        one = load(folder)
        save_single_file(one, tmp_path / "one.safetensors")
        two = load(tmp_path / "one.safetensors", tokenizer=folder / "tokenizer")
        save_folder(two, tmp_path / "again")
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                assert (tmp_path / "again" / file.relative_to(folder)).read_bytes() == file.read_bytes(), file.name

    def test_half_precision_files_are_widened(self, models: Callable[[str], Model], tmp_path: Path) -> None:
        model = models("1.x")
        save_folder(model, tmp_path / "half", dtype=torch.float16)
        wide = load(tmp_path / "half")
        save_folder(wide, tmp_path / "again", dtype=torch.float16)
        assert {p.dtype for state in states(wide).values() for p in state.values()} == {torch.float32}
        for file in (tmp_path / "half").rglob("*.safetensors"):
            assert (tmp_path / "again" / file.relative_to(tmp_path / "half")).read_bytes() == file.read_bytes()
        torch.testing.assert_close(states(wide)["unet"], states(model)["unet"], rtol=1e-3, atol=1e-4)


def inputs(config: PipelineConfig) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x, t, the words and, for inpainting, mask and masked latents."""
    made = torch.Generator().manual_seed(1)
    extra = config.unet.extra_channels
    return (
        torch.randn(2, 4, 8, 8, generator=made),
        torch.tensor([3, 741]),
        torch.randn(2, 5, 32, generator=made),
        torch.randn(2, extra, 8, 8, generator=made) if extra else None,
    )


def same_unet(ours: torch.nn.Module, theirs: torch.nn.Module, config: PipelineConfig) -> None:
    x, t, words, concat = inputs(config)
    with torch.no_grad():
        beside = {} if concat is None else {"concat": concat}
        mine = ours(x, t, {"text": words, **beside})
        seen = x if concat is None else torch.cat([x, concat], dim=1)
        other = theirs(seen, t, encoder_hidden_states=words).sample
    assert mine.std() > 0.01
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


class TestDiffusersReadsOurFolders:
    @VERSIONS
    def test_the_same_numbers(self, version: str, models: Callable[[str], Model], tmp_path: Path) -> None:
        model, config = models(version), CONFIGS[version]
        root = tmp_path / "folder"
        save_folder(model, root)

        unet, report = diffusers.UNet2DConditionModel.from_pretrained(root / "unet", output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        same_unet(model.network, unet, config)

        vae, report = diffusers.AutoencoderKL.from_pretrained(root / "vae", output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
        with torch.no_grad():
            posterior = vae.encode(images).latent_dist
            moments = torch.cat([posterior.mean, posterior.std], dim=1)
            torch.testing.assert_close(model.codec.moments(images), moments, rtol=1e-4, atol=1e-4)
            z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
            theirs = vae.decode(z / vae.config.scaling_factor).sample
        torch.testing.assert_close(model.codec.decode(z), theirs, rtol=1e-4, atol=1e-4)

        kind = transformers.CLIPTextModel
        if config.text.projection_dim is not None:
            kind = transformers.CLIPTextModelWithProjection
        tower, report = kind.from_pretrained(root / "text_encoder", output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert model.text is not None
        prompts = ["a red fox", ""]
        with torch.no_grad():
            theirs = tower(model.text.tokenizer(prompts)).last_hidden_state
        torch.testing.assert_close(model.text.encode(prompts), theirs, rtol=1e-4, atol=1e-4)

    def test_the_tokenizer_and_the_schedule(self, models: Callable[[str], Model], folder: Path) -> None:
        model = models("1.x")
        assert model.text is not None
        words = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
        prompt = "a red fox, 42 of them"
        ids = words(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert model.text.tokenizer([prompt]).tolist() == [ids]
        scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
        ours = model.process.schedule.alphas_bar
        torch.testing.assert_close(ours, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)
        assert (scheduler.config.prediction_type, scheduler.config.steps_offset) == ("epsilon", 1)

    def test_a_whole_pipeline(self, folder: Path) -> None:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        image = pipeline("a fox", num_inference_steps=1, height=16, width=16, output_type="pt").images
        assert image.shape == (1, 3, 16, 16)


class TestWeReadDiffusersFolders:
    @pytest.mark.parametrize("version", ["1.x", "2.x"])
    def test_a_pipeline_that_diffusers_saved(
        self, version: str, models: Callable[[str], Model], folder: Path, tmp_path: Path
    ) -> None:
        config = CONFIGS[version]
        torch.manual_seed(0)
        unet = diffusers_unet(config).to_empty(device="cpu")
        for parameter in unet.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(128, 128),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            sample_size=32,
        )
        shape = config.text
        tower = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=shape.vocab_size,
                hidden_size=shape.width,
                intermediate_size=shape.mlp,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.num_heads,
                hidden_act=shape.activation,
                bos_token_id=512,
                eos_token_id=513,
                pad_token_id=0,
            )
        )
        kind = "v_prediction" if version == "2.x" else "epsilon"
        diffusers.StableDiffusionPipeline(
            unet=unet,
            vae=vae,
            text_encoder=tower,
            tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            scheduler=diffusers.PNDMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                skip_prk_steps=True,
                steps_offset=1,
                prediction_type=kind,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(tmp_path / "theirs")
        edit(tmp_path / "theirs" / "unet" / "config.json", sample_size=16)

        model = load(tmp_path / "theirs")
        assert model.settings == config.process
        assert (model.size, model.channels) == (32, 3)
        assert dict(model.card)["steps_offset"] == 1
        same_unet(model.network, unet, config)
        z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        assert model.text is not None
        with torch.no_grad():
            theirs = vae.decode(z / vae.config.scaling_factor).sample
            torch.testing.assert_close(model.codec.decode(z), theirs, rtol=1e-4, atol=1e-4)
            hidden = tower(model.text.tokenizer(["a fox"])).last_hidden_state
            torch.testing.assert_close(model.text.encode(["a fox"]), hidden, rtol=1e-4, atol=1e-4)

    def test_old_names_and_shapes(self, folder: Path, tmp_path: Path) -> None:
        """As the first diffusers folders have them: query, key, value, proj_attn; 1x1 convolutions; position_ids."""
        own = copied(folder, tmp_path / "old")

        def age(tensors: dict[str, Tensor]) -> None:
            names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
            for new, old in names.items():
                for side in ("encoder", "decoder"):
                    at = f"{side}.mid_block.attentions.0"
                    weight = tensors.pop(f"{at}.{new}.weight")
                    tensors[f"{at}.{old}.weight"] = weight[:, :, None, None] if side == "encoder" else weight
                    tensors[f"{at}.{old}.bias"] = tensors.pop(f"{at}.{new}.bias")

        def number(tensors: dict[str, Tensor]) -> None:
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]

        rewrite(own / "vae" / "diffusion_pytorch_model.safetensors", age)
        rewrite(own / "text_encoder" / "model.safetensors", number)
        edit(own / "vae" / "config.json", scaling_factor=None)
        edit(own / "unet" / "config.json", **dict.fromkeys(["num_class_embeds", "dropout", "freq_shift"]))
        same_tensors(load(folder), load(own))
        same_settings(load(folder), load(own))

    @pytest.mark.parametrize("ending", [".fp16.safetensors", ".safetensors.index.json", ".safetensors.index.fp16.json"])
    def test_other_file_names(self, ending: str, folder: Path, tmp_path: Path) -> None:
        own = copied(folder, tmp_path / "own")
        whole = own / "unet" / "diffusion_pytorch_model.safetensors"
        if ending.endswith("json"):
            split(whole, whole.with_name(f"diffusion_pytorch_model{ending}"))
        else:
            whole.rename(whole.with_name(f"diffusion_pytorch_model{ending}"))
        same_tensors(load(folder), load(own))


def split(whole: Path, index: Path) -> list[Path]:
    """A file in two shards with an index."""
    tensors = load_file(whole)
    keys = sorted(tensors)
    half = len(keys) // 2
    files = []
    weight_map = {}
    for number, part in enumerate((keys[:half], keys[half:]), start=1):
        files.append(whole.with_name(f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"))
        save_file({key: tensors[key] for key in part}, files[-1])
        weight_map.update(dict.fromkeys(part, files[-1].name))
    whole.unlink()
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


class TestSingleFilesAgainstDiffusers:
    """Its converters of the original layout give what our folders hold."""

    @VERSIONS
    def test_its_converters_agree(self, version: str, models: Callable[[str], Model], tmp_path: Path) -> None:
        model, config = models(version), CONFIGS[version]
        save_single_file(model, tmp_path / "one.safetensors")
        save_folder(model, tmp_path / "folder")
        original = load_file(tmp_path / "one.safetensors")
        unet = convert_ldm_unet_checkpoint(dict(original), {"layers_per_block": 1})
        same_files(unet, tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
        vae = convert_ldm_vae_checkpoint(dict(original), blocks)
        same_files(vae, tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors")
        if config.unet.linear_projection:
            shape = transformers.CLIPTextConfig(hidden_size=config.text.width)
            holder = type("Tower", (), {"config": shape})  # it reads the width and nothing else
            text = convert_open_clip_checkpoint(holder, dict(original))
            if config.layer == -2:  # it knows by number the layer that 2.x leaves out
                text = {key: tensor for key, tensor in text.items() if ".layers.3." not in key}
            if config.text.projection_dim is not None:  # it leaves out the projection of full size by name
                text["text_projection.weight"] = original["cond_stage_model.model.text_projection"].T
        else:
            text = convert_ldm_clip_checkpoint(dict(original))
        same_files(text, tmp_path / "folder" / "text_encoder" / "model.safetensors")


def same_files(converted: dict[str, Tensor], path: Path) -> None:
    tensors = load_file(path)
    assert converted.keys() == tensors.keys()
    assert [key for key in tensors if not torch.equal(tensors[key], converted[key])] == []


def sparse(path: Path, config: PipelineConfig, text_prefix: str, also: dict[str, tuple[int, ...]]) -> Path:
    """A file in the original layout as others publish it: full size, fp16, no metadata, all zeros and no disk space."""
    shapes = dict(also)
    prefixes: dict[Stage, str] = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text": text_prefix,
    }
    for stage, prefix in prefixes.items():
        own = on_meta(config, stage)[1]
        layout = "diffusers" if text_prefix.endswith("transformer.") and stage == "text" else "original"
        for name, place in stage_table(config, stage, own, layout, prefix).items():  # type: ignore[arg-type]
            shape = tuple(own[name].shape)
            if place.form == "1x1" and len(shape) == 2:
                shape = (*shape, 1, 1)
            elif place.form == "transposed":
                shape = shape[::-1]
            elif place.form in ("q", "k", "v"):
                shape = (3 * shape[0], *shape[1:])
            shapes[place.key] = shape
    header, at = {}, 0
    for key, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


class TestPublishedSingleFiles:
    """The version, and what such a file leaves open."""

    @pytest.mark.parametrize("inpainting", [False, True])
    def test_version_1(self, inpainting: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        config = sd15(inpainting=inpainting)
        ignored = {
            "model_ema.decay": (),
            "model_ema.diffusion_modelinput_blocks00weight": (3,),
            "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
            "betas": (1000,),
        }
        pipeline = open_pipeline(sparse(tmp_path / "v1.safetensors", config, "cond_stage_model.transformer.", ignored))
        assert pipeline.config == config
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert "schedule" in said
        assert "prediction (taking eps" in said
        assert len(pipeline.codec().autoencoder.state_dict()) == 248  # at full size, from 1x1 convolutions

    @pytest.mark.parametrize("prediction", [None, "v", "eps"])
    def test_version_2(self, prediction: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        whole = ClipTextConfig(width=1024, layers=24, num_heads=16, mlp=4096, activation="gelu", projection_dim=1024)
        config = replace(sd21(prediction=prediction or "v"), text=whole, layer=-2)
        ignored = {"cond_stage_model.model.logit_scale": (), "cond_stage_model.model.attn_mask": (77, 77)}
        path = sparse(tmp_path / "v2.safetensors", config, "cond_stage_model.model.", ignored)
        pipeline = open_pipeline(path, prediction=prediction)
        assert pipeline.config == config
        assert ("taking v" in capfd.readouterr().err) == (prediction is None)  # never guessed without a word

    def test_the_vocabulary_is_looked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A real distribution folder on the path, with a vocabulary of CLIP's form and size."""
        two = tiny(sd21(), vocab_size=49408)
        path = tmp_path / "one.safetensors"
        save_single_file(random_pipeline(two), path)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        with pytest.raises(AlphabarError, match="pip install --no-deps open_clip_torch"):
            open_pipeline(path).text()
        (tmp_path / "open_clip_torch-3.3.0.dist-info").mkdir()
        (tmp_path / "open_clip_torch-3.3.0.dist-info" / "METADATA").write_text(
            "Name: open_clip_torch\nVersion: 3.3.0\n"
        )
        (tmp_path / "open_clip_torch-3.3.0.dist-info" / "RECORD").write_text(f"open_clip/{CLIP_VOCABULARY},,\n")
        (tmp_path / "open_clip").mkdir()
        letters = [chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
        merges = [f"{one} {other}" for one in letters for other in letters] + [
            f"{one} {other}</w>" for one in letters for other in letters
        ]
        words = gzip.compress("\n".join(["version", *merges[:CLIP_MERGES]]).encode())
        (tmp_path / "open_clip" / CLIP_VOCABULARY).write_bytes(words)
        text = open_pipeline(path).text()
        assert text.tokenizer(["ab"])[0, -2:].tolist() == [0, 0]  # 2.x pads with "!", not with end-of-text
        assert text.tokenizer.end == 49407

    def test_its_own_table_must_be_the_schedule(self, single: Path, tmp_path: Path) -> None:
        own = tmp_path / "own.safetensors"
        own.write_bytes(single.read_bytes())
        notes = metadata(single)
        table = sd15().process.build().schedule.alphas_bar.float()
        rewrite(own, lambda tensors: tensors.update(alphas_cumprod=table), notes)
        assert open_pipeline(own).config == CONFIGS["1.x"]
        rewrite(own, lambda tensors: tensors.update(alphas_cumprod=table**2), notes)
        with pytest.raises(AlphabarError, match=r"own\.safetensors: its alphas_cumprod is not the scaled"):
            open_pipeline(own)

    def test_names_without_text_model(self, single: Path, folder: Path, tmp_path: Path) -> None:
        own = tmp_path / "own.safetensors"
        save_file(
            {key.replace("transformer.text_model.", "transformer."): x for key, x in load_file(single).items()},
            own,
            metadata(single),
        )
        words = folder / "tokenizer"
        same_tensors(load(single, tokenizer=words), load(own, tokenizer=words))

    def test_prediction_of_ones_own(self, single: Path) -> None:
        assert open_pipeline(single, prediction="v").config.process.prediction == "v"


def rename(key: str, new: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({new: tensors.pop(key)})


UNET_FILE, VAE_FILE, TEXT_FILE = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)
SCHEDULER = "scheduler/scheduler_config.json"
BAD_TENSORS = {
    "a key renamed": (UNET_FILE, rename("conv_in.bias", "conv_in.bias2"), "lacks 'conv_in.bias' (2 keys differ)"),
    "a key too many": (UNET_FILE, lambda x: x.update(more=torch.zeros(1)), "has an unknown key 'more' (1 keys differ)"),
    "a key missing": (VAE_FILE, lambda x: x.pop("quant_conv.bias"), "lacks 'quant_conv.bias' (1 keys differ)"),
    "a wrong shape": (
        TEXT_FILE,
        lambda x: x.update({"text_model.final_layer_norm.bias": torch.zeros(31)}),
        "'text_model.final_layer_norm.bias' has shape [31], which does not fit [32] here",
    ),
}
BAD_SETTINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "schedule": (SCHEDULER, {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
    "betas": (SCHEDULER, {"beta_end": 0.02}, "beta_end is 0.02; alphabar's scaled-linear"),
    "trained betas": (SCHEDULER, {"trained_betas": [0.1]}, "trained_betas are not supported"),
    "betas left out": (SCHEDULER, {"beta_start": None}, "beta_start is 0.0001"),
    "no schedule": (SCHEDULER, {"beta_schedule": None}, "beta_schedule: this key is required"),
    "prediction": (SCHEDULER, {"prediction_type": "flow"}, "prediction_type is 'flow'"),
    "terminal": (SCHEDULER, {"rescale_betas_zero_snr": True}, "with zero terminal SNR use v"),
    "timesteps": (SCHEDULER, {"num_train_timesteps": "x"}, "num_train_timesteps should be a"),
    "activation": (
        "unet/config.json",
        {"act_fn": "gelu"},
        "act_fn is 'gelu'; Stable Diffusion 1.x and",
    ),
    "blocks": ("unet/config.json", {"up_block_types": ["UpBlock2D"]}, "up_block_types should be ['UpBlock2D', 'Cross"),
    "widths": ("unet/config.json", {"block_out_channels": "wide"}, "block_out_channels should be a whole number or"),
    "groups": ("unet/config.json", {"norm_num_groups": 16}, "norm_num_groups is 16; at these widths ours is 32"),
    "vae": ("vae/config.json", {"use_quant_conv": False}, "use_quant_conv is False"),
    "scale": ("vae/config.json", {"scaling_factor": "small"}, "scaling_factor should be a number, got 'small'"),
    "no scale": ("vae/config.json", {"scaling_factor": 0.0}, "scaling_factor must be positive, got 0.0"),
    "spacing": (SCHEDULER, {"timestep_spacing": "wide"}, "spacing cannot be 'wide'"),
    "heads": ("unet/config.json", {"attention_head_dim": 7}, "7 does not divide 128"),
    "size": ("unet/config.json", {"sample_size": 0}, "the size of the images must be positive"),
    "text": ("text_encoder/config.json", {"hidden_size": None}, "hidden_size: this key is required"),
    "perceptron": ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    "another model": (
        "model_index.json",
        {"text_encoder_2": ["transformers", "CLIPTextModel"]},
        "has a text_encoder_2",
    ),
}


def fails(name: str | Path, *says: str, **options: Any) -> None:
    """One line that names what is wrong."""
    with pytest.raises(AlphabarError) as caught:
        load(name, **options)
    line = str(caught.value)
    assert "\n" not in line
    for part in says:
        assert part in line, line


class TestBadFiles:
    @pytest.mark.parametrize("case", BAD_TENSORS)
    def test_tensors(self, case: str, folder: Path, tmp_path: Path) -> None:
        file, change, says = BAD_TENSORS[case]
        own = copied(folder, tmp_path / "own")
        rewrite(own / file, change)
        fails(own, str(own / file), says)

    @pytest.mark.parametrize("case", BAD_SETTINGS)
    def test_settings(self, case: str, folder: Path, tmp_path: Path) -> None:
        file, values, says = BAD_SETTINGS[case]
        own = copied(folder, tmp_path / "own")
        edit(own / file, **values)
        fails(own, str(own), says)

    @pytest.mark.parametrize(
        "file",
        [
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "vae/config.json",
            "text_encoder/config.json",
            "tokenizer/merges.txt",
            UNET_FILE,
        ],
    )
    def test_a_missing_file(self, file: str, folder: Path, tmp_path: Path) -> None:
        own = copied(folder, tmp_path / "own")
        (own / file).unlink()
        fails(own, str((own / file).parent), Path(file).stem)

    def test_a_truncated_file(self, folder: Path, single: Path, tmp_path: Path) -> None:
        own = copied(folder, tmp_path / "own")
        whole = (own / UNET_FILE).read_bytes()
        (own / UNET_FILE).unlink()
        (own / UNET_FILE).write_bytes(whole[:-9])
        fails(own, str(own / UNET_FILE), "not a whole safetensors file")
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(single.read_bytes()[:100])
        fails(cut, str(cut), "not a whole safetensors file")
        fails(tmp_path / "absent.safetensors", "no such file", "absent.safetensors")

    def test_pickles(self, folder: Path, tmp_path: Path) -> None:
        one = tmp_path / "model.ckpt"
        torch.save({"state_dict": {"x": torch.ones(2)}}, one)
        assert is_stable_diffusion(one)
        fails(one, f"{one} is a pickle", "runs whatever code it carries", "python -c")
        own = copied(folder, tmp_path / "own")
        (own / UNET_FILE).rename(own / "unet" / "diffusion_pytorch_model.bin")
        fails(own, "diffusion_pytorch_model.bin is a pickle", "python -c")

    def test_the_conversion_that_is_advised_works(self, tmp_path: Path) -> None:
        one = tmp_path / "model.ckpt"
        torch.save({"state_dict": {"x": torch.ones(2), "step": 3}}, one)
        with pytest.raises(AlphabarError) as caught:
            load(one)
        script = re.search(r'python -c "(.*)"', str(caught.value))
        assert script
        exec(script[1], {})
        assert torch.equal(load_file(tmp_path / "model.safetensors")["x"], torch.ones(2))

    def test_shards(self, folder: Path, tmp_path: Path) -> None:
        own = copied(folder, tmp_path / "own")
        index = own / "unet" / "diffusion_pytorch_model.safetensors.index.json"
        files = split(own / UNET_FILE, index)
        files[1].unlink()
        fails(own, str(index), f"names {files[1].name}, which is not there")
        index.write_text("{}")
        fails(own, str(index), "weight_map")

    def test_single_files(self, single: Path, tmp_path: Path) -> None:
        own, notes = tmp_path / "own.safetensors", metadata(single)

        def changed(change: Callable[[dict[str, Tensor]], object], **other: str) -> Path:
            own.write_bytes(single.read_bytes())
            rewrite(own, change, {**notes, **other})
            return own

        fails(
            changed(rename("first_stage_model.quant_conv.bias", "strange.key")), str(own), "unknown key 'strange.key'"
        )
        fails(changed(lambda x: x.pop("model.diffusion_model.out.2.bias")), "lacks 'model.diffusion_model.out.2.bias'")
        shaped = {"model.diffusion_model.out.2.bias": torch.zeros(5)}
        fails(changed(lambda x: x.update(shaped)), "'model.diffusion_model.out.2.bias' has shape [5]")
        fails(changed(lambda x: None, alphabar="{"), str(own), "alphabar metadata is not valid JSON")
        fails(changed(lambda x: None, alphabar='{"sise": 3}'), "alphabar metadata: sise: unknown key")
        attention = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
        fails(changed(lambda x: x.pop(attention)), "is not a Stable Diffusion 1.x or 2.x file", attention)
        save_file(load_file(single), own)
        fails(own, "is 32 wide; Stable Diffusion 1.x has 768, 2.x 1024")

    def test_what_is_not_stable_diffusion(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        fails(tmp_path / "a", "has no model_index.json")
        fails(tmp_path / "b", "is not a folder, a .safetensors file or an id of the hub")

    def test_models_without_a_place_in_the_layouts(self, models: Callable[[str], Model], tmp_path: Path) -> None:
        model = models("1.x")
        narrow = tiny(sd15())
        narrow = replace(narrow, unet=replace(narrow.unet, channels=(32, 64), emb_dim=128))
        scaled = replace(model.codec.autoencoder.config, middle_blocks=1)  # type: ignore[attr-defined]
        codec = type(model.codec)(ConvAutoencoder(scaled))  # type: ignore[call-arg]
        channels = type(model.codec)(model.codec.autoencoder, scale=torch.rand(4))  # type: ignore
        for other, says in (
            (random_pipeline(narrow), "the group norms of this UNet have"),
            (replace(model, text=None), "only a model with a text encoder"),
            (replace(model, codec=codec), "conv-autoencoder.middle_blocks is 2, not 1"),
            (replace(model, codec=channels), "one latent scale for all channels"),
            (
                replace(model, settings=replace(model.settings, schedule="constant")),
                "no word for the schedule",
            ),
        ):
            with pytest.raises(AlphabarError, match=re.escape(says)):
                save_folder(other, tmp_path / "out")
            assert not (tmp_path / "out").exists()
            assert list(tmp_path.iterdir()) == []


class TestNames:
    def test_what_is_recognised(self, folder: Path, single: Path, tmp_path: Path) -> None:
        assert is_stable_diffusion(folder)
        assert is_stable_diffusion(single)
        assert is_stable_diffusion("organisation/name")
        assert not is_stable_diffusion("fashion-pixel")
        assert not is_stable_diffusion(tmp_path)
        assert not is_stable_diffusion(f"{tmp_path}/run")

    def test_a_run_that_is_not_there_is_no_id_of_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert is_stable_diffusion("runs/mine")
        (tmp_path / "runs").mkdir()
        assert not is_stable_diffusion("runs/mine")

    def test_the_hub(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Offline: what the cache holds is used; what it does not hold is one line."""
        from huggingface_hub import constants

        cache = tmp_path / "cache"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        fails("somebody/nothing", "'somebody/nothing' is neither here nor")
        commit = "0" * 40
        copied(folder, cache / "models--somebody--something" / "snapshots" / commit)
        refs = cache / "models--somebody--something" / "refs"
        refs.mkdir()
        (refs / "main").write_text(commit)
        same_tensors(load(folder), load("somebody/something"))


class Watched(Pipeline):
    """Fails when a stage is read while another is alive."""

    def _read(self, stage: Stage, dtype: torch.dtype) -> torch.nn.Module:
        gc.collect()
        assert [name for name, held in ALIVE.items() if held() is not None] == []
        read = super()._read(stage, dtype)
        ALIVE[stage] = weakref.ref(read)
        return read


ALIVE: dict[str, weakref.ref[torch.nn.Module]] = {}


class TestStages:
    def test_low_memory_gives_the_same_images(self, folder: Path) -> None:
        pipeline = open_pipeline(folder)
        sampler = SamplerConfig("ddim", steps=2, spacing="leading", offset=1)
        options: dict[str, Any] = {"prompts": ["a fox", "two"], "negative": "bad", "guidance": Guidance(3.0), "seed": 5}
        whole = sample(pipeline.load(), 2, sampler, **options)
        ALIVE.clear()
        watched = Watched(pipeline.source, pipeline.config, pipeline.stored, pipeline.read_tokenizer)
        by_stage = sample(LowMemory(watched), 2, sampler, **options)
        assert ALIVE.keys() == {"text", "unet", "vae"}
        assert whole.std() > 0.01
        torch.testing.assert_close(by_stage, whole, rtol=0, atol=1e-4)

    def test_low_memory_tiles_large_images_and_runs_a_prepared_network(self, folder: Path) -> None:
        parts = LowMemory(open_pipeline(folder))
        assert parts.codec.tile == 512
        assert isinstance(parts.network, InferenceNetwork)

    def test_bf16(self, folder: Path) -> None:
        """Half the memory, float32 at the door, and refused where rounded weights would be written."""
        pipeline = open_pipeline(folder)
        half, whole = pipeline.network("bf16"), pipeline.network()
        assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
        x, t, words, _ = inputs(CONFIGS["1.x"])
        with torch.no_grad():
            given, exact = half(x, t, {"text": words}), whole(x, t, {"text": words})
        assert given.dtype == torch.float32
        assert (given - exact).square().mean() < 1e-3 * exact.square().mean()
        with pytest.raises(AlphabarError, match="InferenceNetwork"):
            save_folder(pipeline.load("bf16"), folder.with_name("never"))

    def test_random_pipelines_are_of_their_seed(self) -> None:
        config = CONFIGS["1.x"]
        one, same, other = (random_pipeline(config, seed).network.state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert not any(torch.equal(one[key], other[key]) for key in one)
        assert all(tensor.std() > 0 for tensor in one.values())
