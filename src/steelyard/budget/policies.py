"""Policies: which tensors are left alone, and which have a codec of their own, by what they are for.

| policy | meaning |
| --- | --- |
| `keep-first=N`, `keep-last=N` | the first or last N layers stay as they are stored |
| `keep=ROLE` | tensors of a role stay as they are stored |
| `ROLE:CODEC` | tensors of a role have a codec: `attn.v:8` (bits), `mlp.*:nf4`, `embed.token:fp8` |
| `experts-int8` | experts in 8-bit integers with one scale a row, everything else as it is stored |
| `glm-int4` | linear maps of layers in 4-bit integers with one scale a row, everything else as it is stored |

Roles are those of `steelyard weigh`; `*` stands for anything. Where several policies speak of a tensor the last one
counts.

Sources: Jamba team 2024, arXiv 2408.12570 (ExpertsInt8: the weights of experts alone, in INT8); Zeng et al. 2022,
arXiv 2210.02414, and its code, absmax by row over the linear maps of the layers. Its scale is the largest
magnitude over 7; ours is that over 7.5, with one code more below zero.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from steelyard.codecs import Codec, IntegerCodec
from steelyard.codecs.naming import named
from steelyard.errors import UserError
from steelyard.formats.base import scale_dtype
from steelyard.spec import ModelSpec, TensorSpec

EXPERTS_INT8 = "experts-int8"
GLM_INT4 = "glm-int4"

_COUNTED = re.compile(r"keep-(first|last)=(\d+)")
_EXPERT = re.compile(r"\bexperts\b")


@dataclass(frozen=True)
class Decision:
    """What policies say about a tensor.

    Attributes:
        codec: to store it under; None leaves it as it is.
        policy: the one that says so.
    """

    codec: Codec | None
    policy: str

    @property
    def strict(self) -> bool:
        """Whether what the format cannot hold is an error; policies of models then leave it as it is."""
        return ":" in self.policy


def decisions(spec: ModelSpec, policies: Sequence[str]) -> dict[str, Decision]:
    """Return what policies say, by tensor; tensors they do not speak of are absent.

    Args:
        spec: the model.
        policies: as people type them, see above.

    Raises:
        UserError: if one cannot be read, or speaks of nothing in this model.
    """
    found: dict[str, Decision] = {}
    for policy in policies:
        said = _said(spec, policy)
        if not said:
            raise UserError(f"policy {policy!r} speaks of no tensor here; {_what_there_is(spec.tensors)}")
        found.update({name: Decision(codec, policy) for name, codec in said.items()})
    return found


def _said(spec: ModelSpec, policy: str) -> dict[str, Codec | None]:
    rows, encoded, tensors = scale_dtype(spec), set(spec.quantizable()), spec.tensors
    if policy == EXPERTS_INT8:
        return _only(tensors, lambda t: t.name in encoded and _is_expert(t), IntegerCodec(8, None, True, rows))
    if policy == GLM_INT4:
        return _only(
            tensors,
            lambda t: t.name in encoded and t.kind == "linear" and t.layer is not None,
            IntegerCodec(4, None, True, rows),
        )
    if match := _COUNTED.fullmatch(policy):
        layers = sorted({tensor.layer for tensor in tensors.values() if tensor.layer is not None})
        count = int(match.group(2))
        if not layers or not 1 <= count <= len(layers):
            raise UserError(f"policy {policy!r}: the model has {len(layers)} layers")
        chosen = set(layers[:count] if match.group(1) == "first" else layers[-count:])
        return {name: None for name, tensor in tensors.items() if tensor.layer in chosen}
    role, colon, codec = policy.partition(":")
    kept = role.removeprefix("keep=") if role.startswith("keep=") and not colon else None
    if kept is None and not colon:
        raise UserError(
            f"no policy {policy!r}; there are {EXPERTS_INT8}, {GLM_INT4}, keep-first=N, keep-last=N, keep=ROLE and "
            "ROLE:CODEC such as attn.v:8 or mlp.*:nf4"
        )
    what = None if kept is not None else _codec(codec, rows)
    wanted = kept if kept is not None else role
    return {
        name: what
        for name, tensor in tensors.items()
        if fnmatch.fnmatchcase(tensor.role or "", wanted) and (what is None or name in encoded)
    }


def _is_expert(tensor: TensorSpec) -> bool:
    if tensor.role is not None:
        return tensor.role.startswith("expert.")
    return bool(_EXPERT.search(tensor.name))


def _only(
    tensors: Mapping[str, TensorSpec], wanted: Callable[[TensorSpec], bool], codec: Codec
) -> dict[str, Codec | None]:
    """Return a codec for what is wanted and "as stored" for the rest; nothing if nothing is wanted."""
    chosen = {name for name, tensor in tensors.items() if wanted(tensor)}
    return {name: codec if name in chosen else None for name in tensors} if chosen else {}


def _codec(text: str, rows: str) -> Codec:
    if text.isdigit():
        return named(f"integer:bits={text},group_size=64", rows)
    return named(text, rows)


def _what_there_is(tensors: Mapping[str, TensorSpec]) -> str:
    roles = sorted({tensor.role for tensor in tensors.values() if tensor.role})
    return f"roles: {', '.join(roles) or 'none known'}"
