"""A model as measurement needs it: its weights by name, and what its folder says beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from steelyard.errors import UserError
from steelyard.measure.tokenizer import Folder, ModelTokenizer, open_tokenizer
from steelyard.measure.windows import Task

Pooling = Literal["mean", "cls", "max"]

_LONGEST = 1 << 30


class WeightSource(Protocol):
    """Float tensors by their logical names: a checkpoint, a packed folder, or a plan not yet written."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json."""

    @property
    def names(self) -> list[str]:
        """Every tensor's name."""

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as stored (GPT-2's matrices as [in, out]), of any float type."""


@dataclass(frozen=True)
class Overlay:
    """A source with some tensors replaced, so that a change is measured before it is written.

    Attributes:
        base: where all other tensors come from.
        tensors: the replacements by name.
    """

    base: WeightSource
    tensors: Mapping[str, np.ndarray]

    @property
    def config(self) -> Mapping[str, Any]:
        """The base's config."""
        return self.base.config

    @property
    def names(self) -> list[str]:
        """The base's names."""
        return self.base.names

    def tensor(self, name: str) -> np.ndarray:
        """Return the replacement if there is one, else the base's tensor."""
        found = self.tensors.get(name)
        return self.base.tensor(name) if found is None else found


@dataclass(frozen=True)
class Model:
    """What is measured.

    Attributes:
        source: its weights.
        location: for messages and reports.
        task: what it does.
        tokenizer: its own, None if it has none.
        pooling: how an encoder's last hidden states become one embedding per sequence.
        normalise: whether that embedding is scaled to length 1. (If a folder does not say, it is.)
        max_length: the most positions it was made for.
    """

    source: WeightSource
    location: str
    task: Task
    tokenizer: ModelTokenizer | None
    pooling: Pooling
    normalise: bool
    max_length: int

    def with_source(self, source: WeightSource, location: str | None = None) -> Model:
        """The same model with other weights: a candidate that keeps tokenizer, task and pooling."""
        return replace(self, source=source, location=location or self.location)

    @property
    def vocabulary(self) -> int:
        """Number of tokens the model knows."""
        return int(_text_config(self.source.config).get("vocab_size", 0)) or _LONGEST


def open_model(location: str | Path, source: WeightSource | None = None) -> Model:
    """Open a model folder for measurement.

    Args:
        location: anything `weights.Checkpoint.open` takes, of any format Steelyard reads.
        source: its weights if they are already open.

    Raises:
        UserError: if it is no model, or its tokenizer is damaged.
    """
    from steelyard.weights import Checkpoint

    if source is None:
        from steelyard.formats.logical import LogicalCheckpoint

        source = LogicalCheckpoint.open(location)
        folder = source.checkpoint
    else:
        folder = source if isinstance(source, Checkpoint) else Checkpoint.open(location)
    if not source.config:
        raise UserError(f"{location} has no config.json, so no model can be built to measure it")
    config = source.config
    pooling, normalise = _pooling(folder)
    return Model(
        source=source,
        location=str(location),
        task=task_of(config),
        tokenizer=open_tokenizer(folder, config),
        pooling=pooling,
        normalise=normalise,
        max_length=_max_length(folder, config),
    )


def task_of(config: Mapping[str, Any]) -> Task:
    """Return what a model does, from the class its config names."""
    from steelyard.spec.architecture import task_of as task_of_class
    from steelyard.spec.registry import find_architecture

    known = find_architecture(config)
    if known is not None:
        return task_of_class(known.class_of(config))
    return task_of_class(str((config.get("architectures") or [""])[0]))


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def _max_length(folder: Folder, config: Mapping[str, Any]) -> int:
    """The tightest of the limits that the folder states."""
    text = _text_config(config)
    limits = [text.get("max_position_embeddings"), text.get("n_positions")]
    settings = _json(folder, "sentence_bert_config.json")
    if isinstance(settings, dict):
        limits.append(settings.get("max_seq_length"))
    return min((int(limit) for limit in limits if isinstance(limit, int) and limit > 0), default=_LONGEST)


def _pooling(folder: Folder) -> tuple[Pooling, bool]:
    """Read the modules of a sentence encoder; mean pooling to length 1 where the folder does not say."""
    modules = _json(folder, "modules.json")
    if not isinstance(modules, list):
        return "mean", True
    paths = {
        str(m.get("type", "")).rsplit(".", 1)[-1]: str(m.get("path", "")) for m in modules if isinstance(m, dict)
    }
    settings = _json(folder, f"{paths.get('Pooling', '1_Pooling')}/config.json")
    settings = settings if isinstance(settings, dict) else {}
    pooling: Pooling = "mean"
    mode = str(settings.get("pooling_mode", ""))
    if settings.get("pooling_mode_cls_token") or mode == "cls":
        pooling = "cls"
    elif settings.get("pooling_mode_max_tokens") or mode == "max":
        pooling = "max"
    return pooling, "Normalize" in paths


def _json(folder: Folder, name: str) -> Any:
    if not folder.has_other(name):
        return None
    try:
        return json.loads(folder.read_other(name))
    except ValueError:
        raise UserError(f"{folder.location}/{name} is not valid JSON; download it again") from None
