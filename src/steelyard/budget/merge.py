"""The `merge` job: recipes of mergekit's dialect, each result with its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from steelyard.budget.dry_run import CannotPlan, DryRun
from steelyard.budget.provenance import document, versions
from steelyard.budget.workspace import Workspace
from steelyard.edits.merge.dialect import MergeRecipe, ModelReference
from steelyard.edits.merge.dialect.reading import parse_recipes, read_recipes
from steelyard.edits.merge.job import Check, MergeResult, forecasts, merge_documents
from steelyard.edits.merge.options import MergeOptions, MergeStepOptions
from steelyard.edits.merge.preflight import Forecast, identities
from steelyard.errors import UserError, VerificationError
from steelyard.progress import SILENT, Progress
from steelyard.weights import Checkpoint, array_hash, check_output
from steelyard.weights.delivery import Delivery, local_of, url_of
from steelyard.yaml_document import read_text

if TYPE_CHECKING:
    from steelyard.edits.merge.moe import MoeRecipe
    from steelyard.formats.verify import Check as Checked

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
        out: the folder to make, or its fsspec URL.
        options: what is not in the file.
        places: folders that stand for names of models.
        resume: continue an interrupted run.
        progress: advanced by bytes.

    Raises:
        UserError: with everything that is wrong, before a byte is written; or for a value that is not finite.
    """
    options = options or MergeOptions()
    url = url_of(out)
    if url is None:
        return _merge_here(recipe, local_of(out), options, places or {}, resume, progress)
    delivery = Delivery(url, options.stage, resume)
    if delivery.made:
        from steelyard.budget.merge_form import result_of

        results = [result_of(delivery.folder)]
    else:
        results = _merge_here(recipe, delivery.folder, options, places or {}, resume, progress)
    return [*results[:-1], replace(results[-1], out=delivery.send(progress))]


def _merge_here(
    recipe: str | Path | Mapping[str, Any],
    out: Path,
    options: MergeOptions,
    places: Mapping[str, str],
    resume: bool,
    progress: Progress,
) -> list[MergeResult]:
    """Merge into a local folder, stored as asked."""
    job = _job(recipe)
    if not options.shaped:
        return job.merge(out, options, places, resume, None, progress)
    from steelyard.budget.merge_form import MERGED, check_form, result_of, write_form

    path = check_output(out, None, resume)
    request = {"recipe": job.text, "models": identities(job.references(), places)}
    with Workspace(path.with_name(f"{path.name}.merge"), request, options, resume) as work:
        merged = work.folder / MERGED
        if merged.is_dir():
            results = [result_of(merged)]
        else:
            check = partial(check_form, options=options)
            results = job.merge(merged, options, places, resume, check, progress)
        return [*results[:-1], write_form(results[-1], merged, path, options, resume, progress)]


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
    planned = forecasts(read_recipes(path), options, where=str(recipe), check=_check(options))
    told = [{**forecast.to_dict(), "sentence": forecast.sentence()} for forecast in planned]
    if options.shaped and told:
        form = options.format or "what fits"
        told[-1]["notes"].append(
            f"these are the merge's numbers; it is then stored as {form}, beside it on the disk"
        )
    return told


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
    places = {MODEL: str(model)}
    (found,) = forecasts(recipes, options, where=options.recipe, places=places, check=_check(options))
    return dry_run_of(found, model)


def dry_run_of(found: Forecast, model: str | Path) -> DryRun:
    """Return a forecast as the plan of a step that begins with a model."""
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


def audit_merge(folder: Path, sections: Mapping[str, Any]) -> Checked:
    """Compare every tensor of a merged folder with its recorded hash.

    Raises:
        VerificationError: naming the tensor that has changed, is missing or is new.
    """
    from steelyard.formats.verify import Check as Checked

    recorded = sections["tensors"]
    with Checkpoint.open(folder) as written:
        for name in sorted(set(recorded) ^ set(written.names)):
            raise VerificationError(f"{folder}: {name} is {'missing' if name in recorded else 'new'}")
        for name, digest in recorded.items():
            if array_hash(written.tensor(name)) != digest:
                raise VerificationError(f"{folder}: {name} has changed since it was written")
    return Checked("tensors unchanged", "pass", f"{len(recorded)} tensors have their recorded hashes")


def _check(options: MergeOptions) -> Check | None:
    if not options.shaped:
        return None
    from steelyard.budget.merge_form import check_form

    return partial(check_form, options=options)


def _is_mixture(path: Path) -> bool:
    """Tell whether a file is one of mergekit-moe's, without a second reading of most that are not."""
    if "experts" not in read_text(path):
        return False
    from steelyard.edits.merge.moe import is_mixture

    return is_mixture(path)


def _record(sections: Mapping[str, Any]) -> bytes:
    return document(**sections, versions=versions())


@dataclass(frozen=True)
class _Documents:
    """The recipes of a file."""

    recipes: list[MergeRecipe]
    where: str

    @property
    def text(self) -> str:
        return self.recipes[0].text

    def references(self) -> list[ModelReference]:
        names = {recipe.name for recipe in self.recipes}
        found = [reference for recipe in self.recipes for reference in recipe.references()]
        return [reference for reference in dict.fromkeys(found) if reference.path not in names]

    def merge(
        self,
        out: Path,
        options: MergeOptions,
        places: Mapping[str, str],
        resume: bool,
        check: Check | None,
        progress: Progress,
    ) -> list[MergeResult]:
        return merge_documents(
            self.recipes,
            out,
            options,
            where=self.where,
            places=places,
            resume=resume,
            record=_record,
            check=check,
            progress=progress,
        )


@dataclass(frozen=True)
class _Mixture:
    """A recipe of mergekit-moe's."""

    recipe: MoeRecipe
    where: str

    @property
    def text(self) -> str:
        return self.recipe.text

    def references(self) -> list[ModelReference]:
        return self.recipe.references()

    def merge(
        self,
        out: Path,
        options: MergeOptions,
        places: Mapping[str, str],
        resume: bool,
        check: Check | None,
        progress: Progress,
    ) -> list[MergeResult]:
        from steelyard.edits.merge.moe import merge_mixture

        if options.engine != "threads":
            raise UserError(f"{self.where}: mixtures of experts are made by threads; leave out --engine")
        made = merge_mixture(
            self.recipe, out, options, where=self.where, resume=resume, record=_record, progress=progress
        )
        return [made]


def _job(recipe: str | Path | Mapping[str, Any]) -> _Documents | _Mixture:
    if isinstance(recipe, Mapping):
        text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        return _Documents(parse_recipes(text), "recipe")
    if _is_mixture(Path(recipe)):
        from steelyard.edits.merge.moe import read_mixture

        return _Mixture(read_mixture(Path(recipe)), str(recipe))
    return _Documents(read_recipes(Path(recipe)), str(recipe))


def _used(recipe: str) -> list[MergeRecipe]:
    """Return the recipes of a step.

    Raises:
        UserError: if none of them names the model the step begins with.
    """
    recipes = read_recipes(Path(recipe))
    if not any(reference.path == MODEL for item in recipes for reference in item.references()):
        raise UserError(f"{recipe} merges no `{MODEL}`, which stands for what the step begins with; name it there")
    return recipes
