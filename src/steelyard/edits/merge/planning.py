"""From a recipe and open models to a plan: layers lined up, shapes compared, parameters resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from steelyard.edits.merge.dialect import MergeRecipe, ModelReference, Module, Slice, Source
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.outcome import result_config
from steelyard.edits.merge.parameters import Parameters
from steelyard.edits.merge.plan import MergePlan, Origin, PlannedTensor
from steelyard.edits.merge.problems import Problems
from steelyard.edits.merge.registry import MergeMethod
from steelyard.edits.merge.shelves import Shelves, comes_first, is_buffer, shelves
from steelyard.errors import UserError
from steelyard.spec import ModelSpec

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_TOKEN_ROLES = ("embed.token", "head")


def build_plan(
    recipe: MergeRecipe,
    method: MergeMethod,
    models: Mapping[ModelReference, InputModel],
    seed: int,
    problems: Problems,
    allow_mixed: bool = False,
) -> MergePlan:
    """Return what to do with every tensor; all that stands in the way is collected.

    Args:
        recipe: what is asked.
        method: its method.
        models: every model it names, open.
        seed: of everything drawn.
        problems: receives what is wrong; the plan is of no use if there is anything.
        allow_mixed: merge models of different architectures, as far as names and shapes agree.
    """
    return _Planner(recipe, method, models, seed, problems, allow_mixed).plan()


@dataclass(frozen=True)
class _Row:
    """One source of a slice, resolved.

    Attributes:
        model: number of the model.
        source: as the recipe has it.
        first: its first layer.
    """

    model: int
    source: Source
    first: int


class _Planner:
    def __init__(
        self,
        recipe: MergeRecipe,
        method: MergeMethod,
        models: Mapping[ModelReference, InputModel],
        seed: int,
        problems: Problems,
        allow_mixed: bool,
    ) -> None:
        self._recipe, self._method, self._seed, self._problems = recipe, method, seed, problems
        self._references = list(models)
        self._models = list(models.values())
        self._shelves: list[Shelves] = [shelves(model.spec) for model in self._models]
        self._parameters = Parameters(recipe, method, problems)
        self._tensors: list[PlannedTensor] = []
        self._tried: set[Any] = set()
        self._notes: dict[str, None] = dict.fromkeys(recipe.notes)
        self._allow_mixed = allow_mixed
        first = next(recipe.slices()).sources[0].model
        self._donor = self._references.index(recipe.base or first)

    def plan(self) -> MergePlan:
        self._notes.update(dict.fromkeys(self._parameters.check_names()))
        self._parameters.check_values()
        self._check_architectures()
        layers: list[list[tuple[int, int]]] = []
        for number, (module, stack) in enumerate(self._stacks()):
            layers.append(self._stack(module, stack, first=number == 0))
        config = self._config(layers)
        plan = MergePlan(
            self._method,
            tuple(model.label for model in self._models),
            tuple(model.identity() for model in self._models),
            tuple(self._tensors),
            config,
            self._seed,
            tuple(self._notes),
        )
        if not self._problems:
            self._check_result(plan)
        return plan

    def _stacks(self) -> list[tuple[Module, int]]:
        """Return which module makes each stack of layers; a model without layers counts as one stack of none."""
        stacks = self._shelves[self._donor].stacks
        count = max(1, len(stacks))
        modules = self._recipe.modules
        if len(modules) == 1 and count == 1:
            return [(next(iter(modules.values())), 0)]
        if "" in modules:
            module = modules[""]
            if any(source.layers for slice_ in module.slices for source in slice_.sources):
                blocks = ", ".join(stack.block for stack in stacks)
                self._problems.add(
                    f"slices of a model with {count} stacks of layers ({blocks})",
                    "list the slices of each under modules, or use models",
                )
            return [(module, number) for number in range(count)]
        found = []
        for number, stack in enumerate(stacks):
            named = [module for name, module in modules.items() if name in stack.block.split(".")]
            if named:
                found.append((named[0], number))
            else:
                self._problems.add(f"no module for the layers {stack.block}", f"there are {', '.join(modules)}")
        return found

    def _check_architectures(self) -> None:
        donor = self._models[self._donor]
        for model in self._models:
            if model.spec.model_type == donor.spec.model_type or self._allow_mixed:
                continue
            self._problems.add(
                f"{model.label} is a {model.spec.model_type or 'model without model_type'}, "
                f"{donor.label} a {donor.spec.model_type or 'model without model_type'}",
                "only models of one architecture can be merged; --allow-crimes merges what names and shapes allow",
            )

    # Stacks, slices and layers.

    def _stack(self, module: Module, stack: int, first: bool) -> list[tuple[int, int]]:
        """Plan a stack and what goes with it; return (model, layer) that each layer's settings come from."""
        begins, ends = module.slices[0], module.slices[-1]
        if first:
            self._outside(module, begins, True)
        made: list[tuple[int, int]] = []
        for slice_ in module.slices:
            rows, base = self._rows(slice_, stack)
            count = self._length(slice_, rows, stack)
            for step in range(count):
                depth = step / (count - 1) if count > 1 else 1.0
                self._layer(module, slice_, rows, base, stack, step, len(made), depth)
                lead = rows[base if base is not None else 0]
                made.append((lead.model, lead.first + step))
        if first:
            self._outside(module, ends, False)
        return made

    def _rows(self, slice_: Slice, stack: int) -> tuple[list[_Row], int | None]:
        """Return the inputs of a slice and which of them is the base."""
        base = slice_.base or self._recipe.base
        rows = [
            _Row(self._references.index(source.model), source, source.layers[0] if source.layers else 0)
            for source in slice_.sources
        ]
        place = next((i for i, row in enumerate(rows) if row.source.model == base), None)
        if self._method.base == "none":
            place = None
        elif base is not None and place is None:
            place = len(rows)
            layers = slice_.sources[0].layers
            source = Source(base, layers)
            rows.append(_Row(self._references.index(base), source, layers[0] if layers else 0))
        if self._method.base == "required" and place is None:
            self._problems.add(f"{self._method.name} needs a base model", "name it under base_model")
        experts = len(rows) - (place is not None)
        most = self._method.most
        if experts < self._method.least or (most is not None and experts > most):
            wanted = f"at least {self._method.least}" if most is None else f"{self._method.least} to {most}"
            wanted = str(most) if most == self._method.least else wanted
            beside = " beside the base" if place is not None else ""
            self._problems.add(
                f"{self._method.name} takes {wanted} models{beside}, got {experts}", "change the list of models"
            )
        return rows, place

    def _length(self, slice_: Slice, rows: Sequence[_Row], stack: int) -> int:
        """Return the number of layers of a slice."""
        lengths = []
        for row in rows:
            stacks = self._shelves[row.model].stacks
            has = len(stacks[stack].layers) if stack < len(stacks) else 0
            layers = row.source.layers
            if layers is not None and layers[1] > has:
                self._problems.add(
                    f"{self._models[row.model].label} has {has} layers, the recipe asks for {list(layers)}",
                    "correct layer_range",
                )
            lengths.append(has if layers is None else min(layers[1], has) - min(layers[0], has))
        if len(set(lengths)) > 1:
            each = ", ".join(f"{self._models[row.model].label} {n}" for row, n in zip(rows, lengths, strict=True))
            self._problems.add(f"models of different depth ({each} layers)", "choose layers of each with slices")
        return min(lengths)

    def _layer(
        self,
        module: Module,
        slice_: Slice,
        rows: Sequence[_Row],
        base: int | None,
        stack: int,
        step: int,
        number: int,
        depth: float,
    ) -> None:
        lead = rows[base if base is not None else 0]
        places: dict[str, None] = {}
        for row in [lead, *rows]:
            places.update(dict.fromkeys(self._shelves[row.model].stacks[stack].layers[row.first + step]))
        prefix = self._shelves[self._donor].stacks[stack].prefix(number)
        for place in places:
            names = [self._shelves[row.model].stacks[stack].layers[row.first + step].get(place) for row in rows]
            own = self._shelves[lead.model].stacks[stack]
            stored = own.layers[lead.first + step].get(place, own.prefix(lead.first + step) + place)
            spelled = prefix + stored.removeprefix(own.prefix(lead.first + step))
            self._tensor(spelled, names, rows, base, module, slice_, depth)

    # Tensors.

    def _outside(self, module: Module, slice_: Slice, before: bool) -> None:
        """Plan the tensors outside of the layers that come before them, or after."""
        rows, base = self._rows(slice_, 0)
        lead = rows[base if base is not None else 0]
        places: dict[str, str] = {}
        for row in [lead, *rows]:
            for place, name in self._shelves[row.model].outside.items():
                if comes_first(place, self._models[row.model].spec.tensors[name]) == before:
                    places.setdefault(place, name)
        for place, name in places.items():
            names = [self._shelves[row.model].find_outside(place) for row in rows]
            self._tensor(name, names, rows, base, module, slice_, 0.0)

    def _tensor(
        self,
        name: str,
        names: Sequence[str | None],
        rows: Sequence[_Row],
        base: int | None,
        module: Module,
        slice_: Slice,
        depth: float,
    ) -> None:
        lead = base if base is not None else 0
        known = next(i for i in [lead, *range(len(rows))] if names[i] is not None)
        spec = self._spec(rows[known], names[known])
        if is_buffer(spec):
            if known == lead:
                self._tensors.append(self._copied(name, rows[lead], names[lead]))
            return
        holder = self._models[rows[known].model].label
        for row, found in zip(rows, names, strict=True):
            if found is None:
                self._problems.add(
                    f"missing in {self._models[row.model].label}, present in {holder}",
                    "take one of them out, or merge models of one architecture",
                    tensor=name,
                )
        if any(found is None for found in names):
            return
        present = [str(found) for found in names]
        if not self._agree(name, present, rows, lead):
            return
        if spec.dtype not in _FLOATS:
            self._notes[
                f"{name} holds {spec.dtype}, not weights: taken from {self._models[rows[lead].model].label}"
            ] = None
            self._tensors.append(self._copied(name, rows[lead], present[lead]))
            return
        options = self._parameters.options(name, depth, module, slice_)
        parameters = [
            self._parameters.of_model(found, depth, module, slice_, row.source, i == base)
            for i, (row, found) in enumerate(zip(rows, present, strict=True))
        ]
        if options is None or any(model is None for model in parameters):
            return
        dtype = self._recipe.out_dtype or self._recipe.dtype or self._spec(rows[lead], present[lead]).dtype
        origins = tuple(Origin(row.model, found) for row, found in zip(rows, present, strict=True))
        shape = self._models[rows[lead].model].shape(present[lead])
        set_ = tuple(model for model in parameters if model is not None)
        planned = PlannedTensor(name, shape, dtype, origins, base, options, set_)
        self._try(planned, options, set_)
        self._tensors.append(planned)

    def _copied(self, name: str, row: _Row, found: str | None) -> PlannedTensor:
        assert found is not None
        model = self._models[row.model]
        spec = model.spec.tensors[found]
        return PlannedTensor(name, model.shape(found), spec.dtype, (Origin(row.model, found),), copied=True)

    def _agree(self, name: str, names: Sequence[str], rows: Sequence[_Row], lead: int) -> bool:
        """Compare the shapes of a tensor in all models."""
        shape = self._models[rows[lead].model].shape(names[lead])
        right = True
        for row, found in zip(rows, names, strict=True):
            model = self._models[row.model]
            other = model.shape(found)
            if other == shape:
                continue
            right = False
            role = self._spec(row, found).role or ""
            vocabulary = role.startswith(_TOKEN_ROLES) and other[1:] == shape[1:]
            self._problems.add(
                f"{list(shape)} in {self._models[rows[lead].model].label}, {list(other)} in {model.label}",
                "declare a vocabulary with tokenizer_source: union, base or a model"
                if vocabulary
                else "only tensors of one shape can be merged",
                tensor=name,
            )
        return right

    def _spec(self, row: _Row, name: str | None) -> Any:
        assert name is not None
        return self._models[row.model].spec.tensors[name]

    def _try(self, planned: PlannedTensor, options: BaseModel, parameters: tuple[BaseModel, ...]) -> None:
        """Set the method up once for every combination of parameters, for what it refuses."""
        key = (options, parameters, planned.base)
        if key in self._tried:
            return
        self._tried.add(key)
        try:
            self._method.function(planned.task(tuple(m.label for m in self._models), self._seed), options)
        except UserError as error:
            self._problems.add(str(error), "change the recipe")

    # The whole.

    def _config(self, layers: Sequence[Sequence[tuple[int, int]]]) -> dict[str, Any]:
        donor = self._models[self._donor]
        dtype = self._recipe.out_dtype or self._recipe.dtype
        config, notes = result_config(donor, self._models, layers, dtype, {t.name for t in self._tensors})
        self._notes.update(dict.fromkeys(notes))
        return config

    def _check_result(self, plan: MergePlan) -> None:
        """Hold the result against its own config."""
        names: set[str] = set()
        for tensor in plan.tensors:
            if tensor.name in names:
                self._problems.add("planned twice", "two stacks of layers share it", tensor=tensor.name)
            names.add(tensor.name)
        try:
            ModelSpec.build(plan.config, {tensor.name: (tensor.shape, tensor.dtype) for tensor in plan.tensors})
        except UserError as error:
            self._problems.add(str(error), "the result would not load")
