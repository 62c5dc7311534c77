"""DeBERTa v2 and v3: attention to contents and, by keys and queries of their own, to relative positions."""

from __future__ import annotations

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.compute import Attention, Work
from steelyard.spec.rules import Shared, bias, buffer, conv, embedding, linear, norm, rules
from steelyard.spec.settings import Settings

_EMBEDDINGS = "deberta.embeddings"
_BLOCK = "deberta.encoder.layer.{layer}"
_SELF = f"{_BLOCK}.attention.self"
_QKV = Shared(codec=f"{_SELF}.qkv", input=f"{_SELF}.query_proj")
_PREDICTS = ("ForMaskedLM",)
_CLASSIFIES = ("ForSequenceClassification", "ForTokenClassification")
_POOLS = ("ForSequenceClassification", "ForMultipleChoice")


def _embedding_size(settings: Settings) -> int:
    return settings.size_or_none("embedding_size") or settings.size("hidden_size")


def _projects(settings: Settings) -> bool:
    return _embedding_size(settings) != settings.size("hidden_size")


def _span(settings: Settings) -> int:
    """How far relative positions are told apart: by buckets, else up to the farthest."""
    span = settings.size("position_buckets", least=-1)
    if span < 1:
        span = settings.size("max_relative_positions", least=-1)
    return span if span >= 1 else settings.size("max_position_embeddings")


def _terms(settings: Settings) -> tuple[str, ...]:
    """Which relative terms attention has: "c2p" from contents to positions, "p2c" the other way."""
    named = settings.get("pos_att_type") if settings.flag("relative_attention") else None
    if isinstance(named, str):
        named = [word.strip() for word in named.lower().split("|")]
    if named is not None and not isinstance(named, (list, tuple)):
        raise UserError(f'config.json: pos_att_type must be a list such as ["c2p", "p2c"], got {named!r}')
    return tuple(term for term in ("c2p", "p2c") if term in (named or ()))


def _has(term: str, settings: Settings) -> bool:
    return not settings.flag("share_att_key") and term in _terms(settings)


def _norms_positions(settings: Settings) -> bool:
    return settings.flag("relative_attention") and "layer_norm" in str(settings.get("norm_rel_ebd")).lower()


def _is_modern(settings: Settings) -> bool:
    """Whether the head is that of the published v3 models, not BERT's."""
    return not settings.flag("legacy")


def _convolves(settings: Settings) -> bool:
    return settings.size("conv_kernel_size", least=0) > 0


def _terms_shared(settings: Settings) -> int:
    return len(_terms(settings)) if settings.flag("share_att_key") else 0


ARCHITECTURE = Architecture(
    model_type="deberta-v2",
    base_class="DebertaV2Model",
    default_class="DebertaV2Model",
    prefix="deberta.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 128100,
        "hidden_size": 1536,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "relative_attention": False,
        "max_relative_positions": -1,
        "position_biased_input": True,
        "pos_att_type": None,
        "legacy": True,
        "tie_word_embeddings": True,
        # These are no fields of transformers' config, but its model looks for them.
        "embedding_size": None,
        "attention_head_size": None,
        "pooler_hidden_size": None,
        "share_att_key": False,
        "position_buckets": -1,
        "norm_rel_ebd": "none",
        "conv_kernel_size": 0,
        "conv_groups": 1,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "position": "max_position_embeddings",
        "type": lambda s: max(1, s.size("type_vocab_size", least=0)),
        "embedding": _embedding_size,
        "hidden": "hidden_size",
        "pooled": lambda s: s.size_or_none("pooler_hidden_size") or s.size("hidden_size"),
        "ffn": "intermediate_size",
        "label": label_count,
        "head": "num_attention_heads",
        "head_dim": lambda s: (
            s.size_or_none("attention_head_size") or s.size("hidden_size") // s.size("num_attention_heads")
        ),
        "relative": lambda s: 2 * _span(s),
        "group_hidden": lambda s: s.size("hidden_size") // s.size("conv_groups"),
        "kernel": lambda s: max(1, s.size("conv_kernel_size", least=0)),
        "term": lambda s: len(_terms(s)),
        "shared_term": _terms_shared,
    },
    rules=rules(
        embedding(f"{_EMBEDDINGS}.word_embeddings", "embed.token", "vocab", "embedding"),
        embedding(
            f"{_EMBEDDINGS}.position_embeddings",
            "embed.position",
            "position",
            "embedding",
            when="position_biased_input",
        ),
        embedding(
            f"{_EMBEDDINGS}.token_type_embeddings",
            "embed.type",
            "type",
            "embedding",
            when=lambda s: s.size("type_vocab_size", least=0) > 0,
        ),
        linear(f"{_EMBEDDINGS}.embed_proj", "embed.projection", "hidden", "embedding", when=_projects),
        norm(f"{_EMBEDDINGS}.LayerNorm", "norm.embed", "hidden", bias=True),
        linear(f"{_SELF}.query_proj", "attn.q", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.key_proj", "attn.k", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(f"{_SELF}.value_proj", "attn.v", "head*head_dim", "hidden", bias=True, shared=_QKV),
        linear(
            f"{_SELF}.pos_key_proj",
            "attn.position_k",
            "head*head_dim",
            "hidden",
            when=lambda s: _has("c2p", s),
            bias=lambda s: _has("c2p", s),
        ),
        linear(
            f"{_SELF}.pos_query_proj",
            "attn.position_q",
            "head*head_dim",
            "hidden",
            when=lambda s: _has("p2c", s),
            bias=lambda s: _has("p2c", s),
        ),
        linear(f"{_BLOCK}.attention.output.dense", "attn.o", "hidden", "head*head_dim", bias=True),
        norm(f"{_BLOCK}.attention.output.LayerNorm", "norm.attn", "hidden", bias=True),
        linear(f"{_BLOCK}.intermediate.dense", "mlp.up", "ffn", "hidden", bias=True),
        linear(f"{_BLOCK}.output.dense", "mlp.down", "hidden", "ffn", bias=True),
        norm(f"{_BLOCK}.output.LayerNorm", "norm.mlp", "hidden", bias=True),
        embedding(
            "deberta.encoder.rel_embeddings", "embed.relative", "relative", "hidden", when="relative_attention"
        ),
        norm("deberta.encoder.LayerNorm", "norm.relative", "hidden", bias=True, when=_norms_positions),
        conv(
            "deberta.encoder.conv.conv",
            "conv",
            ("hidden", "group_hidden", "kernel"),
            when=_convolves,
            bias=_convolves,
        ),
        norm("deberta.encoder.conv.LayerNorm", "norm.conv", "hidden", bias=True, when=_convolves),
        linear(
            "cls.predictions.transform.dense",
            "head.transform",
            "embedding",
            "hidden",
            when="legacy",
            bias="legacy",
            classes=_PREDICTS,
        ),
        norm(
            "cls.predictions.transform.LayerNorm",
            "norm.head",
            "embedding",
            bias=True,
            when="legacy",
            classes=_PREDICTS,
        ),
        linear(
            "cls.predictions.decoder",
            "head",
            "vocab",
            "embedding",
            when="legacy",
            bias="legacy",
            classes=_PREDICTS,
        ),
        bias("cls.predictions.bias", "head.bias", "vocab", when="legacy", classes=_PREDICTS),
        linear(
            "lm_predictions.lm_head.dense",
            "head.transform",
            "hidden",
            "hidden",
            when=_is_modern,
            bias=_is_modern,
            classes=_PREDICTS,
        ),
        norm(
            "lm_predictions.lm_head.LayerNorm",
            "norm.head",
            "hidden",
            bias=True,
            when=_is_modern,
            classes=_PREDICTS,
        ),
        linear(
            "lm_predictions.lm_head",
            "head",
            "vocab",
            "embedding",
            when=_is_modern,
            bias=_is_modern,
            classes=_PREDICTS,
        ),
        linear("pooler.dense", "pooler", "pooled", "pooled", bias=True, classes=_POOLS),
        linear("classifier", "classifier", "label", "pooled", bias=True, classes=_CLASSIFIES),
        linear("qa_outputs", "classifier", "label", "hidden", bias=True, classes=("ForQuestionAnswering",)),
        buffer(f"{_EMBEDDINGS}.position_ids"),
    ),
    ties={
        "lm_predictions.lm_head.weight": f"{_EMBEDDINGS}.word_embeddings.weight",
        "cls.predictions.decoder.weight": f"{_EMBEDDINGS}.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    attention=(Attention(causal=False),),
    streams=(
        (f"{_SELF}.pos_key_proj", "relative"),
        (f"{_SELF}.pos_query_proj", "relative"),
    ),
    positions={"relative": lambda s: 2 * _span(s)},
    unbatched=("relative",),
    work=(
        # Products of queries with the keys of all relative positions, and of keys with their queries.
        Work("attn.relative", "term*head*head_dim*relative"),
        # Where they share the contents' projections, those work on the positions too.
        Work("attn.relative", "shared_term*head*head_dim*hidden", stream="relative"),
    ),
)
