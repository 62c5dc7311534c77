"""What is kept of a context against the cache objects of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import CLASSIFIERS, DECODERS, GROUPED, build

from steelyard.errors import UserError
from steelyard.weigh.cache import cache_bytes, plan_cache

CONTEXT, BATCH = 7, 2


def run(model: Any) -> Any:
    with torch.no_grad():
        ids = torch.arange(BATCH * CONTEXT).reshape(BATCH, CONTEXT) + 1
        return model(input_ids=ids, use_cache=True).past_key_values


@pytest.mark.parametrize("class_name", DECODERS)
def test_decoders(class_name: str) -> None:
    model, spec = build(class_name, DECODERS[class_name])
    layers = run(model).layers
    kept = [sum(part.numel() * part.element_size() for part in (layer.keys, layer.values)) for layer in layers]
    if class_name == "FalconForCausalLM":
        # transformers repeats a group's key and value for each of its two heads before it keeps them.
        kept = [nbytes // 2 for nbytes in kept]
    plan = plan_cache(spec, CONTEXT, BATCH, bits=32)
    assert list(plan.by_layer) == kept and plan.total == sum(kept) > 0
    assert spec.kv_cache_bytes(CONTEXT, BATCH, 4) == cache_bytes(spec, CONTEXT, BATCH, 32) == sum(kept)


def test_latents_and_what_they_expand_to() -> None:
    _, spec = build("DeepseekV3ForCausalLM", DECODERS["DeepseekV3ForCausalLM"])
    assert plan_cache(spec, CONTEXT).by_name == {"latents": 3 * CONTEXT * (10 + 4) * 2}
    assert cache_bytes(spec, CONTEXT, expanded=True) == 3 * CONTEXT * 4 * (10 + 8) * 2


def test_windows_alternate() -> None:
    model, spec = build("Gemma2ForCausalLM", {**GROUPED, "head_dim": 8, "sliding_window": 4})
    kept = [layer.keys.shape[2] for layer in run(model).layers]
    # Between two steps transformers keeps one token less than the window; the next step's is added to them.
    assert [tokens + (tokens < CONTEXT) for tokens in kept] == [4, CONTEXT, 4]
    assert plan_cache(spec, CONTEXT).by_layer == tuple(2 * 2 * 8 * tokens * 2 for tokens in (4, CONTEXT, 4))


def test_quantized_caches() -> None:
    _, spec = build("LlamaForCausalLM", DECODERS["LlamaForCausalLM"])
    elements = 2 * 3 * 2 * 10 * 64
    assert cache_bytes(spec, 64, bits=8) == elements
    assert cache_bytes(spec, 64, bits=4, group=32) == elements // 2 + elements // 32 * 2
    assert cache_bytes(spec, 64, bits=4, group=32, scale_bits=32) == elements // 2 + elements // 32 * 4


def test_encoders_keep_nothing_and_odd_requests_are_refused() -> None:
    _, encoder = build("BertModel", CLASSIFIERS["BertModel"])
    assert cache_bytes(encoder, 100) == 0
    _, spec = build("LlamaForCausalLM", GROUPED)
    assert cache_bytes(spec, 0) == 0
    for wrong in ({"context": -1}, {"batch": 0}, {"bits": 0}, {"group": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            cache_bytes(spec, **{"context": 1, **wrong})
