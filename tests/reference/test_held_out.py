from __future__ import annotations

import math

import numpy as np
import pytest

from steelyard.reference.held_out import Loss, document_loss, total
from steelyard.reference.network import build_model
from steelyard.reference.options import TrainOptions
from steelyard.reference.tokenizer import train_tokenizer

torch = pytest.importorskip("torch")


def test_every_token_is_predicted_once_from_its_own_window(tiny: TrainOptions) -> None:
    text = "value = [1, 2, 3]\nfor item in value:\n    print(item)\n" * 8
    tokenizer = train_tokenizer([text], 300)
    model = build_model(tiny)
    context = 8
    loss = document_loss(model, tokenizer, text, context)

    tokens = [0, *tokenizer.encode(text).ids]
    expected = 0.0
    for place in range(1, len(tokens)):
        begin = (place - 1) // context * context
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens[begin:place]])).logits[0, -1].double().numpy()
        expected += float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[tokens[place]])
    assert len(tokens) > 8 * context, "several batches and a rest"
    assert loss.tokens == len(tokens) - 1
    assert loss.utf8 == len(text.encode())
    assert loss.nats == pytest.approx(expected, rel=1e-5)


def test_sums_and_units() -> None:
    both = total([Loss(math.log(2) * 8, 4, 2), Loss(math.log(2) * 4, 4, 4)])
    assert both.per_token == pytest.approx(math.log(2) * 12 / 8)
    assert both.bits_per_byte == pytest.approx(2)
