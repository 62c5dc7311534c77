"""Which part of a model a tensor is, and which of its lengths grow with the model."""

from __future__ import annotations

import math
from fractions import Fraction

from steelyard.errors import UserError
from steelyard.forecast.parametrize.rule import Part
from steelyard.spec import ModelSpec, TensorSpec
from steelyard.spec.tensor import BUFFER

# Axes that stay when a model grows; every other axis of the tables of architectures is a width.
_FINITE = frozenset(
    (
        *("vocab", "position", "label", "type", "sentence_order", "bucket", "relative"),
        *("channel", "patch_height", "patch_width", "image_position", "pixel", "mel", "audio_position"),
        *("layer", "layer_output", "expert", "kernel", "term", "shared_term", "one", "switch", "qkv", "branch"),
    )
)


def is_width(axis: str) -> bool:
    """Whether a dimension, such as "head*head_dim", grows with the model."""
    return not set(axis.split("*")) <= _FINITE


def trained(spec: ModelSpec) -> dict[str, TensorSpec]:
    """Return the tensors that training changes, by name."""
    return {
        name: tensor
        for name, tensor in spec.tensors.items()
        if tensor.role is not None and tensor.role != BUFFER and tensor.kind != "state" and tensor.axes is not None
    }


def _sides(tensor: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which dimensions are outputs and which are inputs."""
    axes = tensor.axes or ()
    places = list(range(len(axes)))
    if len(axes) > 2 and axes[0] == "expert":
        places = places[1:]
    if tensor.kind == "embedding" or tensor.transposed:
        return tuple(places[1:]), (places[0],)
    if tensor.kind == "other":
        return tuple(places), ()
    return (places[0],), tuple(places[1:])


def part_of(tensor: TensorSpec) -> Part:
    """Return which part of a model a tensor is.

    Gains and biases are vectors, and so is what has no side that grows.
    """
    axes = tensor.axes or ()
    if tensor.kind in ("norm", "bias") or len(axes) < 2:
        return "vector"
    outputs, inputs = _sides(tensor)
    wide_out = any(is_width(axes[place]) for place in outputs)
    wide_in = any(is_width(axes[place]) for place in inputs)
    if wide_out and wide_in:
        return "hidden"
    if wide_in:
        return "output"
    return "input" if wide_out else "vector"


def width_of(tensor: TensorSpec, part: Part, base: TensorSpec | None) -> Fraction:
    """Return how wide a tensor is beside its base's: inputs of hidden and output parts, outputs of the others.

    Args:
        tensor: of the model.
        part: of it.
        base: the same tensor of the base; None to count from one.
    """
    axes = tensor.axes or ()
    if part == "vector":
        counted = tuple(range(len(axes)))
    else:
        outputs, inputs = _sides(tensor)
        counted = outputs if part == "input" else inputs
    counted = tuple(place for place in counted if is_width(axes[place]))
    if not counted:
        return Fraction(1)
    length = math.prod(tensor.shape[place] for place in counted)
    return Fraction(length, 1 if base is None else math.prod(base.shape[place] for place in counted))


def counterparts(spec: ModelSpec, base: ModelSpec) -> dict[str, TensorSpec]:
    """Return for every trained tensor of a model that of the base.

    Raises:
        UserError: if they are not the same model in other widths and depths.
    """
    if spec.model_type != base.model_type:
        raise UserError(
            f"the base is a {base.model_type!r} and the model a {spec.model_type!r}; give a base of the same kind"
        )
    if dict(spec.ties) != dict(base.ties):
        raise UserError(
            "tie_word_embeddings differs between the model and its base; give both the same, since a tied head is "
            "scaled elsewhere"
        )
    own, other = trained(spec), trained(base)
    patterns: dict[str, list[TensorSpec]] = {}
    for name, tensor in other.items():
        patterns.setdefault(_pattern(name, tensor), []).append(tensor)
    missing = sorted(set(patterns) - {_pattern(name, tensor) for name, tensor in own.items()})
    if missing:
        raise UserError(f"the base has a tensor {missing[0]} that the model lacks; they differ in more than size")
    found = {}
    for name, tensor in own.items():
        alike = patterns.get(_pattern(name, tensor))
        if alike is None:
            raise UserError(f"{name} has no counterpart in the base; they differ in more than width and depth")
        match = other.get(name) or alike[0]
        if name not in other and len({one.shape for one in alike}) > 1:
            raise UserError(f"{name}: the base's blocks differ in shape and it has no such block; give one as deep")
        for axis, length, base_length in zip(tensor.axes or (), tensor.shape, match.shape, strict=True):
            if length != base_length and not is_width(axis):
                raise UserError(
                    f"{name}: {axis} is {length} here and {base_length} in the base; only widths and depth may "
                    "differ, so give a base with the same"
                )
        found[name] = match
    return found


def _pattern(name: str, tensor: TensorSpec) -> str:
    if tensor.layer is None:
        return name
    return ".".join("*" if piece.isdigit() else piece for piece in name.split("."))
