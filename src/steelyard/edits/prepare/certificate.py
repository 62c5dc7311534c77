"""The certificate of a preparation: both models run in float64 and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steelyard.edits.prepare.changes import Read
from steelyard.edits.prepare.network import EMBED, FINAL_NORM, HEAD, Network
from steelyard.seeds import generator

TOLERANCE = 1e-9
"""Relative deviation in float64 up to which two models are one function: above all rounding, below any change."""


@dataclass(frozen=True)
class Certificate:
    """How far the prepared model's logits are from the original's, relative to their power, on random tokens.

    Attributes:
        exact: of the changed weights before they are rounded to the type they are stored in.
        stored: of the weights as they are stored.
        tokens: how many were run.
    """

    exact: float
    stored: float
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def draw_tokens(vocabulary: int, seed: int = 0, sequences: int = 2, length: int = 24) -> np.ndarray:
    """Return random tokens, int64 [sequences, length]."""
    return generator(seed, "certificate").integers(0, vocabulary, (sequences, length))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return |found - expected| / |expected|."""
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-300))


def logits(network: Network, read: Read, tokens: np.ndarray) -> np.ndarray:
    """Run a model in float64, one block of weights at a time.

    Rotary positions are the plain ones: scaled variants change both models alike. Sliding windows are not applied.

    Args:
        network: the model.
        read: its tensors by name, float64; the head under its own name even if it is tied.
        tokens: [sequences, length].

    Returns:
        float64 [sequences, length, vocabulary].
    """
    stream = read(EMBED)[tokens]
    turn = _rotary(network, tokens.shape[1])
    for layer in range(network.layers):
        names = network.block(layer)

        def linear(x: np.ndarray, short: str, names: Any = names) -> np.ndarray:
            bias = network.bias(names[short])
            out: np.ndarray = x @ read(names[short]).T
            return out if bias is None else out + read(bias)

        stream = stream + _attention(
            network, names, read, linear, _norm(network, stream, read(names["attn_norm"])), turn
        )
        normed = _norm(network, stream, read(names["mlp_norm"]))
        gate = linear(normed, "gate")
        stream = stream + linear(gate / (1.0 + np.exp(-gate)) * linear(normed, "up"), "down")
    out: np.ndarray = _norm(network, stream, read(FINAL_NORM)) @ read(HEAD).T
    return out


def _norm(network: Network, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + network.epsilon) * weight
    return scaled


def _rotary(network: Network, length: int) -> tuple[np.ndarray, np.ndarray]:
    frequency = network.theta ** -(np.arange(0, network.head_dim, 2) / network.head_dim)
    angle = np.outer(np.arange(length), np.concatenate([frequency, frequency]))
    return np.cos(angle), np.sin(angle)


def _attention(
    network: Network,
    names: Any,
    read: Read,
    linear: Callable[[np.ndarray, str], np.ndarray],
    x: np.ndarray,
    turn: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    batch, length, _ = x.shape
    cosine, sine = turn

    def heads(short: str, count: int) -> np.ndarray:
        found = linear(x, short).reshape(batch, length, count, network.head_dim)
        if short + "_norm" in names and names[short + "_norm"] in network.names:
            found = _norm(network, found, read(names[short + "_norm"]))
        found = found.transpose(0, 2, 1, 3)
        if short != "v":
            first, second = np.split(found, 2, axis=-1)
            found = found * cosine + np.concatenate([-second, first], axis=-1) * sine
        return np.repeat(found, network.heads // count, axis=1)

    q, k, v = heads("q", network.heads), heads("k", network.kv_heads), heads("v", network.kv_heads)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(network.head_dim)
    scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
    return linear(mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1), "o")
