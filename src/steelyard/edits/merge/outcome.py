"""config.json of a result: the base's, with the layers, the type and the ties that the result has."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from steelyard.edits.merge.inputs import InputModel

# Where models without a table keep their number of layers.
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_PER_LAYER = ("layer_types", "layers_block_type")


def result_config(
    donor: InputModel,
    models: Sequence[InputModel],
    layers: Sequence[Sequence[tuple[int, int]]],
    dtype: str | None,
    names: Collection[str],
) -> tuple[dict[str, Any], list[str]]:
    """Return the config of a result and notes about it.

    Args:
        donor: the base, or the first model.
        models: all of them.
        layers: for every stack the (model, layer) that each layer of the result is led by.
        dtype: safetensors type of the result; None keeps what the donor's config says.
        names: of the result's tensors.
    """
    config = copy.deepcopy(dict(donor.config))
    notes: list[str] = []
    if dtype is not None:
        config["dtype" if "dtype" in config else "torch_dtype"] = _NAMES[dtype]
    for number, made in enumerate(layers):
        _set_depth(config, donor, models, number, made, notes)
    if config.get("tie_word_embeddings") and any(name in names for name in donor.spec.ties):
        config["tie_word_embeddings"] = False
        notes.append("one model has a head of its own, so the result's is not tied to its embeddings")
    return config, notes


def _set_depth(
    config: dict[str, Any],
    donor: InputModel,
    models: Sequence[InputModel],
    stack: int,
    made: Sequence[tuple[int, int]],
    notes: list[str],
) -> None:
    key, before = _depth_key(config, donor, stack)
    holder = _holder(config, key)
    if key is not None and holder is not None and before != len(made):
        holder[key] = len(made)
        notes.append(f"{key} is {len(made)} instead of {before}")
    elif key is None and made and stack == 0 and donor.spec.n_layers != len(made):
        notes.append(f"the result has {len(made)} layers; correct config.json, which does not say how many")
    for name in _PER_LAYER:
        holder = _holder(config, name)
        if holder is None or not isinstance(holder[name], list):
            continue
        lists = [_per_layer(model.config, name) for model in models]
        kinds = [lists[model][layer] for model, layer in made if layer < len(lists[model])]
        if len(kinds) == len(made):
            holder[name] = kinds


def _depth_key(config: Mapping[str, Any], donor: InputModel, stack: int) -> tuple[str | None, int]:
    architecture = donor.spec.architecture
    if architecture is None:
        key = next((key for key in _COUNTS if _holder(config, key) is not None), None)
        return key, donor.spec.n_layers
    stacks = architecture.stacks_of(donor.config)
    if stack >= len(stacks):
        return None, 0
    size = architecture.sizes.get(stacks[stack].axis)
    candidates = (size,) if isinstance(size, str) else _COUNTS
    key = next((key for key in candidates if _holder(config, key) is not None), None)
    return key, stacks[stack].blocks


def _holder(config: Any, key: str | None) -> dict[str, Any] | None:
    """Return the part of a config that has a key: the config, or that of its text model."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and key in part:
            return part
    return None


def _per_layer(config: Mapping[str, Any], name: str) -> list[Any]:
    holder = _holder(config, name)
    found = None if holder is None else holder[name]
    return found if isinstance(found, list) else []
