"""The layers of a llama-family model as preparations see them: who reads and who writes which channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from steelyard.errors import UserError
from steelyard.spec import ModelSpec

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

EMBED, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True)
class Pair:
    """Channels that one tensor writes and others read, with nothing nonlinear between: a scale can move across.

    Attributes:
        writer: name of the norm's or the linear map's weight.
        readers: names of the linear maps' weights.
        repeat: how many heads in a row read each of the writer's heads (grouped-query attention), else 1.
        block: channels in a head, or all of them.
    """

    writer: str
    readers: tuple[str, ...]
    repeat: int = 1
    block: int = 0


@dataclass(frozen=True)
class Network:
    """The sizes of a model and the names of its tensors.

    Attributes:
        layers: number of blocks.
        hidden: channels of the residual stream.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: channels of a head.
        epsilon: of the norms.
        theta: base of the rotary frequencies.
        tied: whether the head is the embedding table.
        names: of every tensor stored.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    theta: float
    tied: bool
    names: frozenset[str]

    @classmethod
    def of(cls, spec: ModelSpec) -> Network:
        """Return the network of a model.

        Raises:
            UserError: if the model is of another family, is quantized already, or has no head.
        """
        if spec.model_type not in FAMILIES or spec.architecture is None:
            known = ", ".join(FAMILIES)
            raise UserError(
                f"preparation knows the model types {known}, not {spec.model_type or 'an unnamed one'!r}"
            )
        packed = [tensor.name for tensor in spec.tensors.values() if not tensor.is_plain_float]
        if packed:
            raise UserError(f"{packed[0]} is not a plain float tensor; prepare the model before it is quantized")
        tied = HEAD in spec.ties
        if not tied and HEAD not in spec.tensors:
            raise UserError(f"{spec.model_type} without {HEAD}: only language models are prepared")
        settings = spec.config
        hidden, heads = int(settings["hidden_size"]), int(settings["num_attention_heads"])
        rope = settings.get("rope_parameters") or {}
        return cls(
            layers=spec.n_layers,
            hidden=hidden,
            heads=heads,
            kv_heads=int(settings.get("num_key_value_heads") or heads),
            head_dim=int(settings.get("head_dim") or hidden // heads),
            epsilon=float(settings.get("rms_norm_eps", 1e-6)),
            theta=float(rope.get("rope_theta") or settings.get("rope_theta") or 10000.0),
            tied=tied,
            names=frozenset(spec.tensors),
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

    def bias(self, weight: str) -> str | None:
        """Return the name of the bias that goes with a weight, if it is stored."""
        name = weight.removesuffix(".weight") + ".bias"
        return name if name in self.names else None

    def readers_of_the_stream(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield every norm of the residual stream with the linear maps behind it; the head's is last."""
        for layer in range(self.layers):
            names = self.block(layer)
            yield names["attn_norm"], (names["q"], names["k"], names["v"])
            yield names["mlp_norm"], (names["gate"], names["up"])
        yield FINAL_NORM, (HEAD,)

    def writers_to_the_stream(self) -> Iterator[str]:
        """Yield the weights of the linear maps that add to the residual stream."""
        for layer in range(self.layers):
            names = self.block(layer)
            yield names["o"]
            yield names["down"]

    def pairs(self, norms: bool = True) -> Iterator[Pair]:
        """Yield everything across which a scale can move.

        Args:
            norms: whether those from a norm are among them; else only those between two linear maps.
        """
        for layer in range(self.layers):
            names = self.block(layer)
            if norms:
                yield Pair(names["attn_norm"], (names["q"], names["k"], names["v"]))
            yield Pair(names["v"], (names["o"],), self.heads // self.kv_heads, self.head_dim)
            if norms:
                yield Pair(names["mlp_norm"], (names["gate"], names["up"]))
            yield Pair(names["up"], (names["down"],))
