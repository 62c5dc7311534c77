"""What a recipe's `tokenizer` and `chat_template` make of the models and of the files beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steelyard.edits.merge.dialect import MergeRecipe, ModelReference
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.tokenizer.chat import choose_template, template_files
from steelyard.edits.merge.tokenizer.unify import unify


@dataclass(frozen=True)
class Text:
    """Models and files with which a result reads and writes text.

    Attributes:
        models: of the merge, in the vocabulary of the result.
        files: by name; they replace those of the model whose files go along.
        left_out: names of files of that model which would contradict them.
        notes: sentences for people.
    """

    models: dict[ModelReference, InputModel]
    files: Mapping[str, bytes] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def prepare_text(recipe: MergeRecipe, models: dict[ModelReference, InputModel]) -> Text:
    """Return the models of a recipe in its vocabulary, and the files that go with it.

    Raises:
        UserError: for whatever is wrong with what the recipe declares, or with a tokenizer.
    """
    text = Text(models)
    if recipe.tokenizer is not None:
        unified = unify(models, recipe.base, recipe.tokenizer)
        text = Text(unified.models, unified.files, unified.left_out, unified.notes)
    if recipe.chat_template is None:
        return text
    folders = [model.checkpoint for model in models.values()]
    template = choose_template(recipe.chat_template, folders)
    if template is None:
        return Text(text.models, text.files, text.left_out, (*text.notes, "no model has a chat template"))
    donor = models[recipe.base] if recipe.base in models else next(iter(models.values()))
    files = {**text.files, **template_files(template, donor.checkpoint, text.files)}
    return Text(text.models, files, text.left_out | {"chat_template.json"}, text.notes)
