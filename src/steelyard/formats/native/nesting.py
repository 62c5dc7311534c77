"""Loaded models whose nested weights grow and shed: levels of packed modules, read from their folder as needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelyard.codecs import NestedCodec
from steelyard.errors import UserError
from steelyard.formats.native.growth import Growth, cut_config
from steelyard.formats.native.modules import Packed
from steelyard.formats.native.torch_decoding import PackedMatrix
from steelyard.weights import Checkpoint

_ATTRIBUTE = "steelyard_nesting"


class Nesting:
    """The nested weights of one loaded model, at their present levels.

    Args:
        model: loaded whole from `folder`.
        folder: where more of it can be read.

    Raises:
        UserError: if nothing in it is nested.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self._model, self._folder = model, folder
        self._quantization = _quantization(model)
        self._modules: dict[str, list[Packed]] = {}
        for module in model.modules():
            if isinstance(module, Packed) and isinstance(module.matrix.codec, NestedCodec):
                self._modules.setdefault(module.stored_name, []).append(module)
        nested = {id(module.weight) for group in self._modules.values() for module in group}
        fixed = sum(p.nbytes for p in {id(p): p for p in model.parameters()}.values() if id(p) not in nested)
        growth = Growth.of_config(self._quantization.to_dict(), fixed, str(folder))
        # A model may leave out what its folder has, as a head.
        present = {name: found for name, found in growth.tensors.items() if name in self._modules}
        order = tuple(name for name in growth.order if name in present)
        self.growth = Growth(present, order, fixed)
        self._declared: Mapping[str, Any] = self._quantization.to_dict()

    @property
    def levels(self) -> dict[str, int]:
        """The present level of every nested tensor."""
        return {name: _codec(modules[0]).level for name, modules in self._modules.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the model's weights as they are."""
        return self.growth.nbytes(self.levels)

    def set_levels(self, levels: Mapping[str, int]) -> None:
        """Cut or read on every tensor that is not at its level."""
        now = self.levels
        larger = [name for name, level in levels.items() if level > now[name]]
        for name in levels.keys() - set(larger):
            self._cut(name, levels[name])
        if larger:
            with Checkpoint.open(self._folder) as checkpoint:
                for name in larger:
                    self._extend(name, levels[name], checkpoint)
        changed = cut_config(self._declared, {**self.growth.lowest, **levels})
        self._quantization.tensors = changed["tensors"]
        self._quantization.growth = changed.get("growth")

    def _cut(self, name: str, level: int) -> None:
        codec, shape = self.growth.tensors[name]
        size = codec.at(level).nbytes(shape)
        weight = self._modules[name][0].weight
        if size < weight.numel():
            self._place(name, level, weight.detach()[:size].clone())

    def _extend(self, name: str, level: int, checkpoint: Checkpoint) -> None:
        codec, shape = self.growth.tensors[name]
        weight = self._modules[name][0].weight
        more = checkpoint.rows(name, weight.numel(), codec.at(level).nbytes(shape))
        tail = torch.from_numpy(more.copy()).to(weight.device)
        self._place(name, level, torch.cat([weight.detach(), tail]))

    def _place(self, name: str, level: int, data: torch.Tensor) -> None:
        codec, shape = self.growth.tensors[name]
        for module in self._modules[name]:
            module.weight.data = data
            module.matrix = PackedMatrix(codec.at(level), shape)
            module.forget()


def attach(model: Any, folder: Path) -> Nesting:
    """Return the nesting of a model, made when first asked for."""
    found: Nesting | None = model.__dict__.get(_ATTRIBUTE)
    if found is None:
        found = Nesting(model, folder)
        object.__setattr__(model, _ATTRIBUTE, found)
    return found


def nesting(model: nn.Module) -> Nesting:
    """Return the nesting of a loaded model.

    Raises:
        UserError: if it was not loaded from a nested folder.
    """
    folder = Path(str(getattr(getattr(model, "config", None), "_name_or_path", "")))
    if not any(_nested_modules(model)):
        raise UserError("the model holds no nested weights; load a folder that steelyard nest made")
    return attach(model, folder)


def grow(model: Any, *, budget_bytes: int | None = None, bits: int | None = None) -> int:
    """Read more of a model's nested weights, in the order that gains most for its bytes.

    Args:
        model: loaded by `steelyard.load`, or by transformers, from a nested folder.
        budget_bytes: what all of its weights may take in memory.
        bits: instead, one level for all tensors.

    Returns:
        Bytes of its weights afterwards.

    Raises:
        UserError: if that is less than it has, or the folder is gone.
    """
    return _resize(model, budget_bytes, bits, 1)


def shed(model: Any, *, budget_bytes: int | None = None, bits: int | None = None) -> int:
    """Forget the least useful of a model's nested weights; arguments and result as of `grow`.

    Raises:
        UserError: if that is more than it has, or less than its smallest version.
    """
    return _resize(model, budget_bytes, bits, -1)


def resize(found: Nesting, budget_bytes: int | None, bits: int | None) -> int:
    """Bring a model to a size or a level, up or down.

    Raises:
        UserError: if neither or both are given, or it has no such size.
    """
    found.set_levels(_wanted(found, budget_bytes, bits))
    return found.nbytes


def _resize(model: Any, budget_bytes: int | None, bits: int | None, direction: int) -> int:
    found = nesting(model)
    wanted, now = _wanted(found, budget_bytes, bits), found.levels
    if any((wanted[name] - now[name]) * direction < 0 for name in now):
        verb, other = ("grow", "shed") if direction > 0 else ("shed", "grow")
        raise UserError(f"that is not a way to {verb} from {found.nbytes:,} bytes; call {other}")
    found.set_levels(wanted)
    return found.nbytes


def _wanted(found: Nesting, budget_bytes: int | None, bits: int | None) -> dict[str, int]:
    if (budget_bytes is None) == (bits is None):
        raise UserError("say either budget_bytes or bits")
    if bits is not None:
        return found.growth.at(bits)
    assert budget_bytes is not None
    return found.growth.within(budget_bytes)


def _nested_modules(model: nn.Module) -> Iterator[Packed]:
    for module in model.modules():
        if isinstance(module, Packed) and isinstance(module.matrix.codec, NestedCodec):
            yield module


def _codec(module: Packed) -> NestedCodec:
    assert isinstance(module.matrix.codec, NestedCodec)
    return module.matrix.codec


def _quantization(model: Any) -> Any:
    found = getattr(model.config, "quantization_config", None)
    if found is None or not hasattr(found, "matrices"):
        raise UserError("the model is not of Steelyard's own format; load a folder that steelyard nest made")
    return found
