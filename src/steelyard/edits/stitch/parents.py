"""The two models of a composition: opened, held against each other, and read by the names of the result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from steelyard.errors import UserError
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.formats.native.composition import FAMILIES, PARENTS, Composition
from steelyard.jobs import resolve
from steelyard.spec import ModelSpec
from steelyard.weights import StoredTensor, data_hash
from steelyard.weights.dtypes import DTYPES

_ENDS = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Parent:
    """One model opened for reading.

    Attributes:
        location: as it was given.
        model: its tensors, decoded where they are encoded.
        spec: what it is.
    """

    location: str
    model: LogicalCheckpoint
    spec: ModelSpec

    @property
    def config(self) -> dict[str, Any]:
        """What its config says of its shape; what it says of files and training is left out."""
        left = ("architectures", "transformers_version", "_name_or_path")
        return {key: value for key, value in self.model.config.items() if key not in left}

    def origin(self, identify: bool = True) -> dict[str, str]:
        """Return where it lay, and one hash of all its files, which takes reading them."""
        identity = data_hash(self.model.checkpoint.content_hash()) if identify else ""
        return {"location": self.location, "identity": identity}


@dataclass(frozen=True)
class Parents:
    """The first model and the second."""

    first: Parent
    second: Parent

    def __iter__(self) -> Iterator[Parent]:
        return iter((self.first, self.second))


@contextmanager
def open_parents(first: str | Path, second: str | Path) -> Iterator[Parents]:
    """Open two models and compare what must agree.

    Raises:
        UserError: if one is of an architecture that cannot be composed, misses tensors, or their tokens differ.
    """
    with ExitStack() as stack:
        found = []
        for location in (first, second):
            model = stack.enter_context(LogicalCheckpoint.open(resolve(location)))
            found.append(_parent(str(location), model))
        _same_tokens(*found)
        yield Parents(*found)


def _parent(location: str, model: LogicalCheckpoint) -> Parent:
    kind = model.config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(f"{location} is of type {kind!r}; stitches and bridges know {', '.join(FAMILIES)}")
    spec = ModelSpec.from_config(model.config)
    if spec.task != "causal":
        raise UserError(f"{location} is no causal language model, so it has no loss; stitches and bridges need one")
    held = set(model.names)
    for tensor in spec.tensors.values():
        if tensor.role == "buffer":
            continue
        if tensor.name not in held:
            raise UserError(f"{location} has no tensor {tensor.name}; the checkpoint does not fit its config")
        if model.shape(tensor.name) != tensor.shape:
            raise UserError(
                f"{tensor.name} is {list(model.shape(tensor.name))} in {location}, its config asks for "
                f"{list(tensor.shape)}"
            )
    return Parent(location, model, spec)


def _same_tokens(first: Parent, second: Parent) -> None:
    sizes = [int(parent.config["vocab_size"]) for parent in (first, second)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{first.location} knows {sizes[0]} tokens, {second.location} {sizes[1]}; only models of one "
            "vocabulary read the same tokens"
        )
    vocabularies = [_vocabulary(parent) for parent in (first, second)]
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        raise UserError(
            f"{first.location} and {second.location} have different tokenizers; only models of one vocabulary read "
            "the same tokens"
        )


def _vocabulary(parent: Parent) -> Any:
    files = parent.model.checkpoint
    if _TOKENIZER not in files.other_files:
        return None
    try:
        found = json.loads(files.read_other(_TOKENIZER))
        return found["model"], found.get("pre_tokenizer"), found.get("added_tokens")
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{parent.location}/{_TOKENIZER} is damaged; download it again") from None


class Composed:
    """A composition's tensors by name: its parents' as they are, and those that were made for it.

    It is measured like any other model, before and without being written.

    Args:
        parents: the models.
        composition: how they are joined.
        made: tensors that no parent has, by name.
    """

    def __init__(self, parents: Parents, composition: Composition, made: Mapping[str, np.ndarray]) -> None:
        self.parents, self.composition, self._made = parents, composition, made
        self._origin = dict(self._named())
        self._types = {name: self._type(name) for name in self._origin}

    def _named(self) -> Iterator[tuple[str, tuple[int, str]]]:
        """Yield the result's name of every tensor of the parents, and where it comes from."""
        composition = self.composition
        for side, parent in enumerate(self.parents):
            for tensor in parent.spec.tensors.values():
                if tensor.role == "buffer":
                    continue
                if tensor.layer is None:
                    end = _ENDS[tensor.name]
                    if end.startswith("embed") or composition.has_head(side):
                        yield f"{PARENTS[side]}.{end}", (side, tensor.name)
                elif tensor.layer < composition.blocks_of(side):
                    place = composition.place(PARENTS[side], tensor.layer)
                    rest = tensor.name.split(f"layers.{tensor.layer}.", 1)[1]
                    yield f"layers.{place}.{rest}", (side, tensor.name)

    @property
    def config(self) -> dict[str, Any]:
        """Content of config.json."""
        return {**self.composition.config(), "dtype": self.dtype}

    @property
    def dtype(self) -> str:
        """Type of what was made: that of both parents' weights, float32 where they differ."""
        found = set(self._types.values())
        return found.pop().name if len(found) == 1 else "float32"

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return [*self._origin, *(name for name, _ in self.composition.added())]

    def stored(self) -> list[StoredTensor]:
        """Return name, type and shape of every tensor as it will lie on the disk."""
        labels = {value.numpy: key for key, value in DTYPES.items()}
        found = []
        for name, (side, own) in self._origin.items():
            found.append(StoredTensor(name, labels[self._types[name]], self._parent(side).model.shape(own)))
        return [
            *found,
            *(StoredTensor(name, labels[self._made_type], shape) for name, shape in self.composition.added()),
        ]

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor; what was made is rounded to the type it is stored in."""
        if name not in self._origin:
            return self._made[name].astype(self._made_type)
        side, own = self._origin[name]
        return self._parent(side).model.tensor(own)

    def with_composition(self, composition: Composition) -> Composed:
        """Return the same tensors joined otherwise, such as with another way to run."""
        return Composed(self.parents, composition, self._made)

    @property
    def _made_type(self) -> np.dtype[Any]:
        return np.dtype(getattr(ml_dtypes, self.dtype, self.dtype))

    def _parent(self, side: int) -> Parent:
        return self.parents.first if side == 0 else self.parents.second

    def _type(self, name: str) -> np.dtype[Any]:
        side, own = self._origin[name]
        model = self._parent(side).model
        return model.tensor(own).dtype if model.codec(own) is None else np.dtype(np.float32)
