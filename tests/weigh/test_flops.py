"""Operations against torch's own counter, on tiny models of every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import CLASSIFIERS, DECODERS, GROUPED, build, rotary
from torch.utils.flop_counter import FlopCounterMode

from steelyard.errors import UserError
from steelyard.weigh import flops

TOKENS, BATCH = 12, 2
MODELS = {**DECODERS, **CLASSIFIERS}


def tokens(length: int = TOKENS) -> torch.Tensor:
    return torch.arange(BATCH * length).reshape(BATCH, length) % 40 + 1


def counted(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("class_name", MODELS)
def test_a_forward_pass(class_name: str) -> None:
    model, spec = build(class_name, MODELS[class_name])
    with torch.no_grad():
        count = counted(lambda: model(input_ids=tokens()))
    assert flops.prefill(spec, TOKENS, BATCH).total == count - rotary(model, TOKENS)


@pytest.mark.parametrize("class_name", DECODERS)
def test_a_next_token(class_name: str) -> None:
    model, spec = build(class_name, DECODERS[class_name])
    with torch.no_grad():
        cache = model(input_ids=tokens(), use_cache=True).past_key_values
        count = counted(lambda: model(input_ids=tokens(1), past_key_values=cache))
    # transformers expands the latents of the whole context again for every token.
    assert flops.decode(spec, TOKENS, BATCH, absorb=False).total == count - rotary(model, 1)


@pytest.mark.parametrize("class_name", ["LlamaForCausalLM", "GPT2LMHeadModel", "MixtralForCausalLM"])
def test_a_training_step(class_name: str) -> None:
    model, spec = build(class_name, DECODERS[class_name])
    model.train()
    count = counted(lambda: model(input_ids=tokens(), labels=tokens()).loss.backward())
    assert flops.training(spec, TOKENS, BATCH).total == count - rotary(model, TOKENS)


def test_a_training_step_with_checkpoints() -> None:
    model, spec = build("LlamaForCausalLM", GROUPED)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    count = counted(lambda: model(input_ids=tokens(), labels=tokens()).loss.backward())
    assert flops.training(spec, TOKENS, BATCH, "full").total == count - rotary(model, TOKENS)
    selective, none = (flops.training(spec, TOKENS, BATCH, how) for how in ("selective", "none"))
    assert selective.total - none.total == none.attention // 3 > 0


def test_causal_pairs_one_by_one() -> None:
    for queries in range(1, 9):
        for window in (None, 1, 3, 8, 20):
            reach = window or queries
            seen = sum(max(0, q - reach) < k <= q for q in range(1, queries + 1) for k in range(1, q + 1))
            assert flops.causal_pairs(queries, window) == seen


def test_causal_counting_takes_windows_into_account() -> None:
    _, spec = build("MistralForCausalLM", {**GROUPED, "sliding_window": 4})
    width = 2 * 4 * (6 + 6)
    assert flops.prefill(spec, TOKENS, causal=True).attention == 3 * width * flops.causal_pairs(TOKENS, 4)
    assert flops.prefill(spec, TOKENS).attention == 3 * width * TOKENS**2
    assert flops.decode(spec, 100).attention == 3 * width * 4


def test_absorbing_latents() -> None:
    _, spec = build("DeepseekV3ForCausalLM", DECODERS["DeepseekV3ForCausalLM"])
    absorbed, expanded = flops.decode(spec, 99), flops.decode(spec, 99, absorb=False)
    # Queries meet latents of 10 numbers and 4 of positions; the weights meet the 10 again.
    assert absorbed.attention == 3 * 2 * 4 * (14 + 10) * 100
    assert expanded.attention == 3 * 2 * 4 * (10 + 8) * 100
    assert expanded.linear["attn.kv_b"] == 100 * absorbed.linear["attn.kv_b"]


def test_the_head_apart() -> None:
    _, spec = build("LlamaForCausalLM", GROUPED)
    every = flops.prefill(spec, TOKENS, BATCH)
    last = flops.prefill(spec, TOKENS, BATCH, logits="last")
    assert every.head == 2 * 24 * 48 * TOKENS * BATCH == TOKENS * last.head
    assert every.without_head == last.without_head == every.total - every.head


def test_six_nd_counts_active_experts() -> None:
    _, dense = build("LlamaForCausalLM", GROUPED)
    assert flops.six_nd(dense, 1000) == 6000 * dense.parameter_count()
    _, sparse = build("MixtralForCausalLM", DECODERS["MixtralForCausalLM"])
    idle = 3 * 2 * 3 * 24 * 40
    assert flops.active_parameters(sparse) == sparse.parameter_count() - idle


def test_what_cannot_be_counted() -> None:
    _, spec = build("BertModel", CLASSIFIERS["BertModel"])
    with pytest.raises(UserError, match="does not generate"):
        flops.decode(spec, 10)
    with pytest.raises(UserError, match="at least 1"):
        flops.prefill(spec, 0)
    with pytest.raises(UserError, match="recompute"):
        flops.training(spec, 1, recompute="some")  # type: ignore[arg-type]
