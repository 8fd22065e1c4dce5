"""The algorithm: knows no network, no pixels, no latents, no words."""

from alphabar.diffusion.guidance import CFG, Inpaint
from alphabar.diffusion.prediction import PREDICTIONS, Prediction, make_prediction
from alphabar.diffusion.process import WEIGHTS, Process, make_weight, min_snr, uniform
from alphabar.diffusion.sampler import Grid, Step, ddim, ddpm, dpmpp_2m, heun, one_shot
from alphabar.diffusion.schedule import CLEAN, SCHEDULES, NoiseSchedule, make_schedule

__all__ = [
    "CFG",
    "CLEAN",
    "PREDICTIONS",
    "SCHEDULES",
    "WEIGHTS",
    "Grid",
    "Inpaint",
    "NoiseSchedule",
    "Prediction",
    "Process",
    "Step",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "heun",
    "make_prediction",
    "make_schedule",
    "make_weight",
    "min_snr",
    "one_shot",
    "uniform",
]
