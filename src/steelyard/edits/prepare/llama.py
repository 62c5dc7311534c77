"""The llama family: attention with rotary positions, and a gated feed-forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from steelyard.edits.prepare.network import Network, Pair, Read, require_head, silu

if TYPE_CHECKING:
    from steelyard.spec import ModelSpec


@dataclass(frozen=True)
class LlamaNetwork(Network):
    """A model of this family.

    Attributes:
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: channels of a head.
        theta: base of the rotary frequencies.
    """

    heads: int
    kv_heads: int
    head_dim: int
    theta: float

    families: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2", "qwen3")

    @classmethod
    def read(cls, spec: ModelSpec) -> LlamaNetwork:
        """Return the network of a spec that has a head."""
        settings = spec.config
        hidden, heads = int(settings["hidden_size"]), int(settings["num_attention_heads"])
        rope = settings.get("rope_parameters") or {}
        return cls(
            layers=spec.n_layers,
            hidden=hidden,
            epsilon=float(settings.get("rms_norm_eps", 1e-6)),
            tied=require_head(spec, "lm_head.weight"),
            names=frozenset(spec.tensors),
            embed="model.embed_tokens.weight",
            final_norm="model.norm.weight",
            head="lm_head.weight",
            heads=heads,
            kv_heads=int(settings.get("num_key_value_heads") or heads),
            head_dim=int(settings.get("head_dim") or hidden // heads),
            theta=float(rope.get("rope_theta") or settings.get("rope_theta") or 10000.0),
        )

    def block(self, layer: int) -> Mapping[str, str]:
        """Return the names of a block's weights by short name."""
        prefix = f"model.layers.{layer}."
        return {
            "attn_norm": f"{prefix}input_layernorm.weight",
            "mlp_norm": f"{prefix}post_attention_layernorm.weight",
            **{short: f"{prefix}self_attn.{short}_proj.weight" for short in "qkvo"},
            **{short: f"{prefix}mlp.{short}_proj.weight" for short in ("gate", "up", "down")},
            "q_norm": f"{prefix}self_attn.q_norm.weight",
            "k_norm": f"{prefix}self_attn.k_norm.weight",
        }

    def readers_of_the_stream(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield every norm of the residual stream with the linear maps behind it; the head's is last."""
        for layer in range(self.layers):
            names = self.block(layer)
            yield names["attn_norm"], (names["q"], names["k"], names["v"])
            yield names["mlp_norm"], (names["gate"], names["up"])
        yield self.final_norm, (self.head,)

    def writers_to_the_stream(self) -> Iterator[str]:
        """Yield the weights of the linear maps that add to the residual stream."""
        for layer in range(self.layers):
            names = self.block(layer)
            yield names["o"]
            yield names["down"]

    def pairs(self, norms: bool = True) -> Iterator[Pair]:
        """Yield everything across which a scale can move."""
        for layer, values in enumerate(self.inner_spaces()):
            names = self.block(layer)
            if norms:
                yield Pair(names["attn_norm"], (names["q"], names["k"], names["v"]))
            yield values
            if norms:
                yield Pair(names["mlp_norm"], (names["gate"], names["up"]))
            yield Pair(names["up"], (names["down"],))

    def inner_spaces(self) -> Iterator[Pair]:
        """Yield the values of each layer's heads: attention weighs all channels of a head alike."""
        for layer in range(self.layers):
            names = self.block(layer)
            yield Pair(names["v"], (names["o"],), self.heads // self.kv_heads, self.head_dim)

    def logits(self, read: Read, tokens: np.ndarray) -> np.ndarray:
        """Run the model in float64, one block of weights at a time.

        Rotary positions are the plain ones: scaled variants change both models alike. Sliding windows are not
        applied.
        """
        stream = read(self.embed)[tokens]
        turn = self._rotary(tokens.shape[1])
        for layer in range(self.layers):
            names = self.block(layer)
            stream = stream + self._attention(names, read, self.norm(stream, read(names["attn_norm"])), turn)
            normed = self.norm(stream, read(names["mlp_norm"]))
            wide = silu(self.linear(read, normed, names["gate"])) * self.linear(read, normed, names["up"])
            stream = stream + self.linear(read, wide, names["down"])
        out: np.ndarray = self.norm(stream, read(self.final_norm)) @ read(self.head).T
        return out

    def _rotary(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        frequency = self.theta ** -(np.arange(0, self.head_dim, 2) / self.head_dim)
        angle = np.outer(np.arange(length), np.concatenate([frequency, frequency]))
        return np.cos(angle), np.sin(angle)

    def _attention(
        self, names: Mapping[str, str], read: Read, x: np.ndarray, turn: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        batch, length, _ = x.shape
        cosine, sine = turn

        def heads(short: str, count: int) -> np.ndarray:
            found = self.linear(read, x, names[short]).reshape(batch, length, count, self.head_dim)
            if short + "_norm" in names and names[short + "_norm"] in self.names:
                found = self.norm(found, read(names[short + "_norm"]))
            found = found.transpose(0, 2, 1, 3)
            if short != "v":
                first, second = np.split(found, 2, axis=-1)
                found = found * cosine + np.concatenate([-second, first], axis=-1) * sine
            return np.repeat(found, self.heads // count, axis=1)

        q, k, v = heads("q", self.heads), heads("k", self.kv_heads), heads("v", self.kv_heads)
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(self.head_dim)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        return self.linear(read, mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1), names["o"])
