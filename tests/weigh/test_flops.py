"""Operations against torch's own counter, on tiny models of every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from steelyard.spec import ModelSpec
from steelyard.weigh import flops

TOKENS, BATCH = 12, 2

TINY = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
GROUPED = {**TINY, "num_key_value_heads": 2}
TINY_GPT2 = {"vocab_size": 48, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}

TEXTS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {**GROUPED, "head_dim": 10}),
    ("LlamaForSequenceClassification", {**GROUPED, "pad_token_id": 0}),
    ("LlamaModel", GROUPED),
    ("MistralForCausalLM", {**GROUPED, "sliding_window": 4}),
    ("Qwen2ForCausalLM", GROUPED),
    ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 8, "tie_word_embeddings": True}),
    ("GPT2LMHeadModel", TINY_GPT2),
    ("GPTNeoXForCausalLM", TINY),
    ("BertModel", TINY),
    ("BertForMaskedLM", TINY),
    ("BertForSequenceClassification", TINY),
    ("BertForTokenClassification", TINY),
]


def build(class_name: str, options: dict[str, Any]) -> tuple[Any, ModelSpec]:
    torch.manual_seed(0)
    cls = getattr(transformers, class_name)
    config = cls.config_class(**options)
    config._attn_implementation = "eager"
    model = cls(config).eval()
    return model, ModelSpec.from_config({**model.config.to_dict(), "architectures": [class_name]})


def tokens(length: int = TOKENS) -> torch.Tensor:
    return torch.arange(BATCH * length).reshape(BATCH, length) % 40 + 1


def counted(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("class_name", "options"), TEXTS, ids=[name for name, _ in TEXTS])
def test_a_forward_pass(class_name: str, options: dict[str, Any]) -> None:
    model, spec = build(class_name, options)
    with torch.no_grad():
        count = counted(lambda: model(input_ids=tokens()))
    # Rotary frequencies are made by a product of their own, too small for anyone to count.
    assert flops.prefill(spec, TOKENS, BATCH).total == count - rotary(model)


def rotary(model: Any) -> int:
    """Operations of the product of positions with rotary frequencies."""
    return sum(2 * TOKENS * module.inv_freq.numel() for module in model.modules() if hasattr(module, "inv_freq"))


@pytest.mark.parametrize(("class_name", "options"), TEXTS[3:8], ids=[name for name, _ in TEXTS[3:8]])
def test_a_next_token(class_name: str, options: dict[str, Any]) -> None:
    model, spec = build(class_name, {**options, "sliding_window": None} if "Mistral" in class_name else options)
    with torch.no_grad():
        cache = model(input_ids=tokens(), use_cache=True).past_key_values
        count = counted(lambda: model(input_ids=tokens(1), past_key_values=cache))
    assert flops.decode(spec, TOKENS, BATCH).total == count - rotary(model) // TOKENS


@pytest.mark.parametrize("class_name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_training_step(class_name: str) -> None:
    model, spec = build(class_name, dict(TEXTS)[class_name])
    model.train()
    count = counted(lambda: model(input_ids=tokens(), labels=tokens()).loss.backward())
    assert flops.training(spec, TOKENS, BATCH).total == count - rotary(model)


def test_a_training_step_with_checkpoints() -> None:
    model, spec = build("LlamaForCausalLM", GROUPED)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    count = counted(lambda: model(input_ids=tokens(), labels=tokens()).loss.backward())
    assert flops.training(spec, TOKENS, BATCH, "full").total == count - rotary(model)
