"""What a table makes of a torch model: initial values and parameter groups."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import UserError
from steelyard.seeds import generator

if TYPE_CHECKING:
    import torch

    from steelyard.forecast.parametrize.parametrization import Parametrization
    from steelyard.forecast.parametrize.table import Row


def groups(
    table: Parametrization, model: torch.nn.Module, lr: float, weight_decay: float, eps: float
) -> list[dict[str, Any]]:
    """Return parameter groups; see `Parametrization.groups`. Each also names its parameters under "names"."""
    if not 0 < lr < float("inf"):
        raise UserError(f"lr must be positive, got {lr}")
    found: dict[tuple[float, float, float], dict[str, Any]] = {}
    for row, parameter in _paired(table, model):
        rate = lr * row.rate
        decay = weight_decay * row.decay / (lr if table.rule.independent_decay else 1.0)
        group = found.setdefault(
            (rate, eps * row.epsilon, decay),
            {"params": [], "names": [], "lr": rate, "eps": eps * row.epsilon, "weight_decay": decay},
        )
        group["params"].append(parameter)
        group["names"].append(row.name)
    return list(found.values())


def reinitialise(table: Parametrization, model: torch.nn.Module, seed: int) -> None:
    """Draw every parameter anew; see `Parametrization.reinitialise`."""
    import torch

    pairs = list(_paired(table, model))
    with torch.no_grad():
        for row, parameter in pairs:
            if row.std:
                drawn = generator(seed, row.name).standard_normal(row.shape, dtype=np.float32)
                drawn *= np.float32(row.std)
                parameter.copy_(torch.from_numpy(drawn))
            else:
                parameter.fill_(row.mean - row.offset)


def _paired(table: Parametrization, model: torch.nn.Module) -> Iterator[tuple[Row, torch.nn.Parameter]]:
    rows = {row.name: row for row in table.folded()}
    ties = table.spec.ties
    left = set(rows)
    for name, parameter in model.named_parameters():
        if name in ties and ties[name] in rows and ties[name] in left:
            name = ties[name]
        elif name in ties:
            raise UserError(
                f"the config ties {name} to {ties[name]} and the model holds both; call model.tie_weights() or set "
                "tie_word_embeddings to false"
            )
        elif name in table.spec.tensors and name not in rows:
            continue
        row = rows.get(name)
        if row is None and (parts := _fused(table, rows, name)):
            row = replace(parts[0], name=name, shape=tuple(parameter.shape))
            if parameter.numel() == sum(math.prod(part.shape) for part in parts):
                left.difference_update(part.name for part in parts)
        if row is None:
            raise UserError(f"the model's {name} is not in the table; give a model made from the same config")
        if tuple(parameter.shape) != row.shape:
            raise UserError(
                f"{name} is {list(parameter.shape)} in the model and {list(row.shape)} in the table; give a model "
                "made from the same config"
            )
        if parameter.device.type == "meta":
            raise UserError(f"{name} has no storage (it is on the meta device); build the model with weights")
        left.discard(name)
        yield row, parameter
    if left:
        raise UserError(f"the model lacks {min(left)}; give one made from the same config, with its head")


# Where transformers' modules name what checkpoints hold expert by expert: one tensor for all experts of a layer.
_FUSED = (
    (re.compile(r"layers\.(\d+)\.\w+\.experts\.gate_up_proj"), ("expert.gate", "expert.up")),
    (re.compile(r"layers\.(\d+)\.\w+\.experts\.down_proj"), ("expert.down",)),
    (re.compile(r"layers\.(\d+)\.mlp\.gate\.weight"), ("router",)),
)


def _fused(table: Parametrization, rows: Mapping[str, Row], name: str) -> list[Row]:
    """Return the rows, alike in all their numbers, that one parameter of a model stands for."""
    for pattern, roles in _FUSED:
        found = pattern.search(name)
        if found is not None:
            tensors, layer = table.spec.tensors, int(found[1])
            return [row for row in rows.values() if row.role in roles and tensors[row.name].layer == layer]
    return []
