"""DistilBERT: half of BERT's layers, without token types and pooler."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Shared, buffer, embedding, linear, norm, rules

_EMBEDDINGS = "distilbert.embeddings"
_BLOCK = "distilbert.transformer.layer.{layer}"
_SELF = f"{_BLOCK}.attention"
_QKV = Shared(codec=f"{_SELF}.qkv", input=f"{_SELF}.q_lin")
_PREDICTS = ("ForMaskedLM",)
_POOLS = ("ForSequenceClassification", "ForMultipleChoice")

ARCHITECTURE = Architecture(
    model_type="distilbert",
    base_class="DistilBertModel",
    default_class="DistilBertModel",
    prefix="distilbert.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 30522,
        "dim": 768,
        "hidden_dim": 3072,
        "n_layers": 6,
        "n_heads": 12,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "n_layers",
        "vocab": "vocab_size",
        "position": "max_position_embeddings",
        "hidden": "dim",
        "ffn": "hidden_dim",
        "label": label_count,
        "head": "n_heads",
        "head_dim": lambda s: s.size("dim") // s.size("n_heads"),
    },
    rules=rules(
        embedding(f"{_EMBEDDINGS}.word_embeddings", "embed.token", "vocab", "hidden"),
        embedding(f"{_EMBEDDINGS}.position_embeddings", "embed.position", "position", "hidden"),
        norm(f"{_EMBEDDINGS}.LayerNorm", "norm.embed", "hidden", bias=True),
        linear(f"{_SELF}.q_lin", "attn.q", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.k_lin", "attn.k", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.v_lin", "attn.v", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.out_lin", "attn.o", "hidden", "head*head_dim", bias=True),
        norm(f"{_BLOCK}.sa_layer_norm", "norm.attn", "hidden", bias=True),
        linear(f"{_BLOCK}.ffn.lin1", "mlp.up", "ffn", "hidden", bias=True),
        linear(f"{_BLOCK}.ffn.lin2", "mlp.down", "hidden", "ffn", bias=True),
        norm(f"{_BLOCK}.output_layer_norm", "norm.mlp", "hidden", bias=True),
        linear("vocab_transform", "head.transform", "hidden", "hidden", bias=True, classes=_PREDICTS),
        norm("vocab_layer_norm", "norm.head", "hidden", bias=True, classes=_PREDICTS),
        linear("vocab_projector", "head", "vocab", "hidden", bias=True, classes=_PREDICTS),
        linear("pre_classifier", "classifier.dense", "hidden", "hidden", bias=True, classes=_POOLS),
        linear(
            "classifier",
            "classifier",
            "label",
            "hidden",
            bias=True,
            classes=("ForSequenceClassification", "ForTokenClassification"),
        ),
        linear("qa_outputs", "classifier", "label", "hidden", bias=True, classes=("ForQuestionAnswering",)),
        buffer(f"{_EMBEDDINGS}.position_ids"),
    ),
    ties={"vocab_projector.weight": f"{_EMBEDDINGS}.word_embeddings.weight"},
    attention=(Attention(causal=False),),
    once=("pooler", "classifier", "classifier.dense"),
)
