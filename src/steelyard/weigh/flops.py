"""Operations of reading a prompt, writing a token and training, from an architecture's table and a config.

A multiplication and an addition are two operations, and only products of matrices, convolutions and scans count,
as `torch.utils.flop_counter` counts them: norms, activations and softmax are left out. Linear maps take
2 * out * in for every position, convolutions 2 * out * in * kernel for every position they write; attention
2 * heads * (key + value) * queries * keys for every block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from steelyard.errors import UserError
from steelyard.spec import Architecture, Attention, KeyValueCache, ModelSpec, Rule, Settings
from steelyard.spec.compute import TEXT
from steelyard.spec.kept import stream_positions
from steelyard.spec.tensor import ROUTER

Recompute = Literal["none", "selective", "full"]
Logits = Literal["all", "last"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_ONE_FOR_EACH_POSITION = ("ForTokenClassification", "ForQuestionAnswering")


@dataclass(frozen=True)
class Flops:
    """Operations by what they are for.

    Attributes:
        linear: of products with matrices, by role.
        attention: of queries with keys and of their weights with values.
        work: of everything else a table counts, such as scans, by role.
        recomputed: of what training does a second time, on top of the others.
    """

    linear: Mapping[str, int]
    attention: int
    work: Mapping[str, int] = field(default_factory=dict)
    recomputed: int = 0

    @property
    def total(self) -> int:
        """All operations."""
        return sum(self.linear.values()) + self.attention + sum(self.work.values()) + self.recomputed

    @property
    def head(self) -> int:
        """Those of the language model's head."""
        return sum(count for part in (self.linear, self.work) for role, count in part.items() if is_head(role))

    @property
    def without_head(self) -> int:
        """All but the head's."""
        return self.total - self.head

    @property
    def without_attention(self) -> int:
        """All but attention's products, which alone grow with the square of the context."""
        return self.total - self.attention


def prefill(
    spec: ModelSpec,
    tokens: int,
    batch: int = 1,
    *,
    causal: bool = False,
    logits: Logits = "all",
    lengths: Mapping[str, int] | None = None,
) -> Flops:
    """Return the operations of one forward pass.

    Args:
        spec: the model; its architecture needs a table.
        tokens: of each sequence. A model of images alone has as many positions as its config says.
        batch: sequences.
        causal: count only the pairs of positions that a causal mask and a sliding window let through, for kernels
            that skip the others; by default all pairs, as `torch.utils.flop_counter` counts and plain attention
            computes.
        logits: whether the head works on all positions or on the last one alone.
        lengths: positions of other streams, such as {"source": 512} for the encoder's; by default what the config
            tells, else as many as `tokens`.

    Raises:
        UserError: if no table describes the architecture, or a number is below one.
    """
    _check(tokens=tokens, batch=batch)
    counter = Counter(spec, lengths)

    def pairs(attention: Attention, block: int) -> int:
        queries = counter.positions(attention.stream, tokens)
        keys = counter.positions(attention.over, tokens)
        if not causal:
            return queries * keys
        window = attention.window(counter.settings, block)
        if not attention.causal or attention.stream != attention.over:
            return queries * (keys if window is None else min(keys, window))
        return causal_pairs(queries, window)

    return counter.count(batch, lambda stream: counter.positions(stream, tokens), pairs, logits)


def decode(
    spec: ModelSpec,
    context: int,
    batch: int = 1,
    *,
    absorb: bool = True,
    lengths: Mapping[str, int] | None = None,
) -> Flops:
    """Return the operations of one new token of every sequence.

    Args:
        spec: the model.
        context: tokens of each sequence already in the cache; the new one attends to them and to itself.
        batch: sequences.
        absorb: for multi-head latent attention: multiply the matrix that expands latents into the query and the
            result, and attend to the latents themselves, as servers do; otherwise expand the latents of the whole
            context again, as transformers does.
        lengths: see `prefill`; an encoder is not run again, but cross attention still reads what it wrote.

    Raises:
        UserError: if no table describes the architecture, the model does not generate, or a number is out of range.
    """
    _check(batch=batch)
    if context < 0:
        raise UserError(f"context must be at least 0, got {context}")
    counter = Counter(spec, lengths)
    if not spec.generates:
        owner = counter.table.class_of(spec.config)
        raise UserError(
            f"{owner} does not generate, so it has no cost of a next token; count a forward pass instead"
        )

    def pairs(attention: Attention, block: int) -> int:
        if attention.stream != TEXT:
            return 0
        if attention.over != TEXT:
            return counter.positions(attention.over, context)
        window = attention.window(counter.settings, block)
        return context + 1 if window is None else min(context + 1, window)

    latents = tuple(kept.latent for kept in counter.table.kept if isinstance(kept, KeyValueCache) and kept.latent)
    if absorb and latents:
        counter.absorbed = latents[0]
    elif latents:
        counter.expanded = {latents[0][0]: context + 1}
    return counter.count(batch, lambda stream: int(stream == TEXT), pairs, "all")


def training(
    spec: ModelSpec,
    tokens: int,
    batch: int = 1,
    recompute: Recompute = "none",
    *,
    causal: bool = False,
    lengths: Mapping[str, int] | None = None,
) -> Flops:
    """Return the operations of one step: a forward pass and a backward pass of twice as many.

    Args:
        spec: the model, all of whose parameters learn.
        tokens: of each sequence.
        batch: sequences.
        recompute: what the backward pass computes a second time: nothing, attention's products ("selective"), or
            the forward pass of all blocks ("full").
        causal: see `prefill`.
        lengths: see `prefill`.

    Raises:
        UserError: as `prefill` does.
    """
    if recompute not in ("none", "selective", "full"):
        raise UserError(f"recompute must be none, selective or full, got {recompute!r}")
    forward = prefill(spec, tokens, batch, causal=causal, lengths=lengths)
    again = 0
    if recompute == "selective":
        again = forward.attention
    elif recompute == "full":
        counter = Counter(spec, lengths, blocks_alone=True)
        blocks = counter.count(batch, lambda stream: counter.positions(stream, tokens), lambda *_: 0, "all")
        again = blocks.total + forward.attention
    return Flops(
        linear={role: 3 * count for role, count in forward.linear.items()},
        attention=3 * forward.attention,
        work={role: 3 * count for role, count in forward.work.items()},
        recomputed=again,
    )


def six_nd(spec: ModelSpec, tokens: int) -> int:
    """Return 6 N D, the usual guess at the operations of training.

    N counts every parameter that works on a token, embeddings too, tied ones once, of experts the active share.
    It leaves out attention's products and counts look-ups as products; compare it with `training(...).total`.

    Args:
        spec: the model.
        tokens: D, all tokens of the training.

    Raises:
        UserError: if no table describes the architecture.
    """
    return 6 * active_parameters(spec) * tokens


def active_parameters(spec: ModelSpec) -> int:
    """Return the parameters that work on one token: all but the experts that it is not sent to.

    Raises:
        UserError: if no table describes the architecture.
    """
    counter = Counter(spec, None)
    tied = counter.table.tied(spec.config)
    return sum(
        times * math.prod(shape)
        for rule, numbers, times, shape in counter.rows()
        if rule.kind != "state" and rule.pattern.format(**numbers) not in tied
    )


def is_head(role: str) -> bool:
    """Whether a role is of the language model's head."""
    return role == "head" or role.startswith("head.")


def causal_pairs(queries: int, window: int | None = None) -> int:
    """Return how many pairs of positions a causal mask lets through: each with itself and those before it.

    Example:
        >>> causal_pairs(4), causal_pairs(4, window=2)
        (10, 7)
    """
    reach = queries if window is None else min(queries, window)
    return reach * (reach + 1) // 2 + (queries - reach) * reach


class Counter:
    """Walks the rows of a table with the shapes that work on a token."""

    def __init__(self, spec: ModelSpec, lengths: Mapping[str, int] | None, blocks_alone: bool = False) -> None:
        self.table: Architecture = spec.require_axes("the number of operations")
        self.settings: Settings = self.table.settings(spec.config)
        self.owner = self.table.class_of(spec.config)
        self.lengths = lengths
        self.blocks_alone = blocks_alone
        # Of latent attention: the axes it attends to by itself, or the axis whose maps work on every position.
        self.absorbed: tuple[str, ...] = ()
        self.expanded: dict[str, int] = {}

    def positions(self, stream: str, tokens: int) -> int:
        """Positions of a stream where the text has so many tokens."""
        return stream_positions(self.table, self.settings, stream, tokens, self.lengths)

    def rows(self) -> Iterator[tuple[Rule, dict[str, int], int, tuple[int, ...]]]:
        """Rows, numbers in their names, how many such tensors work on a token, and the shape that works."""
        for rule in self.table.rules:
            if rule.axes is None or not rule.belongs_to(self.owner) or not rule.applies(self.settings):
                continue
            placeholders = list(dict.fromkeys(_PLACEHOLDER.findall(rule.pattern)))
            if self.blocks_alone and not placeholders:
                continue
            times = math.prod(self.table.active_size(axis, self.settings) or 1 for axis in placeholders)
            for numbers in self._places(rule, placeholders):
                yield rule, numbers, times, self._shape(rule, numbers)

    def _places(self, rule: Rule, placeholders: list[str]) -> Iterator[dict[str, int]]:
        # All experts are alike: one of them stands for those that work.
        looped: list[dict[str, int]] = [{}]
        for axis in placeholders:
            count = 1 if axis in self.table.active else self.table.axis_size(axis, self.settings)
            looped = [{**numbers, axis: number} for numbers in looped for number in range(count)]
        return (numbers for numbers in looped if rule.holds_for(self.settings, numbers))

    def _shape(self, rule: Rule, numbers: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(
            math.prod(
                self._working(rule, name) or self.table.axis_size(name, self.settings, numbers)
                for name in axis.split("*")
            )
            for axis in rule.axes or ()
        )

    def _working(self, rule: Rule, axis: str) -> int | None:
        # A router looks at every expert, and only then chooses.
        return None if rule.role.startswith(ROUTER) else self.table.active_size(axis, self.settings)

    def is_once(self, role: str) -> bool:
        """Whether what has the role works once on a sequence."""
        return role in self.table.once and not self.owner.endswith(_ONE_FOR_EACH_POSITION)

    def _sequences(self, stream: str, batch: int) -> int:
        return 1 if stream in self.table.unbatched else batch

    def stream(self, rule: Rule) -> str:
        """Return the stream that what a row describes works on."""
        return next((stream for start, stream in self.table.streams if rule.pattern.startswith(start)), TEXT)

    def count(
        self, batch: int, positions: Callable[[str], int], pairs: Callable[[Attention, int], int], logits: Logits
    ) -> Flops:
        """Add up everything.

        Args:
            batch: sequences.
            positions: that a stream has.
            pairs: of queries and keys that an attention multiplies in a block.
            logits: whether the head works on all positions or on the last one alone.
        """
        linear: dict[str, int] = {}
        for rule, _, times, shape in self.rows():
            if rule.kind not in ("linear", "conv"):
                continue
            stream = self.stream(rule)
            worked = positions(stream) * self._sequences(stream, batch)
            worked *= self.expanded.get((rule.axes or ("",))[-1], 1)
            if self.is_once(rule.role) or (logits == "last" and is_head(rule.role)):
                worked = min(worked, batch)
            linear[rule.role] = linear.get(rule.role, 0) + 2 * times * math.prod(shape) * worked
        attention = sum(
            2 * batch * pairs(kind, block) * self._width(kind, block)
            for kind in self.table.attention
            if self.table.has_stack(kind.stack, self.owner)
            for block in range(self.table.axis_size(kind.stack, self.settings))
            if kind.blocks(self.settings, block)
        )
        work: dict[str, int] = {}
        for item in self.table.work:
            if (self.blocks_alone and not item.stack) or not self.table.has_stack(item.stack, self.owner):
                continue
            for block in range(self.table.axis_size(item.stack, self.settings) if item.stack else 1):
                if item.blocks(self.settings, block):
                    size = self.table.axis_size(item.axes, self.settings, {item.stack: block})
                    worked = positions(item.stream) * self._sequences(item.stream, batch)
                    if logits == "last" and is_head(item.role):
                        worked = min(worked, batch)
                    done = item.times * size * worked
                    work[item.role] = work.get(item.role, 0) + done
        return Flops(linear, attention, work)

    def _width(self, kind: Attention, block: int) -> int:
        place = {kind.stack: block}
        if self.absorbed:
            lengths = [self.table.axis_size(axis, self.settings, place) for axis in self.absorbed]
            return self.table.axis_size(kind.heads, self.settings, place) * (sum(lengths) + lengths[0])
        key = self.table.axis_size(kind.key, self.settings, place)
        value = self.table.axis_size(kind.value, self.settings, place) if kind.value else 0
        return self.table.axis_size(kind.heads, self.settings, place) * (key + value)


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
