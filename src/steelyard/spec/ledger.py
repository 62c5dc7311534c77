"""The ledger: where a model's parameters and bytes are, by role and by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from steelyard.spec.tensor import BUFFER, TensorSpec


@dataclass(frozen=True)
class LedgerRow:
    """One line.

    Attributes:
        role: of all its tensors; None for those no table describes, or where roles are added up.
        layer: of all its tensors; None for those outside of the blocks, or where layers are added up.
        tensors: how many.
        parameters: trainable numbers in them; buffers have none.
        nbytes: bytes they are stored in.
    """

    role: str | None
    layer: int | None
    tensors: int
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class Ledger:
    """Every stored tensor once, tied ones included once.

    Attributes:
        rows: one for each role in each layer, in the order of the table.
    """

    rows: tuple[LedgerRow, ...]

    def by_role(self) -> tuple[LedgerRow, ...]:
        """One row for each role, layers added up."""
        return _merge(self.rows, lambda row: (row.role, None))

    def by_layer(self) -> tuple[LedgerRow, ...]:
        """One row for each layer, roles added up; what is outside of the blocks comes first."""
        merged = _merge(self.rows, lambda row: (None, row.layer))
        return tuple(sorted(merged, key=lambda row: -1 if row.layer is None else row.layer))

    @property
    def total(self) -> LedgerRow:
        """Everything."""
        merged = _merge(self.rows, lambda row: (None, None))
        return merged[0] if merged else LedgerRow(None, None, 0, 0, 0)


def parameters_of(tensor: TensorSpec) -> int:
    """Return the trainable numbers of a tensor: none in buffers, states and integers."""
    trainable = tensor.role != BUFFER and tensor.kind != "state" and tensor.dtype.startswith(("F", "BF"))
    return tensor.elements if trainable else 0


def make_ledger(tensors: Iterable[TensorSpec], roles: Sequence[str] = ()) -> Ledger:
    """Add up tensors by role and layer.

    Args:
        tensors: each of them once.
        roles: the order they come in; others follow, in the order of the tensors.
    """
    rank = {role: position for position, role in enumerate(dict.fromkeys(roles))}
    rows = [LedgerRow(item.role, item.layer, 1, parameters_of(item), item.nbytes) for item in tensors]
    rows.sort(key=lambda row: rank.get(row.role or "", len(rank)))
    return Ledger(_merge(rows, lambda row: (row.role, row.layer)))


def _merge(
    rows: Iterable[LedgerRow], key: Callable[[LedgerRow], tuple[str | None, int | None]]
) -> tuple[LedgerRow, ...]:
    sums: dict[tuple[str | None, int | None], LedgerRow] = {}
    for row in rows:
        role, layer = key(row)
        old = sums.get((role, layer), LedgerRow(role, layer, 0, 0, 0))
        sums[role, layer] = LedgerRow(
            role, layer, old.tensors + row.tensors, old.parameters + row.parameters, old.nbytes + row.nbytes
        )
    return tuple(sums.values())
