"""Bytes of what a model keeps while it writes: keys and values, latents, recurrent states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.spec.kept import KeptPart, kept_elements


@dataclass(frozen=True)
class CachePlan:
    """What is kept for a batch.

    Attributes:
        parts: each kind of it, for one sequence.
        batch: sequences.
        bits: stored for each element.
    """

    parts: tuple[KeptPart, ...]
    batch: int
    bits: float

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.by_name.values())

    @property
    def by_name(self) -> Mapping[str, int]:
        """Bytes of each kind."""
        sums: dict[str, int] = {}
        for part in self.parts:
            sums[part.name] = sums.get(part.name, 0) + self._nbytes(part.elements)
        return sums

    @property
    def by_layer(self) -> tuple[int, ...]:
        """Bytes of each block of the stack "layer", states included."""
        layers = [part.per_block for part in self.parts if part.stack == "layer"]
        longest = max((len(part) for part in layers), default=0)
        return tuple(
            sum(self._nbytes(part[layer]) for part in layers if layer < len(part)) for layer in range(longest)
        )

    def _nbytes(self, elements: int) -> int:
        return -int(-elements * self.batch * self.bits // 8)


def plan_cache(
    spec: ModelSpec,
    context: int,
    batch: int = 1,
    bits: int = 16,
    *,
    group: int = 0,
    scale_bits: int = 16,
    expanded: bool = False,
    lengths: Mapping[str, int] | None = None,
) -> CachePlan:
    """Return what a model keeps of a context, kind by kind.

    Args:
        spec: the model.
        context: tokens of each sequence.
        batch: sequences.
        bits: of an element: 16, 8 or 4, say.
        group: elements of a quantized cache that share a scale; 0 for none.
        scale_bits: of a group's scale, and of its zero point where there is one.
        expanded: keep keys and values of all heads where the latents of multi-head latent attention would do, as
            releases of transformers before the fifth did.
        lengths: positions of other streams, such as {"source": 512}; by default what the config tells, else the
            context.

    Raises:
        UserError: if no table describes the architecture, or a number is out of range.
    """
    table = spec.require_axes("the size of the cache")
    for name, value, least in (
        ("context", context, 0),
        ("batch", batch, 1),
        ("bits", bits, 1),
        ("group", group, 0),
    ):
        if value < least:
            raise UserError(f"{name} of a cache must be at least {least}, got {value}")
    parts = kept_elements(table, spec.config, context, lengths=lengths, expanded=expanded) if spec.generates else ()
    return CachePlan(parts, batch, bits + scale_bits / group if group else bits)


def cache_bytes(
    spec: ModelSpec,
    context: int,
    batch: int = 1,
    bits: int = 16,
    *,
    group: int = 0,
    scale_bits: int = 16,
    expanded: bool = False,
    lengths: Mapping[str, int] | None = None,
) -> int:
    """Return the bytes of all a model keeps of a context; 0 for models that do not generate. See `plan_cache`."""
    plan = plan_cache(
        spec,
        context,
        batch,
        bits,
        group=group,
        scale_bits=scale_bits,
        expanded=expanded,
        lengths=lengths,
    )
    return plan.total
