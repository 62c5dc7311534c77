"""The loss of a causal language model on whole documents, every token after the first predicted once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.reference.tokenizer import END_OF_TEXT

_BATCH = 8


@dataclass(frozen=True)
class Loss:
    """The loss on one document, or the sum over several.

    Attributes:
        nats: summed over the predicted tokens.
        tokens: how many were predicted.
        utf8: bytes of the text in UTF-8.
    """

    nats: float
    tokens: int
    utf8: int

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text."""
        return self.nats / math.log(2) / self.utf8


def total(losses: Iterable[Loss]) -> Loss:
    """Return the sum of losses."""
    every = list(losses)
    return Loss(
        sum(loss.nats for loss in every), sum(loss.tokens for loss in every), sum(loss.utf8 for loss in every)
    )


def document_loss(model: Any, tokenizer: Any, text: str, context: int) -> Loss:
    """Return the loss on one text, led by `END_OF_TEXT` and cut into windows of `context` tokens.

    A window sees nothing of the ones before it.

    Args:
        model: a transformers causal model.
        tokenizer: its `tokenizers.Tokenizer`.
        text: the document.
        context: tokens per window.
    """
    import torch

    tokens = np.array([tokenizer.token_to_id(END_OF_TEXT), *tokenizer.encode(text).ids], dtype=np.int64)
    inputs, targets = tokens[:-1], tokens[1:]
    whole = len(inputs) // context * context
    batches = [
        (
            inputs[start : min(start + _BATCH * context, whole)],
            targets[start : min(start + _BATCH * context, whole)],
        )
        for start in range(0, whole, _BATCH * context)
    ]
    nats = 0.0
    with torch.inference_mode():
        for taken, wanted, length in [
            *((i, t, context) for i, t in batches),
            (inputs[whole:], targets[whole:], len(inputs) - whole),
        ]:
            if length:
                logits = model(input_ids=torch.from_numpy(taken.reshape(-1, length)), use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), torch.from_numpy(wanted), reduction="none"
                )
                nats += float(loss.double().sum())
    return Loss(nats, len(targets), len(text.encode()))
