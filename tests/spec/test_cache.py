"""The key-value cache against what transformers really keeps, and the layout of fused q, k and v."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from spec_peers import GROUPED, TINY, TINY_BERT, TINY_GPT2, shapes_of

from steelyard.errors import UserError
from steelyard.spec import ModelSpec

CONTEXT, BATCH = 7, 2


def build(class_name: str, **options: Any) -> tuple[Any, ModelSpec]:
    torch.manual_seed(0)
    cls = getattr(transformers, class_name)
    model = cls(cls.config_class(**options)).eval()
    config = {**model.config.to_dict(), "architectures": [class_name]}
    return model, ModelSpec.build(config, shapes_of(model))


def run(model: Any) -> Any:
    with torch.no_grad():
        return model(
            input_ids=torch.arange(BATCH * CONTEXT).reshape(BATCH, CONTEXT), use_cache=True
        ).past_key_values


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("LlamaForCausalLM", {**GROUPED, "head_dim": 6}),
        ("MistralForCausalLM", {**GROUPED, "sliding_window": None}),
        ("Qwen2ForCausalLM", GROUPED),
        ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 8}),
        ("GPT2LMHeadModel", TINY_GPT2),
        ("GPTNeoXForCausalLM", TINY),
        ("BertLMHeadModel", {**TINY_BERT, "is_decoder": True}),
    ],
)
def test_cache_is_what_transformers_keeps(class_name: str, options: dict[str, Any]) -> None:
    model, spec = build(class_name, **options)
    layers = run(model).layers
    kept = sum(tensor.numel() * tensor.element_size() for layer in layers for tensor in (layer.keys, layer.values))
    assert spec.kv_cache_bytes(CONTEXT, BATCH, bytes_per_element=4) == kept > 0


@pytest.mark.parametrize(
    ("class_name", "options", "sliding"),
    [
        ("MistralForCausalLM", {"sliding_window": 4}, [True, True, True]),
        ("Qwen2ForCausalLM", {"sliding_window": 4, "use_sliding_window": False}, [False, False, False]),
        (
            "Qwen2ForCausalLM",
            {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1},
            [False, True, True],
        ),
        (
            "Qwen3ForCausalLM",
            {
                "sliding_window": 4,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            [True, False, True],
        ),
    ],
)
def test_sliding_windows(class_name: str, options: dict[str, Any], sliding: list[bool]) -> None:
    model, spec = build(class_name, **GROUPED, **options)
    kept = [layer.keys.shape for layer in run(model).layers]
    # Between two steps transformers keeps one token less than the window; the next step's is added to them.
    assert [shape[2] for shape in kept] == [3 if slides else CONTEXT for slides in sliding]
    tokens = sum(4 if slides else CONTEXT for slides in sliding)
    assert spec.kv_cache_bytes(CONTEXT, BATCH) == 2 * BATCH * tokens * kept[0][1] * kept[0][3] * 2
    assert spec.kv_cache_bytes(2, 1) == 2 * 3 * 2 * kept[0][1] * kept[0][3] * 2


def test_older_qwen_configs_name_the_first_sliding_layer() -> None:
    _, spec = build("Qwen2ForCausalLM", **GROUPED)
    config = {
        key: value
        for key, value in {
            **spec.config,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 2,
        }.items()
        if key != "layer_types"
    }
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in spec.tensors.items()}
    assert ModelSpec.build(config, shapes).kv_cache_bytes(100, 1) == 2 * (100 + 100 + 4) * 2 * 4 * 2
    short = {**config, "layer_types": ["full_attention"]}
    with pytest.raises(UserError, match="layer_types"):
        ModelSpec.build(short, shapes).kv_cache_bytes(100, 1)


@pytest.mark.parametrize("class_name", ["BertModel", "BertForMaskedLM"])
def test_encoders_keep_nothing(class_name: str) -> None:
    _, spec = build(class_name, **TINY_BERT)
    assert spec.kv_cache_bytes(100, 4) == 0


@pytest.mark.parametrize(("class_name", "options"), [("GPT2LMHeadModel", TINY_GPT2), ("GPTNeoXForCausalLM", TINY)])
@pytest.mark.parametrize("part", [0, 1, 2], ids=["q", "k", "v"])
def test_axes_of_fused_attention_say_where_q_k_and_v_are(
    class_name: str, options: dict[str, Any], part: int
) -> None:
    """Clearing one part by its named axes clears the cached keys or values, and nothing else."""
    model, spec = build(class_name, **options)
    table = spec.require_axes("test")
    settings = table.settings(spec.config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for tensor in spec.tensors.values():
            if not (tensor.role or "").startswith("attn.qkv"):
                continue
            assert tensor.axes is not None
            names = [axis for dimension in tensor.axes for axis in dimension.split("*")]
            view = parameters[tensor.name].view([table.axis_size(axis, settings) for axis in names])
            view.select(names.index("qkv"), part).zero_()
    first = run(model).layers[0]
    assert bool((first.keys == 0).all()) == (part == 1)
    assert bool((first.values == 0).all()) == (part == 2)
