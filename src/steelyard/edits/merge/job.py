"""The whole of a merge: recipe read, models opened, plan made and checked, tensors merged, folder published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steelyard.edits.merge import registry
from steelyard.edits.merge.dialect import MergeRecipe, ModelReference
from steelyard.edits.merge.engine import merge_tensors
from steelyard.edits.merge.inputs import InputModel, Opener
from steelyard.edits.merge.options import MergeOptions
from steelyard.edits.merge.plan import MergePlan
from steelyard.edits.merge.planning import build_plan
from steelyard.edits.merge.problems import Problems
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.units import parse_size
from steelyard.weights import FolderWriter, Layout, check_output

_OWN_FILES = frozenset({"config.json", "steelyard.json", "report.html", "README.md", "mergekit_config.yml"})

Record = Callable[[Mapping[str, Any]], bytes]
"""Returns the content of `steelyard.json` from its sections."""


@dataclass(frozen=True)
class MergeResult:
    """What `merge` made.

    Attributes:
        out: the folder.
        nbytes: bytes of its weight files.
        tensors: number of its tensors.
        method: name of the method.
        models: labels of what was merged.
        notes: sentences for people.
    """

    out: Path
    nbytes: int
    tensors: int
    method: str
    models: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "bytes": self.nbytes,
            "tensors": self.tensors,
            "method": self.method,
            "models": list(self.models),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Prepared:
    """A merge that passed its preflight.

    Attributes:
        plan: what it will do.
        models: open, in the order of the plan.
        donor: the model whose files go along.
        layout: of the result.
    """

    plan: MergePlan
    models: Sequence[InputModel]
    donor: InputModel
    layout: Layout


def prepare(
    recipe: MergeRecipe,
    options: MergeOptions,
    stack: ExitStack,
    places: Mapping[str, str],
    where: str = "recipe",
) -> Prepared:
    """Open the models of a recipe and plan its merge.

    Args:
        recipe: what is asked.
        options: what else.
        stack: closes the models.
        places: folders that stand for names of models.
        where: what errors call the recipe.

    Raises:
        PreflightError: with everything that is wrong.
    """
    if options.element_type is not None:
        recipe = replace(recipe, out_dtype=options.element_type)
    problems = Problems()
    models = _open(recipe, stack, places, problems)
    try:
        method = registry.get(recipe.method)
    except UserError as error:
        problems.add(str(error), "correct merge_method")
        method = None
    problems.raise_any(where)
    assert method is not None
    plan = build_plan(recipe, method, models, options.seed, problems, options.allow_crimes)
    problems.raise_any(where)
    first = next(recipe.slices()).sources[0].model
    layout = plan.layout(parse_size(options.max_shard_size))
    return Prepared(plan, list(models.values()), models[recipe.base or first], layout)


def merge_recipe(
    recipe: MergeRecipe,
    out: str | Path,
    options: MergeOptions,
    *,
    places: Mapping[str, str] | None = None,
    where: str = "recipe",
    resume: bool = False,
    record: Record | None = None,
    progress: Progress = SILENT,
) -> MergeResult:
    """Carry out one recipe.

    Args:
        recipe: what is asked.
        out: the folder to make.
        options: what else.
        places: folders that stand for names of models, such as results of earlier documents.
        where: what errors call the recipe.
        resume: continue an interrupted run.
        record: returns the content of `steelyard.json` from what it should say; without it there is none.
        progress: advanced by bytes.

    Raises:
        UserError: with everything that is wrong, before a byte is written; or for a value that is not finite.
    """
    path = check_output(out, None, resume)
    with ExitStack() as stack:
        ready = prepare(recipe, options, stack, places or {}, where)
        for model in ready.models:
            check_output(path, model.checkpoint.folder, resume)
        plan, layout = ready.plan, ready.layout
        with FolderWriter(path, layout, resume=resume, plan_hash=plan.hash()) as writer:
            merge_tensors(plan, ready.models, writer, progress, options.workers)
            _add_files(writer, ready, recipe)
            if record is not None:
                sections = {
                    "verb": "merge",
                    "request": {"recipe": recipe.text, "name": recipe.name, **options.model_dump(mode="json")},
                    "plan": plan.to_dict(),
                    "inputs": dict(zip(plan.models, plan.identities, strict=True)),
                    "outputs": writer.file_hashes(progress),
                    "bytes": {"files": {file.name: file.size for file in layout.files}},
                    "errors": {},
                    "notes": list(plan.notes),
                }
                writer.add_file("steelyard.json", record(sections))
            folder = writer.finish()
    return MergeResult(folder, layout.total_bytes, len(plan.tensors), recipe.method, plan.models, plan.notes)


def merge_documents(
    recipes: Sequence[MergeRecipe],
    out: str | Path,
    options: MergeOptions,
    *,
    where: str = "recipe",
    resume: bool = False,
    record: Record | None = None,
    progress: Progress = SILENT,
) -> list[MergeResult]:
    """Carry out the recipes of a file, those that others are made of first.

    A single recipe makes `out`. Of several, the one without a name does, or the last; the others go into a folder
    of their own that is removed at the end, unless `options.intermediate` names one to keep.

    Raises:
        UserError: as `merge_recipe`, or if recipes are made of each other in a circle.
    """
    if len(recipes) == 1:
        return [
            merge_recipe(recipes[0], out, options, where=where, resume=resume, record=record, progress=progress)
        ]
    path = check_output(out, None, resume)
    kept = options.intermediate
    work = path.with_name(f".{path.name}.documents") if kept is None else Path(kept)
    order = in_order(recipes)
    final = order[-1]
    places: dict[str, str] = {}
    results = []
    for recipe in order:
        target = path if recipe is final else work / recipe.name
        if recipe is final or not (resume and target.exists()):
            results.append(
                merge_recipe(
                    recipe,
                    target,
                    options,
                    places=places,
                    where=f"{where}, document {recipe.name or 'without a name'}",
                    resume=resume,
                    record=record,
                    progress=progress,
                )
            )
        places[recipe.name] = str(target)
    if kept is None:
        shutil.rmtree(work, ignore_errors=True)
    return results


def in_order(recipes: Sequence[MergeRecipe]) -> list[MergeRecipe]:
    """Return recipes so that each comes after those it is made of; the result's comes last.

    Raises:
        UserError: if some are made of each other.
    """
    named = {recipe.name: recipe for recipe in recipes if recipe.name}
    placed: list[MergeRecipe] = []
    entered: list[str] = []

    def place(recipe: MergeRecipe) -> None:
        if recipe in placed:
            return
        if recipe.name in entered:
            circle = " → ".join([*entered[entered.index(recipe.name) :], recipe.name])
            raise UserError(f"documents are made of each other: {circle}; break the circle")
        entered.append(recipe.name)
        for reference in recipe.references():
            if reference.path in named:
                place(named[reference.path])
        entered.pop()
        placed.append(recipe)

    final = next((recipe for recipe in recipes if not recipe.name), recipes[-1])
    for recipe in [*(recipe for recipe in recipes if recipe is not final), final]:
        place(recipe)
    if placed[-1] is not final:
        raise UserError(
            f"the last document, {final.name}, is a part of another; let the final one go without a name"
        )
    return placed


def _open(
    recipe: MergeRecipe, stack: ExitStack, places: Mapping[str, str], problems: Problems
) -> dict[ModelReference, InputModel]:
    opener = Opener(_adapt, places)
    models: dict[ModelReference, InputModel] = {}
    for reference in recipe.references():
        try:
            models[reference] = opener.open(reference)
            stack.callback(models[reference].close)
        except UserError as error:
            problems.add(str(error), f"the recipe names it as {reference}")
    return models


def _adapt(model: InputModel, location: str, label: str) -> InputModel:
    from steelyard.edits.merge.lora.adapted import adapt

    return adapt(model, location, label)


def _add_files(writer: FolderWriter, ready: Prepared, recipe: MergeRecipe) -> None:
    writer.add_file("config.json", (json.dumps(ready.plan.config, indent=2) + "\n").encode())
    files = ready.donor.checkpoint
    writer.carry(files, [name for name in files.other_files if name not in _OWN_FILES])
    writer.add_file("mergekit_config.yml", recipe.text.encode())
