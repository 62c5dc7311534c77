"""The rows of an architecture's table: from a pattern of names to a role and named axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from steelyard.spec.settings import Settings
from steelyard.spec.tensor import BUFFER, Kind

Condition = bool | str | Callable[[Settings], bool]
"""True, False, the config key of a switch, or a function of the settings."""

Blocks = Callable[[Settings, Mapping[str, int]], bool]
"""Whether a row holds for the numbers that stand for the placeholders of a name, such as {"layer": 3}."""

Shape = tuple[str, ...]
"""For every dimension its named axes, joined by "*" where one dimension holds several, outermost first."""


@dataclass(frozen=True)
class Shared:
    """What linears of one module have in common.

    Attributes:
        codec: pattern of the name of their fused group, whose members must share one codec.
        input: pattern of the first one's module; all of them read the same input.
    """

    codec: str
    input: str


@dataclass(frozen=True)
class Rule:
    """One row: every tensor whose name fits the pattern.

    Attributes:
        pattern: a name with `{layer}` (and `{expert}`, or any other axis) in place of numbers.
        role: such as "attn.q".
        axes: named axes of every dimension; None where the shape is not told by the config.
        kind: which methods the tensor is for.
        transposed: stored as [in, out].
        when: whether a model of this config has the tensor.
        classes: endings of the class names that have it, such as "ForCausalLM"; empty for every class.
        optional: a checkpoint may lack it, because the model computes it or can do without.
        shared: what a linear has in common with its neighbours.
        blocks: which of the blocks (or experts) have it; None for all of them.
    """

    pattern: str
    role: str
    axes: Shape | None
    kind: Kind
    transposed: bool = False
    when: Condition = True
    classes: tuple[str, ...] = ()
    optional: bool = False
    shared: Shared | None = None
    blocks: Blocks | None = None

    def holds_for(self, settings: Settings, numbers: Mapping[str, int]) -> bool:
        """Whether a model of this config has the tensor of these numbers, if it has any of the rule."""
        return self.blocks is None or self.blocks(settings, numbers)

    def applies(self, settings: Settings) -> bool:
        """Whether a model of this config has the tensor."""
        if isinstance(self.when, bool):
            return self.when
        return settings.flag(self.when) if isinstance(self.when, str) else self.when(settings)

    def belongs_to(self, class_name: str) -> bool:
        """Whether a model of this class has the tensor."""
        return not self.classes or class_name.endswith(self.classes)


def linear(
    module: str,
    role: str,
    out: str,
    into: str,
    *,
    bias: Condition = False,
    when: Condition = True,
    transposed: bool = False,
    classes: tuple[str, ...] = (),
    optional: bool = False,
    shared: Shared | None = None,
) -> tuple[Rule, ...]:
    """Return the rows of a linear map.

    Args:
        module: pattern of its module.
        role: role of the weight; the bias's is `role + ".bias"`.
        out: axes of the output.
        into: axes of the input.
        bias: when it has a bias.
        when: when a model has it at all.
        transposed: stored as [in, out].
        classes: endings of the names of the classes that have it.
        optional: a checkpoint may lack it.
        shared: what it has in common with its neighbours.
    """
    axes = (into, out) if transposed else (out, into)
    weight = Rule(f"{module}.weight", role, axes, "linear", transposed, when, classes, optional, shared)
    if bias is False:
        return (weight,)
    return (weight, Rule(f"{module}.bias", f"{role}.bias", (out,), "bias", False, bias, classes, optional))


def embedding(
    module: str, role: str, rows: str, columns: str, *, when: Condition = True, classes: tuple[str, ...] = ()
) -> tuple[Rule, ...]:
    """Return the row of an embedding table of [rows, columns]."""
    return (Rule(f"{module}.weight", role, (rows, columns), "embedding", when=when, classes=classes),)


def conv(
    module: str,
    role: str,
    axes: Shape,
    *,
    bias: Condition = False,
    when: Condition = True,
    classes: tuple[str, ...] = (),
) -> tuple[Rule, ...]:
    """Return the rows of a convolution.

    Args:
        module: pattern of its module.
        role: role of the weight; the bias's is `role + ".bias"`.
        axes: outputs, inputs of one group, and the lengths of the kernel.
        bias: when it has a bias.
        when: when a model has it at all.
        classes: endings of the names of the classes that have it.
    """
    weight = Rule(f"{module}.weight", role, axes, "conv", when=when, classes=classes)
    if bias is False:
        return (weight,)
    return (weight, Rule(f"{module}.bias", f"{role}.bias", axes[:1], "bias", when=bias, classes=classes))


def parameter(
    name: str, role: str, *axes: str, when: Condition = True, classes: tuple[str, ...] = ()
) -> tuple[Rule, ...]:
    """Return the row of trained numbers that are no matrix, norm or bias: scales, decays, class tokens."""
    return (Rule(name, role, axes, "other", when=when, classes=classes),)


def norm(
    module: str, role: str, axis: str, *, bias: bool = False, when: Condition = True, classes: tuple[str, ...] = ()
) -> tuple[Rule, ...]:
    """Return the rows of a normalization: its weight and, for a layer norm, its bias."""
    weight = Rule(f"{module}.weight", role, (axis,), "norm", when=when, classes=classes)
    shift = Rule(f"{module}.bias", f"{role}.bias", (axis,), "bias", when=when, classes=classes)
    return (weight, shift) if bias else (weight,)


def bias(
    name: str, role: str, axis: str, *, when: Condition = True, classes: tuple[str, ...] = ()
) -> tuple[Rule, ...]:
    """Return the row of a bias that belongs to no linear map or norm."""
    return (Rule(name, role, (axis,), "bias", when=when, classes=classes),)


def buffer(*names: str) -> tuple[Rule, ...]:
    """Return rows of tensors that the model computes by itself; old files store them nevertheless."""
    return tuple(Rule(name, BUFFER, None, "other", optional=True) for name in names)


def state(name: str, role: str, axis: str) -> tuple[Rule, ...]:
    """Return the row of numbers that are stored and loaded, but that no gradient trains."""
    return (Rule(name, role, (axis,), "state"),)


def rules(*rows: Iterable[Rule]) -> tuple[Rule, ...]:
    """Join the rows of a table."""
    return tuple(rule for group in rows for rule in group)


def within(blocks: Blocks, *rows: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return rows that hold for some blocks alone, where blocks of one model differ in kind."""
    return tuple(replace(rule, blocks=blocks) for group in rows for rule in group)
