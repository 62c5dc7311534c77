"""From YAML to recipes, with the line of whatever is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.edits.merge.dialect.recipe import MergeRecipe, Module, Slice, Source
from steelyard.edits.merge.dialect.reference import ModelReference
from steelyard.edits.merge.dialect.settings import Setting, Settings
from steelyard.yaml_document import Document, Place, parse_documents, read_text

DTYPES: Mapping[str, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""Element types of results: as recipes spell them, and as safetensors does."""

_BODIES = ("models", "slices", "modules")
_KEYS = (
    "name", "out_path", "merge_method", "base_model", *_BODIES, "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template",
)  # fmt: skip
_SLICE_KEYS = ("sources", "base_model", "parameters", "residual_weight")
_SOURCE_KEYS = ("model", "layer_range", "parameters")


def read_recipes(path: Path) -> list[MergeRecipe]:
    """Read the recipes of a file, one for each of its documents.

    Raises:
        UserError: naming the line and what is accepted there.
    """
    return parse_recipes(read_text(path), path)


def parse_recipes(text: str, path: Path = Path("recipe")) -> list[MergeRecipe]:
    """Read the recipes of a YAML text; `path` is what errors call it.

    Raises:
        UserError: naming the line and what is accepted there.
    """
    documents = [document for document in parse_documents(text, path) if document.data is not None]
    if not documents:
        raise parse_documents(text, path)[0].error((), "a recipe is a mapping with merge_method and models")
    recipes = [_Reader(document, text).recipe() for document in documents]
    names = [recipe.name for recipe in recipes]
    for number, name in enumerate(names):
        if name in names[:number]:
            what = f"the name {name!r} is given twice" if name else "only one document may go without a name"
            raise documents[number].error(("name",) if name else (), what)
    return recipes


class _Reader:
    """Reads one document."""

    def __init__(self, document: Document, text: str) -> None:
        self._document, self._text = document, text
        self._notes: list[str] = []

    def recipe(self) -> MergeRecipe:
        data = self._document.data
        if not isinstance(data, dict):
            raise self._document.error((), "a recipe is a mapping with merge_method and models")
        self._known(data, _KEYS, ())
        bodies = [key for key in _BODIES if data.get(key)]
        if len(bodies) != 1:
            given = " and ".join(bodies) or "none of them"
            raise self._document.error((), f"exactly one of models, slices and modules is expected, got {given}")
        if not isinstance(data.get("merge_method"), str):
            raise self._document.error(("merge_method",), "the name of a merge method is expected")
        tokenizer = data.get("tokenizer")
        if data.get("tokenizer_source") is not None:
            if tokenizer is not None:
                raise self._document.error(("tokenizer",), "tokenizer and tokenizer_source exclude each other")
            tokenizer = {"source": data["tokenizer_source"]}
        if tokenizer is not None and not isinstance(tokenizer, dict):
            raise self._document.error(("tokenizer",), "a mapping with source, tokens and pad_to_multiple_of")
        return MergeRecipe(
            name=str(data.get("name") or data.get("out_path") or ""),
            method=data["merge_method"],
            base=self._reference(data, ("base_model",)) if data.get("base_model") is not None else None,
            modules=self._modules(data, bodies[0]),
            parameters=self._settings(data.get("parameters"), ("parameters",)),
            dtype=self._dtype(data, "dtype"),
            out_dtype=self._dtype(data, "out_dtype"),
            tokenizer=tokenizer,
            chat_template=None if data.get("chat_template") is None else str(data["chat_template"]),
            text=self._text,
            notes=tuple(self._notes),
        )

    def _modules(self, data: Mapping[str, Any], body: str) -> dict[str, Module]:
        if body != "modules":
            return {"": Module(self._body(data[body], body, (body,)))}
        modules = data["modules"]
        if not isinstance(modules, dict):
            raise self._document.error(("modules",), "a mapping from names of modules to models or slices")
        return {str(name): self._module(item, ("modules", name)) for name, item in modules.items()}

    def _module(self, item: Any, place: Place) -> Module:
        if not isinstance(item, dict) or bool(item.get("models")) == bool(item.get("slices")):
            raise self._document.error(place, "either models or slices is expected")
        self._known(item, ("models", "slices", "parameters", "name"), place)
        body = "models" if item.get("models") else "slices"
        slices = self._body(item[body], body, (*place, body))
        return Module(slices, self._settings(item.get("parameters"), (*place, "parameters")))

    def _body(self, data: Any, body: str, place: Place) -> tuple[Slice, ...]:
        if not isinstance(data, list):
            raise self._document.error(place, f"a list of {body} is expected")
        if body == "models":
            sources = tuple(self._source(item, (*place, i), ranged=False) for i, item in enumerate(data))
            return (Slice(sources),)
        return tuple(self._slice(item, (*place, i)) for i, item in enumerate(data))

    def _slice(self, item: Any, place: Place) -> Slice:
        if not isinstance(item, dict) or not isinstance(item.get("sources"), list) or not item["sources"]:
            raise self._document.error(place, "a slice is a mapping with a list of sources")
        self._known(item, _SLICE_KEYS, place)
        listed = enumerate(item["sources"])
        sources = tuple(self._source(source, (*place, "sources", i), ranged=True) for i, source in listed)
        lengths = {layers[1] - layers[0] for layers in (source.layers for source in sources) if layers}
        if len(lengths) > 1:
            raise self._document.error(
                (*place, "sources"), f"all sources of a slice give as many layers, got {sorted(lengths)}"
            )
        base = item.get("base_model")
        return Slice(
            sources,
            None if base is None else self._reference(item, (*place, "base_model")),
            self._settings(item.get("parameters"), (*place, "parameters")),
        )

    def _source(self, item: Any, place: Place, ranged: bool) -> Source:
        if isinstance(item, str):
            item = {"model": item}
        if not isinstance(item, dict) or "model" not in item:
            raise self._document.error(place, "a mapping with model is expected")
        self._known(item, _SOURCE_KEYS if ranged else ("model", "parameters"), place)
        layers = None
        if ranged:
            layers = item.get("layer_range")
            if (
                not isinstance(layers, list)
                or len(layers) != 2
                or not all(type(end) is int for end in layers)
                or not 0 <= layers[0] < layers[1]
            ):
                raise self._document.error(
                    (*place, "layer_range"), f"[first, after the last] layer is expected, got {layers!r}"
                )
        return Source(
            self._reference(item, (*place, "model")),
            None if layers is None else (layers[0], layers[1]),
            self._settings(item.get("parameters"), (*place, "parameters")),
        )

    def _settings(self, data: Any, place: Place) -> Settings:
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise self._document.error(place, "a mapping from names to values is expected")
        settings = {}
        for name, value in data.items():
            if value is None:
                continue
            try:
                settings[name] = Setting.parse(value)
            except ValueError as error:
                raise self._document.error((*place, name), str(error)) from None
        return settings

    def _reference(self, holder: Mapping[str, Any], place: Place) -> ModelReference:
        try:
            return ModelReference.parse(holder[str(place[-1])])
        except ValueError as error:
            raise self._document.error(place, str(error)) from None

    def _dtype(self, data: Mapping[str, Any], key: str) -> str | None:
        named = data.get(key)
        if named is None:
            return None
        dtype = DTYPES.get(str(named).removeprefix("torch."))
        if dtype is None:
            raise self._document.error((key,), f"one of {', '.join(DTYPES)} is expected, got {named!r}")
        return dtype

    def _known(self, item: Mapping[str, Any], known: tuple[str, ...], place: Place) -> None:
        """Refuse a key that looks like a slip; note others, which mergekit passes over in silence."""
        for key in item:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
            if near:
                raise self._document.error((*place, key), f"unknown key; did you mean {near[0]}?")
            self._notes.append(f"{'.'.join(map(str, (*place, key)))} has no meaning here and was passed over")
