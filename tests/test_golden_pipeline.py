"""Words to pictures as a whole against diffusers: the same weights, prompts and initial latents give the same images.

What makes the two comparable: alpha-bar 1 after the last step and trailing timesteps, see `test_golden`;
a number of steps that divides 1000 (diffusers' DDIM walks by the whole number 1000 // n, whatever its timesteps are).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from torch import Tensor

from alphabar.generate import Guidance, SamplerConfig, encode_prompts, generate
from alphabar.models import Model
from alphabar.rng import Rng
from alphabar.stable_diffusion import PipelineConfig, load, random_pipeline, save_folder, sd15, sd21

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS, NEGATIVE, STEPS = ["a red fox", "two boats at dusk"], "blurred", 20
COMMON = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}


def tiny(full: PipelineConfig, prediction: str) -> PipelineConfig:
    """Its structure, two levels deep; 128 channels are the least that have diffusers' 32 groups."""
    unet = replace(full.unet, channels=(128, 128), blocks=1, attention=(0,), num_heads=4, emb_dim=512, context_dim=32)
    vae = replace(full.vae, channels=(128, 128), encoder_blocks=1, decoder_blocks=2)
    text = replace(full.text, vocab_size=600, width=32, layers=2, num_heads=4, mlp=64)
    return replace(full, unet=unet, vae=vae, text=text, process=replace(full.process, prediction=prediction), size=16)


def schedulers(name: str, prediction: str) -> object:
    kind = {"eps": "epsilon", "v": "v_prediction"}[prediction]
    if name == "ddim":
        return diffusers.DDIMScheduler(
            1000, **COMMON, prediction_type=kind, clip_sample=False, set_alpha_to_one=True, steps_offset=0
        )
    return diffusers.DPMSolverMultistepScheduler(
        1000, **COMMON, prediction_type=kind, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )


def ours(model: Model, name: str) -> tuple[Tensor, Tensor]:
    """Latents and images in 0..1."""
    cond, null = encode_prompts(model, PROMPTS, NEGATIVE)
    sampler = SamplerConfig(name, STEPS)  # type: ignore[arg-type]
    *_, last = generate(model, range(2), sampler, cond=cond, null=null, guidance=Guidance(7.5))
    return last.x, (model.codec.decode(last.x) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("version", ["1.x", "2.x"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_whole_run(version: str, prediction: str, tmp_path: Path) -> None:
    full = sd15() if version == "1.x" else sd21()
    save_folder(random_pipeline(tiny(full, prediction), seed=3), tmp_path / "sd")
    model = load(tmp_path / "sd")
    assert model.settings.prediction == prediction
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "sd", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    latents = Rng(0, range(2), "initial").normal(*model.shape(2)[1:])
    for name in ("ddim", "dpmpp-2m"):
        pipeline.scheduler = schedulers(name, prediction)
        expected = [
            pipeline(
                PROMPTS,
                negative_prompt=[NEGATIVE] * 2,
                guidance_scale=7.5,
                num_inference_steps=STEPS,
                height=16,
                width=16,
                latents=latents,
                output_type=kind,
            ).images
            for kind in ("latent", "pt")
        ]
        x, images = ours(model, name)
        assert (x - expected[0]).abs().max() < 1e-4 * expected[0].abs().max()
        assert (images - expected[1]).abs().max() < 1e-4
        assert images.std() > 0.05


@pytest.mark.slow
def test_full_size(tmp_path: Path) -> None:
    """Stable Diffusion 1.5's shapes at 512x512, random weights: one call of the U-Net and one decode."""
    model = random_pipeline(sd15())
    save_folder(model, tmp_path / "sd")
    latents = Rng(0, range(1), "initial").normal(*model.shape(1)[1:])
    t, text = torch.tensor([500]), torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eps, image = model.network(latents, t, {"text": text}), model.codec.decode(latents)
        del model
        unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "sd" / "unet")
        assert relative(eps, unet(latents, t, text).sample) < 1e-5
        del unet
        vae = diffusers.AutoencoderKL.from_pretrained(tmp_path / "sd" / "vae")
        assert relative(image, vae.decode(latents / vae.config.scaling_factor).sample) < 1e-5


def relative(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()
