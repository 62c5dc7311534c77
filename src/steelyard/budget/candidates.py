"""What may be bought for each group of tensors: the menu the allocator chooses from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from steelyard.codecs import Codec, DenseCodec, IntegerCodec, LowRankCodec, SumCodec
from steelyard.formats import Format
from steelyard.spec import ModelSpec, TensorSpec

Effort = Literal["quick", "good", "best"]

# (bits, group size or None for one scale per row, symmetric). At few bits small groups and a zero point earn
# their bytes; at many bits they do not, and a long menu costs time without widening the hull.
_MENU: dict[Effort, tuple[tuple[int, int | None, bool], ...]] = {
    "quick": (
        (2, 32, False),
        (3, 64, False),
        (4, 64, True),
        (5, 64, True),
        (6, 128, True),
        (8, None, True),
    ),
    "good": (
        (2, 16, False),
        (2, 32, False),
        (2, 64, False),
        (3, 32, False),
        (3, 64, False),
        (3, 128, True),
        (4, 32, False),
        (4, 64, False),
        (4, 64, True),
        (4, 128, True),
        (5, 64, False),
        (5, 128, True),
        (6, 64, True),
        (6, 128, True),
        (7, 128, True),
        (8, 128, True),
        (8, None, True),
    ),
}
_MENU["best"] = (
    *_MENU["good"],
    (2, 128, False),
    (3, 16, False),
    (3, 64, True),
    (4, 128, False),
    (4, None, True),
    (5, 32, False),
    (6, None, True),
    (7, 64, True),
)

# Ranks of the corrections tried on top of integers, as a share of the smaller side.
_CORRECTION_SHARES = (1 / 64, 1 / 32, 1 / 16)
_CORRECTED_BITS = (2, 3, 4)

_HALF_RANGE = {"F16", "BF16"}


@dataclass(frozen=True)
class Offer:
    """One group and the codecs on offer for it; every member takes the same one.

    Attributes:
        group: name of the fused group or of the single tensor.
        members: names of the tensors of the result.
        codecs: on offer; None stands for leaving the stored bytes as they are.
    """

    group: str
    members: tuple[str, ...]
    codecs: tuple[Codec | None, ...]


def offers(spec: ModelSpec, format: Format, effort: Effort, fuse: bool = True) -> list[Offer]:
    """Return the menu for every tensor of the model under a format.

    Args:
        spec: the model.
        format: what can be expressed.
        effort: how long the menu is.
        fuse: whether the members of a fused group must share one codec.
    """
    grouped: dict[str, str] = {}
    if fuse:
        grouped = {member: group.name for group in spec.groups for member in group.members}
    members: dict[str, list[str]] = {}
    for name in spec.tensors:
        members.setdefault(grouped.get(name, name), []).append(name)
    return [Offer(group, tuple(names), _menu(spec, format, effort, names)) for group, names in members.items()]


def _menu(spec: ModelSpec, format: Format, effort: Effort, names: Sequence[str]) -> tuple[Codec | None, ...]:
    tensors = [spec.tensors[name] for name in names]
    menu: list[Codec | None] = [None]
    if any(tensor.dtype not in ("F32", "F16", "BF16") for tensor in tensors):
        return tuple(menu)
    proposals: Iterator[Codec]
    if all(_is_matrix(tensor) for tensor in tensors):
        proposals = _for_matrices(tensors, effort)
    else:
        proposals = _for_vectors(tensors)
    for codec in proposals:
        if all(format.supports(spec, tensor.name, codec) for tensor in tensors):
            menu.append(codec)
    return tuple(menu)


def _is_matrix(tensor: TensorSpec) -> bool:
    return len(tensor.shape) == 2 and tensor.kind in ("linear", "embedding")


def _for_vectors(tensors: Sequence[TensorSpec]) -> Iterator[Codec]:
    if all(tensor.dtype == "F32" for tensor in tensors):
        yield DenseCodec("F16")


def _for_matrices(tensors: Sequence[TensorSpec], effort: Effort) -> Iterator[Codec]:
    if all(tensor.dtype == "F32" for tensor in tensors):
        yield DenseCodec("F16")
    # Scales keep the range of the weights they came from; float16 has three more bits of precision.
    scale = "BF16" if any(tensor.dtype == "BF16" for tensor in tensors) else "F16"
    columns = [tensor.matrix_shape[1] for tensor in tensors]
    for bits, group, symmetric in _MENU[effort]:
        if group is None or all(width > group for width in columns):
            yield IntegerCodec(bits=bits, group_size=group, symmetric=symmetric, scale_dtype=scale)
    if effort == "best" and all(tensor.kind == "linear" for tensor in tensors):
        smaller = min(min(tensor.matrix_shape) for tensor in tensors)
        for bits in _CORRECTED_BITS:
            base = IntegerCodec(bits=bits, group_size=64, symmetric=False, scale_dtype=scale)
            for rank in sorted({max(1, int(smaller * share)) for share in _CORRECTION_SHARES}):
                yield SumCodec(base, LowRankCodec(rank=rank, dtype=scale))
