"""Bias correction: what rounding does to a layer's mean output is taken back by its bias."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from steelyard.budget.encoding import encode_parts
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint

BIAS_CORRECTION = "bias-correction"
"""Stands in a plan where a rounding method does: the bias is stored in its own type, corrected."""


def weight_of(bias: str) -> str:
    """Return the name of the weight that a bias goes with."""
    return bias.removesuffix(".bias") + ".weight"


def correctable(spec: ModelSpec) -> Iterator[str]:
    """Yield the biases of linear maps."""
    for name, tensor in spec.tensors.items():
        weight = spec.tensors.get(weight_of(name))
        if name.endswith(".bias") and tensor.is_plain_float and weight is not None and weight.kind == "linear":
            yield name


def planned_parts(
    name: str, plan: Plan, checkpoint: Checkpoint, spec: ModelSpec, knowledge: KnowledgeBase, apart: bool
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a planned tensor as it is, and the parts that will stand for it.

    Args:
        name: of the tensor in the result; its plan has a codec.
        plan: of the whole model.
        checkpoint: the model.
        spec: the model.
        knowledge: what is known about its tensors.
        apart: whether tied tensors are written apart.
    """
    item = plan.tensors[name]
    assert item.codec is not None
    tensor = checkpoint.tensor(item.source)
    tensor = tensor.T if spec.tensors[item.source].transposed else tensor
    if item.rounding != BIAS_CORRECTION:
        return tensor, encode_parts(item, item.codec, tensor, knowledge.of(name, apart))
    corrected = tensor.astype(np.float64) + _lost(name, plan, checkpoint, spec, knowledge, apart)
    return tensor, item.codec.encode(corrected.astype(np.float32), name)


def _lost(
    name: str, plan: Plan, checkpoint: Checkpoint, spec: ModelSpec, knowledge: KnowledgeBase, apart: bool
) -> np.ndarray | float:
    """Return (W - Q) E[x], what the outputs lose on average, float64 [out].

    The weight is rounded once more for it: nothing is kept between tensors, which are written in any order.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2.
    """
    weight = weight_of(name)
    codec, mean = plan.tensors[weight].codec, knowledge.of(weight, apart).mean
    if codec is None or mean is None:
        return 0.0
    matrix, parts = planned_parts(weight, plan, checkpoint, spec, knowledge, apart)
    miss = matrix.astype(np.float64) - codec.decode(parts, matrix.shape).astype(np.float64)
    lost: np.ndarray = miss @ mean.astype(np.float64)
    return lost
