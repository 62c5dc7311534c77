"""A model with an adapter applied, as one more model that can be merged: nothing of the base is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.edits.merge.inputs import InputModel, Reader
from steelyard.edits.merge.lora.adapter import Adapter
from steelyard.edits.merge.lora.apply import Applied, is_transposed
from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint, bytes_hash


def adapt(model: InputModel, location: str, label: str) -> AdaptedModel:
    """Return a model with the adapter at `location` applied.

    Raises:
        UserError: if the adapter is missing, damaged, of another kind, or for another model.
    """
    return AdaptedModel(model, Adapter.open(location), label)


class AdaptedModel:
    """A model whose tensors are those of a base with an adapter applied, computed as they are read.

    Where the adapter changes one of two tied tensors, the result has both: the function is that of the model with
    the adapter attached.

    Raises:
        UserError: if the adapter has a module that the base has not, or one of another shape.
    """

    def __init__(self, base: InputModel, adapter: Adapter, label: str = "") -> None:
        self.label = label or f"{base.label}+{adapter.location}"
        self._base, self._adapter = base, adapter
        self._modules = {self._tensor(module, "weight"): part for module, part in adapter.modules.items()}
        self._biases = {self._tensor(module, "bias"): part for module, part in adapter.bias.items()}
        self._saved = {self._resolve(name, name): array for name, array in adapter.saved.items()}
        self._bases = {self._resolve(name, name): array for name, array in adapter.bases.items()}
        self._aliases = self._untied()
        self._names = [*base.names, *(alias for alias in self._aliases if alias not in set(base.names))]
        self.config: Mapping[str, Any] = self._changed_config()
        self.spec = self._changed_spec()
        self._transposed = {name: self._direction(name) for name in self._modules}

    @property
    def checkpoint(self) -> Checkpoint:
        """The base's files."""
        return self._base.checkpoint

    @property
    def names(self) -> list[str]:
        """Every tensor by name."""
        return list(self._names)

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that differ from the base's."""
        return tuple(
            name for name in self._names if name in {*self._modules, *self._biases, *self._saved, *self._bases}
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        stored = self._saved.get(name, self._bases.get(name))
        return self._base.shape(self._aliases.get(name, name)) if stored is None else stored.shape

    def dtype(self, name: str) -> str:
        """Return the type of the base's tensor: adapters are kept in float32 whatever they are for."""
        source = self._aliases.get(name, name)
        return self._base.dtype(source)

    def reader(self, name: str) -> Reader:
        """Return what reads a tensor, with the adapter applied to whatever is read."""
        low_rank = self._modules.get(name)
        if low_rank is not None:
            return Applied(self._plain(name), self.shape(name), low_rank, self._transposed[name])
        added = self._biases.get(name)
        if added is None:
            return self._plain(name)
        read, values = self._plain(name), added.reshape(-1)
        return lambda start, stop: read(start, stop).astype(np.float32) + values[start:stop]

    def resident(self, name: str) -> int:
        """Return the bytes that a tensor's reader holds."""
        low_rank = self._modules.get(name)
        own = 0 if low_rank is None else low_rank.a.nbytes + low_rank.b.nbytes
        return own + (0 if name in self._saved else self._base.resident(self._aliases.get(name, name)))

    def done(self, name: str) -> None:
        """Say that a tensor will not be read again."""
        if name not in self._saved:
            self._base.done(self._aliases.get(name, name))

    def identity(self) -> str:
        """Return a hash that changes with the base and with every number of the adapter."""
        parts = [self._base.identity(), repr(self._adapter.settings)]
        for module, part in sorted(self._adapter.modules.items()):
            arrays = (part.a, part.b, *([] if part.magnitude is None else [part.magnitude]))
            parts += [module, *(bytes_hash(np.ascontiguousarray(array).tobytes()) for array in arrays)]
        for kept in (self._adapter.saved, self._adapter.bases, self._adapter.bias):
            parts += [f"{name}:{bytes_hash(np.ascontiguousarray(kept[name]).tobytes())}" for name in sorted(kept)]
        return bytes_hash("\n".join(parts).encode())

    def close(self) -> None:
        """Let go of the base's files."""
        self._base.close()

    def _plain(self, name: str) -> Reader:
        """Read what the adapter is applied to."""
        stored = self._saved.get(name, self._bases.get(name))
        if stored is None:
            return self._base.reader(self._aliases.get(name, name))
        flat = stored.reshape(-1)
        return lambda start, stop: flat[start:stop]

    def _tensor(self, module: str, leaf: str) -> str:
        return self._resolve(f"{module}.{leaf}", module)

    def _resolve(self, name: str, shown: str) -> str:
        """Return the base's name of a tensor of the model that the adapter was trained on."""
        known = {*self._base.names, *self._base.spec.ties}
        prefix = "" if self._base.spec.architecture is None else self._base.spec.architecture.prefix
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            if candidate in known:
                return candidate
        near = next((tensor for tensor in self._base.names if tensor.endswith("." + name.rpartition(".")[2])), "")
        raise UserError(
            f"{self._adapter.location} adapts {shown}, which {self._base.label} has not (it has {near}, …); "
            "it belongs to another model"
        )

    def _untied(self) -> dict[str, str]:
        """Tied names that become tensors of their own, and the tensor they were."""
        if self._adapter.settings.ensure_weight_tying:
            return {}
        touched = {*self._modules, *self._saved, *self._bases}
        return {
            alias: canonical
            for alias, canonical in self._base.spec.ties.items()
            if alias in touched or canonical in touched
        }

    def _changed_config(self) -> dict[str, Any]:
        config = dict(self._base.config)
        if self._aliases:
            config["tie_word_embeddings"] = False
        for name in self._saved.keys() | self._bases.keys():
            tensor = self._base.spec.tensors.get(self._aliases.get(name, name))
            if tensor is not None and tensor.axes and tensor.axes[0] == "vocab" and "vocab_size" in config:
                config["vocab_size"] = self.shape(name)[0]
        return config

    def _changed_spec(self) -> ModelSpec:
        tensors = {name for name in self._names if name not in self._base.spec.ties or name in self._aliases}
        shapes = {name: (self.shape(name), self.dtype(name)) for name in self._names if name in tensors}
        try:
            return ModelSpec.build(self.config, shapes, untied=tuple(self._base.spec.tensors))
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from None

    def _direction(self, name: str) -> bool:
        low_rank, shape = self._modules[name], self.shape(name)
        tensor = self.spec.tensors[name]
        known = self.spec.architecture is not None
        stored = tensor.transposed if known else self._adapter.settings.fan_in_fan_out
        transposed = is_transposed(low_rank, shape, stored)
        if transposed is None:
            raise UserError(
                f"{self._adapter.location} changes {name} by a matrix of {list(low_rank.product_shape)}, but "
                f"that of {self._base.label} is {list(shape)}; it belongs to another model"
            )
        return transposed
