"""Bytes that a forward pass keeps for the backward pass, block by block, from an architecture's table.

What automatic differentiation keeps of a transformer's block, for every position: the input of every linear map
(once where several read the same), the outputs of a gated map before and after its activation, two copies of what a
normalization reads, queries, keys and values, and, unless a fused kernel makes them again, the weights of all
pairs of positions. Korthikanti et al. (arXiv 2205.05198) add these up for one kind of block; here they follow from
the shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.spec import Architecture, ModelSpec, Rule
from steelyard.spec.tensor import ROUTER
from steelyard.weigh.flops import Counter, is_head

_WIDE = 4
"""Bytes of what is computed in 32 bits whatever the model's type: norms, softmax, the loss."""


_ACTIVATIONS = ("hidden_act", "activation_function", "hidden_activation")
_STEPWISE = {"gelu_new": 3, "gelu_fast": 3}
"""Activations computed in steps, and how many numbers those keep beside the first and the last."""

_PAIR_DROPOUTS = ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob")
_DROPOUTS = ("resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "dropout")


@dataclass(frozen=True)
class Sharing:
    """How devices share a block.

    Attributes:
        tensor_parallel: devices among which heads and feed-forward widths are split.
        sequence_parallel: whether they split the positions of what they would else all hold.
    """

    tensor_parallel: int = 1
    sequence_parallel: bool = False

    @property
    def whole(self) -> int:
        """Devices among which what each would hold whole is split."""
        return self.tensor_parallel if self.sequence_parallel else 1


@dataclass(frozen=True)
class Activations:
    """What is kept for one batch on one device.

    Attributes:
        blocks: of each block, pairs of positions left out.
        scores: of each block, the weights of all pairs of positions.
        inputs: of each block, what it reads; all that is left of it under full checkpointing.
        outside: of everything outside of the blocks but the head.
        logits: of the logits and their loss, forward and backward.
        working: the most that a block has at once where nothing is kept for a backward pass, as in reading a
            prompt.
    """

    blocks: tuple[int, ...]
    scores: tuple[int, ...]
    inputs: tuple[int, ...]
    outside: int
    logits: int
    working: int


def count_activations(
    spec: ModelSpec,
    tokens: int,
    batch: int,
    *,
    width: int = 2,
    fused: bool = True,
    sharing: Sharing = Sharing(),
    learning: frozenset[str] | None = None,
    lengths: Mapping[str, int] | None = None,
) -> Activations:
    """Return what a forward pass keeps.

    Args:
        spec: the model.
        tokens: of each sequence.
        batch: sequences.
        width: bytes of a number that the model computes with.
        fused: whether attention is one kernel (flash attention), which keeps no weights of pairs.
        sharing: among devices.
        learning: roles of linear maps whose inputs are kept because adapters beside them learn; None where
            everything does.
        lengths: positions of streams other than the text.

    Raises:
        UserError: if no table describes the architecture.
    """
    return _Walk(spec, tokens, batch, width, fused, sharing, learning, lengths).run()


class _Walk:
    def __init__(
        self,
        spec: ModelSpec,
        tokens: int,
        batch: int,
        width: int,
        fused: bool,
        sharing: Sharing,
        learning: frozenset[str] | None,
        lengths: Mapping[str, int] | None,
    ) -> None:
        self.counter = Counter(spec, lengths)
        self.table: Architecture = self.counter.table
        self.settings = self.counter.settings
        self.tokens, self.batch, self.width, self.fused = tokens, batch, width, fused
        self.sharing, self.learning = sharing, learning
        self.stacks = self.table.stacks_of(spec.config)
        self.first = {stack.axis: stack.before for stack in self.stacks}
        count = sum(stack.blocks for stack in self.stacks)
        self.blocks, self.scores, self.inputs = [0] * count, [0] * count, [0] * count
        self.feeding, self.attending = [0] * count, [0] * count
        self.outside = self.logits = 0
        self.hidden = self.table.axis_size("hidden", self.settings) if "hidden" in self.table.sizes else 0
        self.roles = {rule.role for rule in self.table.rules}
        self.sources: set[str] = set()
        named = (spec.config.get(key) for key in _ACTIVATIONS)
        self.steps = next((_STEPWISE[name] for name in named if isinstance(name, str) and name in _STEPWISE), 0)
        self.drops = any(spec.config.get(key) for key in _DROPOUTS)
        self.drops_pairs = any(spec.config.get(key) for key in _PAIR_DROPOUTS)

    def run(self) -> Activations:
        for rule, numbers, times, shape in self.counter.rows():
            stream = self.counter.stream(rule)
            once = self.counter.is_once(rule.role)
            positions = self.batch * (1 if once else self.counter.positions(stream, self.tokens))
            if rule.kind == "linear" and is_head(rule.role):
                self.logits += positions * self._head(rule, shape)
                continue
            if rule.kind == "linear":
                kept = self._linear(rule, numbers, times, shape)
            elif rule.kind == "norm":
                kept = self._norm(rule, shape)
            else:
                continue
            block = self._block(numbers)
            if block is None:
                self.outside += kept * positions
            else:
                self.blocks[block] += kept * positions
                each = self.batch * self.counter.positions(stream, self.tokens)
                if rule.kind == "linear":
                    self.feeding[block] += self._fed(rule, times, shape) * positions
                self.inputs[block] = max(self.inputs[block], each * self.hidden * self.width // self.sharing.whole)
        self._attend()
        return Activations(
            tuple(self.blocks), tuple(self.scores), tuple(self.inputs), self.outside, self.logits, self._working()
        )

    def _block(self, numbers: Mapping[str, int]) -> int | None:
        return next((self.first[axis] + number for axis, number in numbers.items() if axis in self.first), None)

    def _head(self, rule: Rule, shape: tuple[int, ...]) -> int:
        """Logits; in 32 bits their logarithms of probabilities and two gradients; and what the head read."""
        out, into = shape
        read = 0 if self.learning is not None else into * self.width
        made = out * (self.width + 3 * _WIDE) // self.sharing.tensor_parallel if rule.role == "head" else 0
        return read + made

    def _linear(self, rule: Rule, numbers: Mapping[str, int], times: int, shape: tuple[int, ...]) -> int:
        out, into = shape[::-1] if rule.transposed else shape
        kept = 0
        source = (rule.shared.input if rule.shared else rule.pattern).format(**numbers)
        learns = self.learning is None or rule.role in self.learning
        if learns and source not in self.sources:
            self.sources.add(source)
            # Maps that write the hidden stream read what is split; the others read the stream itself.
            kept += times * into * self.width // self._split(into)
        if self.drops and rule.role.endswith((".o", ".down")):
            kept += out
        return kept + times * self._made(rule.role, out) * self.width // self.sharing.tensor_parallel

    def _fed(self, rule: Rule, times: int, shape: tuple[int, ...]) -> int:
        """Bytes of the feed-forward part's maps at once: what they make, and what the last one reads."""
        out, into = shape[::-1] if rule.transposed else shape
        read = into if rule.role.endswith(".down") else 0
        return times * (self._made(rule.role, out) + read) * self.width // self.sharing.tensor_parallel

    def _working(self) -> int:
        # Beside the wider of the block's halves there are its input and that of the half.
        halves = (
            2 * read + max(feeding, attending + scores)
            for read, feeding, attending, scores in zip(
                self.inputs, self.feeding, self.attending, self.scores, strict=True
            )
        )
        return max(halves, default=0)

    def _made(self, role: str, out: int) -> int:
        """Numbers kept of what a map of the feed-forward part makes: before and after its activation."""
        part, _, which = role.rpartition(".")
        if role.startswith(ROUTER) or part.startswith("attn"):
            return 0
        if which == "gate_up":
            return 3 * out // 2
        if which == "gate":
            return 2 * out
        if which != "up":
            return 0
        return out if f"{part}.gate" in self.roles else out * (1 + self.steps)

    def _norm(self, rule: Rule, shape: tuple[int, ...]) -> int:
        """A layer norm keeps what it reads; a root-mean-square norm that in 32 bits, and what its scale reads."""
        size = math.prod(shape)
        heads = 1
        if size != self.hidden and rule.axes == ("head_dim",):
            axis = "kv_head" if ".k" in rule.role and "kv_head" in self.table.sizes else "head"
            heads = self.table.axis_size(axis, self.settings)
        each = self.width
        if f"{rule.role}.bias" not in self.roles:
            each = _WIDE + (self.width if self.learning is None else 0)
        return size * heads * each // self._split(size * heads)

    def _split(self, size: int) -> int:
        return self.sharing.whole if size == self.hidden else self.sharing.tensor_parallel

    def _attend(self) -> None:
        for kind in self.table.attention:
            if kind.stack not in self.first:
                continue
            queries = self.counter.positions(kind.stream, self.tokens)
            keys = self.counter.positions(kind.over, self.tokens)
            for number in range(self.table.axis_size(kind.stack, self.settings)):
                if not kind.blocks(self.settings, number):
                    continue
                place = {kind.stack: number}
                heads = self.table.axis_size(kind.heads, self.settings, place)
                key = self.table.axis_size(kind.key, self.settings, place)
                value = self.table.axis_size(kind.value, self.settings, place) if kind.value else 0
                # Plain attention repeats the keys and values of a group for each of its heads.
                grouped = self.fused and "kv_head" in self.table.sizes
                kept_heads = self.table.axis_size("kv_head" if grouped else kind.heads, self.settings, place)
                kept = self.width * (queries * heads * key + keys * kept_heads * (key + value))
                block = self.first[kind.stack] + number
                if self.fused:
                    kept += queries * heads * (_WIDE + value * self.width)
                else:
                    pair = _WIDE + (self.width if self.width != _WIDE else 0)
                    pair += self.width + 1 if self.drops_pairs else 0
                    self.scores[block] += self.batch * heads * queries * keys * pair // self.sharing.tensor_parallel
                self.blocks[block] += self.batch * kept // self.sharing.tensor_parallel
                self.attending[block] += self.batch * kept // self.sharing.tensor_parallel
