"""BERT: encoder with learned positions and layer norms after each half; sentence encoders such as MiniLM too."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Shared, bias, buffer, embedding, linear, norm, rules

_EMBEDDINGS = "bert.embeddings"
_BLOCK = "bert.encoder.layer.{layer}"
_SELF = f"{_BLOCK}.attention.self"
_HEAD = "cls.predictions"
_QKV = Shared(codec=f"{_SELF}.qkv", input=f"{_SELF}.query")
_PREDICTS = ("ForMaskedLM", "ForPreTraining", "LMHeadModel")
_ORDERS = ("ForPreTraining", "ForNextSentencePrediction")
_POOLS = ("BertModel", "ForSequenceClassification", "ForMultipleChoice", *_ORDERS)
_CLASSIFIES = ("ForSequenceClassification", "ForTokenClassification")

ARCHITECTURE = Architecture(
    model_type="bert",
    base_class="BertModel",
    default_class="BertModel",
    prefix="bert.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 30522,
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
        "sentence_order": 2,
        "head": "num_attention_heads",
        "head_dim": lambda s: s.size("hidden_size") // s.size("num_attention_heads"),
    },
    rules=rules(
        embedding(f"{_EMBEDDINGS}.word_embeddings", "embed.token", "vocab", "hidden"),
        embedding(f"{_EMBEDDINGS}.position_embeddings", "embed.position", "position", "hidden"),
        embedding(f"{_EMBEDDINGS}.token_type_embeddings", "embed.type", "type", "hidden"),
        norm(f"{_EMBEDDINGS}.LayerNorm", "norm.embed", "hidden", bias=True),
        linear(f"{_SELF}.query", "attn.q", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.key", "attn.k", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.value", "attn.v", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_BLOCK}.attention.output.dense", "attn.o", "hidden", "head*head_dim", bias=True),
        norm(f"{_BLOCK}.attention.output.LayerNorm", "norm.attn", "hidden", bias=True),
        linear(f"{_BLOCK}.intermediate.dense", "mlp.up", "ffn", "hidden", bias=True),
        linear(f"{_BLOCK}.output.dense", "mlp.down", "hidden", "ffn", bias=True),
        norm(f"{_BLOCK}.output.LayerNorm", "norm.mlp", "hidden", bias=True),
        # Mean pooling does without the pooler, so a sentence encoder may have been saved without it.
        linear(
            "bert.pooler.dense",
            "pooler",
            "hidden",
            "hidden",
            bias=True,
            classes=_POOLS,
            optional=True,
        ),
        linear(f"{_HEAD}.transform.dense", "head.transform", "hidden", "hidden", bias=True, classes=_PREDICTS),
        norm(f"{_HEAD}.transform.LayerNorm", "norm.head", "hidden", bias=True, classes=_PREDICTS),
        linear(f"{_HEAD}.decoder", "head", "vocab", "hidden", bias=True, classes=_PREDICTS),
        bias(f"{_HEAD}.bias", "head.bias", "vocab", classes=_PREDICTS),
        linear("cls.seq_relationship", "classifier", "sentence_order", "hidden", bias=True, classes=_ORDERS),
        linear("classifier", "classifier", "label", "hidden", bias=True, classes=_CLASSIFIES),
        linear("qa_outputs", "classifier", "label", "hidden", bias=True, classes=("ForQuestionAnswering",)),
        buffer(f"{_EMBEDDINGS}.position_ids", f"{_EMBEDDINGS}.token_type_ids"),
    ),
    ties={
        f"{_HEAD}.decoder.weight": f"{_EMBEDDINGS}.word_embeddings.weight",
        f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
    },
    # The first files were converted from TensorFlow, with its names for the norms.
    renames=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    cache=KeyValueCache(heads="head"),
    attention=(Attention(causal=False),),
)
