"""What a recipe of mergekit-moe says."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.edits.merge.dialect import ModelReference
from steelyard.edits.merge.dialect.reading import DTYPES
from steelyard.errors import UserError
from steelyard.yaml_document import Document, Place, read_document, read_documents, read_text

GATES = ("hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random")
DRAWN = ("random", "uniform_random")
"""Gates that look at no prompts."""

_KEYS = ("base_model", "experts", "shared_experts", "gate_mode", "dtype", "experts_per_token", "architecture")
_EXPERT_KEYS = ("source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale")


@dataclass(frozen=True)
class Expert:
    """A model whose feed-forward layers become an expert in every layer.

    Attributes:
        model: which.
        positive: texts that it is for.
        negative: texts that it is not for.
        noise: standard deviation of noise added to its matrices; 0 for none.
        residual: what its output is multiplied by.
    """

    model: ModelReference
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    noise: float = 0.0
    residual: float = 1.0


@dataclass(frozen=True)
class MoeRecipe:
    """A mixture of experts made of dense models.

    Attributes:
        base: everything but the feed-forward layers comes from it, and the gates from what it makes of prompts.
        experts: in the order of their numbers.
        shared: experts that work on every token.
        gate: how the gates are made, one of `GATES`.
        dtype: safetensors type of the result; None for that of the base's config.
        active: experts that work on each token.
        architecture: of the result; "" for the first that fits.
        text: the YAML.
    """

    base: ModelReference
    experts: tuple[Expert, ...]
    shared: tuple[Expert, ...] = ()
    gate: str = "hidden"
    dtype: str | None = None
    active: int = 2
    architecture: str = ""
    text: str = ""

    def references(self) -> list[ModelReference]:
        """Every model that it names, the base first."""
        named = [self.base, *(expert.model for expert in (*self.experts, *self.shared))]
        return list(dict.fromkeys(named))


def is_mixture(path: Path) -> bool:
    """Tell whether a file is a recipe of a mixture: a mapping with `experts`.

    Raises:
        UserError: if it is not YAML.
    """
    first = read_documents(path)[0].data
    return isinstance(first, Mapping) and "experts" in first and "merge_method" not in first


def read_mixture(path: Path) -> MoeRecipe:
    """Read a recipe.

    Raises:
        UserError: naming the line and what is accepted there.
    """
    return _Reader(read_document(path)).recipe(read_text(path))


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document

    def recipe(self, text: str) -> MoeRecipe:
        data = self._document.data
        self._known(data, _KEYS, ())
        experts = self._experts(data, "experts")
        if not experts:
            raise self._document.error(("experts",), "at least one expert is expected")
        gate = data.get("gate_mode", "hidden")
        if gate not in GATES:
            raise self._document.error(("gate_mode",), f"one of {', '.join(GATES)} is expected, got {gate!r}")
        active = data.get("experts_per_token", 2)
        if type(active) is not int or not 1 <= active <= len(experts):
            raise self._document.error(
                ("experts_per_token",) if "experts_per_token" in data else ("experts",),
                f"experts_per_token is {active!r}, and there are {len(experts)} experts to choose from",
            )
        return MoeRecipe(
            self._reference(data.get("base_model"), ("base_model",)),
            experts,
            self._experts(data, "shared_experts"),
            gate,
            self._dtype(data.get("dtype")),
            active,
            str(data.get("architecture") or ""),
            text,
        )

    def _experts(self, data: Mapping[str, Any], key: str) -> tuple[Expert, ...]:
        listed = data.get(key) or []
        if not isinstance(listed, list):
            raise self._document.error((key,), "a list of experts is expected")
        return tuple(self._expert(item, (key, number)) for number, item in enumerate(listed))

    def _expert(self, item: Any, place: Place) -> Expert:
        if not isinstance(item, Mapping) or "source_model" not in item:
            raise self._document.error(place, "a mapping with source_model is expected")
        self._known(item, _EXPERT_KEYS, place)
        return Expert(
            self._reference(item["source_model"], (*place, "source_model")),
            self._prompts(item, "positive_prompts", place),
            self._prompts(item, "negative_prompts", place),
            self._number(item, "noise_scale", place, 0.0),
            self._number(item, "residual_scale", place, 1.0),
        )

    def _prompts(self, item: Mapping[str, Any], key: str, place: Place) -> tuple[str, ...]:
        prompts = item.get(key) or []
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) and prompt for prompt in prompts):
            raise self._document.error((*place, key), "a list of texts is expected")
        return tuple(prompts)

    def _number(self, item: Mapping[str, Any], key: str, place: Place, default: float) -> float:
        value = item.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise self._document.error((*place, key), f"a number is expected, got {value!r}")
        return float(value)

    def _dtype(self, value: Any) -> str | None:
        if value is None:
            return None
        dtype = DTYPES.get(str(value).removeprefix("torch."))
        if dtype is None:
            raise self._document.error(("dtype",), f"one of {', '.join(DTYPES)} is expected, got {value!r}")
        return dtype

    def _reference(self, value: Any, place: Place) -> ModelReference:
        try:
            return ModelReference.parse(value)
        except ValueError as error:
            raise self._document.error(place, str(error)) from None

    def _known(self, item: Any, known: tuple[str, ...], place: Place) -> None:
        if not isinstance(item, Mapping):
            raise self._document.error(place, "a mapping is expected")
        for key in item:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise self._document.error((*place, key), f"unknown key; {hint}known: {', '.join(known)}")


def check(recipe: MoeRecipe, where: str) -> None:
    """Check what the prompts must be for the gates to tell experts apart.

    Raises:
        UserError: naming the expert.
    """
    if recipe.gate in DRAWN:
        return
    for number, expert in enumerate(recipe.experts):
        if not expert.positive:
            raise UserError(
                f"{where}: experts[{number}] has no positive_prompts, which gate_mode {recipe.gate} needs"
            )
    texts = {(expert.positive, expert.negative) for expert in recipe.experts}
    if len(recipe.experts) > 1 and len(texts) == 1:
        raise UserError(
            f"{where}: all experts have the same prompts, so no gate could tell them apart; change some"
        )
