"""The function of a model in float64, run without torch, to prove that an order of its units keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steelyard.edits.align.maps import Maps
from steelyard.edits.align.symmetry import STREAM, Read
from steelyard.edits.prepare.network import Network
from steelyard.errors import UserError

if TYPE_CHECKING:
    from steelyard.spec import ModelSpec


def run(spec: ModelSpec, read: Read, tokens: np.ndarray) -> np.ndarray:
    """Return a model's logits, of an encoder's family its last hidden states.

    Args:
        spec: what it is.
        read: its tensors by name.
        tokens: [sequences, length].

    Returns:
        float64 [sequences, length, vocabulary or hidden].

    Raises:
        UserError: if it is of a variant that is not known here.
    """

    def wide(name: str) -> np.ndarray:
        return read(spec.ties.get(name, name)).astype(np.float64)

    if spec.model_type == "gpt2":
        return _gpt2(spec, wide, tokens)
    return Network.of(spec).logits(wide, tokens)


def in_order(spec: ModelSpec, found: np.ndarray, maps: Maps) -> np.ndarray:
    """Return what `run` gave for a reordered model in the units of the original."""
    if spec.model_type != "bert" or STREAM not in maps:
        return found
    back = np.argsort(maps[STREAM])
    return found[..., back]


def _gpt2(spec: ModelSpec, read: Read, tokens: np.ndarray) -> np.ndarray:
    """Return the logits of a GPT-2; matrices are stored as [in, out]."""
    if spec.config.get("activation_function", "gelu_new") != "gelu_new":
        raise UserError(f"alignment knows gpt2 with gelu_new, not {spec.config['activation_function']}")
    names = {(tensor.layer, tensor.role): name for name, tensor in spec.tensors.items()}
    epsilon = float(spec.config.get("layer_norm_epsilon", 1e-5))
    heads = int(spec.config.get("n_head", 12))

    def norm(x: np.ndarray, layer: int | None, role: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        normed: np.ndarray = scaled * read(names[layer, role]) + read(names[layer, f"{role}.bias"])
        return normed

    def linear(x: np.ndarray, layer: int, role: str) -> np.ndarray:
        out: np.ndarray = x @ read(names[layer, role]) + read(names[layer, f"{role}.bias"])
        return out

    embedding = read(names[None, "embed.token"])
    length = tokens.shape[1]
    stream = embedding[tokens] + read(names[None, "embed.position"])[:length]
    seen = np.tril(np.ones((length, length), bool))
    for layer in range(spec.n_layers):
        mixed = linear(norm(stream, layer, "norm.attn"), layer, "attn.qkv")
        query, key, value = (
            part.reshape(*part.shape[:2], heads, -1).transpose(0, 2, 1, 3) for part in np.split(mixed, 3, axis=-1)
        )
        scores = np.where(seen, query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]), -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        stream = stream + linear(attended.transpose(0, 2, 1, 3).reshape(stream.shape), layer, "attn.o")
        inner = linear(norm(stream, layer, "norm.mlp"), layer, "mlp.up")
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        stream = stream + linear(inner, layer, "mlp.down")
    head = names.get((None, "head"))
    logits: np.ndarray = norm(stream, None, "norm.final") @ (embedding if head is None else read(head)).T
    return logits
