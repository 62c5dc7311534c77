"""The table: one row for every tensor, and how multipliers move into the tensors themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from steelyard.errors import UserError
from steelyard.forecast.parametrize.rule import Part, Rule
from steelyard.forecast.parametrize.tensors import part_of, trained, width_of
from steelyard.spec import ModelSpec, TensorSpec

# What of a block is added to the stream: the last matrix of a branch, or the norm behind it where there is one.
_WRITERS = ("attn.o", "mlp.down", "expert.down", "shared_expert.down")
_NORMED_WRITERS = ("norm.attn.out", "norm.mlp.out")
# Their norms multiply by one plus what is stored, and their embeddings come times the root of the width.
_GEMMA = ("gemma2", "gemma3_text")


@dataclass(frozen=True)
class Row:
    """One tensor.

    Attributes:
        name: of the tensor; of the alias where `tied_to` is given.
        role: as `spec` says.
        part: "input", "hidden", "output" or "vector".
        shape: as stored.
        width: how wide beside the base (or beside one).
        mean: of its initial values, in use: one for gains, zero for all others.
        std: of its initial values.
        init: that deviation over the base's.
        rate: Adam's learning rate over the base's.
        epsilon: Adam's epsilon over the base's.
        decay: weight decay over the base's; 0 for gains and biases.
        forward: what the tensor is multiplied by wherever it is used.
        tied_to: the tensor that this one is, where the config ties them; only `forward` is its own.
        offset: what the model adds to what is stored: one for the gains of Gemma.
    """

    name: str
    role: str
    part: Part
    shape: tuple[int, ...]
    width: float
    mean: float
    std: float
    init: float
    rate: float
    epsilon: float
    decay: float
    forward: float
    tied_to: str | None = None
    offset: float = 0.0

    def times(self, factor: float) -> Row:
        """Return the row of the tensor that holds its multiplier and `factor` in itself: the same training.

        Adam's steps do not see the size of gradients, so steps grow by the learning rate alone; gradients and
        epsilon shrink together, and rate times decay stays (the symmetry of abc-parametrizations).
        """
        whole = factor * self.forward
        return replace(
            self,
            mean=self.mean * whole,
            std=self.std * whole,
            init=self.init * whole,
            rate=self.rate * whole,
            epsilon=self.epsilon / whole,
            decay=self.decay / whole,
            forward=1.0,
        )


def rows_of(
    rule: Rule, spec: ModelSpec, base: Mapping[str, TensorSpec] | None, depth: Fraction, std: float
) -> list[Row]:
    """Return the rows of a model.

    Args:
        rule: to apply.
        spec: the model.
        base: counterparts of its tensors; None to count widths from one.
        depth: blocks over those of the base.
        std: of the base's matrices.
    """
    tensors = trained(spec)
    normed = any(tensor.role in _NORMED_WRITERS for tensor in tensors.values())
    writers = _NORMED_WRITERS if normed else _WRITERS
    rows = []
    for name, tensor in tensors.items():
        part = part_of(tensor)
        width = width_of(tensor, part, None if base is None else base[name])
        rows.append(_row(rule, spec, tensor, part, width, depth, std, writers))
    known = {row.name: row for row in rows}
    for alias, name in spec.ties.items():
        # A tied bias needs no multiplier of its own; a head that is the embeddings does.
        if name not in known or known[name].part != "input":
            continue
        width = Fraction(known[name].width)
        forward = float(width) ** float(rule.output.forward)
        rows.append(replace(known[name], name=alias, role="head", part="output", forward=forward, tied_to=name))
    return rows


def _row(
    rule: Rule,
    spec: ModelSpec,
    tensor: TensorSpec,
    part: Part,
    width: Fraction,
    depth: Fraction,
    std: float,
    writers: Sequence[str],
) -> Row:
    role = tensor.role or ""
    powers, wide = rule.powers(part), float(width)
    inside = tensor.layer is not None
    deep = float(depth) if inside else 1.0
    forward = wide ** float(powers.forward)
    if inside and role.removesuffix(".bias") in writers:
        forward *= deep ** float(rule.branch)
    if spec.model_type in _GEMMA and role == "embed.token":
        forward *= wide**-0.5 if rule.name != "standard" else 1.0
    init = wide ** float(powers.init)
    return Row(
        name=tensor.name,
        role=role,
        part=part,
        shape=tensor.shape,
        width=wide,
        mean=1.0 if tensor.kind == "norm" else 0.0,
        std=0.0 if part == "vector" else std * init,
        init=init,
        rate=wide ** float(powers.rate) * deep ** float(rule.block.rate),
        epsilon=wide ** float(powers.epsilon) * deep ** float(rule.block.epsilon),
        decay=0.0 if part == "vector" else wide ** float(powers.decay) * deep ** float(rule.block.decay),
        forward=forward,
        offset=1.0 if spec.model_type in _GEMMA and tensor.kind == "norm" else 0.0,
    )


def fold(rows: Sequence[Row], attention: float) -> tuple[Row, ...]:
    """Return the rows of the same model with every multiplier held by the tensors themselves.

    The multiplier of a tied head goes to the norm before it, that of attention logits to the queries, their norm,
    or what they share a tensor with.

    Args:
        rows: as published.
        attention: what attention logits are multiplied by.

    Raises:
        UserError: if there is no tensor that could hold it.
    """
    factors = {row.name: 1.0 for row in rows if row.tied_to is None}
    own = {row.name: row for row in rows}
    for row in rows:
        if row.tied_to is None:
            continue
        ratio = row.forward / own[row.tied_to].forward
        if ratio != 1.0:
            _multiply(factors, _before_head(rows, row.name), ratio)
    if attention != 1.0:
        _attend(factors, rows, attention)
    return tuple(row.times(factors[row.name]) for row in rows if row.tied_to is None)


def _multiply(factors: dict[str, float], names: Sequence[str], factor: float) -> None:
    for name in names:
        factors[name] *= factor


def _before_head(rows: Sequence[Row], head: str) -> list[str]:
    roles = {row.role for row in rows}
    last = "norm.head" if "norm.head" in roles else "norm.final"
    if last not in roles or roles & {"embed.project", "head.project", "embed.projection"}:
        raise UserError(
            f"{head} is tied to the embeddings, and no norm stands before it that could hold its multiplier; set "
            "tie_word_embeddings to false"
        )
    return [row.name for row in rows if row.role in (last, f"{last}.bias")]


def _attend(factors: dict[str, float], rows: Sequence[Row], factor: float) -> None:
    """Multiply attention logits.

    Where queries, keys and values are one tensor, its root goes to all three, and the output map takes it off the
    values again.
    """
    roles = {row.role for row in rows}
    if "attn.position_q" in roles:
        raise UserError("positions have queries of their own here; keep the head dimension of the base")
    for role in ("attn.q_norm", "attn.q"):
        if role in roles:
            _multiply(factors, [row.name for row in rows if row.role in (role, f"{role}.bias")], factor)
            return
    _multiply(factors, [row.name for row in rows if row.role in ("attn.qkv", "attn.qkv.bias")], factor**0.5)
    _multiply(factors, [row.name for row in rows if row.role == "attn.o"], factor**-0.5)
