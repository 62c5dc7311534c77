"""Composed models in transformers: their network. Needs torch."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from steelyard.errors import UserError
from steelyard.formats.native.composed_config import SteelyardComposedConfig
from steelyard.formats.native.composition import PARENTS, Composition


class Block(LlamaDecoderLayer):  # type: ignore[misc]
    """A block of one model; of states that stand side by side it changes its own."""

    def forward(
        self, hidden_states: torch.Tensor, run: bool = True, part: tuple[int, int] | None = None, **others: Any
    ) -> torch.Tensor:
        """Return the states after it: all of them if `part` is None, else those of these channels changed."""
        if not run:
            return hidden_states
        if part is None:
            return cast(torch.Tensor, super().forward(hidden_states, **others))
        start, stop = part
        changed = super().forward(hidden_states[..., start:stop].contiguous(), **others)
        return torch.cat([hidden_states[..., :start], changed, hidden_states[..., stop:]], dim=-1)


class Stitch(nn.Linear):
    """The map from the states of one model to those of another."""

    def forward(self, input: torch.Tensor, run: bool = True, **others: Any) -> torch.Tensor:
        """Return the mapped states, or the states where another way is run."""
        return super().forward(input) if run else input


class Bridge(nn.Module):
    """Cross-attention from the anchor's states to the augmenting model's, added to the anchor's.

    Args:
        width: channels of the anchor.
        other: channels of the augmenting model.
        heads: of attention.

    Source: Bansal et al. 2024, arXiv 2401.02412: keys and values from the projected states, queries from the
        anchor's, the result added to them. A position sees no later one, as in both models.
    """

    def __init__(self, width: int, other: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.layer_idx = 0
        self.project = nn.Linear(other, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **others: Any,
    ) -> torch.Tensor:
        """Return both models' states, the anchor's with what was attended to."""
        anchor, other = hidden_states[..., : self.width].contiguous(), hidden_states[..., self.width :]
        projected = self.project(other)
        query, key, value = (
            self._split(part) for part in (self.query(anchor), self.key(projected), self.value(projected))
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        found = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None and query.shape[2] > 1
        )
        added = self.out(found.transpose(1, 2).reshape(anchor.shape))
        return torch.cat([anchor + added, other], dim=-1)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)


class Ends(nn.Module):
    """What stands before and after the blocks of one model."""

    def __init__(self, config: LlamaConfig, head: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        if head:
            self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class SteelyardComposedForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Two models joined by stitches or bridges."""

    config: SteelyardComposedConfig
    config_class = SteelyardComposedConfig
    base_model_prefix = ""
    _no_split_modules: ClassVar[list[str]] = ["Block", "Bridge"]
    _supports_sdpa = True

    def __init__(self, config: SteelyardComposedConfig) -> None:
        super().__init__(config)
        self.composition = Composition.from_dict(config.composition)
        self._configs = [LlamaConfig.from_dict(dict(found)) for found in self.composition.configs]
        for found in self._configs:
            found._attn_implementation = config._attn_implementation
        self._tied_weights_keys = {
            f"{side}.lm_head.weight": f"{side}.embed_tokens.weight"
            for number, side in enumerate(PARENTS)
            if self.composition.has_head(number) and self.composition.tied(number)
        }
        self.first, self.second = (
            Ends(found, self.composition.has_head(number)) for number, found in enumerate(self._configs)
        )
        self.layers = nn.ModuleList(self._made())
        self._number()
        self.post_init()

    def _made(self) -> list[nn.Module]:
        widths = self.composition.widths
        found: list[nn.Module] = []
        for layer in self.composition.layers:
            if layer.kind == "stitch":
                found.append(Stitch(*widths))
            elif layer.kind == "bridge":
                found.append(Bridge(*widths, self.composition.heads))
            else:
                found.append(Block(self._configs[PARENTS.index(layer.kind)], layer.number))
        return found

    def _number(self) -> None:
        """Number what keeps keys and values, so that a cache is filled from its beginning."""
        number = 0
        running = self.composition.running(self.composition.way)
        for layer, run in zip(self.layers, running, strict=True):
            holder = layer.self_attn if isinstance(layer, Block) else layer
            if run and not isinstance(layer, Stitch):
                holder.layer_idx = number
                number += 1

    def switch(self, at: str | None = None, flops: float | None = None) -> str:
        """Run another way through a stitched model from now on; return its name.

        Args:
            at: its name: "2:3", or "first" and "second" for a parent alone.
            flops: instead, the most operations a token may take; the way of least measured loss is chosen.

        Raises:
            UserError: if there is none, or the model is not stitched.
        """
        if self.composition.kind != "stitch":
            raise UserError("only stitched models have ways to switch between")
        if (at is None) == (flops is None):
            raise UserError("name either the way to run or the operations it may take")
        way = self.composition.within(flops) if flops is not None else str(at)
        self.composition = self.composition.switched(way)
        composition = dict(self.config.composition or {})
        self.config.composition = {**composition, "way": way}
        self._number()
        return way

    def _side(self, entering: bool) -> int:
        """Return the model whose embeddings, or whose head, is used."""
        if self.composition.kind == "bridge":
            return 0
        way = self.composition.way
        return PARENTS.index(way) if way in PARENTS else (0 if entering else 1)

    def _ends(self, side: int) -> Ends:
        return self.first if side == 0 else self.second

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of the model that is entered."""
        return self._ends(self._side(True)).embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """Return the head of the model that is left."""
        return self._ends(self._side(False)).lm_head

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Return the logits, as other causal models do; embeddings of a bridge are both models' side by side."""
        hidden = self._embedded(input_ids) if inputs_embeds is None else inputs_embeds
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache()
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(seen, seen + hidden.shape[1], device=hidden.device)[None]
        calls = [
            self._call(side, hidden, attention_mask, past_key_values, position_ids) for side in range(len(PARENTS))
        ]
        split = self.composition.widths[0]
        parts = ((0, split), (split, sum(self.composition.widths)))
        running = self.composition.running(self.composition.way)
        for module, layer, run in zip(self.layers, self.composition.layers, running, strict=True):
            if self.composition.kind == "stitch":
                hidden = module(hidden, run=run, **calls[1 if layer.kind == "second" else 0])
            elif layer.kind == "bridge":
                hidden = module(hidden, **calls[0])
            else:
                side = PARENTS.index(layer.kind)
                hidden = module(hidden, part=parts[side], **calls[side])
        ends = self._ends(self._side(False))
        if self.composition.kind == "bridge":
            hidden = hidden[..., :split].contiguous()
        hidden = ends.norm(hidden)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = ends.lm_head(hidden[:, kept, :])
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **others)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _embedded(self, tokens: torch.Tensor | None) -> torch.Tensor:
        assert tokens is not None, "either tokens or their embeddings are needed"
        if self.composition.kind == "stitch":
            return cast(torch.Tensor, self.get_input_embeddings()(tokens))
        return torch.cat([ends.embed_tokens(tokens) for ends in (self.first, self.second)], dim=-1)

    def _call(
        self,
        side: int,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        position_ids: torch.Tensor,
    ) -> dict[str, Any]:
        """Return what the blocks of one model are called with."""
        mask = create_causal_mask(
            config=self._configs[side],
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        return {
            "attention_mask": mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "position_embeddings": self._ends(side).rotary_emb(hidden, position_ids=position_ids),
        }
