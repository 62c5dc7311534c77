"""Which tensors of two models differ, and how each can be put into an adapter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.lora.factor import Rows
from steelyard.errors import UserError
from steelyard.progress import Progress
from steelyard.spec import TensorSpec
from steelyard.spec.tensor import module_of

_PIECE = 1 << 20
_EMBEDDING_ROLES = ("embed.token", "head")

Form = Literal["linear", "transposed", "embedding"]


class Choices(Protocol):
    """What the caller decides."""

    @property
    def embeddings(self) -> Literal["save", "lora", "skip"]:
        """What becomes of changed embeddings and heads."""

    @property
    def others(self) -> Literal["save", "skip"]:
        """What becomes of changed norms and biases."""


@dataclass(frozen=True)
class Change:
    """A matrix that differs.

    Attributes:
        name: of the tensor.
        module: peft's name of its module.
        shape: as stored.
        form: how the module uses it.
    """

    name: str
    module: str
    shape: tuple[int, int]
    form: Form

    @property
    def entries(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def rows(self, reached: InputModel, base: InputModel) -> Rows:
        """Return what reads rows of the difference, float32."""
        after, before, columns = reached.reader(self.name), base.reader(self.name), self.shape[1]

        def read(start: int, stop: int) -> np.ndarray:
            first, last = start * columns, stop * columns
            difference = after(first, last).astype(np.float32) - before(first, last).astype(np.float32)
            return difference.reshape(stop - start, columns)

        return read

    def stored(self, left: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
        """Return the adapter's tensors for a difference left @ right."""
        if self.form == "linear":
            return {f"{self.module}.lora_A.weight": right, f"{self.module}.lora_B.weight": left}
        if self.form == "transposed":
            return {f"{self.module}.lora_A.weight": left.T, f"{self.module}.lora_B.weight": right.T}
        return {f"{self.module}.lora_embedding_A": left.T, f"{self.module}.lora_embedding_B": right.T}

    def stored_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the adapter's tensors."""
        rows, columns = self.shape
        factors = self.stored(np.broadcast_to(0.0, (rows, rank)), np.broadcast_to(0.0, (rank, columns)))
        return {key: array.shape for key, array in factors.items()}


@dataclass(frozen=True)
class Changes:
    """How two models differ.

    Attributes:
        products: matrices that become products of two thin ones, by name.
        saved: adapter's name of every tensor that is saved whole, and the model's.
        modules_to_save: modules that are saved whole.
        bias: whether biases are among what is saved.
        tied: whether a tensor that changes stands for two modules.
        skipped: changed tensors that are left out.
    """

    products: dict[str, Change]
    saved: dict[str, str]
    modules_to_save: tuple[str, ...]
    bias: bool
    tied: bool
    skipped: tuple[str, ...]


def find_changes(
    reached: InputModel,
    base: InputModel,
    choices: Choices,
    chosen: Callable[[str], bool],
    progress: Progress,
) -> Changes:
    """Compare two models tensor by tensor.

    Raises:
        UserError: naming a tensor that only one of them has, or that differs in shape.
    """
    _check(reached, base)
    products: dict[str, Change] = {}
    whole: list[TensorSpec] = []
    skipped: list[str] = []
    names = list(base.spec.tensors)
    progress.start("comparing", sum(base.spec.tensors[name].elements for name in names))
    for name in names:
        tensor = base.spec.tensors[name]
        if tensor.kind != "state" and tensor.role != "buffer" and _differ(reached, base, name):
            module, form = module_of(name), _form(tensor)
            table = tensor.kind == "embedding" or tensor.role in _EMBEDDING_ROLES
            what = choices.embeddings if table else "lora" if form else choices.others
            if what == "skip" or not chosen(module) or module == name:
                skipped.append(name)
            elif what == "lora" and form:
                products[name] = Change(name, peft_name(base, module), _matrix(tensor), form)
            else:
                whole.append(tensor)
        progress.advance(tensor.elements)
    progress.finish()
    return _sorted_out(base, products, whole, skipped)


def _sorted_out(
    base: InputModel, products: dict[str, Change], whole: list[TensorSpec], skipped: list[str]
) -> Changes:
    """Decide under which names tensors are saved whole: with their module, or as a bias."""
    adapted = {change.module for change in products.values()}
    saved: dict[str, str] = {}
    modules: dict[str, None] = {}
    bias = False
    for tensor in whole:
        module = peft_name(base, tensor.module)
        leaf = tensor.name.rpartition(".")[2]
        if leaf == "bias" and tensor.kind == "bias" and f"{tensor.module}.weight" in base.spec.tensors:
            is_norm = base.spec.tensors[f"{tensor.module}.weight"].kind == "norm"
            if not is_norm:
                saved[f"{module}.base_layer.bias" if module in adapted else f"{module}.bias"] = tensor.name
                bias = True
                continue
        modules[module] = None
    for name, tensor in base.spec.tensors.items():
        module = peft_name(base, tensor.module)
        if module in modules:  # with all it has: peft takes what is missing from nowhere
            saved[f"{module}.{name.rpartition('.')[2]}"] = name
    tied = set(base.spec.ties.values())
    touched = any(name in tied for name in [*saved.values(), *products])
    return Changes(products, saved, tuple(modules), bias, touched, tuple(skipped))


def _check(reached: InputModel, base: InputModel) -> None:
    here, there = reached.spec.tensors, base.spec.tensors
    for name in there:
        if name not in here:
            raise UserError(f"{reached.label} has no {name}, which {base.label} has; they are not of one model")
        if reached.shape(name) != base.shape(name):
            raise UserError(
                f"{name} is {list(reached.shape(name))} in {reached.label} and {list(base.shape(name))} in "
                f"{base.label}; an adapter changes no shapes"
            )
    for name in here:
        if name not in there:
            raise UserError(f"{base.label} has no {name}, which {reached.label} has; an adapter adds no tensors")


def _differ(reached: InputModel, base: InputModel, name: str) -> bool:
    after, before, size = reached.reader(name), base.reader(name), math.prod(base.shape(name))
    for start in range(0, size, _PIECE):
        stop = min(start + _PIECE, size)
        a, b = after(start, stop).astype(np.float32), before(start, stop).astype(np.float32)
        if not np.array_equal(a, b):
            for model, values in ((reached, a), (base, b)):
                if not np.isfinite(values).all():
                    raise UserError(f"{name} of {model.label} holds NaN or infinity")
            return True
    return False


def _form(tensor: TensorSpec) -> Form | None:
    """Return how a matrix is used where a product can change it, None where it cannot."""
    if len(tensor.shape) != 2 or not tensor.is_plain_float or not tensor.name.endswith(".weight"):
        return None
    if tensor.kind == "embedding":
        return "embedding"
    if tensor.kind != "linear":
        return None
    return "transposed" if tensor.transposed else "linear"


def _matrix(tensor: TensorSpec) -> tuple[int, int]:
    return tensor.shape[0], tensor.shape[1]


def peft_name(base: InputModel, module: str) -> str:
    """Return a module's name in the class that the config names, which is what peft wraps."""
    architecture = base.spec.architecture
    if architecture is None or not architecture.prefix or module.startswith(architecture.prefix):
        return module
    if architecture.match(f"{module}.weight") is None:
        return architecture.prefix + module
    return module
