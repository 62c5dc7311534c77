"""What names and numbers of dimensions suggest where no table says."""

from __future__ import annotations

import re
from collections.abc import Iterable

from steelyard.spec.tensor import BUFFER, Kind, TensorSpec, module_of

_COMPUTED = ("inv_freq", "position_ids", "token_type_ids", "num_batches_tracked", "running_mean", "running_var")
_EMBEDDINGS = ("embed", "wte", "wpe")
_POSITIONS = ("position", "wpe", "token_type")
_BLOCK = re.compile(r"((?:[^.]+\.)*?)(\d+)\.")

# Below this a matrix saves nothing worth its scales.
_SMALLEST_SIDE = 16


def guess_tensor(name: str, shape: tuple[int, ...], dtype: str, layer: int | None = None) -> TensorSpec:
    """Return a tensor whose kind is guessed from its name and dimensions; it has no axes."""
    role = BUFFER if name.split(".")[-1] in _COMPUTED else None
    kind: Kind = "other" if role else _guess_kind(name, len(shape))
    return TensorSpec(name, shape, dtype, role, None, layer, module_of(name), kind)


def _guess_kind(name: str, dimensions: int) -> Kind:
    if name.endswith("bias"):
        return "bias"
    if name.endswith("weight") and dimensions == 1:
        return "norm"
    if name.endswith("weight") and dimensions == 2:
        return "embedding" if any(word in name for word in _EMBEDDINGS) else "linear"
    return "other"


def may_be_encoded(tensor: TensorSpec) -> bool:
    """Whether a method that needs no axes may encode a tensor that no table describes."""
    return (
        tensor.kind in ("linear", "embedding")
        and tensor.is_plain_float
        and min(tensor.shape) >= _SMALLEST_SIDE
        and not any(word in tensor.name for word in _POSITIONS)
    )


def block_of(name: str) -> str:
    """Return the start of a name up to its first number, that included; "" without one."""
    found = _BLOCK.match(name)
    return found.group() if found else ""


def guess_blocks(names: Iterable[str]) -> tuple[str, ...]:
    """Return the starts of the names of each block: the numbered ones that hold the most tensors.

    Example:
        >>> guess_blocks(["h.0.w", "h.1.w", "head.weight"])
        ('h.0.', 'h.1.')
    """
    members: dict[str, list[int]] = {}
    for name in names:
        found = _BLOCK.match(name)
        if found:
            members.setdefault(found.group(1), []).append(int(found.group(2)))
    if not members:
        return ()
    prefix = max(members, key=lambda start: len(members[start]))
    return tuple(f"{prefix}{number}." for number in sorted(set(members[prefix])))
