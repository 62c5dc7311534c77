"""The whole of a merge: recipe read, models opened, plan made and checked, tensors merged, folder published."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.edits.merge.dialect import MergeRecipe
from steelyard.edits.merge.engine import merge_tensors
from steelyard.edits.merge.options import MergeOptions
from steelyard.edits.merge.output import Record, add_files, record_of
from steelyard.edits.merge.preflight import Forecast, Prepared, forecast, prepare
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.weights import FolderWriter, check_output

Check = Callable[[Prepared], None]
"""Looks at a merge before a byte is written, and raises if nothing can come of it."""


@dataclass(frozen=True)
class MergeResult:
    """What `merge` made.

    Attributes:
        out: the folder; a URL as it was given.
        nbytes: bytes of its weight files.
        tensors: number of its tensors.
        method: name of the method.
        models: labels of what was merged.
        notes: sentences for people.
    """

    out: Path | str
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


def merge_recipe(
    recipe: MergeRecipe,
    out: str | Path,
    options: MergeOptions,
    *,
    places: Mapping[str, str] | None = None,
    where: str = "recipe",
    resume: bool = False,
    record: Record | None = None,
    check: Check | None = None,
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
        check: looks at the merge before a byte is written, and raises if nothing can come of it.
        progress: advanced by bytes.

    Raises:
        UserError: with everything that is wrong, before a byte is written; or for a value that is not finite.
    """
    path = check_output(out, None, resume)
    with ExitStack() as stack:
        ready = prepare(recipe, options, stack, places=places, where=where, out=path)
        if check is not None:
            check(ready)
        plan, layout = ready.plan, ready.layout
        with FolderWriter(path, layout, resume=resume, plan_hash=plan.hash()) as writer:
            if options.engine == "ray":
                from steelyard.edits.merge.cluster import Request, merge_on_ray

                request = Request(recipe, options, dict(places or {}), where, os.getcwd())
                merge_on_ray(ready, request, writer, progress)
            else:
                merge_tensors(plan, ready.models, writer, progress, options.workers)
            add_files(writer, ready)
            if record is not None:
                writer.add_file("steelyard.json", record_of(writer, ready, options, record))
            folder = writer.finish()
    return MergeResult(folder, layout.total_bytes, len(plan.tensors), recipe.method, plan.models, plan.notes)


def forecasts(
    recipes: Sequence[MergeRecipe],
    options: MergeOptions,
    where: str = "recipe",
    places: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> list[Forecast]:
    """Return what each recipe would take, without writing anything.

    Recipes that are made of the results of others cannot be planned before those exist: they are left out. The
    arguments are those of `merge_documents`.

    Raises:
        PreflightError: with everything that is wrong with one of them.
    """
    order = in_order(recipes)
    names = {recipe.name for recipe in order if recipe.name}
    found = []
    for recipe in order:
        if any(reference.path in names for reference in recipe.references()):
            continue
        with ExitStack() as stack:
            ready = prepare(recipe, options, stack, places=places, where=where)
            if check is not None and recipe is order[-1]:
                check(ready)
            found.append(forecast(ready, options.workers))
    return found


def merge_documents(
    recipes: Sequence[MergeRecipe],
    out: str | Path,
    options: MergeOptions,
    *,
    where: str = "recipe",
    places: Mapping[str, str] | None = None,
    resume: bool = False,
    record: Record | None = None,
    check: Check | None = None,
    progress: Progress = SILENT,
) -> list[MergeResult]:
    """Carry out the recipes of a file, those that others are made of first.

    A single recipe makes `out`. Of several, the one without a name does, or the last; the others go into a folder
    of their own that is removed at the end, unless `options.intermediate` names one to keep. Other arguments are
    those of `merge_recipe`.

    Raises:
        UserError: as `merge_recipe`, or if recipes are made of each other in a circle.
    """
    if len(recipes) == 1:
        return [
            merge_recipe(
                recipes[0],
                out,
                options,
                places=places,
                where=where,
                resume=resume,
                record=record,
                check=check,
                progress=progress,
            )
        ]
    path = check_output(out, None, resume)
    kept = options.intermediate
    work = path.with_name(f".{path.name}.documents") if kept is None else Path(kept)
    order = in_order(recipes)
    final = order[-1]
    known = dict(places or {})
    results = []
    for recipe in order:
        target = path if recipe is final else work / _folder(recipe.name)
        if recipe is final or not (resume and target.exists()):
            results.append(
                merge_recipe(
                    recipe,
                    target,
                    options,
                    places=known,
                    where=f"{where}, document {recipe.name or 'without a name'}",
                    resume=resume,
                    record=record,
                    check=check if recipe is final else None,
                    progress=progress,
                )
            )
        known[recipe.name] = str(target)
    if kept is None:
        shutil.rmtree(work, ignore_errors=True)
    return results


def _folder(name: str) -> str:
    """Return a folder's name for a document's, which may be a path."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "document"


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
