"""A rule: for every part of a model, with which power of width and depth each quantity goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

Part = Literal["input", "hidden", "output", "vector"]
"""By which sides of a tensor grow with the model: its outputs, both, its inputs, or its only one."""

ZERO = Fraction(0)
HALF = Fraction(1, 2)
ONE = Fraction(1)


@dataclass(frozen=True)
class Powers:
    """Exponents of one number (width or depth).

    Attributes:
        init: of the standard deviation of the initial values.
        rate: of Adam's learning rate.
        epsilon: of Adam's epsilon.
        decay: of the weight decay as torch's AdamW takes it, that is multiplied by the learning rate.
        forward: of what the tensor is multiplied by wherever it is used.
    """

    init: Fraction = ZERO
    rate: Fraction = ZERO
    epsilon: Fraction = ZERO
    decay: Fraction = ZERO
    forward: Fraction = ZERO


@dataclass(frozen=True)
class Rule:
    """One parametrization, for Adam and AdamW.

    Attributes:
        name: how it is called.
        summary: one line.
        paper: its source.
        input: powers of width for embeddings: few inputs, as many outputs as the model is wide.
        hidden: for matrices between widths.
        output: for heads and routers: few outputs.
        vector: for gains and biases.
        block: powers of depth for every tensor within a block.
        branch: power of depth of what a block adds to the stream.
        attention: power of the head dimension that attention logits are multiplied by.
        absolute: widths and depth themselves count, not their ratios to a base.
        needs_base: it says nothing without a base.
        covers_depth: base and model may differ in their numbers of blocks.
        independent_decay: the weight decay is not multiplied by the learning rate.
        embedding_change: power of width that changes of embeddings go with by the rule's own choice.
        std: standard deviation of a base's matrices; None for the config's `initializer_range`.
        notes: what to know, shown with the table.
    """

    name: str
    summary: str
    paper: str
    input: Powers = field(default_factory=Powers)
    hidden: Powers = field(default_factory=Powers)
    output: Powers = field(default_factory=Powers)
    vector: Powers = field(default_factory=Powers)
    block: Powers = field(default_factory=Powers)
    branch: Fraction = ZERO
    attention: Fraction = -HALF
    absolute: bool = False
    needs_base: bool = True
    covers_depth: bool = False
    independent_decay: bool = False
    embedding_change: Fraction = ZERO
    std: float | None = None
    notes: tuple[str, ...] = ()

    def powers(self, part: Part) -> Powers:
        """Return the powers of width of a part."""
        return {"input": self.input, "hidden": self.hidden, "output": self.output, "vector": self.vector}[part]
