"""Every table against transformers' own models, and against the promises a table makes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_peers import GROUPED, IDS, VARIANTS, peer, shapes_of

from steelyard.spec import Architecture, ModelSpec, architectures

TABLES = list(architectures().values())
TABLE_IDS = list(architectures())
# Buffers that transformers saves with the weights.
COMPUTED = ("final_logits_bias",)
# Keys that models look for without the config's class declaring them; VARIANTS has each of them.
UNDECLARED = ("share_att_key", "position_buckets", "norm_rel_ebd", "conv_kernel_size", "conv_groups")
# Held against its published counts in test_decoders.py.
REMOTE = ("openelm",)

# Class, hyperparameters as published, parameters as published.
PUBLISHED: list[tuple[str, dict[str, Any], int]] = [
    (
        "LlamaForCausalLM",  # meta-llama/Llama-3.2-1B
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
        1_235_814_400,
    ),
    (
        "Qwen2ForCausalLM",  # Qwen/Qwen2-0.5B
        {
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        494_032_768,
    ),
    (
        "Qwen3ForCausalLM",  # Qwen/Qwen3-0.6B
        {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
        596_049_920,
    ),
    ("MistralForCausalLM", {}, 7_241_732_096),  # mistralai/Mistral-7B-v0.1 is the default
    ("GPT2LMHeadModel", {}, 124_439_808),  # openai-community/gpt2 is the default
    (
        "GPTNeoXForCausalLM",  # EleutherAI/pythia-70m
        {
            "vocab_size": 50304,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
        },
        70_426_624,
    ),
    ("BertModel", {}, 109_482_240),  # google-bert/bert-base-uncased is the default
    (
        "BertModel",  # sentence-transformers/all-MiniLM-L6-v2
        {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12},
        22_713_216,
    ),
]


@pytest.mark.parametrize(("class_name", "options"), VARIANTS, ids=IDS)
def test_table_rebuilds_every_name_and_shape(class_name: str, options: dict[str, Any]) -> None:
    model, config = peer(class_name, **options)
    table = architectures()[config["model_type"]]
    assert table.expected_shapes(config) == {
        table.rename(name): shape for name, (shape, _) in shapes_of(model).items() if name not in COMPUTED
    }


@pytest.mark.parametrize(("class_name", "options"), VARIANTS, ids=IDS)
def test_spec_of_a_peer_is_complete(class_name: str, options: dict[str, Any]) -> None:
    model, config = peer(class_name, **options)
    spec = ModelSpec.build(config, shapes_of(model))
    assert spec.notes == ()
    assert spec.parameter_count() == model.num_parameters()
    table = spec.require_axes("this test")
    assert spec.ties == {table.rename(a): table.rename(b) for a, b in model.all_tied_weights_keys.items()}
    assert all(tensor.role for tensor in spec.tensors.values())
    assert all(
        len(tensor.axes) == len(tensor.shape) for name, tensor in spec.tensors.items() if name not in COMPUTED
    )
    assert spec.n_layers == len(spec.block_prefixes) > 1
    for layer, prefix in enumerate(spec.block_prefixes):
        inside = {name for name in spec.tensors if name.startswith(prefix)}
        assert inside == {name for name, tensor in spec.tensors.items() if tensor.layer == layer} != set()


@pytest.mark.parametrize(("class_name", "options"), VARIANTS, ids=IDS)
def test_linears_and_embeddings_are_what_the_modules_are(class_name: str, options: dict[str, Any]) -> None:
    model, config = peer(class_name, **options)
    spec = ModelSpec.build(config, shapes_of(model))
    for tensor in spec.tensors.values():
        # In memory experts are one tensor and their router is a module of its own; see test_decoders.py.
        if not tensor.name.endswith(".weight") or str(tensor.role).startswith(("expert", "router")):
            continue
        # The files of ViT have names of an older release.
        module = model.get_submodule(tensor.module) if tensor.name in model.state_dict() else None
        if module is None:
            continue
        kind = type(module).__name__
        if tensor.kind == "linear":
            assert kind.endswith("Linear") or kind == "Conv1D"
            assert tensor.transposed == (kind == "Conv1D")
            sizes = (module.nf, module.nx) if kind == "Conv1D" else (module.out_features, module.in_features)
            assert tensor.matrix_shape == sizes
        elif tensor.kind == "norm":
            assert "Norm" in kind
        else:
            assert kind.endswith("Embedding" if tensor.kind == "embedding" else ("Conv1d", "Conv2d"))


@pytest.mark.parametrize(("class_name", "options", "parameters"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_published_models_have_their_published_size(
    class_name: str, options: dict[str, Any], parameters: int
) -> None:
    model, config = peer(class_name, **options)
    spec = ModelSpec.build(config, shapes_of(model))
    assert spec.parameter_count() == model.num_parameters() == parameters
    assert spec.ledger().total.nbytes == 2 * parameters


@settings(max_examples=20, deadline=None)
@given(
    class_name=st.sampled_from(["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"]),
    layers=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    queries=st.integers(1, 3),
    width=st.sampled_from([2, 4, 6]),
    ffn=st.integers(1, 9),
    vocab=st.integers(4, 12),
    tied=st.booleans(),
)
def test_any_size_of_a_decoder(
    class_name: str, layers: int, kv_heads: int, queries: int, width: int, ffn: int, vocab: int, tied: bool
) -> None:
    options = {
        **GROUPED,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * queries,
        "hidden_size": kv_heads * queries * width,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }
    model, config = peer(class_name, **options)
    spec = ModelSpec.build(config, shapes_of(model))
    assert spec.notes == ()
    assert spec.parameter_count() == model.num_parameters()


def defaults_of(config_class: Any, key: str) -> list[Any]:
    """What an absent key means to a class of configs: as declared, and in one made of nothing."""
    outer, _, inner = key.partition(".")
    if inner:
        return defaults_of(config_class.sub_configs[outer], inner)
    return [getattr(config_class, key, None), getattr(config_class(), key, None)]


@pytest.mark.parametrize("table", TABLES, ids=TABLE_IDS)
def test_defaults_are_those_of_transformers(table: Architecture) -> None:
    if table.model_type in REMOTE:
        pytest.skip("transformers has no such class; the code comes with the weights")
    config_class = transformers.CONFIG_MAPPING[table.model_type]
    for key, value in table.defaults.items():
        if key != "id2label" and key not in UNDECLARED:
            assert value in defaults_of(config_class, key), key
    for name in (table.base_class, table.default_class):
        assert getattr(transformers, name).config_class is config_class


@pytest.mark.parametrize("table", TABLES, ids=TABLE_IDS)
def test_table_is_consistent(table: Architecture) -> None:
    settings = table.settings({})
    patterns = [rule.pattern for rule in table.rules]
    assert len(set(patterns)) == len(patterns)
    for rule in table.rules:
        assert set(re.findall(r"\{(\w+)\}", rule.pattern)) <= set(table.sizes)
        name = re.sub(r"\{\w+\}", "0", rule.pattern)
        match = table.match(name)
        assert match is not None and match.rule is rule
        if rule.axes is not None:
            assert all(table.axis_size(axis, settings) >= 1 for axis in rule.axes)
        if rule.kind in ("linear", "embedding"):
            assert rule.axes is not None and len(rule.axes) == 2
    for alias, canonical in table.ties.items():
        pair = table.match(alias), table.match(canonical)
        assert pair[0] is not None and pair[1] is not None and pair[0].rule.axes == pair[1].rule.axes
    assert any(pattern.startswith(table.block) for pattern in patterns)


@pytest.mark.parametrize("table", TABLES, ids=TABLE_IDS)
def test_shared_linears_read_and_fuse_together(table: Architecture) -> None:
    groups: dict[str, list[Any]] = {}
    for rule in table.rules:
        if rule.shared is not None:
            groups.setdefault(rule.shared.codec, []).append(rule)
    for members in groups.values():
        assert len(members) > 1
        # The experts of a layer share a codec, though their last matrices read what the first ones wrote.
        for read in {rule.shared.input for rule in members}:
            readers = [rule for rule in members if rule.shared.input == read]
            assert readers[0].pattern == f"{read}.weight"
            assert len({rule.axes[1] for rule in readers}) == 1
