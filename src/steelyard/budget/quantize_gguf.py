"""What `quantize --format gguf` writes: one of GGUF's types for every matrix, or one of llama.cpp's mixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from steelyard.budget.encoding import rounding_of
from steelyard.budget.plan import Plan, TensorPlan
from steelyard.codecs import Codec
from steelyard.codecs.gguf.types import LEVELS
from steelyard.errors import UserError
from steelyard.formats import get as get_format
from steelyard.formats.container import Container, bound, shard_bytes
from steelyard.formats.gguf.mixes import MIXES, alike, mixed
from steelyard.jobs import OpenModel

if TYPE_CHECKING:
    from steelyard.budget.quantize import QuantizeOptions


_OPTIONS = frozenset(
    {
        "format", "type", "mix", "rounding", "rank", "bias_correction", "data", "calibration", "sequences",
        "sequence_length", "seed", "max_shard_size",
    }
)  # fmt: skip


def check_options(options: QuantizeOptions) -> None:
    """Refuse options that do not go together.

    Raises:
        ValueError: naming what to give instead.
    """
    if options.format != "gguf":
        if options.type or options.mix:
            raise ValueError("types and mixes are GGUF's; they need format gguf")
        return
    if (options.type is None) == (options.mix is None):
        raise ValueError("format gguf needs one of type, such as Q4_K, and mix, such as Q4_K_M")
    if options.type is not None and options.type not in LEVELS:
        raise ValueError(f"no type {options.type!r} to write; available: {', '.join(LEVELS)}")
    if options.mix is not None and options.mix not in MIXES:
        raise ValueError(f"no mix {options.mix!r}; available: {', '.join(MIXES)}")
    if options.rounding != "absmax" or options.rank is not None or options.bias_correction:
        raise ValueError("GGUF's blocks have a rounding of their own; leave out rounding, rank and bias correction")
    unused = sorted(options.model_fields_set - _OPTIONS)
    if unused:
        raise ValueError(
            f"GGUF's types say it all; leave out {', '.join(name.replace('_', '-') for name in unused)}"
        )


def asked(options: QuantizeOptions) -> str:
    """Return the request in words."""
    return f"{options.type} for every matrix" if options.type else f"llama.cpp's mix {options.mix}"


def plan_gguf(opened: OpenModel, options: QuantizeOptions) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan, and the matrices it leaves as they are.

    Raises:
        UserError: if GGUF has no place for the model.
    """
    format = bound(get_format("gguf"), opened.checkpoint, opened.spec)
    assert isinstance(format, Container)
    matrices: Mapping[str, Codec] = (
        alike(opened.spec, options.type)
        if options.type
        else mixed(opened.spec, str(options.mix), calibrated=options.calibrates)
    )
    tensors, left = {}, []
    for name in opened.spec.tensors:
        codec = matrices.get(name) or format.kept(opened.spec, name)
        if codec is None:
            continue
        if name in matrices and not format.supports(opened.spec, name, codec):
            raise UserError(f"{name} cannot be stored as {codec.label} in GGUF")
        tensors[name] = TensorPlan(name, codec, rounding_of(codec, "gguf"))
        if name in matrices and not tensors[name].rounding:
            left.append(name)
    request = {"verb": "quantize", **options.model_dump()}
    return Plan(format.name, tensors, shard_bytes(options.max_shard_size), request), tuple(left)
