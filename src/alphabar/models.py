"""Model folders: `model.json` beside safetensors, for denoisers, autoencoders, CLIP and classifiers.

A folder says everything that is needed to use its weights: the network's shape, schedule and prediction type, the codec
with its scale, the text encoder with its tokeniser, the size of the images. Nothing is guessed at load, and the hashes
in `model.json` must fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alphabar import config, engine
from alphabar.codec import Codec, LatentCodec, load_codec
from alphabar.diffusion import Process, make_prediction, make_schedule, make_weight
from alphabar.errors import AlphabarError, nearest
from alphabar.io import atomic_folder, hash_tensors, load_tensors, load_weights, read_json, save_tensors, write_json
from alphabar.nn import Classifier, Clip, build, config_from_dict, config_to_dict
from alphabar.text import TextEncoder, load_text
from alphabar.tokenizer import Tokenizer
from alphabar.types import Denoiser

FORMAT = 1
PRETRAINED = Path(__file__).parent / "pretrained"
TOKENIZER = "tokenizer.json"
KEYS = {
    "denoiser": ("image", "process", "network", "network_sha256", "codec"),
    "autoencoder": ("image", "codec"),
    "classifier": ("image", "network", "network_sha256"),
    "clip": ("image", "network", "network_sha256"),
}
"""What model.json holds for each kind, besides format, kind and card: tables, and hashes as text. A denoiser that is
told words also has `text`."""


@dataclass(frozen=True)
class ProcessConfig:
    """The process as recipes and model folders write it.

    Args:
        schedule: linear, cosine, scaled-linear or constant.
        timesteps: T.
        zero_terminal_snr: rescale the schedule so that its last step holds no signal.
        prediction: eps, x0 or v.
        weight: of the loss: uniform or min-snr.
        clip: x0 is known to lie in [-clip, clip]; the denoiser clamps its estimate there.
    """

    schedule: str = "cosine"
    timesteps: int = 1000
    zero_terminal_snr: bool = False
    prediction: str = "v"
    weight: str = "uniform"
    clip: float | None = None

    def __post_init__(self) -> None:
        config.check(self.timesteps > 0, f"timesteps must be positive, got {self.timesteps}")
        config.check(self.clip is None or self.clip > 0, f"clip must be positive, got {self.clip}")
        self.build()

    def build(self) -> Process:
        """The process itself."""
        schedule = make_schedule(self.schedule, self.timesteps, zero_terminal_snr=self.zero_terminal_snr)
        return Process(schedule, make_prediction(self.prediction), make_weight(self.weight))


@dataclass(frozen=True)
class ImageConfig:
    """The images of a model: height and width, and 1 channel for greyscale or 3 for colour."""

    size: int
    channels: int


@dataclass(frozen=True)
class Model:
    """A denoising network with its process and bookends: everything that is needed to make images.

    Args:
        network: the denoising network, in evaluation mode.
        settings: schedule, prediction and clip.
        codec: the bookends.
        size: height and width of an image.
        channels: 1 for greyscale, 3 for colour.
        card: how the weights were made, as plain values.
        text: what turns prompts into what the network is told; None where it is told nothing.
    """

    network: nn.Module
    settings: ProcessConfig
    codec: Codec
    size: int
    channels: int
    card: Mapping[str, Any] = field(default_factory=dict)
    text: TextEncoder | None = None

    @property
    def process(self) -> Process:
        """Schedule, prediction and weight."""
        return self.settings.build()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def extra_channels(self) -> int:
        """Channels that the network is shown beside x: of a mask and an image, where it was trained to fill in."""
        return getattr(getattr(self.network, "config", None), "extra_channels", 0)

    def shape(self, n: int) -> tuple[int, ...]:
        """Of the x0 of n images."""
        return self.codec.shape(n, self.size, self.size)

    def to(self, device: torch.device | str) -> Model:
        """Move network, codec and text encoder, in place."""
        self.network.to(device)
        self.codec.to(device)
        if self.text is not None:
            self.text.to(device)
        return self

    def prepared(self, precision: engine.Precision, *, copy: bool = True) -> Model:
        """The same model with a frozen copy of its network in the fastest form for sampling; see `engine`.

        Without a copy the network itself is changed, which spares a large one's memory; this model is then used up.
        """
        return replace(self, network=engine.prepare_inference(self.network, precision, copy=copy))

    def denoiser(self) -> Denoiser:
        """What samplers see."""
        return self.process.denoiser(self.network, self.settings.clip)

    def save(self, folder: Path) -> None:
        """Write the model folder: model.json, network.safetensors; codec.safetensors for latents; the text encoder."""
        with atomic_folder(folder) as temporary:
            description = {
                "process": config.to_dict(self.settings),
                **_save_network(self.network, temporary),
                "codec": self.codec.save(temporary),
                **({} if self.text is None else {"text": self.text.save(temporary)}),
            }
            _describe(temporary, "denoiser", self.size, self.channels, description, self.card)


def load_model(name: str | Path) -> Model:
    """Load a denoiser from a model folder, a run folder or by the name of one that comes with the package."""
    folder, description = _read(name, "denoiser")
    path = folder / "model.json"
    image = config.from_dict(ImageConfig, description["image"], f"{path}: [image]")
    return Model(
        network=_load_network(folder, description),
        settings=config.from_dict(ProcessConfig, description["process"], f"{path}: [process]"),
        codec=load_codec(folder, description["codec"]),
        size=image.size,
        channels=image.channels,
        card=description["card"],
        text=load_text(folder, config.read(description, "text", dict, str(path))) if "text" in description else None,
    )


def save_autoencoder(codec: LatentCodec, size: int, channels: int, card: Mapping[str, Any], folder: Path) -> None:
    """Write an autoencoder with its latent scale as a model folder."""
    with atomic_folder(folder) as temporary:
        _describe(temporary, "autoencoder", size, channels, {"codec": codec.save(temporary)}, card)


def load_autoencoder(name: str | Path) -> LatentCodec:
    """Load an autoencoder with its latent scale, its own folder's or a denoiser's; see `load_model` for the name."""
    folder, description = _read(name, None)
    codec = load_codec(folder, description["codec"]) if "codec" in description else None
    if not isinstance(codec, LatentCodec):
        raise AlphabarError(f"{folder} holds a model of kind {description['kind']!r} without an autoencoder")
    return codec


def save_classifier(network: nn.Module, size: int, channels: int, card: Mapping[str, Any], folder: Path) -> None:
    """Write a classifier as a model folder."""
    with atomic_folder(folder) as temporary:
        _describe(temporary, "classifier", size, channels, _save_network(network, temporary), card)


def load_classifier(name: str | Path) -> Classifier:
    """Load a classifier; see `load_model` for the name."""
    folder, description = _read(name, "classifier")
    network = _load_network(folder, description)
    assert isinstance(network, Classifier)
    return network


def save_clip(
    network: nn.Module, tokenizer: Tokenizer, size: int, channels: int, card: Mapping[str, Any], folder: Path
) -> None:
    """Write both towers of a CLIP and its tokeniser as a model folder."""
    with atomic_folder(folder) as temporary:
        tokenizer.save(temporary / TOKENIZER)
        _describe(temporary, "clip", size, channels, _save_network(network, temporary), card)


def load_clip(name: str | Path) -> tuple[Clip, Tokenizer]:
    """Load both towers of a CLIP and its tokeniser; see `load_model` for the name."""
    folder, description = _read(name, "clip")
    network = _load_network(folder, description)
    assert isinstance(network, Clip)
    return network, Tokenizer.from_file(folder / TOKENIZER)


def load_text_encoder(name: str | Path, layer: int = -1) -> TextEncoder:
    """The text tower of a CLIP, as a denoiser uses it.

    Args:
        name: see `load_model`.
        layer: whose output is used, counted from the end: -1 is the last.
    """
    clip, tokenizer = load_clip(name)
    return TextEncoder(tokenizer, clip.text, layer)


def kind_of(name: str | Path) -> str:
    """What a model folder holds: denoiser, autoencoder, clip or classifier."""
    return str(_read(name, None)[1]["kind"])


def read_card(name: str | Path) -> dict[str, Any]:
    """How the weights of a model folder were made."""
    return dict(_read(name, None)[1]["card"])


def read_image(name: str | Path) -> tuple[int, int]:
    """Size and channels of the images of a model folder."""
    image = _read(name, None)[1]["image"]
    return image["size"], image["channels"]


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.parent.name for p in PRETRAINED.glob("*/model.json"))


def _describe(
    folder: Path, kind: str, size: int, channels: int, description: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    image = {"size": size, "channels": channels}
    write_json(
        folder / "model.json", {"format": FORMAT, "kind": kind, "image": image, **description, "card": dict(card)}
    )


def _save_network(network: nn.Module, folder: Path) -> dict[str, Any]:
    weights = network.state_dict()
    save_tensors(folder / "network.safetensors", weights)
    return {"network": config_to_dict(network.config), "network_sha256": hash_tensors(weights)}  # type: ignore[arg-type]


def _load_network(folder: Path, description: Mapping[str, Any]) -> nn.Module:
    path = folder / "network.safetensors"
    tensors = load_tensors(path)
    network = build(config_from_dict(description["network"]))
    load_weights(network, tensors, path)
    if hash_tensors(tensors) != description["network_sha256"]:
        raise AlphabarError(f"{path} is not the network that model.json describes (its hash differs)")
    return network.eval().requires_grad_(False)


def _read(name: str | Path, kind: str | None) -> tuple[Path, dict[str, Any]]:
    """Find a model folder (itself, a run's `model/`, or a shipped one) and read its model.json."""
    shipped_as = (PRETRAINED / str(name), PRETRAINED / f"{name}-latent")  # `emoji` is emoji-latent
    candidates = (Path(name), Path(name) / "model", *shipped_as)
    folder = next((c for c in candidates if (c / "model.json").is_file()), None)
    if folder is None:
        if (Path(name) / "recipe.json").is_file():
            raise AlphabarError(f"{name} has no finished checkpoint yet; let `alphabar train` run longer")
        raise AlphabarError(f"no model at {str(name)!r}: not a model or run folder{nearest(str(name), shipped())}")
    path = folder / "model.json"
    description = read_json(path)
    if description.get("format") != FORMAT:
        raise AlphabarError(f"{path}: format {description.get('format')} is not the {FORMAT} that this alphabar reads")
    found = description.get("kind")
    if found not in KEYS or kind not in (None, found):
        raise AlphabarError(f"{folder} holds a model of kind {found!r}, not {kind or ' or '.join(KEYS)}")
    for key in (*KEYS[found], "card"):
        config.read(description, key, str if key.endswith("sha256") else dict, str(path))
    return folder, description
