"""RoBERTa: BERT without a second sentence, with positions that start after the padding token's."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Shared, bias, buffer, embedding, linear, norm, rules

_EMBEDDINGS = "roberta.embeddings"
_BLOCK = "roberta.encoder.layer.{layer}"
_SELF = f"{_BLOCK}.attention.self"
_QKV = Shared(codec=f"{_SELF}.qkv", input=f"{_SELF}.query")
_PREDICTS = ("ForMaskedLM", "ForCausalLM")

ARCHITECTURE = Architecture(
    model_type="roberta",
    base_class="RobertaModel",
    default_class="RobertaModel",
    prefix="roberta.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 50265,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "position": "max_position_embeddings",
        "type": "type_vocab_size",
        "hidden": "hidden_size",
        "ffn": "intermediate_size",
        "label": label_count,
        "head": "num_attention_heads",
        "head_dim": lambda s: s.size("hidden_size") // s.size("num_attention_heads"),
    },
    rules=rules(
        embedding(f"{_EMBEDDINGS}.word_embeddings", "embed.token", "vocab", "hidden"),
        embedding(f"{_EMBEDDINGS}.token_type_embeddings", "embed.type", "type", "hidden"),
        norm(f"{_EMBEDDINGS}.LayerNorm", "norm.embed", "hidden", bias=True),
        embedding(f"{_EMBEDDINGS}.position_embeddings", "embed.position", "position", "hidden"),
        linear(f"{_SELF}.query", "attn.q", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.key", "attn.k", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.value", "attn.v", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_BLOCK}.attention.output.dense", "attn.o", "hidden", "head*head_dim", bias=True),
        norm(f"{_BLOCK}.attention.output.LayerNorm", "norm.attn", "hidden", bias=True),
        linear(f"{_BLOCK}.intermediate.dense", "mlp.up", "ffn", "hidden", bias=True),
        linear(f"{_BLOCK}.output.dense", "mlp.down", "hidden", "ffn", bias=True),
        norm(f"{_BLOCK}.output.LayerNorm", "norm.mlp", "hidden", bias=True),
        linear(
            "roberta.pooler.dense",
            "pooler",
            "hidden",
            "hidden",
            bias=True,
            classes=("RobertaModel", "ForMultipleChoice"),
            optional=True,
        ),
        linear("lm_head.dense", "head.transform", "hidden", "hidden", bias=True, classes=_PREDICTS),
        norm("lm_head.layer_norm", "norm.head", "hidden", bias=True, classes=_PREDICTS),
        linear("lm_head.decoder", "head", "vocab", "hidden", bias=True, classes=_PREDICTS),
        bias("lm_head.bias", "head.bias", "vocab", classes=_PREDICTS),
        linear(
            "classifier.dense",
            "classifier.dense",
            "hidden",
            "hidden",
            bias=True,
            classes=("ForSequenceClassification",),
        ),
        linear(
            "classifier.out_proj",
            "classifier",
            "label",
            "hidden",
            bias=True,
            classes=("ForSequenceClassification",),
        ),
        linear("classifier", "classifier", "label", "hidden", bias=True, classes=("ForTokenClassification",)),
        linear("qa_outputs", "classifier", "label", "hidden", bias=True, classes=("ForQuestionAnswering",)),
        buffer(f"{_EMBEDDINGS}.position_ids", f"{_EMBEDDINGS}.token_type_ids"),
    ),
    ties={
        "lm_head.decoder.weight": f"{_EMBEDDINGS}.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    cache=KeyValueCache(heads="head"),
    attention=(Attention(causal=False),),
    once=("pooler", "classifier", "classifier.dense"),
)
