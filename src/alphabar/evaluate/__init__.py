"""How good the images are, what they cost, and what the networks know."""

from alphabar.evaluate.autoencoder import (
    Arithmetic,
    Interpolation,
    LatentShare,
    QualityLadder,
    arithmetic,
    interpolate,
    latent_share,
    mean_latents,
    psnr,
    quality_ladder,
)
from alphabar.evaluate.cost import (
    CallCost,
    CountedCost,
    call_cost,
    count_flops,
    median_seconds,
    peak_bytes,
    scale_by_count,
)
from alphabar.evaluate.distance import KernelDistance, frechet_distance, kernel_distance
from alphabar.evaluate.features import ClassHistogram, Floor, Judge, Score, class_histogram, extract_features, floor
from alphabar.evaluate.timesteps import LevelLoss, SinglePrediction, loss_by_timestep, single_prediction

__all__ = [
    "Arithmetic",
    "CallCost",
    "ClassHistogram",
    "CountedCost",
    "Floor",
    "Interpolation",
    "Judge",
    "KernelDistance",
    "LatentShare",
    "LevelLoss",
    "QualityLadder",
    "Score",
    "SinglePrediction",
    "arithmetic",
    "call_cost",
    "class_histogram",
    "count_flops",
    "extract_features",
    "floor",
    "frechet_distance",
    "interpolate",
    "kernel_distance",
    "latent_share",
    "loss_by_timestep",
    "mean_latents",
    "median_seconds",
    "peak_bytes",
    "psnr",
    "quality_ladder",
    "scale_by_count",
    "single_prediction",
]
