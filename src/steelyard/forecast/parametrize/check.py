"""The coordinate check: real small models, trained for a few steps, in several widths or depths.

Under a parametrization that transfers, the sizes of activations and of what training changes in them do not depend
on the width (the check is microsoft/mup's, for Yang et al. 2022, arXiv:2203.03466). Here each is a slope of log
size against log width, and one that is not flat fails. Logits have a random part that fades as 1/sqrt(width), which
narrow models still show, so they may shrink as fast as that and no faster.

Across depths, as in the depth check of EleutherAI/nanoGPT-mup's branch completep, embeddings, logits and the sum
that the last norm reads are compared; where branches are divided by more than the root of the depth, their random
part fades in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.parametrize.family import DEPTH, POSITIONS, VOCABULARY, WIDTH, member
from steelyard.forecast.parametrize.parametrization import Parametrization
from steelyard.seeds import generator
from steelyard.spec import ModelSpec

if TYPE_CHECKING:
    import torch

Make = Callable[[ModelSpec, ModelSpec], Parametrization]
"""What gives the table of a model from its spec and the base's."""

Axis = Literal["width", "depth"]

TOLERANCE = 0.25
STREAM = "(what the last norm reads)"
_BATCH = 8


@dataclass(frozen=True)
class Trend:
    """One activation.

    Attributes:
        name: of the module it comes from.
        sizes: mean absolute value after the last step, by width or depth.
        changes: mean absolute difference to before the first step, by width or depth.
        size_slope: of log size against log width or depth.
        change_slope: of log change against the same.
        verdict: "flat", or what is wrong.
    """

    name: str
    sizes: tuple[float, ...]
    changes: tuple[float, ...]
    size_slope: float
    change_slope: float
    verdict: str


@dataclass(frozen=True)
class Check:
    """A coordinate check.

    Attributes:
        rule: that was checked.
        axis: what the models differ in.
        lengths: their widths, or numbers of blocks.
        steps: of training.
        lr: of the smallest.
        tolerance: steeper slopes fail.
        trends: one for every activation.
    """

    rule: str
    axis: Axis
    lengths: tuple[int, ...]
    steps: int
    lr: float
    tolerance: float
    trends: tuple[Trend, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is flat."""
        return all(trend.verdict == "flat" for trend in self.trends)


def coordinate_check(
    spec: ModelSpec,
    make: Make,
    *,
    axis: Axis = "width",
    times: Sequence[int] = (1, 2, 4, 8),
    steps: int = 4,
    lr: float | None = None,
    seeds: int = 2,
    larger_heads: bool = False,
    tolerance: float = TOLERANCE,
) -> Check:
    """Train small models of a kind in several widths and judge how activations go with width.

    Args:
        spec: the model whose kind is checked; its sizes do not matter.
        make: gives the table of each small model, with the smallest as its base.
        axis: what the models differ in.
        times: widths or depths, as multiples of the smallest.
        steps: of AdamW, on one batch of random tokens.
        lr: learning rate of the smallest.
        seeds: runs that are averaged.
        larger_heads: widen heads instead of having more of them.
        tolerance: largest slope that counts as flat.

    Raises:
        UserError: if there is no torch, or models of this kind cannot be made small here.
    """
    if len(set(times)) < 3 or min(times) < 1 or steps < 1 or seeds < 1:
        raise UserError("the coordinate check needs three sizes, a step and a seed")
    factors = sorted(times)
    wide = axis == "width"
    models = [member(spec, factor if wide else 1, 1 if wide else factor, larger_heads) for factor in factors]
    tables = [make(model, models[0]) for model in models]
    rate = lr if lr is not None else (0.25 if tables[0].rule.absolute else 0.01)
    seen = [[_train(table, rate, steps, seed, wide) for seed in range(seeds)] for table in tables]
    lengths = tuple((WIDTH if wide else DEPTH) * factor for factor in factors)
    heads, embeddings = (_modules(tables[0], part) for part in ("output", "input"))
    fading = min(0.0, 0.5 + float(tables[0].rule.branch))
    by_choice = float(tables[0].rule.embedding_change) if wide else 0.0
    trends = []
    for name in seen[0][0]:
        sizes = tuple(float(np.mean([run[name][0] for run in runs])) for runs in seen)
        changes = tuple(float(np.mean([run[name][1] for run in runs])) for runs in seen)
        of_size, of_change = slope(lengths, sizes), slope(lengths, changes)
        excess = of_change - (by_choice if name in embeddings else 0.0)
        floor = (-0.5 if name in heads else 0.0) if wide else (0.0 if name in embeddings else fading)
        verdict = judge(axis, of_size, excess, floor, tolerance)
        trends.append(Trend(name, sizes, changes, of_size, of_change, verdict))
    return Check(tables[0].rule.name, axis, lengths, steps, rate, tolerance, tuple(trends))


def slope(widths: Sequence[float], sizes: Sequence[float]) -> float:
    """Return the slope of log size against log width by least squares; NaN where a size is zero or not finite."""
    if not all(0 < size < math.inf for size in sizes):
        return math.nan
    x, y = np.log(np.asarray(widths, float)), np.log(np.asarray(sizes, float))
    x = x - x.mean()
    return float((x @ y) / (x @ x))


def judge(axis: Axis, of_size: float, of_change: float, floor: float, tolerance: float) -> str:
    """Return "flat", or in which way an activation's size or change follows the axis.

    Args:
        axis: for the words.
        of_size: slope of its size.
        of_change: slope of what training changes, less what the rule means it to be.
        floor: slope, zero or less, with which a random part of it fades.
        tolerance: largest slope that counts as flat.
    """
    if math.isnan(of_size) or math.isnan(of_change):
        return "zero or not finite"
    if of_size > tolerance:
        return f"grows with {axis}"
    if of_size < floor - tolerance:
        return f"shrinks with {axis}"
    if of_change > tolerance:
        return f"changes grow with {axis}"
    if of_change < floor - tolerance:
        return f"changes shrink with {axis}"
    return "flat"


def _modules(table: Parametrization, part: str) -> set[str]:
    return {row.name.removesuffix(".weight") for row in table.rows if row.part == part}


def _train(
    table: Parametrization, lr: float, steps: int, seed: int, blocks: bool
) -> dict[str, tuple[float, float]]:
    """Return size and change of every activation after training a model, those within blocks only if asked for."""
    import torch

    model = _build(table.spec.config)
    table.reinitialise(model, seed)
    # An epsilon far below every gradient: the check is about steps, whose size Adam makes.
    optimizer = torch.optim.AdamW(table.groups(model, lr, eps=1e-12))
    drawn = generator(seed, "coordinate check").integers(3, VOCABULARY, (_BATCH, POSITIONS))
    tokens = torch.from_numpy(drawn)
    inside = {name for name, tensor in table.spec.tensors.items() if tensor.layer is not None}
    matrices = [row.name for row in table.rows if len(row.shape) == 2 and (blocks or row.name not in inside)]
    seen: dict[str, torch.Tensor] = {}
    # Queries may hold the multiplier of attention logits, which is none of their activations.
    held = {row.name: row.rate for row in table.folded()}
    factors = {
        row.name: held.get(row.name, row.rate * row.forward) / (row.rate * row.forward) for row in table.rows
    }
    handles = []
    for matrix in matrices:
        name = matrix.removesuffix(".weight")
        hook = _keep_output(seen, name, factors[matrix])
        handles.append(model.get_submodule(name).register_forward_hook(hook))
    for row in table.rows:
        if row.role == "norm.final":
            norm = model.get_submodule(row.name.removesuffix(".weight"))
            handles.append(norm.register_forward_pre_hook(_keep_input(seen, STREAM)))
    try:
        first: dict[str, torch.Tensor] = {}
        for step in range(steps + 1):
            loss = model(input_ids=tokens, labels=tokens).loss
            if step == 0:
                first = dict(seen)
            if step < steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: (float(last.abs().mean()), float((last - first[name]).abs().mean())) for name, last in seen.items()
    }


def _keep_output(
    seen: dict[str, torch.Tensor], name: str, factor: float
) -> Callable[[Any, Any, torch.Tensor], None]:
    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        seen[name] = output.detach() / factor

    return hook


def _keep_input(seen: dict[str, torch.Tensor], name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
    def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[name] = inputs[0].detach().clone()

    return hook


def _build(config: Any) -> torch.nn.Module:
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise UserError("the coordinate check trains models: pip install 'steelyard[torch]'") from error

    values = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    try:
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **values))
    except (KeyError, ValueError) as error:
        raise UserError(f"transformers makes no {config['model_type']!r} of this config: {error}") from error
    model: torch.nn.Module = made.float().eval()
    return model
