"""Roles as people name them, in the order data pass through a model."""

from __future__ import annotations

from collections.abc import Iterable

from steelyard.report.data import RoleBytes

HEADERS = "headers, index"
_OTHER = "other"

# Families of "where the bytes went", in order, and the roles each takes in (a bias goes with its matrix). The first
# that fits counts.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("embeddings", ("embed.",)),
    ("convolutions", ("conv", "ssm.conv")),
    (
        "q, k, v",
        ("attn.q", "attn.k", "attn.v", "attn.qkv", "attn.r", "attn.q_a", "attn.q_b", "attn.kv_a", "attn.kv_b"),
    ),
    ("attention out", ("attn.o",)),
    ("cross attention", ("cross.",)),
    ("state spaces", ("ssm.",)),
    ("gate, up", ("mlp.gate", "mlp.up", "mlp.gate_up")),
    ("down", ("mlp.down",)),
    ("mixing", ("mlp.mix.",)),
    ("experts", ("expert.", "shared_expert.")),
    ("routers", ("router", "router.")),
    ("norms", ("norm.", "attn.q_norm", "attn.k_norm", "attn.kv_norm", "pooler.norm")),
    ("attention, other", ("attn.",)),
    ("head", ("head", "head.", "classifier", "classifier.", "pooler", "pooler.", "projection", "projection.")),
)

# Columns of the heat map inside the blocks, in order.
_COLUMNS = {
    "attn.qkv": "q k v",
    "attn.q": "q",
    "attn.k": "k",
    "attn.v": "v",
    "attn.o": "o",
    "mlp.gate": "gate",
    "mlp.up": "up",
    "mlp.down": "down",
}
_OUTSIDE = {
    "embed.token": "token embedding",
    "embed.position": "position embedding",
    "embed.type": "type embedding",
    "pooler": "pooler",
    "head.transform": "head transform",
    "head": "head",
    "classifier": "classifier",
}


def family(role: str | None) -> str:
    """Return the family of "where the bytes went" that a role of the spec belongs to."""
    if role is None:
        return _OTHER
    bare = role.removesuffix(".bias")
    for name, members in _FAMILIES:
        if any(bare == member or (member.endswith(".") and bare.startswith(member)) for member in members):
            return name
    return _OTHER


def byte_rows(tensors: Iterable[tuple[str | None, int, int]], original: int, written: int) -> tuple[RoleBytes, ...]:
    """Add up bytes by family.

    Args:
        tensors: (role, original bytes, new bytes) of every tensor, tied ones once.
        original: bytes of the original's weight files.
        written: bytes of the result's weight files. What the tensors leave of either is headers and index.
    """
    sums: dict[str, list[int]] = {}
    for role, before, after in tensors:
        row = sums.setdefault(family(role), [0, 0])
        row[0] += before
        row[1] += after
    order = [name for name, _ in _FAMILIES] + [_OTHER]
    rows = [RoleBytes(name, *sums[name]) for name in order if name in sums]
    rest = RoleBytes(HEADERS, original - sum(row.original for row in rows), written - sum(row.new for row in rows))
    return (*rows, rest)


def column(role: str | None, layer: int | None) -> str | None:
    """Return the heat map's column for a tensor; None for norms and biases, which are not part of it."""
    if role is None:
        return _OTHER
    if role.endswith((".bias", "_norm")) or role.startswith("norm."):
        return None
    names = _OUTSIDE if layer is None else _COLUMNS
    return names.get(role, role)


def column_order(columns: Iterable[str]) -> list[str]:
    """Return the columns in the order data pass through them, unknown ones last by name."""
    known = [*_COLUMNS.values(), *_OUTSIDE.values()]
    return sorted(set(columns), key=lambda name: (known.index(name) if name in known else len(known), name))
