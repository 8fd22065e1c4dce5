"""Where the tensors are: safetensors files, read one tensor at a time, in folders or on the hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from alphabar.errors import AlphabarError
from alphabar.io import PICKLES, atomic_file, read_json

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""The folder of each component -> what its files are called."""
SETTINGS = (
    "model_index.json",
    *(f"{component}/config.json" for component in STEMS),
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",  # new folders have this one alone, old ones the next two
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
)


class LazyTensors(Mapping[str, Tensor]):
    """Tensors of one or more safetensors files, by key; each is read when it is asked for.

    Args:
        where: names the files in errors.
        places: key -> the file and the key there.
    """

    def __init__(self, where: object, places: dict[str, tuple[Path, str]]) -> None:
        self.where = where
        self._places = places

    @classmethod
    def of(cls, where: object, files: Iterable[Path]) -> LazyTensors:
        """All tensors of some files."""
        places = {}
        for file in files:
            with _opened(file) as handle:
                keys: list[str] = handle.keys()
                places.update({key: (file, key) for key in keys})
        return cls(where, places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Tensor:
        """One tensor, which may lie in the mapped file: whoever keeps it copies it."""
        file, name = self._places[key]
        with _opened(file) as handle:  # anew each time, a millisecond: what stays mapped counts as memory
            tensor: Tensor = handle.get_tensor(name)
        return tensor

    def renamed(self, rename: Callable[[str], str | None]) -> LazyTensors:
        """The same under other names, without those whose new name is None."""
        named = ((rename(key), place) for key, place in self._places.items())
        return LazyTensors(self.where, {key: place for key, place in named if key is not None})

    def shape(self, key: str) -> torch.Size:
        """Of a tensor, without reading it."""
        file, name = self._places[key]
        with _opened(file) as handle:
            return torch.Size(handle.get_slice(name).get_shape())


def _opened(file: Path) -> Any:
    """A safetensors file's handle; a pickle or a broken file is one clear line."""
    refuse_pickle(file)
    if not file.is_file():
        raise AlphabarError(f"no such file: {file}")
    try:
        return safetensors.safe_open(file, "pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise AlphabarError(f"{file} is not a whole safetensors file: {error}") from error


def metadata(file: Path) -> dict[str, str]:
    """The text that a safetensors file carries beside its tensors."""
    with _opened(file) as handle:
        return dict(handle.metadata() or {})


def write_file(path: Path, tensors: Mapping[str, Tensor], **notes: str) -> None:
    """Write a safetensors file atomically, marked as torch's, without which transformers refuses it."""
    with atomic_file(path) as temporary:
        safetensors.torch.save_file(dict(tensors), temporary, {"format": "pt", **notes})


def refuse_pickle(file: Path) -> None:
    """Raise where the name is a pickle's, saying why and how to convert it."""
    if file.suffix in PICKLES:
        script = (
            "import torch, safetensors.torch as s; "
            f"d = torch.load({str(file)!r}, map_location='cpu', weights_only=True); "
            "s.save_file({k: v.clone() for k, v in d.get('state_dict', d).items() if hasattr(v, 'clone')}, "
            f"{str(file.with_suffix('.safetensors'))!r})"
        )
        raise AlphabarError(
            f"{file} is a pickle, and loading one runs whatever code it carries; take the .safetensors of the same "
            f'model, or convert this one where you trust it: python -c "{script}"'
        )


def choose_weights(names: Collection[str], component: str) -> str | None:
    """Which of a repository's files holds a component: full precision before fp16, one file before many."""
    stem = f"{component}/{STEMS[component]}"
    endings = (".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".safetensors.index.fp16.json")
    return next((stem + ending for ending in endings if stem + ending in names), None)


def component_tensors(root: Path, component: str) -> LazyTensors:
    """The tensors of a component of a folder."""
    folder = root / component
    names = {f"{component}/{file.name}" for file in folder.glob("*")}
    chosen = choose_weights(names, component)
    if chosen is None:
        for file in sorted(folder.glob(f"{STEMS[component]}*")):
            refuse_pickle(file)
        raise AlphabarError(f"{folder} holds no {STEMS[component]}.safetensors")
    file = root / chosen
    return LazyTensors.of(file, shards(file) if file.suffix == ".json" else [file])


def shards(index: Path) -> list[Path]:
    """The files that an index names; all must be there."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise AlphabarError(f"{index}: weight_map should say which file holds each key")
    files = [index.parent / Path(name).name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise AlphabarError(f"{index} names {file.name}, which is not there; download it beside the index")
    return files


def download(repository: str) -> Path:
    """A hub repository's safetensors and settings, in the hub's cache: what is there already is not fetched again."""
    try:
        from huggingface_hub import model_info, snapshot_download
    except ImportError as error:
        raise AlphabarError(
            f"to download {repository!r}, install huggingface_hub: pip install 'alphabar[sd]'"
        ) from error
    try:
        names = {file.rfilename for file in model_info(repository).siblings or ()}  # one request, never retried
    except Exception as reason:  # the hub's own errors, and those of whichever client it uses underneath
        try:
            return Path(snapshot_download(repository, local_files_only=True))
        except Exception as error:
            raise AlphabarError(
                f"{repository!r} is neither here nor, as a hub repository, in the cache or reachable: {_line(reason)}"
            ) from error
    wanted = [name for name in SETTINGS if name in names]
    for component in STEMS:
        chosen = choose_weights(names, component)
        if chosen is None:
            raise AlphabarError(f"the hub's {repository} has no safetensors for {component}; its pickles are not read")
        wanted += [chosen] if chosen.endswith(".safetensors") else [chosen, *_shard_names(names, chosen)]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except Exception as error:
        raise AlphabarError(f"cannot download {repository} from the hub: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The first line of what an error says; the hub's say much."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _shard_names(names: Collection[str], index: str) -> list[str]:
    """`unet/x-00001-of-00002.safetensors` and its like, of an index's own precision."""
    stem, fp16 = index.split(".", 1)[0], ".fp16" in index
    return [name for name in names if name.startswith(f"{stem}-") or (fp16 and name.startswith(f"{stem}.fp16-"))]
