"""BERT: attention over learned positions, and layer norms behind each half, which leave the stream no freedom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from steelyard.edits.prepare.network import Network, Pair, Read
from steelyard.errors import UserError

if TYPE_CHECKING:
    from steelyard.spec import ModelSpec


@dataclass(frozen=True)
class BertNetwork(Network):
    """An encoder of this family.

    Attributes:
        heads: of attention.
        prefix: of its tensors' names: "bert." or nothing.
    """

    heads: int
    prefix: str

    families: ClassVar[tuple[str, ...]] = ("bert",)

    @classmethod
    def read(cls, spec: ModelSpec) -> BertNetwork:
        """Return the network of a spec.

        Raises:
            UserError: for another activation than GELU, or norms under their first names.
        """
        prefix = "bert." if any(name.startswith("bert.") for name in spec.tensors) else ""
        if spec.config.get("hidden_act", "gelu") != "gelu":
            raise UserError(f"preparation knows bert with gelu, not with {spec.config['hidden_act']}")
        if f"{prefix}embeddings.LayerNorm.weight" not in spec.tensors:
            raise UserError(
                "the norms of this bert have the names of its first files; save it by transformers anew"
            )
        return cls(
            layers=spec.n_layers,
            hidden=int(spec.config["hidden_size"]),
            epsilon=float(spec.config.get("layer_norm_eps", 1e-12)),
            tied=False,
            names=frozenset(spec.tensors),
            embed=f"{prefix}embeddings.word_embeddings.weight",
            final_norm="",
            head="",
            heads=int(spec.config["num_attention_heads"]),
            prefix=prefix,
        )

    def _self(self, layer: int, short: str) -> str:
        return f"{self.prefix}encoder.layer.{layer}.attention.self.{short}.weight"

    def readers_of_the_stream(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Refuse.

        Raises:
            UserError: always.
        """
        raise UserError("the stream of a bert passes through layer norms, which do not commute with rotations")

    def writers_to_the_stream(self) -> Iterator[str]:
        """Yield the weights of the linear maps that add to the residual stream."""
        for layer in range(self.layers):
            block = f"{self.prefix}encoder.layer.{layer}."
            yield from (f"{block}attention.output.dense.weight", f"{block}output.dense.weight")

    def pairs(self, norms: bool = True) -> Iterator[Pair]:
        """Yield everything across which a scale can move: what a norm makes is the stream itself, and stays."""
        for pair in self.inner_spaces():
            yield Pair(pair.writer, pair.readers)

    def inner_spaces(self) -> Iterator[Pair]:
        """Yield the values of each layer's heads."""
        for layer in range(self.layers):
            out = f"{self.prefix}encoder.layer.{layer}.attention.output.dense.weight"
            yield Pair(self._self(layer, "value"), (out,), 1, self.hidden // self.heads)

    def scores(self) -> Iterator[tuple[str, str, int]]:
        """Yield the weights of queries and keys of each layer, and the channels of a head."""
        for layer in range(self.layers):
            yield self._self(layer, "query"), self._self(layer, "key"), self.hidden // self.heads

    def logits(self, read: Read, tokens: np.ndarray) -> np.ndarray:
        """Return the last hidden states: what all heads of this family begin with. All tokens are of type 0."""
        before = f"{self.prefix}embeddings."
        stream = read(self.embed)[tokens] + read(f"{before}position_embeddings.weight")[: tokens.shape[1]]
        stream = self._layer_norm(read, stream + read(f"{before}token_type_embeddings.weight")[0], before)
        for layer in range(self.layers):
            block = f"{self.prefix}encoder.layer.{layer}."
            attended = self.linear(
                read, self._attention(read, stream, layer), f"{block}attention.output.dense.weight"
            )
            stream = self._layer_norm(read, stream + attended, f"{block}attention.output.")
            wide = _gelu(self.linear(read, stream, f"{block}intermediate.dense.weight"))
            stream = self._layer_norm(
                read, stream + self.linear(read, wide, f"{block}output.dense.weight"), f"{block}output."
            )
        return stream

    def _layer_norm(self, read: Read, x: np.ndarray, where: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.epsilon)
        normed: np.ndarray = scaled * read(f"{where}LayerNorm.weight") + read(f"{where}LayerNorm.bias")
        return normed

    def _attention(self, read: Read, x: np.ndarray, layer: int) -> np.ndarray:
        batch, length, _ = x.shape
        query, key, value = (
            self.linear(read, x, self._self(layer, short))
            .reshape(batch, length, self.heads, -1)
            .transpose(0, 2, 1, 3)
            for short in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed: np.ndarray = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        return mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1)


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    result: np.ndarray = 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))
    return result
