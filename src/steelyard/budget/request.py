"""What was asked for, as bytes of weight files on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.units import format_size, parse_size


@dataclass(frozen=True)
class Budget:
    """A budget in bytes and how it was asked for.

    Attributes:
        nbytes: the most that all weight files may take on disk, headers and index included.
        asked: the request in words, for reports.
    """

    nbytes: int
    asked: str


def resolve_budget(
    spec: ModelSpec,
    source_bytes: int,
    *,
    size: str | int | None = None,
    bits: float | None = None,
    ratio: float | None = None,
    memory: str | int | None = None,
    context: int | None = None,
    batch: int = 1,
) -> Budget:
    """Turn one of the four ways to ask into bytes.

    Args:
        spec: the model.
        source_bytes: bytes of its weight files as they are.
        size: bytes of the result's weight files.
        bits: bits per stored parameter, of everything stored (scales, embeddings, headers).
        ratio: share of `source_bytes`.
        memory: bytes of weights and key-value cache together; needs `context`.
        context: tokens per sequence in the cache.
        batch: sequences in the cache.

    Raises:
        UserError: if not exactly one way is given, or it leaves nothing for the weights.
    """
    given = {"--size": size, "--bits": bits, "--ratio": ratio, "--memory": memory}
    asked = [name for name, value in given.items() if value is not None]
    if len(asked) != 1:
        named = " and ".join(asked) if asked else "none"
        raise UserError(f"give exactly one of --size, --bits, --ratio, --memory; got {named}")
    if size is not None:
        return Budget(parse_size(size), f"{format_size(parse_size(size))} on disk")
    if bits is not None:
        if not 0 < bits < math.inf:
            raise UserError(f"--bits must be above zero and finite, got {bits}")
        parameters = spec.parameter_count()
        return Budget(_whole(bits * parameters / 8), f"{bits:g} bits for each of {parameters:,} parameters")
    if ratio is not None:
        if not 0 < ratio < math.inf:
            raise UserError(f"--ratio must be above zero and finite, got {ratio}")
        return Budget(_whole(ratio * source_bytes), f"{ratio:g} of {format_size(source_bytes)}")
    assert memory is not None
    return _from_memory(spec, parse_size(memory), context, batch)


def _whole(nbytes: float) -> int:
    """Return whole bytes, few enough for 64-bit sums."""
    return int(min(nbytes, 2.0**62))


def _from_memory(spec: ModelSpec, memory: int, context: int | None, batch: int) -> Budget:
    if context is None:
        raise UserError("--memory needs --context: the tokens whose keys and values share the memory")
    if context < 1 or batch < 1:
        raise UserError(f"--context and --batch must be at least 1, got {context} and {batch}")
    cache = spec.kv_cache_bytes(context, batch)
    if cache >= memory:
        raise UserError(
            f"the key-value cache of {batch} x {context} tokens alone takes {cache:,} bytes of the "
            f"{memory:,} asked for; lower --context or --batch"
        )
    asked = f"{format_size(memory)} with {format_size(cache)} of key-value cache for {batch} x {context} tokens"
    return Budget(memory - cache, asked)
