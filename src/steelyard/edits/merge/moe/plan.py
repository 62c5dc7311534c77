"""Where every tensor of a mixture comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.edits.merge.dialect import ModelReference
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.moe.outputs import PARTS, Output
from steelyard.edits.merge.moe.recipe import Expert, MoeRecipe
from steelyard.errors import UserError
from steelyard.weights import StoredTensor


@dataclass(frozen=True)
class Part:
    """One tensor of the result.

    Attributes:
        name: of the tensor.
        shape: of the tensor.
        model: where it comes from; None for a gate or zeros.
        tensor: its name there.
        values: of a gate; None for others.
        scale: what it is multiplied by.
        noise: standard deviation of what is added to it first.
    """

    name: str
    shape: tuple[int, ...]
    model: InputModel | None = None
    tensor: str = ""
    values: np.ndarray | None = None
    scale: float = 1.0
    noise: float = 0.0

    def stored(self, dtype: str) -> StoredTensor:
        """Return it as it is laid out."""
        return StoredTensor(self.name, dtype, self.shape)


def plan_parts(
    output: Output,
    recipe: MoeRecipe,
    models: Mapping[ModelReference, InputModel],
    gates: np.ndarray | None,
) -> list[Part]:
    """Return the tensors of a mixture.

    Args:
        output: its architecture.
        recipe: what is asked.
        models: by reference.
        gates: of experts and then of the shared one, [layers, experts, hidden]; None plans their shapes alone.

    Raises:
        UserError: naming the tensor that a model lacks, has too many, or has in another shape.
    """
    base = models[recipe.base]
    parts = _common(output, base)
    for layer in range(base.spec.n_layers):
        parts += _feed_forward(output, recipe, models, gates, layer)
    return parts


def _common(output: Output, base: InputModel) -> list[Part]:
    """Everything but the feed-forward layers, from the base."""
    architecture = base.spec.require_axes("a mixture of experts")
    parts: list[Part] = []
    held: set[tuple[str | None, int | None]] = set()
    for name, tensor in base.spec.tensors.items():
        role = tensor.role or ""
        if role == "buffer" or role.startswith("mlp."):
            continue
        if role.startswith("attn.") and role.endswith(".bias") and role not in output.biases:
            raise UserError(f"{base.label} has {name}, and {output.model_type} has no such bias")
        held.add((tensor.role, tensor.layer))
        shown = name if architecture.match(name) is not None else architecture.prefix + name
        parts.append(Part(shown, base.shape(name), base, name))
    for layer in range(base.spec.n_layers):
        for role in output.biases:
            if (role, layer) not in held:
                weight = _find(base, role.removesuffix(".bias"), layer)
                parts.append(Part(_bias_name(parts, weight), (base.shape(weight)[0],)))
    return parts


def _feed_forward(
    output: Output,
    recipe: MoeRecipe,
    models: Mapping[ModelReference, InputModel],
    gates: np.ndarray | None,
    layer: int,
) -> list[Part]:
    base, count = models[recipe.base], len(recipe.experts)
    hidden = base.shape(_find(base, "mlp.up", layer))[1]
    router = None if gates is None else gates[layer, :count]
    parts = [Part(output.router.format(layer=layer), (count, hidden), values=router)]
    for number, expert in enumerate(recipe.experts):
        names = [output.expert.format(layer=layer, expert=number, part=part) for part in output.parts]
        parts += _expert(expert, models, recipe, layer, names)
    for expert in recipe.shared:
        gate = None if gates is None else gates[layer, count:]
        parts.append(Part(output.shared_router.format(layer=layer), (1, hidden), values=gate))
        parts += _expert(
            expert, models, recipe, layer, [output.shared.format(layer=layer, part=p) for p in output.parts]
        )
    return parts


def _expert(
    expert: Expert, models: Mapping[ModelReference, InputModel], recipe: MoeRecipe, layer: int, names: Sequence[str]
) -> list[Part]:
    model, base = models[expert.model], models[recipe.base]
    parts = []
    for part, name in zip(PARTS, names, strict=True):
        role = f"mlp.{part}"
        tensor, expected = _find(model, role, layer), base.shape(_find(base, role, layer))
        if model.shape(tensor) != expected:
            raise UserError(
                f"{tensor} is {list(model.shape(tensor))} in {model.label} and {list(expected)} in {base.label}; "
                "experts are models of one size"
            )
        if tensor.removesuffix(".weight") + ".bias" in model.spec.tensors:
            raise UserError(f"{model.label} has biases in its feed-forward layers, which experts have not")
        scale = expert.residual if part == "down" else 1.0
        parts.append(Part(name, expected, model, tensor, scale=scale, noise=expert.noise))
    return parts


def _find(model: InputModel, role: str, layer: int) -> str:
    for name, tensor in model.spec.tensors.items():
        if tensor.role == role and tensor.layer == layer:
            return name
    raise UserError(f"{model.label} has no {role} in layer {layer}; experts are models of one size")


def _bias_name(parts: Sequence[Part], weight: str) -> str:
    shown = next(part.name for part in parts if part.tensor == weight)
    return shown.removesuffix(".weight") + ".bias"
