"""The config of composed models in transformers, and what makes transformers know them. Needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from steelyard.formats.native.composition import MODEL_TYPE


class SteelyardComposedConfig(PreTrainedConfig):  # type: ignore[misc]
    """config.json of a composed model; what it is made of stands under `composition`."""

    model_type = MODEL_TYPE

    vocab_size: int = 0
    hidden_size: int = 0
    num_hidden_layers: int = 0
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    composition: dict[str, Any] | None = None


class SteelyardComposedForCausalLM:
    """Stands for the network of that name among transformers' classes, until one is made.

    The network itself needs modules that may be half-way through their own import when this is registered.
    """

    config_class = SteelyardComposedConfig

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """Load a folder; as `PreTrainedModel.from_pretrained`."""
        return _network().from_pretrained(*arguments, **options)

    @classmethod
    def _from_config(cls, config: Any, **options: Any) -> Any:
        return _network()._from_config(config, **options)


def _network() -> Any:
    return import_module("steelyard.formats.native.composed").SteelyardComposedForCausalLM


def register_config() -> None:
    """Make transformers know the config; nothing happens if it does."""
    CONFIG_MAPPING.register(MODEL_TYPE, SteelyardComposedConfig, exist_ok=True)


def register_model() -> None:
    """Make transformers know the network; nothing happens if it does."""
    mapping = import_module("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING
    mapping.register(SteelyardComposedConfig, SteelyardComposedForCausalLM, exist_ok=True)
