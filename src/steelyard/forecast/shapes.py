"""Shapes for a number of parameters: heads that divide, and width to depth in the flat band."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from steelyard.errors import UserError
from steelyard.spec import ModelSpec

BAND = (17.0, 100.0)
"""Width over depth within which the Gemstones runs (arXiv:2502.06857, public table) lose at most about 0.9 %."""
_MIDDLE = 48.0


@dataclass(frozen=True)
class Shape:
    """A model of the Llama family.

    Attributes:
        config: as config.json has it.
        parameters: of the model, unique, counted tensor by tensor.
    """

    config: dict[str, Any]
    parameters: int

    @property
    def label(self) -> str:
        """In words."""
        config = self.config
        return (
            f"{config['num_hidden_layers']} layers of {config['hidden_size']}, "
            f"{config['num_attention_heads']} heads, MLP {config['intermediate_size']}"
        )


def shape_for(parameters: float, vocabulary: int = 32000, tied: bool = True) -> Shape:
    """Return the shape whose count comes nearest to a number, with width over depth in the flat band.

    Args:
        parameters: embeddings counted.
        vocabulary: tokens.
        tied: whether the head is the table of embeddings.

    Raises:
        UserError: if the vocabulary alone takes more.
    """
    best: tuple[float, int, int] | None = None
    for width in range(64, 32769, 64):
        if width > 1024 and width % 128:
            continue
        block = _block(width)
        left = parameters - (1 if tied else 2) * vocabulary * width
        depth = round(left / block)
        if depth < 2:
            continue
        count = depth * block + (1 if tied else 2) * vocabulary * width
        ratio = width / depth
        off = abs(math.log(count / parameters))
        outside = max(0.0, math.log(ratio / BAND[1]), math.log(BAND[0] / ratio))
        badness = off + 0.05 * abs(math.log(ratio / _MIDDLE)) + 2 * outside
        if best is None or badness < best[0]:
            best = (badness, width, depth)
    if best is None:
        raise UserError(
            f"{parameters:.3g} parameters are too few for a vocabulary of {vocabulary}; "
            "give a smaller one with --vocabulary"
        )
    _, width, depth = best
    config = _config(width, depth, vocabulary, tied)
    return Shape(config, ModelSpec.from_config(config, dtype="BF16").parameter_count())


def _ffn(width: int) -> int:
    return 64 * round(8 * width / 3 / 64)


def _block(width: int) -> int:
    return 4 * width * width + 3 * width * _ffn(width) + 2 * width


def _config(width: int, depth: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    head = 128 if width >= 2048 else 64
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "intermediate_size": _ffn(width),
        "num_hidden_layers": depth,
        "num_attention_heads": width // head,
        "num_key_value_heads": width // head,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 4096,
    }
