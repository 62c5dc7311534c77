"""Before a byte is written: models opened, plan made, everything that is wrong told at once, cost predicted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.edits.merge import engine, registry
from steelyard.edits.merge.dialect import MergeRecipe, ModelReference
from steelyard.edits.merge.inputs import InputModel, Opener
from steelyard.edits.merge.options import MergeOptions
from steelyard.edits.merge.plan import MergePlan, PlannedTensor
from steelyard.edits.merge.planning import build_plan
from steelyard.edits.merge.problems import Problems
from steelyard.edits.merge.work import PIECE
from steelyard.errors import UserError
from steelyard.parallel import cpu_count
from steelyard.units import format_size, parse_size
from steelyard.weights import Layout, check_output
from steelyard.weights.output import check_space

if TYPE_CHECKING:
    from steelyard.edits.merge.tokenizer import Text

# Entries that are merged to see how long it takes.
_SAMPLE = 1 << 21
# A process of Python with numpy and numba, before it merges anything.
_INTERPRETER = 110_000_000


@dataclass(frozen=True)
class Prepared:
    """A merge that passed its preflight.

    Attributes:
        recipe: what is asked.
        plan: what it will do.
        models: open, in the order of the plan.
        donor: the model whose files go along.
        files: of the tokenizer, where the recipe declares one; they replace the donor's.
        left_out: names of the donor's files that do not go along.
        layout: of the result.
    """

    recipe: MergeRecipe
    plan: MergePlan
    models: Sequence[InputModel]
    donor: InputModel
    files: Mapping[str, bytes]
    left_out: frozenset[str]
    layout: Layout


@dataclass(frozen=True)
class Forecast:
    """What a merge will take.

    Attributes:
        name: of the document; "" if it has none.
        method: name of the method.
        models: labels of what is merged.
        nbytes: bytes of the weight files to be written.
        read: bytes of tensors to be read, once for every pass.
        tensors: number of tensors of the result.
        memory: most anonymous memory in bytes, about.
        seconds: of merging, from a sample; reading from a slow disk and writing to one come on top.
        notes: sentences for people.
    """

    name: str
    method: str
    models: tuple[str, ...]
    nbytes: int
    read: int
    tensors: int
    memory: int
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "method": self.method,
            "models": list(self.models),
            "bytes": self.nbytes,
            "read": self.read,
            "tensors": self.tensors,
            "memory": self.memory,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def sentence(self) -> str:
        """For people, in one line."""
        return (
            f"{self.tensors} tensors, {self.nbytes:,} bytes ({format_size(self.nbytes)}) to write, "
            f"{format_size(self.read)} to read, about {format_size(self.memory)} of memory, "
            f"about {self.seconds:.1f} s of merging"
        )


def prepare(
    recipe: MergeRecipe,
    options: MergeOptions,
    stack: ExitStack,
    *,
    places: Mapping[str, str] | None = None,
    where: str = "recipe",
    out: Path | None = None,
) -> Prepared:
    """Open the models of a recipe and plan its merge.

    Args:
        recipe: what is asked.
        options: what else.
        stack: closes the models.
        places: folders that stand for names of models.
        where: what errors call the recipe.
        out: the folder to be made; its disk must hold the result.

    Raises:
        PreflightError: with everything that is wrong.
    """
    if options.element_type is not None:
        recipe = replace(recipe, out_dtype=options.element_type)
    problems = Problems()
    models = _open(recipe, stack, places or {}, problems)
    try:
        method = registry.get(recipe.method)
    except UserError as error:
        problems.add(str(error), "correct merge_method")
        problems.raise_any(where)
        raise
    problems.raise_any(where)
    models, text = _texts(models, recipe, problems)
    problems.raise_any(where)
    plan = build_plan(recipe, method, models, options.seed, problems, options.allow_crimes)
    problems.raise_any(where)
    plan = replace(plan, notes=(*plan.notes, *text.notes))
    layout = plan.layout(parse_size(options.max_shard_size))
    if out is not None:
        _check_disk(out, layout, models.values(), problems)
        problems.raise_any(where)
    first = next(recipe.slices()).sources[0].model
    donor = models[recipe.base or first]
    return Prepared(recipe, plan, list(models.values()), donor, text.files, text.left_out, layout)


def forecast(ready: Prepared, workers: int | None = None) -> Forecast:
    """Predict what a merge takes: bytes by counting, time from a sample of its largest tensor."""
    plan = ready.plan
    workers = workers or cpu_count()
    merged = [tensor for tensor in plan.tensors if not tensor.copied and tensor.entries]
    passes, memory, rate = 1, 0, 0.0
    if merged:
        largest = max(merged, key=lambda tensor: tensor.entries)
        merge = plan.method.function(largest.task(plan.models, plan.seed), largest.options)
        passes = 1 + merge.rounds
        rows = max(len(tensor.origins) for tensor in merged)
        piece = PIECE if merge.grain == "entry" else max(PIECE, largest.shape[-1])
        piece = largest.entries if merge.grain == "tensor" else piece
        held = sorted((_held(tensor, ready.models) for tensor in merged), reverse=True)
        memory = workers * (4 * piece * (rows + 2) + 4 * engine.RUN) + sum(held[: workers + 1])
        rate = _seconds_per_entry(largest, ready)
    read = sum(_stored(tensor, ready.models) for tensor in plan.tensors)
    return Forecast(
        ready.recipe.name,
        plan.method.name,
        plan.models,
        ready.layout.total_bytes,
        passes * read,
        len(plan.tensors),
        _INTERPRETER + memory,
        rate * sum(tensor.entries for tensor in merged) / workers,
        plan.notes,
    )


def _seconds_per_entry(tensor: PlannedTensor, ready: Prepared) -> float:
    """Merge the beginning of a tensor in memory, and tell how long one entry takes one thread."""
    row = max(1, tensor.entries // tensor.shape[0]) if tensor.shape else 1
    rows = min(tensor.shape[0] if tensor.shape else 1, max(1, _SAMPLE // row))
    shape = (rows, *tensor.shape[1:]) if tensor.shape else ()
    engine.rehearse(ready.plan, replace(tensor, shape=(1, *tensor.shape[1:])), ready.models)
    begin = time.perf_counter()
    engine.rehearse(ready.plan, replace(tensor, shape=shape), ready.models)
    return (time.perf_counter() - begin) / (rows * row)


def _stored(tensor: PlannedTensor, models: Sequence[InputModel]) -> int:
    return sum(models[o.model].spec.tensors[o.tensor].nbytes for o in tensor.origins)


def _held(tensor: PlannedTensor, models: Sequence[InputModel]) -> int:
    return sum(models[origin.model].resident(origin.tensor) for origin in tensor.origins)


def identities(references: Iterable[ModelReference], places: Mapping[str, str]) -> dict[str, str]:
    """Return a hash of each model that changes with it; names that `places` does not have must be models.

    Raises:
        UserError: if one is not there, or cannot be read.
    """
    opener = Opener(_adapt, places)
    found = {}
    for reference in references:
        model = opener.open(reference)
        try:
            found[str(reference)] = model.identity()
        finally:
            model.close()
    return found


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
    from steelyard.edits.merge.lora import adapt

    return adapt(model, location, label)


def _texts(
    models: dict[ModelReference, InputModel], recipe: MergeRecipe, problems: Problems
) -> tuple[dict[ModelReference, InputModel], Text]:
    """Return the models in the vocabulary the recipe declares, and the files that go with it."""
    from steelyard.edits.merge.tokenizer import Text, prepare_text

    try:
        text = prepare_text(recipe, models)
        return text.models, text
    except UserError as error:
        problems.add(str(error), "correct tokenizer or chat_template")
        return models, Text(models)


def _check_disk(out: Path, layout: Layout, models: Iterable[InputModel], problems: Problems) -> None:
    for model in models:
        try:
            check_output(out, model.checkpoint.folder, resume=True)
        except UserError as error:
            problems.add(str(error), "the inputs stay as they are")
    try:
        check_space(out, layout)
    except UserError as error:
        problems.add(str(error), "the result needs that much")
