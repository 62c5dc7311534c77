"""A rule applied to a model: the table, and what it makes of a torch model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from steelyard.errors import UserError
from steelyard.forecast.parametrize.rule import Rule
from steelyard.forecast.parametrize.rules import get
from steelyard.forecast.parametrize.table import Row, fold, rows_of
from steelyard.forecast.parametrize.tensors import counterparts
from steelyard.spec import ModelSpec, State

if TYPE_CHECKING:
    import torch

_USUAL_STD = 0.02


@dataclass(frozen=True)
class Parametrization:
    """One row for every tensor of a model.

    Attributes:
        rule: that was applied.
        spec: the model.
        depth: its blocks over those of the base (or over one).
        std: standard deviation of the base's matrices.
        attention: what attention logits are multiplied by, beyond what the model itself does.
        rows: one for every tensor, as published, with multipliers; a tied head has one too.
        notes: what to know.
    """

    rule: Rule
    spec: ModelSpec
    depth: float
    std: float
    attention: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def folded(self) -> tuple[Row, ...]:
        """Return the rows without multipliers: they are in the tensors, and the model trains the same.

        Raises:
            UserError: if no tensor can hold one of them.
        """
        return fold(self.rows, self.attention)

    def groups(
        self, model: torch.nn.Module, lr: float, weight_decay: float = 0.0, eps: float = 1e-8
    ) -> list[dict[str, Any]]:
        """Return parameter groups for Adam or AdamW of a model that `reinitialise` has set up.

        Args:
            model: a transformers model of this config.
            lr: the base's learning rate.
            weight_decay: the base's, as AdamW takes it; of rules with independent decay what each step takes off.
            eps: the base's.

        Raises:
            UserError: if the model's parameters are not those of the table.
        """
        from steelyard.forecast.parametrize.apply import groups

        return groups(self, model, lr, weight_decay, eps)

    def reinitialise(self, model: torch.nn.Module, seed: int = 0) -> None:
        """Give every parameter of a transformers model its initial values, multipliers included, in place.

        Args:
            model: of this config.
            seed: of the draws, each of which depends on it and on the tensor's name alone.

        Raises:
            UserError: if the model's parameters are not those of the table.
        """
        from steelyard.forecast.parametrize.apply import reinitialise

        reinitialise(self, model, seed)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "rule": self.rule.name,
            "paper": self.rule.paper,
            "depth": self.depth,
            "std": self.std,
            "attention_logits": self.attention,
            "independent_decay": self.rule.independent_decay,
            "tensors": [{**asdict(row), "shape": list(row.shape)} for row in self.rows],
            "notes": list(self.notes),
        }


def make(spec: ModelSpec, base: ModelSpec | None, rule: str | Rule, std: float | None = None) -> Parametrization:
    """Return a rule's table for a model.

    Args:
        spec: the model.
        base: the model that hyperparameters were found on; rules without one do not read it.
        rule: its name, or one of your own.
        std: standard deviation of the base's matrices; by default what the rule or the config says.

    Raises:
        UserError: if the rule does not cover the model, or the base is another model.
    """
    chosen = get(rule) if isinstance(rule, str) else rule
    architecture = spec.require_axes("parametrize")
    if architecture.stacks:
        raise UserError(f"{spec.model_type} has several stacks of blocks; parametrize covers models with one")
    if any(isinstance(kept, State) for kept in architecture.kept):
        raise UserError(f"{spec.model_type} is recurrent, and the rules here are derived for attention and MLPs")
    if base is None and chosen.needs_base:
        raise UserError(
            f"{chosen.name} scales against a base: give --base with the config that the learning rate was found on "
            "(without one it would silently be the standard parametrization)"
        )
    matches = None if chosen.absolute else counterparts(spec, spec if base is None else base)
    depth = Fraction(spec.n_layers, 1 if chosen.absolute or base is None else base.n_layers)
    if base is not None and not chosen.covers_depth and spec.n_layers != base.n_layers:
        raise UserError(
            f"{chosen.name} covers widths only, and the model has {spec.n_layers} blocks where the base has "
            f"{base.n_layers}; use completep or depth-mup, or a base as deep"
        )
    if chosen.branch and not any(tensor.role == "norm.final" for tensor in spec.tensors.values()):
        raise UserError(
            f"{chosen.name} scales branches, and {spec.model_type} has its norms after the sum; use mup"
        )
    notes = [*chosen.notes]
    if chosen.absolute and base is not None:
        notes.append(f"{chosen.name} has no base; the one given is not read")
    deviation = _deviation(chosen, spec.config if base is None else base.config, std)
    rows = rows_of(chosen, spec, matches, depth, deviation)
    return Parametrization(
        chosen, spec, float(depth), deviation, _attention(chosen, spec, base), tuple(rows), tuple(notes)
    )


def _deviation(rule: Rule, config: Mapping[str, Any], asked: float | None) -> float:
    if asked is not None:
        if not 0 < asked < float("inf"):
            raise UserError(f"--std must be positive, got {asked}")
        return asked
    if rule.std is not None:
        return rule.std
    if "initializer_range" not in config and "initializer_factor" in config:
        raise UserError("the config has no initializer_range; give the deviation of its matrices with --std")
    value = config.get("initializer_range", _USUAL_STD)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise UserError(f"config.json: initializer_range must be a positive number, got {value!r}")
    return float(value)


def _attention(rule: Rule, spec: ModelSpec, base: ModelSpec | None) -> float:
    """Return the factor that attention logits lack: the rule's power of the head dimension over the model's own."""
    now, own = _head(spec)
    if now is None or own is None:
        return 1.0
    if not rule.absolute:
        then, base_own = _head(spec if base is None else base)
        if then is None or base_own is None:
            return 1.0
        now, own = now / then, own / base_own
    power: float = float(now) ** float(rule.attention) * float(own) ** 0.5
    return power


def _head(spec: ModelSpec) -> tuple[Fraction | None, Fraction | None]:
    """Return the head dimension, and over the root of which number the model itself divides logits."""
    architecture = spec.require_axes("parametrize")
    axis = next((name for name in ("head_dim", "key_dim") if name in architecture.sizes), None)
    if axis is None:
        return None, None
    length = Fraction(architecture.axis_size(axis, architecture.settings(spec.config)))
    scalar = spec.config.get("query_pre_attn_scalar")
    if scalar is None and spec.model_type in ("gemma2", "gemma3_text"):
        scalar = 256
    return length, length if scalar is None else Fraction(scalar)
