"""What is particular to single decoders: windows, experts, latents, fused matrices, blocks of different sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_peers import GROUPED, TINY_BLOOM, TINY_DEEPSEEK, TINY_EXPERTS, TINY_SHARED, WITHOUT_FFN, peer, shapes_of

from steelyard.errors import UserError
from steelyard.spec import ModelSpec, architectures
from steelyard.spec.cache import KeyValueCache

ELEMENT = 2
OPENELM: dict[str, Any] = {"model_type": "openelm", "architectures": ["OpenELMForCausalLM"]}


def windows(config: dict[str, Any], layers: int) -> list[int | None]:
    """How many tokens each layer sees, by the table."""
    table = architectures()[config["model_type"]]
    assert isinstance(table.cache, KeyValueCache)
    # Attention sees what the cache keeps.
    assert [attention.window for attention in table.attention] == [table.cache.window]
    return [table.cache.window(table.settings(config), layer) for layer in range(layers)]


@pytest.mark.parametrize("class_name", ["Gemma2ForCausalLM", "Gemma3ForCausalLM", "Qwen2MoeForCausalLM"])
@pytest.mark.parametrize("options", [{}, {"use_sliding_window": True, "max_window_layers": 5}])
def test_windows_of_layers_are_those_of_transformers(class_name: str, options: dict[str, Any]) -> None:
    config = getattr(transformers, class_name).config_class(num_hidden_layers=14, sliding_window=64, **options)
    expected = [64 if kind == "sliding_attention" else None for kind in config.layer_types]
    written = config.to_dict()
    assert windows(written, 14) == expected
    # Older configs do not list the layers: the defaults must come to the same.
    assert windows({key: value for key, value in written.items() if key != "layer_types"}, 14) == expected


@pytest.mark.parametrize("class_name", ["Phi3ForCausalLM", "MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_one_window_for_all_layers(class_name: str) -> None:
    config_class = getattr(transformers, class_name).config_class
    on = config_class(sliding_window=64, use_sliding_window=True).to_dict()
    assert windows(on, 3) == [64, 64, 64]
    assert windows(config_class(sliding_window=None, use_sliding_window=False).to_dict(), 2) == [None, None]


def test_an_older_spelling_of_gemma_3s_windows() -> None:
    config = {"model_type": "gemma3_text", "sliding_window_pattern": 3, "sliding_window": 8}
    assert windows(config, 6) == [8, 8, None, 8, 8, None]
    with pytest.raises(UserError, match="says nothing of layer 1"):
        windows({**config, "layer_types": ["full_attention"]}, 2)


def test_routers_stay_as_they_are() -> None:
    model, config = peer("Qwen2MoeForCausalLM", **TINY_SHARED)
    spec = ModelSpec.build(config, shapes_of(model))
    routers = {name for name, tensor in spec.tensors.items() if str(tensor.role).startswith("router")}
    assert len(routers) == 6 and not routers & set(spec.quantizable())
    experts = [name for name, tensor in spec.tensors.items() if str(tensor.role).startswith("expert")]
    assert len(experts) == 3 * 4 * 3 and set(experts) <= set(spec.quantizable())
    assert {group.name.rpartition(".")[2] for group in spec.groups} == {"qkv", "gate_up", "experts"}
    # Engines run the experts of a layer as one, so one codec for all of them.
    assert all(len(group.members) == 3 * 4 for group in spec.groups if group.name.endswith("experts"))


@settings(max_examples=15, deadline=None)
@given(
    class_name=st.sampled_from(["Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"]),
    experts=st.integers(2, 5),
    step=st.integers(1, 3),
    plain=st.sets(st.integers(0, 3)),
    width=st.integers(2, 7),
)
def test_any_arrangement_of_experts(class_name: str, experts: int, step: int, plain: set[int], width: int) -> None:
    options = {
        **(TINY_SHARED if "Qwen2" in class_name else TINY_EXPERTS),
        "num_hidden_layers": 4,
        "num_experts": experts,
        "decoder_sparse_step": step,
        "mlp_only_layers": sorted(plain),
        "moe_intermediate_size": width,
    }
    model, config = peer(class_name, **options)
    table = architectures()[config["model_type"]]
    assert table.expected_shapes(config) == {name: shape for name, (shape, _) in shapes_of(model).items()}


def test_published_configs_spell_the_number_of_experts_otherwise() -> None:
    model, written = peer("Qwen3MoeForCausalLM", **TINY_EXPERTS)
    published = {key: value for key, value in written.items() if key != "num_local_experts"} | {"num_experts": 4}
    assert "num_experts" not in written
    assert ModelSpec.from_config(published).parameter_count() == model.num_parameters()


@pytest.mark.parametrize("plain", ["3", 3])
def test_a_list_of_layers_that_is_none(plain: Any) -> None:
    with pytest.raises(UserError, match="mlp_only_layers"):
        ModelSpec.from_config({"model_type": "qwen3_moe", "mlp_only_layers": plain, "num_hidden_layers": 1})


def test_deepseek_keeps_latents() -> None:
    _, config = peer("DeepseekV3ForCausalLM", **TINY_DEEPSEEK)
    spec = ModelSpec.from_config(config)
    latents = TINY_DEEPSEEK["kv_lora_rank"] + TINY_DEEPSEEK["qk_rope_head_dim"]
    assert spec.kv_cache_bytes(context=10, batch=3) == 3 * 10 * latents * 3 * ELEMENT


def test_the_bias_of_deepseeks_router_is_stored_but_not_trained() -> None:
    model, config = peer("DeepseekV3ForCausalLM", **TINY_DEEPSEEK)
    spec = ModelSpec.build(config, shapes_of(model))
    states = [tensor for tensor in spec.tensors.values() if tensor.kind == "state"]
    assert {tensor.name for tensor in states} == {
        name for name, _ in model.named_buffers() if name in model.state_dict()
    }
    assert spec.parameter_count() == model.num_parameters()
    assert spec.ledger().total.nbytes == ELEMENT * (model.num_parameters() + sum(t.elements for t in states))
    without = {name: held for name, held in shapes_of(model).items() if name != states[0].name}
    with pytest.raises(UserError, match="e_score_correction_bias"):
        ModelSpec.build(config, without)


def test_blocks_that_predict_further_tokens_are_kept_as_stored() -> None:
    model, config = peer("DeepseekV3ForCausalLM", **TINY_DEEPSEEK, num_mtp_layers=1)
    assert config["num_nextn_predict_layers"] == 1
    stored = shapes_of(model)
    extra = {
        name.replace("layers.2.", "layers.3."): held
        for name, held in stored.items()
        if name.startswith("model.layers.2.")
    }
    extra["model.layers.3.eh_proj.weight"] = ((16, 32), "BF16")
    spec = ModelSpec.build(config, stored | extra)
    assert {name for name, tensor in spec.tensors.items() if tensor.role is None} == set(extra)
    assert spec.n_layers == 3 and len(spec.notes) == 1 and "kept as stored" in spec.notes[0]
    with pytest.raises(UserError, match=r"layers\.3\..*correct the config"):
        ModelSpec.build({**config, "num_nextn_predict_layers": 0}, stored | extra)


@pytest.mark.parametrize(
    ("multi_query", "grouped", "kept"), [(True, False, 1), (False, False, 4), (True, True, 2), (False, True, 2)]
)
def test_falcon_keeps_the_heads_it_has(multi_query: bool, grouped: bool, kept: int) -> None:
    options = {**WITHOUT_FFN, "multi_query": multi_query, "new_decoder_architecture": grouped}
    model, config = peer("FalconForCausalLM", **options, **({"num_kv_heads": 2} if grouped else {}))
    spec = ModelSpec.build(config, shapes_of(model))
    assert spec.parameter_count() == model.num_parameters()
    assert spec.kv_cache_bytes(context=5, batch=1) == 2 * 3 * 5 * kept * 4 * ELEMENT


def test_blooms_two_spellings_of_sizes() -> None:
    written = {**TINY_BLOOM, "model_type": "bloom"}
    old = {"model_type": "bloom", "n_embed": 16, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 32}
    assert ModelSpec.from_config(old).parameter_count() == ModelSpec.from_config(written).parameter_count()


# As in the config.json of the 270M model.
HEADS = [12] * 5 + [16] * 7 + [20] * 4
MULTIPLIERS = [0.5, 0.73, 0.97, 1.2, 1.43, 1.67, 1.9, 2.13, 2.37, 2.6, 2.83, 3.07, 3.3, 3.53, 3.77, 4.0]


def test_openelm_by_lists_and_by_multipliers() -> None:
    listed = {
        **OPENELM,
        "num_query_heads": HEADS,
        "num_kv_heads": [n // 4 for n in HEADS],
        "ffn_multipliers": MULTIPLIERS,
    }
    assert ModelSpec.from_config(listed).tensors == ModelSpec.from_config(OPENELM).tensors


def test_every_block_of_openelm_has_its_own_sizes() -> None:
    spec = ModelSpec.from_config(OPENELM)
    table = spec.require_axes("this test")
    shapes = {name: tensor.shape for name, tensor in spec.tensors.items()}
    widths = []
    for layer, heads in enumerate(HEADS):
        block = f"transformer.layers.{layer}"
        assert shapes[f"{block}.attn.qkv_proj.weight"] == (64 * (heads + heads // 2), 1280)
        assert shapes[f"{block}.attn.out_proj.weight"] == (1280, 64 * heads)
        assert shapes[f"{block}.ffn.proj_1.weight"][0] == 2 * shapes[f"{block}.ffn.proj_2.weight"][1]
        widths.append(shapes[f"{block}.ffn.proj_2.weight"][1])
    assert widths == sorted(widths) and widths[0] == 768 and widths[-1] == 5120
    assert all(abs(width - 1280 * m) <= 128 for width, m in zip(widths, MULTIPLIERS, strict=True))
    assert table.axis_size("head", table.settings(OPENELM)) == 20
    assert spec.kv_cache_bytes(context=7, batch=2) == 2 * 2 * 7 * 64 * sum(n // 4 for n in HEADS) * ELEMENT
    moved = {name: (shape, "F32") for name, shape in shapes.items()}
    moved["transformer.layers.0.attn.out_proj.weight"] = moved["transformer.layers.15.attn.out_proj.weight"]
    with pytest.raises(UserError, match=r"layers\.0\.attn\.out_proj.*\[1280, 768\]"):
        ModelSpec.build(OPENELM, moved)


@pytest.mark.parametrize(
    "change",
    [
        {"num_query_heads": [12] * 15},
        {"num_query_heads": [12.5] * 16},
        {"num_query_heads": 12},
        {"ffn_multipliers": [0.5, "4"]},
        {"ffn_multipliers": [0.5, 1, 2]},
        {"ffn_multipliers": [0.5, -4.0]},
        {"qkv_multipliers": None},
    ],
)
def test_lists_that_do_not_fit(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        ModelSpec.from_config({**OPENELM, **change})


@settings(max_examples=20, deadline=None)
@given(
    layers=st.integers(2, 6),
    groups=st.sampled_from([1, 2, 4]),
    heads=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    ffn=st.lists(st.floats(0.25, 4), min_size=6, max_size=6),
)
def test_blocks_of_any_sizes(layers: int, groups: int, heads: list[int], ffn: list[float]) -> None:
    kv = heads[:layers]
    config = {
        **OPENELM,
        "vocab_size": 10,
        "model_dim": 16,
        "head_dim": 4,
        "num_transformer_layers": layers,
        "num_query_heads": [groups * n for n in kv],
        "num_kv_heads": kv,
        "ffn_multipliers": ffn[:layers],
        "ffn_dim_divisor": 4,
    }
    spec = ModelSpec.from_config(config)
    by_hand = 10 * 16 + 16
    for block, n in enumerate(kv):
        width = spec.tensors[f"transformer.layers.{block}.ffn.proj_2.weight"].shape[1]
        assert width % 4 == 0 and width >= 0.9 * 16 * ffn[block]
        by_hand += 2 * 16 + 2 * 4 + (groups + 2) * n * 4 * 16 + groups * n * 4 * 16 + 3 * width * 16
    assert spec.parameter_count() == by_hand == int(np.sum([np.prod(t.shape) for t in spec.tensors.values()]))


@pytest.mark.parametrize("class_name", ["Phi3ForCausalLM", "Olmo2ForCausalLM"])
def test_absent_key_value_heads_are_as_many_as_heads(class_name: str) -> None:
    model, config = peer(
        class_name, **{key: value for key, value in GROUPED.items() if key != "num_key_value_heads"}
    )
    bare = {key: value for key, value in config.items() if key != "num_key_value_heads"}
    assert ModelSpec.from_config(bare).parameter_count() == model.num_parameters()
    assert ModelSpec.from_config({**bare, "num_key_value_heads": None}).parameter_count() == model.num_parameters()
