"""The `merge` job: recipes of mergekit's dialect, each result with its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from steelyard.budget.dry_run import CannotPlan, DryRun
from steelyard.budget.provenance import document, versions
from steelyard.edits.merge.dialect import MergeRecipe
from steelyard.edits.merge.dialect.reading import parse_recipes, read_recipes
from steelyard.edits.merge.job import MergeResult, forecasts, merge_documents
from steelyard.edits.merge.options import MergeOptions, MergeStepOptions
from steelyard.errors import UserError, VerificationError
from steelyard.formats.verify import Check
from steelyard.progress import SILENT, Progress
from steelyard.weights import Checkpoint, array_hash
from steelyard.yaml_document import read_text

MODEL = "model"
"""Stands in the merge of a step for the model that the step begins with."""


def merge_file(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    options: MergeOptions | None = None,
    *,
    places: Mapping[str, str] | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> list[MergeResult]:
    """Carry out the recipes of a YAML file, each with a `steelyard.json` beside its weights.

    Args:
        recipe: the file, or the content of one as a mapping.
        out: the folder to make.
        options: what is not in the file.
        places: folders that stand for names of models.
        resume: continue an interrupted run.
        progress: advanced by bytes.

    Raises:
        UserError: with everything that is wrong, before a byte is written; or for a value that is not finite.
    """
    options = options or MergeOptions()
    if not isinstance(recipe, Mapping) and _is_mixture(Path(recipe)):
        from steelyard.edits.merge.moe import merge_mixture, read_mixture

        found = read_mixture(Path(recipe))
        return [
            merge_mixture(found, out, options, where=str(recipe), resume=resume, record=_record, progress=progress)
        ]
    recipes, where = _recipes(recipe)
    return merge_documents(
        recipes, out, options, where=where, places=places, resume=resume, record=_record, progress=progress
    )


def forecast_file(recipe: str | Path, options: MergeOptions) -> list[dict[str, Any]]:
    """Return what the recipes of a file would take, as plain data with a line for people under `sentence`.

    Recipes that are made of the results of others are left out.

    Raises:
        UserError: with everything that is wrong.
    """
    path = Path(recipe)
    if _is_mixture(path):
        from steelyard.edits.merge.moe import forecast_mixture, read_mixture

        found = forecast_mixture(read_mixture(path), options, where=str(recipe))
        sentence = f"{found['tensors']} tensors, {found['bytes']:,} bytes to write"
        return [{"name": "", "method": f"a mixture ({found['architecture']})", **found, "sentence": sentence}]
    planned = forecasts(read_recipes(path), options, where=str(recipe))
    return [{**forecast.to_dict(), "sentence": forecast.sentence()} for forecast in planned]


def merge_step(
    model: str | Path,
    out: str | Path,
    options: MergeStepOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> MergeResult:
    """Merge a model with others: the step `merge` of a recipe of Steelyard's.

    Args:
        model: what `model` stands for in the merge.
        out: the folder to make.
        options: the merge, and what is not in it.
        resume: continue an interrupted run.
        progress: advanced by bytes.

    Raises:
        UserError: as `merge_file`, or if the merge has no use for the model.
    """
    _used(options.recipe)
    places = {MODEL: str(model)}
    return merge_file(Path(options.recipe), out, options, places=places, resume=resume, progress=progress)[-1]


def dry_run(
    model: str | Path, options: MergeStepOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan a step `merge` from the headers of the models.

    Raises:
        UserError: with everything that is wrong.
        CannotPlan: after another step, or for several documents: the models to merge are not there yet.
    """
    recipes = _used(options.recipe)
    if before is not None or len(recipes) > 1:
        raise CannotPlan("it merges models that are not there yet")
    (found,) = forecasts(recipes, options, where=options.recipe, places={MODEL: str(model)})
    return DryRun(
        model=str(model),
        budget=found.nbytes,
        asked=f"{found.method} of {len(found.models)} models",
        format="dense",
        smallest=found.nbytes,
        nbytes=found.nbytes,
        tensors={},
        resources=found.sentence(),
        notes=found.notes,
        leaves="other",
    )


def audit_merge(folder: Path, sections: Mapping[str, Any]) -> Check:
    """Compare every tensor of a merged folder with its recorded hash.

    Raises:
        VerificationError: naming the tensor that has changed, is missing or is new.
    """
    recorded = sections["tensors"]
    with Checkpoint.open(folder) as written:
        for name in sorted(set(recorded) ^ set(written.names)):
            raise VerificationError(f"{folder}: {name} is {'missing' if name in recorded else 'new'}")
        for name, digest in recorded.items():
            if array_hash(written.tensor(name)) != digest:
                raise VerificationError(f"{folder}: {name} has changed since it was written")
    return Check("tensors unchanged", "pass", f"{len(recorded)} tensors have their recorded hashes")


def _is_mixture(path: Path) -> bool:
    """Tell whether a file is one of mergekit-moe's, without a second reading of most that are not."""
    if "experts" not in read_text(path):
        return False
    from steelyard.edits.merge.moe import is_mixture

    return is_mixture(path)


def _record(sections: Mapping[str, Any]) -> bytes:
    return document(**sections, versions=versions())


def _recipes(recipe: str | Path | Mapping[str, Any]) -> tuple[list[MergeRecipe], str]:
    if isinstance(recipe, Mapping):
        return parse_recipes(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)), "recipe"
    return read_recipes(Path(recipe)), str(recipe)


def _used(recipe: str) -> list[MergeRecipe]:
    """Return the recipes of a step.

    Raises:
        UserError: if none of them names the model the step begins with.
    """
    recipes = read_recipes(Path(recipe))
    if not any(reference.path == MODEL for item in recipes for reference in item.references()):
        raise UserError(f"{recipe} merges no `{MODEL}`, which stands for what the step begins with; name it there")
    return recipes
