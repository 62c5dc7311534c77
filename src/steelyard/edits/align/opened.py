"""Two models that are to be brought together: opened, and held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steelyard.edits.align.symmetry import Read, Symmetry
from steelyard.errors import UserError
from steelyard.jobs import OpenModel, open_model


@dataclass(frozen=True)
class Two:
    """Two models of one family.

    Attributes:
        first: the one whose order counts.
        second: the other.
        symmetry: of the first.
        other: of the second.
    """

    first: OpenModel
    second: OpenModel
    symmetry: Symmetry
    other: Symmetry

    @property
    def read_first(self) -> Read:
        """Returns tensors of the first model in float32."""
        return _reader(self.first)

    @property
    def read_second(self) -> Read:
        """Returns tensors of the second model in float32."""
        return _reader(self.second)


@contextmanager
def open_two(first: str | Path, second: str | Path, *, same_size: bool) -> Iterator[Two]:
    """Open two models and compare what they are.

    Args:
        first: the model whose order counts.
        second: the other.
        same_size: whether their tensors must have the same shapes.

    Raises:
        UserError: with every tensor in which they differ, at most five named.
    """
    with open_model(first) as one, open_model(second) as two:
        if one.spec.model_type != two.spec.model_type:
            raise UserError(
                f"{first} is a {one.spec.model_type}, {second} a {two.spec.model_type}; only models of one "
                "architecture have units that belong to each other"
            )
        found = Two(one, two, Symmetry.of(one.spec), Symmetry.of(two.spec))
        _compare(found, same_size)
        yield found


def _compare(two: Two, same_size: bool) -> None:
    ours, theirs = two.first.spec.tensors, two.second.spec.tensors
    wrong = [f"{name} is only in {two.first.location}" for name in two.symmetry.dims if name not in theirs]
    wrong += [f"{name} is only in {two.second.location}" for name in two.other.dims if name not in ours]
    for name, dims in two.symmetry.dims.items():
        if name not in theirs:
            continue
        shapes = ours[name].shape, theirs[name].shape
        fixed = [dim for dim, spaces in enumerate(dims) if not _elastic(spaces)]
        if any(shapes[0][dim] != shapes[1][dim] for dim in (range(len(dims)) if same_size else fixed)):
            wrong.append(f"{name} is {list(shapes[0])} in {two.first.location}, {list(shapes[1])} in the other")
    heads = [(a.heads, a.kv_heads, a.channels) for a in two.symmetry.attentions]
    if not wrong and heads != [(a.heads, a.kv_heads, a.channels) for a in two.other.attentions]:
        wrong.append("the heads of attention differ in number or size")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError("the models do not fit each other: " + "; ".join(wrong[:5]) + more)


def _elastic(spaces: tuple[str, ...]) -> bool:
    """Tell whether a dimension may differ between models that are fused: the stream and inner channels."""
    return bool(spaces) and all(".attention." not in space for space in spaces)


def _reader(opened: OpenModel) -> Read:
    def read(name: str) -> np.ndarray:
        found: np.ndarray = opened.checkpoint.tensor(opened.spec.ties.get(name, name)).astype(np.float32)
        return found

    return read
