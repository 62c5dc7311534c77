"""Names as files spell them, ties, groups, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from steelyard.errors import UserError
from steelyard.spec import FusedGroup, ModelSpec, architectures

Shapes = dict[str, tuple[tuple[int, ...], str]]

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 32,
    "n_positions": 8,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
}


def shapes(config: Mapping[str, Any], dtype: str = "BF16") -> Shapes:
    table = architectures()[config["model_type"]]
    return {name: (shape, dtype) for name, shape in table.expected_shapes(config).items()}


def test_roles_axes_and_layers_of_llama() -> None:
    spec = ModelSpec.build(LLAMA, shapes(LLAMA))
    tensor = spec.tensors["model.layers.1.self_attn.k_proj.weight"]
    assert (tensor.role, tensor.axes, tensor.layer) == ("attn.k", ("kv_head*head_dim", "hidden"), 1)
    assert (tensor.shape, tensor.matrix_shape, tensor.nbytes) == ((8, 16), (8, 16), 256)
    assert tensor.module == "model.layers.1.self_attn.k_proj"
    assert spec.block_prefixes == ("model.layers.0.", "model.layers.1.")
    assert spec.task == "causal"


def test_quantizable_are_linears_token_embedding_and_head() -> None:
    spec = ModelSpec.build(GPT2, shapes(GPT2))
    per_layer = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    blocks = [f"transformer.h.{layer}.{module}.weight" for layer in range(2) for module in per_layer]
    assert set(spec.quantizable()) == {"transformer.wte.weight", *blocks}
    untied = {**LLAMA, "tie_word_embeddings": False}
    assert "lm_head.weight" in ModelSpec.build(untied, shapes(untied)).quantizable()
    assert ModelSpec.build(LLAMA, shapes(LLAMA, "F8_E4M3")).quantizable() == ()


def test_gpt2_is_stored_transposed_and_its_masks_are_no_parameters() -> None:
    stored = shapes(GPT2)
    stored["transformer.h.0.attn.bias"] = ((1, 1, 8, 8), "F32")
    stored["transformer.h.0.attn.masked_bias"] = ((), "F32")
    spec = ModelSpec.build(GPT2, stored)
    fused = spec.tensors["transformer.h.0.attn.c_attn.weight"]
    assert fused.shape == (16, 48) and fused.matrix_shape == (48, 16) and fused.transposed
    assert fused.axes == ("hidden", "qkv*head*head_dim")
    mask = spec.tensors["transformer.h.0.attn.bias"]
    assert (mask.role, mask.kind, mask.axes, mask.layer) == ("buffer", "other", None, 0)
    assert spec.notes == ()
    assert spec.buffers() == ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")
    assert spec.parameter_count() == ModelSpec.build(GPT2, shapes(GPT2)).parameter_count()


def test_a_file_may_lack_the_prefix() -> None:
    stored = {name.removeprefix("transformer."): value for name, value in shapes(GPT2).items()}
    spec = ModelSpec.build(GPT2, stored)
    assert spec.tensors["h.1.mlp.c_fc.weight"].role == "mlp.up"
    assert spec.tensors["h.1.mlp.c_fc.weight"].module == "h.1.mlp.c_fc"
    assert spec.block_prefixes == ("h.0.", "h.1.")
    assert spec.ties == {"lm_head.weight": "wte.weight"}


def test_bert_without_prefix_shares_and_fuses_under_its_own_names() -> None:
    spec = ModelSpec.build(BERT, shapes(BERT))
    block = "encoder.layer.1.attention.self"
    members = tuple(f"{block}.{name}.weight" for name in ("query", "key", "value"))
    assert spec.groups[1] == FusedGroup(f"{block}.qkv", members)
    assert {spec.input_key(name) for name in members} == {f"{block}.query"}
    assert spec.task == "encoder"


def test_groups_come_in_the_order_of_the_table() -> None:
    stored = dict(sorted(shapes(LLAMA).items(), reverse=True))
    spec = ModelSpec.build(LLAMA, stored)
    assert {group.name for group in spec.groups} == {
        f"model.layers.{layer}.{name}" for layer in range(2) for name in ("self_attn.qkv", "mlp.gate_up")
    }
    by_name = {group.name: group.members for group in spec.groups}
    attention = "model.layers.0.self_attn"
    assert by_name[f"{attention}.qkv"] == tuple(f"{attention}.{name}_proj.weight" for name in "qkv")
    assert list(spec.tensors) == list(stored)


def test_input_keys_of_linears_that_stand_alone_are_their_modules() -> None:
    spec = ModelSpec.build(LLAMA, shapes(LLAMA))
    mlp = "model.layers.0.mlp"
    assert (
        spec.input_key(f"{mlp}.up_proj.weight") == spec.input_key(f"{mlp}.gate_proj.weight") == f"{mlp}.gate_proj"
    )
    assert spec.input_key(f"{mlp}.down_proj.weight") == f"{mlp}.down_proj"


def test_older_spellings() -> None:
    stored: Shapes = {}
    for name, value in shapes(BERT).items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        stored[f"bert.{old}"] = value
    spec = ModelSpec.build(BERT, stored)
    norm = spec.tensors["bert.embeddings.LayerNorm.gamma"]
    assert (norm.role, norm.kind, norm.module) == ("norm.embed", "norm", "bert.embeddings.LayerNorm")
    assert spec.notes == ()


class TestTies:
    config: Mapping[str, Any] = {**LLAMA, "tie_word_embeddings": True}
    embedding = "model.embed_tokens.weight"

    def test_alias_that_is_not_stored(self) -> None:
        spec = ModelSpec.build(self.config, shapes(self.config))
        assert spec.ties == {"lm_head.weight": self.embedding}
        assert spec.stored_aliases == ()
        assert spec.input_key("lm_head.weight") == "lm_head"
        assert spec.input_key(self.embedding) == "model.embed_tokens"

    def test_alias_that_is_stored_all_the_same(self) -> None:
        stored = {**shapes(self.config), "lm_head.weight": ((32, 16), "BF16")}
        spec = ModelSpec.build(self.config, stored)
        assert spec.ties == {"lm_head.weight": self.embedding}
        assert spec.stored_aliases == ("lm_head.weight",)
        assert "lm_head.weight" not in spec.tensors

    def test_values_that_differ(self) -> None:
        stored = {**shapes(self.config), "lm_head.weight": ((32, 16), "BF16")}
        spec = ModelSpec.build(self.config, stored, untied={"lm_head.weight"})
        assert spec.ties == {} and spec.stored_aliases == ()
        assert spec.tensors["lm_head.weight"].role == "head"
        assert "lm_head.weight" in spec.notes[0]

    def test_only_the_alias_is_stored(self) -> None:
        stored = {name: value for name, value in shapes(self.config).items() if name != self.embedding}
        stored["lm_head.weight"] = ((32, 16), "BF16")
        spec = ModelSpec.build(self.config, stored)
        assert spec.ties == {self.embedding: "lm_head.weight"}
        assert spec.parameter_count() == ModelSpec.build(self.config, shapes(self.config)).parameter_count()

    def test_neither_is_stored(self) -> None:
        stored = {name: value for name, value in shapes(self.config).items() if name != self.embedding}
        with pytest.raises(UserError, match=self.embedding):
            ModelSpec.build(self.config, stored)

    def test_untied_by_default_where_transformers_unties(self) -> None:
        stored = {name: value for name, value in shapes(LLAMA).items() if name != "lm_head.weight"}
        with pytest.raises(UserError, match=r"lacks lm_head\.weight, which LlamaForCausalLM has"):
            ModelSpec.build(LLAMA, stored)

    def test_masked_lm_ties_its_bias_too(self) -> None:
        config = {**BERT, "architectures": ["BertForMaskedLM"]}
        spec = ModelSpec.build(config, shapes(config))
        assert spec.ties == {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        }
        assert spec.task == "masked"


class TestRefusals:
    def test_shape_at_odds_names_tensor_both_shapes_and_keys(self) -> None:
        stored = shapes(LLAMA)
        stored["model.layers.0.self_attn.k_proj.weight"] = ((16, 16), "BF16")
        with pytest.raises(UserError) as caught:
            ModelSpec.build(LLAMA, stored)
        message = str(caught.value)
        assert "model.layers.0.self_attn.k_proj.weight has shape [16, 16]" in message
        assert "config.json asks for [8, 16]" in message
        assert "num_key_value_heads = 2, head_dim = null by default, hidden_size = 16" in message
        assert "vocab_size" not in message and "\n" not in message

    def test_missing_tensors(self) -> None:
        stored = {name: value for name, value in shapes(LLAMA).items() if "layers.1." not in name}
        with pytest.raises(UserError, match=r"model\.layers\.1\.input_layernorm\.weight.* and others"):
            ModelSpec.build(LLAMA, stored)

    def test_absurd_number_of_layers_ends_soon(self) -> None:
        with pytest.raises(UserError, match=r"model\.layers\.2\."):
            ModelSpec.build({**LLAMA, "num_hidden_layers": 10**15}, shapes(LLAMA))

    def test_layer_beyond_the_config(self) -> None:
        with pytest.raises(UserError, match=r"model\.layers\.1\..*num_hidden_layers = 1"):
            ModelSpec.build({**LLAMA, "num_hidden_layers": 1}, shapes(LLAMA))

    def test_two_spellings_of_one_tensor(self) -> None:
        stored = {**shapes(GPT2), "wte.weight": ((32, 16), "BF16")}
        with pytest.raises(UserError, match=r"transformer\.wte\.weight and wte\.weight"):
            ModelSpec.build(GPT2, stored)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("hidden_size", "16"),
            ("hidden_size", 0),
            ("hidden_size", True),
            ("num_hidden_layers", 2.0),
            ("num_attention_heads", None),
            ("tie_word_embeddings", "no"),
            ("architectures", "LlamaForCausalLM"),
            ("architectures", [3]),
        ],
    )
    def test_values_of_the_wrong_kind(self, key: str, value: object) -> None:
        with pytest.raises(UserError, match=f"config.json: {key}"):
            ModelSpec.build({**LLAMA, key: value}, shapes(LLAMA))


class TestNotes:
    def test_tensor_without_a_rule(self) -> None:
        stored = {**shapes(LLAMA), "extra.adapter.weight": ((32, 16), "BF16")}
        spec = ModelSpec.build(LLAMA, stored)
        extra = spec.tensors["extra.adapter.weight"]
        assert (extra.role, extra.axes, extra.kind) == (None, None, "linear")
        assert extra.name not in spec.quantizable()
        assert any("extra.adapter.weight" in note for note in spec.notes)

    def test_tensor_that_the_config_switches_off(self) -> None:
        bias = "model.layers.0.self_attn.q_proj.bias"
        spec = ModelSpec.build(LLAMA, {**shapes(LLAMA), bias: ((16,), "BF16")})
        assert spec.tensors[bias].role == "attn.q.bias"
        assert any(bias in note for note in spec.notes)

    def test_head_of_another_class_may_have_any_shape(self) -> None:
        config = {**BERT, "architectures": ["BertForMultipleChoice"]}
        spec = ModelSpec.build(config, {**shapes(config), "classifier.weight": ((1, 16), "F32")})
        assert spec.tensors["classifier.weight"].role is None

    def test_config_without_a_class(self) -> None:
        config = {key: value for key, value in LLAMA.items() if key != "architectures"}
        stored = {name: value for name, value in shapes(LLAMA).items() if name != "lm_head.weight"}
        spec = ModelSpec.build(config, stored)
        assert spec.task == "causal"
        assert "LlamaForCausalLM" in spec.notes[0]

    def test_pooler_and_sentence_order_of_published_bert(self) -> None:
        config = {**BERT, "architectures": ["BertForMaskedLM"]}
        stored = shapes(config)
        stored |= {"bert.pooler.dense.weight": ((16, 16), "F32"), "cls.seq_relationship.bias": ((2,), "F32")}
        spec = ModelSpec.build(config, stored)
        assert spec.tensors["bert.pooler.dense.weight"].role == "pooler"
        assert spec.tensors["cls.seq_relationship.bias"].role == "classifier.bias"
        assert spec.notes == ()


def test_ledger_adds_up() -> None:
    stored = {**shapes(LLAMA), "model.layers.0.self_attn.rotary_emb.inv_freq": ((2,), "F32")}
    ledger = ModelSpec.build(LLAMA, stored).ledger()
    roles = {row.role: row for row in ledger.by_role()}
    assert (roles["attn.k"].tensors, roles["attn.k"].parameters, roles["attn.k"].nbytes) == (2, 256, 512)
    assert (roles["buffer"].parameters, roles["buffer"].nbytes) == (0, 8)
    assert list(roles)[:3] == ["embed.token", "norm.attn", "attn.q"] and list(roles)[-1] == "buffer"
    layers = {row.layer: row for row in ledger.by_layer()}
    assert list(layers) == [None, 0, 1]
    assert layers[0].parameters == layers[1].parameters == 2 * 16 + 2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24
    assert layers[0].nbytes == layers[1].nbytes + 8
    for rows in (ledger.by_role(), ledger.by_layer(), ledger.rows):
        assert sum(row.nbytes for row in rows) == ledger.total.nbytes
        assert sum(row.parameters for row in rows) == ledger.total.parameters
        assert sum(row.tensors for row in rows) == ledger.total.tensors == len(stored)
