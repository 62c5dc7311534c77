"""What one pass of a model does: operations, bytes of weights, and bytes of cache, role by role."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.spec.tensor import TensorSpec
from steelyard.weigh import flops
from steelyard.weigh.cache import cache_bytes

TABLE = "embed.token"

CHUNK = 8192
"""Positions that serving engines read at once; longer prompts go through the model in pieces of this size."""

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class RoleWeights:
    """The weights of one role in all blocks together.

    Attributes:
        elements: numbers.
        nbytes: as served.
        routed: the share of the elements that belong to routed experts.
        width: inputs and outputs of the matrices that one position passes through.
        kernels: products of matrices in one pass; the experts of a block are one.
    """

    elements: int
    nbytes: float
    routed: float
    width: float
    kernels: int


@dataclass(frozen=True)
class Part:
    """One role, or the attention, in one pass: what the roofline needs to know of it.

    Attributes:
        name: of the role.
        operations: multiplications and additions.
        weight_bytes: of weights that are read.
        other_bytes: of the cache, or of what enters and leaves the products.
        elements: numbers that enter and leave the products.
        kernels: products of matrices.
        rows: of each product; 0 for what is none with a matrix of weights.
    """

    name: str
    operations: float
    weight_bytes: float
    other_bytes: float
    elements: float
    kernels: int
    rows: int = 0


@dataclass(frozen=True)
class Pass:
    """One pass of the model: a whole prompt, or one new token for every sequence.

    Attributes:
        parts: everything it does.
        positions: tokens that go through each block.
        exchanged: bytes of one hidden state for each position, which devices in tensor parallel must add up.
        blocks: how many there are.
        encoded: whether weights are stored in fewer bits than are computed with.
    """

    parts: tuple[Part, ...]
    positions: int
    exchanged: float
    blocks: int
    encoded: bool

    @property
    def operations(self) -> float:
        """Operations of all parts."""
        return sum(part.operations for part in self.parts)

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights that are read."""
        return sum(part.weight_bytes for part in self.parts)

    @property
    def other_bytes(self) -> float:
        """Bytes of the cache and of hidden states."""
        return sum(part.other_bytes for part in self.parts)

    @property
    def elements(self) -> float:
        """Numbers that enter and leave products."""
        return sum(part.elements for part in self.parts)

    @property
    def kernels(self) -> int:
        """Products of matrices."""
        return sum(part.kernels for part in self.parts)


class Workload:
    """A model made ready to be priced on devices: its weights by role at the bits it is served with.

    Args:
        spec: the model.
        weight_bits: of every element of the matrices that methods may encode, scales included; the rest is kept at
            16 bits, or at these if they are more. None: everything as it is stored.
        cache_bits: of an element of the cache.
        activation_bits: of an element of hidden states.

    Raises:
        UserError: if no table describes the architecture, or a number of bits makes no sense.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        weight_bits: float | None = 16,
        cache_bits: float = 16,
        activation_bits: float = 16,
    ) -> None:
        for name, bits in (("weight bits", weight_bits), ("cache bits", cache_bits)):
            if bits is not None and not 0.5 <= bits <= 64:
                raise UserError(f"{name} must be between 0.5 and 64, got {bits}")
        self.spec = spec
        self.weight_bits, self.cache_bits, self.activation_bits = weight_bits, cache_bits, activation_bits
        self.architecture = spec.require_axes("time and memory of serving")
        self.settings = self.architecture.settings(spec.config)
        self.experts, self.chosen = self._experts()
        self.roles = self._roles()
        elements = sum(role.elements for role in self.roles.values())
        self.encoded = self.weight_bytes < 0.75 * elements * min(activation_bits, 16) / 8
        self.hidden = self.architecture.axis_size("hidden", self.settings)
        self.vocabulary = self.architecture.axis_size("vocab", self.settings) if self.generates else 0

    @property
    def generates(self) -> bool:
        """Whether the model writes text token by token."""
        return self.spec.generates

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights as served."""
        return sum(role.nbytes for role in self.roles.values())

    def cache_bytes(self, context: int, batch: int) -> float:
        """Bytes of the cache of `batch` sequences of `context` tokens; 0 for models that do not generate."""
        return cache_bytes(self.spec, context, batch, 16) * self.cache_bits / 16

    def workspace_bytes(self, prompt: int, batch: int) -> float:
        """Bytes of hidden states and logits in the widest place of a pass."""
        positions = min(batch * prompt, max(CHUNK, batch))
        widest = max((role.width / max(role.kernels, 1) for role in self.roles.values()), default=0)
        return positions * (2 * self.hidden + widest) * self.activation_bits / 8 + 4 * batch * self.vocabulary

    def prefill(self, prompt: int, batch: int) -> Pass:
        """The pass that reads `batch` prompts and gives the first token of each; a forward pass where none follows.

        Attention is counted as kernels compute it that skip what a causal mask hides, the head at one position.
        """
        logits: flops.Logits = "last" if self.generates else "all"
        counted = flops.prefill(self.spec, prompt, batch, causal=True, logits=logits)
        return self._pass(counted, prompt * batch, self.cache_bytes(prompt, batch), whole=True)

    def decode(self, context: int, batch: int) -> Pass:
        """The pass that writes one more token for each of `batch` sequences of `context` tokens."""
        counted = flops.decode(self.spec, context, batch)
        return self._pass(counted, batch, self.cache_bytes(context, batch), whole=False)

    def _pass(self, counted: flops.Flops, positions: int, cached: float, *, whole: bool) -> Pass:
        blocks = self.spec.n_layers
        parts = [
            *self._linear(counted.linear, positions, whole),
            *(Part(name, operations, 0.0, 0.0, 0.0, blocks) for name, operations in counted.work.items()),
            Part("attention", counted.attention, 0.0, cached, 0.0, blocks if counted.attention else 0),
        ]
        return Pass(
            parts=tuple(parts),
            positions=positions,
            exchanged=positions * self.hidden * self.activation_bits / 8,
            blocks=blocks,
            encoded=self.encoded,
        )

    def _linear(self, linear: Mapping[str, int], positions: int, whole: bool) -> Iterator[Part]:
        for name, operations in linear.items():
            role = self.roles.get(name) or self.roles.get(TABLE if flops.is_head(name) else "")
            if role is None or not operations:
                continue
            # A dense matrix takes two operations for each element and position. Of a role that several stacks
            # share, the next token needs one stack's weights alone. A whole pass needs all of them, at positions
            # of their own where they work on images or once on a sequence.
            passed = operations * self._unchosen(role) / (2 * role.elements)
            used, rows = (1.0, passed) if whole else (min(1.0, passed / positions), float(positions))
            hit = used * (1 - role.routed + role.routed * self._hit(rows))
            elements = used * role.width * rows
            moved = elements * self.activation_bits / 8
            kernels = max(1, round(role.kernels * used))
            yield Part(name, operations, role.nbytes * hit, moved, elements, kernels, max(1, round(rows)))

    def _unchosen(self, role: RoleWeights) -> float:
        """How many times more operations all experts would take than the chosen ones."""
        return 1 / (1 - role.routed + role.routed * self.chosen / self.experts)

    def _hit(self, positions: float) -> float:
        """The share of experts that at least one of the positions is expected to choose, if all are as likely."""
        return -math.expm1(positions * math.log1p(-self.chosen / self.experts)) if self.chosen < self.experts else 1

    def _experts(self) -> tuple[int, int]:
        for axis in self.architecture.active:
            chosen = self.architecture.active_size(axis, self.settings)
            if chosen:
                return self.architecture.axis_size(axis, self.settings), chosen
        return 1, 1

    def _roles(self) -> dict[str, RoleWeights]:
        encoded = set(self.spec.quantizable())
        sums: dict[str, list[float]] = {}
        kernels: dict[str, set[tuple[int | None, str]]] = {}
        routed_patterns: dict[str, bool] = {}
        for tensor in self.spec.tensors.values():
            role = tensor.role or ""
            # Experts number tens of thousands of tensors, which have few names but for their numbers.
            pattern = _NUMBER.sub("#", tensor.name)
            if pattern not in routed_patterns:
                routed_patterns[pattern] = self._is_routed(tensor)
            routed = routed_patterns[pattern]
            row = sums.setdefault(role, [0.0, 0.0, 0.0, 0.0])
            row[0] += tensor.elements
            row[1] += self._nbytes(tensor, tensor.name in encoded)
            row[2] += tensor.elements if routed else 0
            if tensor.kind == "linear":
                sides = sum(tensor.shape[-2:]) * math.prod(tensor.shape[:-2])
                row[3] += sides * (self.chosen / self.experts if routed else 1.0)
                kernels.setdefault(role, set()).add((tensor.layer, pattern))
        return {
            role: RoleWeights(int(elements), nbytes, routed / max(elements, 1), width, len(kernels.get(role, ())))
            for role, (elements, nbytes, routed, width) in sums.items()
        }

    def _is_routed(self, tensor: TensorSpec) -> bool:
        """Whether a tensor is of one routed expert, or holds those of a block in its first axis."""
        table = self.architecture
        if len(tensor.shape) == 3 and tensor.axes is not None and tensor.axes[0] in table.active:
            return True
        match = table.match(tensor.name) or table.match(table.prefix + tensor.name)
        return match is not None and any(axis in table.active for axis in match.numbers)

    def _nbytes(self, tensor: TensorSpec, encoded: bool) -> float:
        if self.weight_bits is None:
            return tensor.nbytes
        return tensor.elements * (self.weight_bits if encoded else max(self.weight_bits, 16)) / 8
