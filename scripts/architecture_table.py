"""Print what is checked of every architecture, as a table for the documentation.

Every row is a tiny model of transformers beside its spec: the parameters of both, the operations of a forward pass
by `torch.utils.flop_counter` and by the table, and the bytes that automatic differentiation keeps of one.

    python scripts/architecture_table.py > docs/architectures.md
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "weigh"))

from test_flops import BATCH, TOKENS, tokens
from test_flops_other import CASES, RECURRENT, counted, ids
from test_training import kept_by
from tiny_models import CLASSIFIERS, DECODERS, build, rotary

from steelyard.spec import ModelSpec
from steelyard.weigh import flops
from steelyard.weigh.activations import count_activations

HEADING = """# Architectures and what is checked of them

Made by `scripts/architecture_table.py`. Each row is a tiny model built by transformers and the spec of its config:
parameters and operations of a forward pass are compared number by number; the last column says by how much the
count of bytes kept for the backward pass is off for a model wide enough to tell (plain attention, 32 bits; what
differs is copies that a model's code makes on its way).

| architecture | class | parameters | operations | kept for the backward pass |
| --- | --- | ---: | ---: | ---: |"""


def kept(class_name: str) -> str:
    """Relative error of the bytes kept, for models of text."""
    options = dict(DECODERS[class_name])
    options |= {key: 64 for key in ("hidden_size",) if key in options}
    options |= {key: 192 for key in ("intermediate_size",) if key in options}
    options |= {key: 128 for key in ("max_position_embeddings", "n_positions") if key in options}
    model, spec = build(class_name, options)
    found = kept_by(model.train(), 2, 64)
    plan = count_activations(spec, 64, 2, width=4, fused=False)
    counted_bytes = sum(plan.blocks) + sum(plan.scores) + plan.outside + 4 * 2 * 64 * 48
    return f"{counted_bytes / found - 1:+.1%}"


def row(class_name: str, model: Any, spec: ModelSpec, operations: tuple[int, int], off: str) -> str:
    """One line of the table."""
    real = sum(part.numel() for part in model.parameters())
    ours = spec.parameter_count()
    parameters = f"{ours:,}, exact" if real == ours else f"{ours:,} of {real:,}"
    told, found = operations
    flop = f"{told:,}, exact" if told == found else f"{told:,} of {found:,}"
    return f"| {spec.model_type} | {class_name} | {parameters} | {flop} | {off} |"


def main() -> None:
    """Print the page."""
    lines = [HEADING]
    for class_name, options in DECODERS.items():
        model, spec = build(class_name, options)
        found = counted(lambda model=model: model(input_ids=tokens())) - rotary(model, TOKENS)
        told = flops.prefill(spec, TOKENS, BATCH).total
        lines.append(row(class_name, model, spec, (told, found), kept(class_name)))
    for class_name, options in CLASSIFIERS.items():
        model, spec = build(class_name, options)
        found = counted(lambda model=model: model(input_ids=tokens())) - rotary(model, TOKENS)
        lines.append(row(class_name, model, spec, (flops.prefill(spec, TOKENS, BATCH).total, found), ""))
    others = {**CASES, **{name: (options, {"input_ids": ids()}, None) for name, options in RECURRENT.items()}}
    for class_name, (options, inputs, lengths) in others.items():
        model, spec = build(class_name, options)
        found = counted(lambda model=model, inputs=inputs: model(**inputs))
        plan = flops.prefill(spec, TOKENS, BATCH, lengths=lengths)
        # See tests/weigh/test_flops_other.py for what transformers computes beyond the end of a convolution.
        found -= plan.linear.get("ssm.conv", 0) * 3 // TOKENS
        found += plan.work.get("ssm.scan", 0) if class_name.startswith("Mamba2") else 0
        lines.append(row(class_name, model, spec, (plan.total, found), ""))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    with contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng():
        main()
