"""The gates of a mixture: for every layer and expert the direction of hidden states that the expert is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.moe.recipe import Expert
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.seeds import generator

_LEAST_NORM = 1e-8
_DEGENERATE = 5.0


def make_gates(
    mode: str, base: InputModel, experts: Sequence[Expert], seed: int, progress: Progress = SILENT
) -> np.ndarray:
    """Return the gates of experts.

    Args:
        mode: `hidden` and `hidden_last` take the hidden state that enters a layer at the last token of a prompt,
            `hidden_avg` their average over its tokens; `cheap_embed` the sum of a prompt's embeddings, the same for
            every layer; `random` draws from a normal distribution, `uniform_random` as torch begins a linear map.
        base: the model that the prompts are given to.
        experts: with their prompts; what negative ones give is subtracted.
        seed: of what is drawn.
        progress: advanced while the base runs.

    Returns:
        float32 [layers, experts, hidden], rows of length 1 unless drawn.

    Raises:
        UserError: if the base has no tokenizer, or a prompt no tokens.
    """
    layers, hidden = base.spec.n_layers, _hidden(base)
    shape = (layers, len(experts), hidden)
    if mode == "random":
        return generator(seed, "gates").standard_normal(shape, dtype=np.float32)
    if mode == "uniform_random":
        limit = hidden**-0.5
        return generator(seed, "gates").uniform(-limit, limit, shape).astype(np.float32)
    prompts = list(dict.fromkeys(prompt for expert in experts for prompt in (*expert.positive, *expert.negative)))
    tokens = _tokens(base, prompts)
    if mode == "cheap_embed":
        summed = _summed_embeddings(base, tokens)
        return np.stack([np.tile(_cheap(expert, summed), (layers, 1)) for expert in experts], axis=1)
    states = _hidden_states(base, tokens, mode == "hidden_avg", progress)
    return np.stack([_unit(_mean(expert, states)) for expert in experts], axis=1)


def degenerate_layers(gates: np.ndarray) -> list[int]:
    """Return the layers whose gates are nearly dependent: some expert will hardly be chosen."""
    return [layer for layer, rows in enumerate(gates) if not np.linalg.cond(rows.astype(np.float64)) <= _DEGENERATE]


def _cheap(expert: Expert, summed: Mapping[str, np.ndarray]) -> np.ndarray:
    positive = _unit(np.sum([summed[prompt] for prompt in expert.positive], axis=0))
    if expert.negative:
        positive = positive - _unit(np.sum([summed[prompt] for prompt in expert.negative], axis=0))
    return _unit(positive)


def _mean(expert: Expert, states: Mapping[str, np.ndarray]) -> np.ndarray:
    mean: np.ndarray = np.mean([states[prompt] for prompt in expert.positive], axis=0)
    if expert.negative:
        mean = mean - np.mean([states[prompt] for prompt in expert.negative], axis=0)
    return mean


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _LEAST_NORM)
    scaled: np.ndarray = (vectors / norms).astype(np.float32)
    return scaled


def _tokens(base: InputModel, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the tokens of every prompt, the token that begins a text before them."""
    from steelyard.measure.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(base.checkpoint, base.config)
    if tokenizer is None:
        raise UserError(f"{base.label} has no tokenizer to read the prompts with; use gate_mode random")
    number = base.config.get("bos_token_id")
    first = [] if not isinstance(number, int) else [number]
    found = {}
    for prompt in prompts:
        tokens = np.array([*first, *tokenizer.encode(prompt).tokens], np.int64)
        if not tokens.size:
            raise UserError(f"the prompt {prompt!r} has no tokens in the vocabulary of {base.label}; change it")
        found[prompt] = tokens
    return found


def _summed_embeddings(base: InputModel, tokens: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    name, hidden = _table(base), _hidden(base)
    read = base.reader(name)
    rows = {int(token) for found in tokens.values() for token in found}
    held = {row: read(row * hidden, (row + 1) * hidden).astype(np.float64) for row in rows}
    return {prompt: np.sum([held[int(token)] for token in found], axis=0) for prompt, found in tokens.items()}


def _hidden_states(
    base: InputModel, tokens: Mapping[str, np.ndarray], average: bool, progress: Progress
) -> dict[str, np.ndarray]:
    """Run the base block by block; return float64 [layers, hidden] for every prompt."""
    from steelyard.measure.activations import ActivationStore
    from steelyard.measure.model import Model
    from steelyard.measure.runner import BlockRunner
    from steelyard.measure.windows import Batch

    model = Model(_Source(base), base.label, "causal", None, "mean", True, max(map(len, tokens.values())))
    runner = BlockRunner(model)
    batches = [
        Batch(np.array([number]), found[None], found[None], np.array([found.size]))
        for number, found in enumerate(tokens.values())
    ]
    states: dict[str, np.ndarray] = {}
    with ActivationStore() as store:
        runner.forward(batches, store, progress, keep=True, label="reading prompts")
        for number, prompt in enumerate(tokens):
            entered = [store.get((layer, number)).numpy()[0].astype(np.float64) for layer in range(runner.depth)]
            states[prompt] = np.stack([rows.mean(axis=0) if average else rows[-1] for rows in entered])
    return states


class _Source:
    """An input's tensors as whatever runs models takes them."""

    def __init__(self, model: InputModel) -> None:
        self._model = model

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's config."""
        return self._model.config

    @property
    def names(self) -> list[str]:
        """Every tensor's name."""
        return self._model.names

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor whole."""
        shape = self._model.shape(name)
        whole: np.ndarray = self._model.reader(name)(0, int(np.prod(shape, dtype=np.int64)))
        return whole.reshape(shape)


def _table(base: InputModel) -> str:
    return next(name for name, tensor in base.spec.tensors.items() if tensor.role == "embed.token")


def _hidden(base: InputModel) -> int:
    return base.shape(_table(base))[1]
