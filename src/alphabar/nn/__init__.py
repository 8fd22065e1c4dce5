"""The networks: they know torch and nothing of diffusion, data or files."""

from alphabar.nn.attention import Attention, SelfAttention2d, Transformer2d, TransformerBlock, attention
from alphabar.nn.autoencoder import (
    Autoencoder,
    ConvAutoencoder,
    ConvAutoencoderConfig,
    DenseAutoencoder,
    DenseAutoencoderConfig,
    Gaussian,
)
from alphabar.nn.classifier import Classifier, ClassifierConfig
from alphabar.nn.clip import (
    Clip,
    ClipConfig,
    ClipImage,
    ClipImageConfig,
    ClipText,
    ClipTextConfig,
    ClipTextOutput,
    Retrieval,
    contrastive_loss,
    retrieval,
    same_captions,
)
from alphabar.nn.config import NetworkConfig
from alphabar.nn.layers import Downsample, ResBlock, TimeEmbedding, Upsample, timestep_embedding
from alphabar.nn.perceptual import (
    FeatureNetwork,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    PerceptualLoss,
    adaptive_weight,
    discriminator_hinge,
    generator_hinge,
    learned_metric,
)
from alphabar.nn.registry import CONFIGS, build, config_from_dict, config_to_dict
from alphabar.nn.unet import SmallUNet, SmallUNetConfig, UNet, UNetConfig

__all__ = [
    "CONFIGS",
    "Attention",
    "Autoencoder",
    "Classifier",
    "ClassifierConfig",
    "Clip",
    "ClipConfig",
    "ClipImage",
    "ClipImageConfig",
    "ClipText",
    "ClipTextConfig",
    "ClipTextOutput",
    "ConvAutoencoder",
    "ConvAutoencoderConfig",
    "DenseAutoencoder",
    "DenseAutoencoderConfig",
    "Downsample",
    "FeatureNetwork",
    "Gaussian",
    "NetworkConfig",
    "PatchDiscriminator",
    "PatchDiscriminatorConfig",
    "PerceptualLoss",
    "ResBlock",
    "Retrieval",
    "SelfAttention2d",
    "SmallUNet",
    "SmallUNetConfig",
    "TimeEmbedding",
    "Transformer2d",
    "TransformerBlock",
    "UNet",
    "UNetConfig",
    "Upsample",
    "adaptive_weight",
    "attention",
    "build",
    "config_from_dict",
    "config_to_dict",
    "contrastive_loss",
    "discriminator_hinge",
    "generator_hinge",
    "learned_metric",
    "retrieval",
    "same_captions",
    "timestep_embedding",
]
