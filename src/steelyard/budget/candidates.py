"""What may be bought for each group of tensors: the menu the allocator chooses from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steelyard.budget.menu import CORRECTED_BITS, CORRECTION_SHARES, GRID_STEPS, INTEGERS, PLAIN_FROM, Effort
from steelyard.budget.plan import AS_STORED
from steelyard.codecs import Codec, DenseCodec, EntropyCodec, GridCodec, IntegerCodec, LowRankCodec, SumCodec
from steelyard.formats import Format
from steelyard.formats.base import scale_dtype
from steelyard.formats.container import Container
from steelyard.spec import ModelSpec, TensorSpec

Choice = tuple[tuple[str, Codec | None], ...]
"""One way to store a group: the codec of every tensor that is written for it; None leaves the bytes as they are."""


@dataclass(frozen=True)
class Offer:
    """One group and the ways of storing it.

    Attributes:
        group: name of the fused group or of the single tensor.
        choices: on offer; the first leaves every tensor as it is stored.
    """

    group: str
    choices: tuple[Choice, ...]

    def names(self) -> list[str]:
        """Every tensor that some choice writes."""
        return list(dict.fromkeys(name for choice in self.choices for name, _ in choice))


def label_of(choice: Choice) -> str:
    """Return how people name a way of storing, such as "int4 g64 sym" or "int8 row sym + int3 g64 asym"."""
    labels = dict.fromkeys(AS_STORED if codec is None else codec.label for _, codec in choice)
    return " + ".join(labels)


def offers(spec: ModelSpec, format: Format, effort: Effort, fuse: bool = True, entropy: bool = True) -> list[Offer]:
    """Return the menu for every tensor of the model under a format.

    Args:
        spec: the model.
        format: what can be expressed.
        effort: how long the menu is.
        fuse: whether the members of a fused group must share one codec.
        entropy: whether entropy-coded integers are on offer where the format has them.
    """
    grouped: dict[str, str] = {}
    if fuse:
        grouped = {member: group.name for group in spec.groups for member in group.members}
    members: dict[str, list[str]] = {}
    for name in spec.tensors:
        if isinstance(format, Container) and format.kept(spec, name) is None:
            continue
        own = format.together(spec, name) if isinstance(format, Container) else name
        members.setdefault(grouped.get(name, own), []).append(name)
    return [_offer(spec, format, effort, entropy, group, names) for group, names in members.items()]


def _offer(
    spec: ModelSpec, format: Format, effort: Effort, entropy: bool, group: str, names: Sequence[str]
) -> Offer:
    tensors = [spec.tensors[name] for name in names]
    if isinstance(format, Container):
        kept: Choice = tuple((name, format.kept(spec, name)) for name in names)
        bought = (codec for codec in format.menu(spec, tensors, effort) if (names[0], codec) not in kept)
        return Offer(group, (kept, *(tuple((name, codec) for name in names) for codec in bought)))
    as_stored: Choice = tuple((name, None) for name in names)
    if not all(tensor.dtype in ("F32", "F16", "BF16") for tensor in tensors):
        return Offer(group, (as_stored,))
    aliases = [alias for alias, table in spec.ties.items() if table in names and alias.endswith(".weight")]
    if aliases and not format.packs_tied:
        return Offer(group, (as_stored, *_apart(spec, format, effort, names[0], aliases[0])))
    coded = entropy and all(format.supports(spec, name, EntropyCodec(GridCodec(1.0))) for name in names)
    matrices = all(map(_is_matrix, tensors))
    proposals = _for_matrices(spec, tensors, effort, coded) if matrices else _for_vectors(tensors)
    shared = [c for c in proposals if all(format.supports(spec, name, c) for name in names)]
    return Offer(group, (as_stored, *(tuple((name, codec) for name in names) for codec in shared)))


def _apart(spec: ModelSpec, format: Format, effort: Effort, table: str, head: str) -> Iterator[Choice]:
    """Yield the ways of writing a tied table twice, as a table and as a head, for formats that cannot share one."""
    tensor = spec.tensors[table]
    if not _is_matrix(tensor):
        return
    # Untying is one switch for all ties: a head's bias that was tied too is then a tensor of its own.
    others: Choice = tuple((alias, None) for alias in spec.ties if alias != head)
    proposals = [codec for codec in _for_matrices(spec, [tensor], effort) if format.supports(spec, table, codec)]
    heads = [codec for codec in _for_matrices(spec, [tensor], effort) if format.supports(spec, head, codec)]
    for first in proposals:
        if isinstance(first, DenseCodec):
            yield ((table, first),)
        else:
            for second in heads:
                if isinstance(second, IntegerCodec):
                    yield ((table, first), (head, second), *others)


def _is_matrix(tensor: TensorSpec) -> bool:
    return len(tensor.shape) == 2 and tensor.kind in ("linear", "embedding")


def _for_vectors(tensors: Sequence[TensorSpec]) -> Iterator[Codec]:
    if all(tensor.dtype == "F32" for tensor in tensors):
        yield DenseCodec("F16")


def _for_matrices(
    spec: ModelSpec, tensors: Sequence[TensorSpec], effort: Effort, coded: bool = False
) -> Iterator[Codec]:
    if all(tensor.dtype == "F32" for tensor in tensors):
        yield DenseCodec("F16")
    # Loaders cast scales to the model's type; where that is float32, float16 has three more bits than bfloat16.
    scale = scale_dtype(spec)
    columns = [tensor.matrix_shape[1] for tensor in tensors]
    if coded:
        for step in GRID_STEPS[effort]:
            yield EntropyCodec(GridCodec(step))
        yield EntropyCodec(IntegerCodec(8, None, True, scale))
    for bits, group, symmetric in INTEGERS[effort]:
        if (group is None or all(width > group for width in columns)) and not (coded and bits < PLAIN_FROM):
            yield IntegerCodec(bits=bits, group_size=group, symmetric=symmetric, scale_dtype=scale)
    if not coded and effort == "best" and all(tensor.kind == "linear" for tensor in tensors):
        smaller = min(min(tensor.matrix_shape) for tensor in tensors)
        for bits in CORRECTED_BITS:
            base = IntegerCodec(bits=bits, group_size=64, symmetric=False, scale_dtype=scale)
            for rank in sorted({max(1, int(smaller * share)) for share in CORRECTION_SHARES}):
                yield SumCodec(base, LowRankCodec(rank=rank, dtype=scale))
