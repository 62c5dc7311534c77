"""What a fit has to say for itself, as the report's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steelyard.budget.options import FitOptions
from steelyard.budget.plan import Plan, stored_tensors
from steelyard.budget.planning import PlannedFit
from steelyard.budget.produce import Staged
from steelyard.budget.provenance import versions
from steelyard.formats import Format
from steelyard.formats.base import tensor_of
from steelyard.jobs import OpenModel
from steelyard.report import Certificate, Request, Sizes, TensorRow, byte_rows
from steelyard.spec import ModelSpec


def request_of(opened: OpenModel, options: FitOptions, asked: str, calibration: str, evaluation: str) -> Request:
    """Return what was asked for."""
    plain = {
        name: ", ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in options.model_dump().items()
        if value not in (None, ())
    }
    return Request(
        model=opened.location,
        asked=asked,
        command=f"steelyard fit {opened.location} {_arguments(options)} --out OUT",
        options=plain,
        seed=options.seed,
        versions=versions(),
        calibration=calibration,
        evaluation=evaluation,
    )


def _arguments(options: FitOptions) -> str:
    """Return the options that differ from their defaults as the command line takes them."""
    words = []
    for name, field in FitOptions.model_fields.items():
        value = getattr(options, name)
        if value == field.get_default(call_default_factory=True):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(
                f"--{flag} {','.join(f'{v:g}' if isinstance(v, float) else str(v) for v in value)}"
                if isinstance(value, tuple)
                else f"--{flag} {value}"
            )
    return " ".join(words)


def sizes_of(opened: OpenModel, planned: PlannedFit, format: Format, staged: Staged) -> Sizes:
    """Return where the bytes went."""
    spec = opened.spec
    new = tensor_bytes(planned.plan, spec, format)
    rows = [
        (tensor_of(spec, name).role if name not in spec.ties else "head", 0, size) for name, size in new.items()
    ]
    rows += [(tensor.role, tensor.nbytes, 0) for tensor in spec.tensors.values()]
    original = opened.checkpoint.weight_bytes
    return Sizes(
        original=original,
        written=staged.layout.total_bytes,
        planned=planned.solution.nbytes,
        budget=planned.budget,
        step=planned.solution.next_step,
        parameters=spec.parameter_count(),
        roles=byte_rows(rows, original, staged.layout.total_bytes),
    )


def tensor_bytes(plan: Plan, spec: ModelSpec, format: Format) -> dict[str, int]:
    """Return the bytes of data of each tensor of the result."""
    return {name: sum(t.nbytes for t in parts) for name, parts in stored_tensors(plan, spec, format).items()}


def tensors_of(opened: OpenModel, plan: Plan, format: Format, errors: Mapping[str, float]) -> tuple[TensorRow, ...]:
    """Return how each tensor is stored."""
    sizes = tensor_bytes(plan, opened.spec, format)
    rows = []
    for name, item in plan.tensors.items():
        tensor = tensor_of(opened.spec, name)
        rows.append(
            TensorRow(
                name=name,
                layer=tensor.layer,
                role="head" if name in opened.spec.ties else tensor.role,
                label=tensor.dtype.lower() if item.codec is None else item.codec.label,
                bits=8 * sizes[name] / max(tensor.elements, 1),
                nbytes=sizes[name],
                damage=item.damage,
                error=errors.get(name, 0.0),
            )
        )
    return tuple(rows)


def certificates_of(staged: Staged, more: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Return everything that was proved."""
    return (*(Certificate(check.name, check.status, check.detail) for check in staged.checks), *more)
