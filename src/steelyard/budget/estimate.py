"""How much memory and time a fit takes, before it is begun."""

from __future__ import annotations

from steelyard.budget.menu import Effort
from steelyard.budget.options import FitOptions
from steelyard.parallel import cpu_count
from steelyard.spec import ModelSpec
from steelyard.units import format_size

# Sustained float32 matrix products of one processor core, and how many products of a tensor's rows with its input
# moment one candidate costs. Measured on one kind of machine; the estimate says "about".
_FLOPS_PER_CORE = 6e10
_CANDIDATES: dict[Effort, int] = {"quick": 6, "good": 17, "best": 33}
_PRODUCTS = 6


def estimate(spec: ModelSpec, options: FitOptions) -> str:
    """Return memory and time in words."""
    parameters = spec.parameter_count()
    tokens = 0 if options.data == "none" else options.sequences * options.sequence_length
    # Forward once, forward again and back for the gradients.
    calibration = 8 * parameters * tokens
    matrices = [t.matrix_shape for t in spec.tensors.values() if t.kind == "linear" and len(t.shape) == 2]
    trying = sum(2 * rows * columns * columns for rows, columns in matrices)
    trying *= _PRODUCTS * _CANDIDATES[options.effort]
    seconds = (calibration + trying) / (_FLOPS_PER_CORE * cpu_count())
    block = sum(t.elements for t in spec.tensors.values() if t.layer == 0)
    widest = max((t.elements for t in spec.tensors.values()), default=0)
    hidden = max((t.matrix_shape[1] for t in spec.tensors.values() if t.kind == "embedding"), default=0)
    memory = 4 * (2 * max(block, widest) + 4 * tokens * hidden // 8)
    minutes = max(1, round(seconds / 60))
    return (
        f"about {format_size(memory)} of memory beside the files, about {minutes} min on {cpu_count()} processors"
    )
