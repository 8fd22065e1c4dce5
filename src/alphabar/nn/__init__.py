"""The networks: they know torch and nothing of diffusion, data or files."""

from alphabar.nn.attention import SelfAttention2d, attention
from alphabar.nn.autoencoder import (
    Autoencoder,
    ConvAutoencoder,
    ConvAutoencoderConfig,
    DenseAutoencoder,
    DenseAutoencoderConfig,
    Gaussian,
)
from alphabar.nn.classifier import Classifier, ClassifierConfig
from alphabar.nn.config import NetworkConfig
from alphabar.nn.layers import Downsample, ResBlock, TimeEmbedding, Upsample, timestep_embedding
from alphabar.nn.registry import CONFIGS, build, config_from_dict, config_to_dict
from alphabar.nn.unet import SmallUNet, SmallUNetConfig, UNet, UNetConfig

__all__ = [
    "CONFIGS",
    "Autoencoder",
    "Classifier",
    "ClassifierConfig",
    "ConvAutoencoder",
    "ConvAutoencoderConfig",
    "DenseAutoencoder",
    "DenseAutoencoderConfig",
    "Downsample",
    "Gaussian",
    "NetworkConfig",
    "ResBlock",
    "SelfAttention2d",
    "SmallUNet",
    "SmallUNetConfig",
    "TimeEmbedding",
    "UNet",
    "UNetConfig",
    "Upsample",
    "attention",
    "build",
    "config_from_dict",
    "config_to_dict",
    "timestep_embedding",
]
