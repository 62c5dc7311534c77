"""An adapter's tensors: for every adapted module two thin matrices, beside modules that were saved whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steelyard.edits.merge.lora.settings import CONFIG_FILE, AdapterSettings
from steelyard.errors import UserError
from steelyard.weights import Checkpoint

WEIGHT_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

_PART = re.compile(
    r"^(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?!bias$)[^.]+)??(?:\.(?P<leaf>weight|bias))?$"
)
_SAVED = re.compile(r"\.modules_to_save(?:\.[^.]+)?(?=\.(?:weight|bias)$)")


@dataclass(frozen=True)
class LowRank:
    """What an adapter does to one module.

    Attributes:
        a: [rank, in] for a linear map, [rank, vocabulary] for an embedding; as stored.
        b: [out, rank] for a linear map, [hidden, rank] for an embedding; as stored.
        scale: what b·a is multiplied by.
        magnitude: [out] (of an embedding [hidden]) for DoRA, None for LoRA.
        embedding: whether the module is a table whose stored rows are the columns of b·a.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float
    magnitude: np.ndarray | None
    embedding: bool

    @property
    def product_shape(self) -> tuple[int, int]:
        """Shape of b·a."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class Adapter:
    """An adapter's content. What it saves whole stays in its file until rows of it are read.

    Attributes:
        location: as it was given.
        settings: of its configuration.
        modules: what it does to each module, by the module's name in the model it was trained on.
        saved: tensors that replace the model's own: modules to save and trained biases, by their names there.
        bases: weights that the adapter brings for the base of a module, such as a table that was made larger.
        bias: what is added to biases, by the module's name.

    Example:
        >>> adapter = Adapter.open("path/to/adapter")  # doctest: +SKIP
        >>> sorted(adapter.modules)[0]
        'model.layers.0.self_attn.q_proj'
    """

    location: str
    settings: AdapterSettings
    modules: Mapping[str, LowRank]
    saved: Mapping[str, np.ndarray]
    bases: Mapping[str, np.ndarray]
    bias: Mapping[str, np.ndarray]

    @classmethod
    def open(cls, location: str | Path) -> Adapter:
        """Read an adapter.

        Args:
            location: a folder with `adapter_config.json` and `adapter_model.safetensors`, or anything else that
                `weights.Checkpoint.open` takes.

        Raises:
            UserError: if a file is missing or damaged, the two are at odds, or it is no LoRA adapter.
        """
        with _open(location) as files:
            settings = AdapterSettings.read(files.read_other(CONFIG_FILE), f"{location}/{CONFIG_FILE}")
            tensors = {name: files.tensor(name) for name in files.names}
        return _assemble(str(location), settings, tensors)


def _open(location: str | Path) -> Checkpoint:
    folder = Path(location)
    if folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"{location} is no adapter: it has no {CONFIG_FILE}")
        if not (folder / WEIGHT_FILE).is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            hint = "; convert its adapter_model.bin with peft's save_pretrained" if pickled else ""
            raise UserError(f"{location} has no {WEIGHT_FILE}{hint}")
        return Checkpoint.open(folder / WEIGHT_FILE)
    try:
        checkpoint = Checkpoint.open(location)
    except UserError as error:
        raise UserError(f"adapter: {error}") from None
    if not checkpoint.has_other(CONFIG_FILE):
        checkpoint.close()
        raise UserError(f"{location} is no adapter: it has no {CONFIG_FILE}")
    return checkpoint


def _assemble(location: str, settings: AdapterSettings, tensors: Mapping[str, np.ndarray]) -> Adapter:
    parts: dict[str, dict[str, np.ndarray]] = {}
    saved: dict[str, np.ndarray] = {}
    bases: dict[str, np.ndarray] = {}
    bias: dict[str, np.ndarray] = {}
    for key, array in tensors.items():
        name = key.removeprefix(PREFIX)
        found = _PART.match(name)
        if found is None:
            if "lora_" in name or "trainable_tokens" in name:
                raise UserError(f"{location}: {key} is a kind of tensor that cannot be merged here")
            if ".base_layer." in name:
                bases[name.replace(".base_layer.", ".")] = array
            elif ".original_module." not in name:
                saved[_SAVED.sub("", name)] = array
            continue
        values = array.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{location}: {key} holds NaN or infinity")
        if found["leaf"] != "bias":
            parts.setdefault(found["module"], {})[found["part"]] = values
        elif found["part"] == "lora_B":
            bias[found["module"]] = values
        else:
            raise UserError(f"{location}: {key} is a kind of tensor that cannot be merged here")
    if not parts and not saved:
        raise UserError(f"{location} holds no tensor of an adapter")
    modules = {module: _low_rank(location, settings, module, found) for module, found in parts.items()}
    scaled = {module: modules[module].scale * array for module, array in bias.items() if module in modules}
    return Adapter(location, settings, modules, saved, bases, scaled)


def _low_rank(location: str, settings: AdapterSettings, module: str, parts: Mapping[str, np.ndarray]) -> LowRank:
    embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    for part in (first, second):
        if part not in parts:
            raise UserError(f"{location}: module {module} has no {part}; the adapter's file is incomplete")
    a, b = parts[first], parts[second]
    if a.ndim != 2 or b.ndim != 2:
        raise UserError(f"{location}: module {module} is no linear map or embedding, which cannot be merged here")
    rank = settings.rank_of(module)
    if a.shape[0] != rank or b.shape[1] != rank:
        raise UserError(
            f"{location}: module {module} has rank {rank} by {CONFIG_FILE}, but {first} is {list(a.shape)} and "
            f"{second} {list(b.shape)}"
        )
    magnitude = parts.get("lora_magnitude_vector")
    if settings.use_dora and magnitude is None:
        raise UserError(f"{location}: module {module} has no lora_magnitude_vector, which use_dora asks for")
    if magnitude is not None and magnitude.size != b.shape[0]:
        raise UserError(f"{location}: module {module}: {magnitude.size} magnitudes for {b.shape[0]} outputs")
    return LowRank(a, b, settings.scale_of(module), None if magnitude is None else magnitude.ravel(), embedding)
