"""A transformers model without its weights, and the way of stored names to its parameters and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import UserError
from steelyard.measure.model import Model, WeightSource

if TYPE_CHECKING:
    import torch
    from torch import nn


class Skeleton:
    """The module tree of a model with parameters on the meta device; buffers are real.

    Attributes:
        module: the transformers model, in evaluation mode.
        blocks: its blocks in order; they are taken out of `module.` and replaced by stubs only while running.
        block_names: the names of the blocks within the module tree.
        stored: for every parameter's name in the module tree, the name of the tensor that fills it.
    """

    def __init__(self, model: Model) -> None:
        self.location = model.location
        self.task = model.task
        self.module = _build(model)
        self.list_name, self.blocks = _blocks(self.module, model.location)
        self.block_names = [f"{self.list_name}.{i}" for i in range(len(self.blocks))]
        self.stored, missing = _stored_names(self.module, model.source)
        self._check(missing)

    @property
    def input_embedding(self) -> str:
        """Name of the module that embeds tokens."""
        return self._name_of(self.module.get_input_embeddings())

    @property
    def output_embedding(self) -> str | None:
        """Name of the module that makes logits; None for an encoder."""
        head = self.module.get_output_embeddings()
        return None if head is None else self._name_of(head)

    def parameters_of(self, prefix: str) -> list[str]:
        """Names of the parameters below a module."""
        return [name for name in self.stored if name.startswith(f"{prefix}.")]

    def outside_blocks(self, without: Iterable[str | None] = ()) -> list[str]:
        """Names of the parameters that belong to no block.

        Args:
            without: modules whose parameters are not needed, unless another module's are tied to them.
        """
        left_out = tuple(f"{name}." for name in without if name)
        inside = f"{self.list_name}."
        return [name for name in self.stored if not name.startswith(inside) and not name.startswith(left_out)]

    @contextmanager
    def loaded(self, source: WeightSource, names: Iterable[str]) -> Iterator[None]:
        """Fill these parameters from the source in float32, and empty them again afterwards."""

        filled: dict[str, torch.Tensor] = {}
        names = list(names)
        try:
            for name in names:
                tensor_name = self.stored[name]
                if tensor_name not in filled:
                    filled[tensor_name] = _as_torch(source.tensor(tensor_name))
                self._set(name, filled[tensor_name], tensor_name)
            yield
        finally:
            for name in names:
                self._set(name, None, name)

    def _set(self, name: str, value: torch.Tensor | None, tensor_name: str) -> None:
        import torch

        path, leaf = name.rpartition(".")[::2]
        owner = self.module.get_submodule(path)
        old = owner._parameters[leaf]
        assert old is not None
        if value is None:
            value = torch.empty(old.shape, device="meta")
        elif value.shape != old.shape:
            raise UserError(
                f"{tensor_name} has shape {list(value.shape)}, {self.location}'s config asks for {list(old.shape)}"
            )
        owner._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)

    def _name_of(self, module: nn.Module) -> str:
        return next(str(name) for name, candidate in self.module.named_modules() if candidate is module)

    def _check(self, missing: list[str]) -> None:
        # A pooler that was never stored is not built; anything else that is missing would be random.
        if missing:
            raise UserError(
                f"{self.location} has no tensor for {missing[0]}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                + "; the checkpoint does not fit its config"
            )


def _as_torch(array: np.ndarray) -> torch.Tensor:
    """A float32 copy, or the array's own memory where it is float32 already."""
    import torch

    if array.dtype != np.float32:
        return torch.from_numpy(array.astype(np.float32))
    if not array.flags.writeable:
        # Nothing writes into weights; a view over a read-only map saves the copy, but torch warns about it.
        array = np.array(array, copy=True)
    return torch.from_numpy(np.ascontiguousarray(array))


def _build(model: Model) -> Any:
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = dict(model.source.config)
    kind = str(config.get("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise UserError(f"{model.location}: transformers knows no model type {kind!r}; use --data none")
    for name in ("quantization_config", "torch_dtype", "dtype", "_attn_implementation"):
        config.pop(name, None)
    settings = CONFIG_MAPPING[kind].from_dict(config)
    settings.use_cache = False
    builders = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "encoder": AutoModel}
    builder: Any = builders[model.task]
    extra: dict[str, Any] = {"dtype": torch.float32}
    if model.task == "encoder" and not any(".pooler." in f".{name}" for name in model.source.names):
        extra["add_pooling_layer"] = False
    try:
        with init_empty_weights(include_buffers=False):
            try:
                module = builder.from_config(settings, **extra)
            except TypeError:
                extra.pop("add_pooling_layer", None)
                module = builder.from_config(settings, **extra)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{model.location}: transformers cannot build the model ({reason})") from error
    module.tie_weights()
    if kind == "mamba":
        from steelyard.measure.mamba import use_fast_mixers

        use_fast_mixers(module)
    return module.eval()


def _blocks(module: Any, location: str) -> tuple[str, list[Any]]:
    """The list of the model's blocks: the first list of modules as long as the config says the model is deep."""
    from torch import nn

    depth = getattr(module.config.get_text_config(), "num_hidden_layers", 0)
    for name, candidate in module.named_modules():
        if isinstance(candidate, nn.ModuleList) and len(candidate) == depth and depth:
            return name, list(candidate)
    raise UserError(f"{location}: the model has no list of {depth} blocks to run one by one; use --data none")


def _stored_names(module: Any, source: WeightSource) -> tuple[dict[str, str], list[str]]:
    """For every parameter the tensor that fills it, and the parameters that nothing fills."""
    available = _spellings(source)
    base = str(getattr(module, "base_model_prefix", "") or "")
    by_parameter: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        by_parameter.setdefault(id(parameter), []).append(name)
    embedding = module.get_input_embeddings().weight
    stored: dict[str, str] = {}
    missing: list[str] = []
    for identity, names in by_parameter.items():
        found = {name: _find(name, base, available) for name in names}
        held = {name: tensor for name, tensor in found.items() if tensor is not None}
        if not held:
            missing.append(names[0])
            continue
        own = next((n for n in held if identity == id(embedding) and n.endswith(_embedding_name(module))), None)
        canonical = held[own or next(iter(held))]
        for name in names:
            tensor = held.get(name)
            # A tied copy that is stored all the same counts only where its values differ, as in transformers.
            differs = tensor is not None and tensor != canonical and not _equal(source, tensor, canonical)
            stored[name] = tensor if tensor is not None and differs else canonical
    return stored, missing


def _embedding_name(module: Any) -> str:
    embedding = module.get_input_embeddings()
    return next(f"{name}.weight" for name, candidate in module.named_modules() if candidate is embedding)


def _spellings(source: WeightSource) -> dict[str, str]:
    """Tensors by their stored name and by the name that today's model gives what older files call otherwise."""
    from steelyard.spec.registry import find_architecture

    architecture = find_architecture(source.config)
    renamed = {} if architecture is None else {architecture.rename(name): name for name in source.names}
    return renamed | {name: name for name in source.names}


def _find(name: str, base: str, available: Mapping[str, str]) -> str | None:
    if name in available or not base:
        return available.get(name)
    return available.get(name.removeprefix(f"{base}.") if name.startswith(f"{base}.") else f"{base}.{name}")


def _equal(source: WeightSource, first: str, second: str) -> bool:
    a, b = source.tensor(first), source.tensor(second)
    return a.shape == b.shape and bool(np.array_equal(a, b))


def describe_versions() -> Mapping[str, str]:
    """Versions of what computes, for provenance."""
    import torch
    import transformers

    return {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}
