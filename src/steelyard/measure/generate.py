"""Text that a model writes itself: what it is calibrated on when nothing else is at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steelyard.measure.model import Model
from steelyard.measure.skeleton import Skeleton
from steelyard.measure.texts import Document
from steelyard.progress import SILENT, Progress
from steelyard.seeds import generator

# Sampling runs the model once per token, which streaming block by block would make unbearably slow.
WHOLE_MODEL_BYTES = 6 << 30
"""Models above this size in float32 are not held whole, and so write no text of their own."""

_BATCH = 64


def can_generate(model: Model) -> bool:
    """Tell whether a model writes text and is small enough to be held whole."""
    if model.task != "causal":
        return False
    total = 0
    for name in model.source.names:
        total += 4 * model.source.tensor(name).size
    return total <= WHOLE_MODEL_BYTES


def generate(
    model: Model, numbers: Sequence[int], length: int, seed: int = 0, progress: Progress = SILENT
) -> list[Document]:
    """Sample documents at temperature 1, from the model's start token.

    Args:
        model: a causal language model.
        numbers: of the documents; each is drawn from a generator of its own, keyed by seed and number.
        length: tokens of each.
        seed: of the draws.
        progress: advanced by the steps.

    Returns:
        One document of `length` tokens, the start token included, per number.
    """
    import torch

    skeleton = Skeleton(model)
    documents: list[Document] = []
    batches = [list(numbers[i : i + _BATCH]) for i in range(0, len(numbers), _BATCH)]
    progress.start("writing text to calibrate on", len(batches) * length, "tokens")
    with skeleton.loaded(model.source, skeleton.stored), torch.no_grad():
        for batch in batches:
            draws = np.stack([generator(seed, f"generated text {n}").random(length) for n in batch])
            tokens = _sample(skeleton, draws, _start(model, seed, batch), progress)
            documents += [
                Document(f"text {n} by the model", tokens=row) for n, row in zip(batch, tokens, strict=True)
            ]
    progress.finish()
    return documents


def _start(model: Model, seed: int, numbers: Sequence[int]) -> np.ndarray:
    token = model.tokenizer.start if model.tokenizer else None
    if token is None:
        for key in ("bos_token_id", "eos_token_id"):
            value = model.source.config.get(key)
            value = value[0] if isinstance(value, list) and value else value
            if token is None and isinstance(value, int) and value >= 0:
                token = value
    if token is not None:
        return np.full(len(numbers), token, dtype=np.int64)
    return np.array(
        [generator(seed, f"first token {n}").integers(model.vocabulary) for n in numbers], dtype=np.int64
    )


def _sample(skeleton: Skeleton, draws: np.ndarray, start: np.ndarray, progress: Progress) -> np.ndarray:
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=skeleton.module.config)
    tokens = np.zeros(draws.shape, dtype=np.int64)
    tokens[:, 0] = start
    progress.advance(1)
    for place in range(1, draws.shape[1]):
        last = torch.from_numpy(tokens[:, place - 1 : place].copy())
        logits = skeleton.module(input_ids=last, past_key_values=cache, use_cache=True).logits[:, -1]
        cumulative = logits.double().softmax(-1).cumsum(-1)
        goal = torch.from_numpy(draws[:, place : place + 1]) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, goal, right=True).clamp_(max=logits.shape[-1] - 1)
        tokens[:, place] = drawn[:, 0].numpy()
        progress.advance(1)
    return tokens
