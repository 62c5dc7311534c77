"""The `stitch` job: one folder that is two models and many between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.edits.stitch.flops import way_flops
from steelyard.edits.stitch.least_squares import Fitted, fit
from steelyard.edits.stitch.options import StitchOptions
from steelyard.edits.stitch.parents import Composed, Parents, open_parents
from steelyard.edits.stitch.places import named, stitches
from steelyard.edits.stitch.texts import model_of, settings, windows
from steelyard.edits.stitch.writing import Record, write
from steelyard.errors import UserError
from steelyard.formats.native.composition import PARENTS, Composition, Way, joint_name
from steelyard.progress import SILENT, Progress
from steelyard.units import parse_size
from steelyard.weights import check_output, plan_layout

if TYPE_CHECKING:
    from steelyard.measure.windows import TokenSet


@dataclass(frozen=True)
class StitchResult:
    """What `stitch` made.

    Attributes:
        out: the folder.
        nbytes: of its weight files.
        ways: the parents and every stitch, with operations a token and measured loss, cheapest first.
        way: which of them is run.
        missed: by stitch, the share of the entered states' power that its map misses on the text it was fitted on,
            before any training.
        tokens: length of the prompt that operations are counted for.
        data: in words, the text that was measured on.
    """

    out: Path
    nbytes: int
    ways: tuple[Way, ...]
    way: str
    missed: Mapping[str, float]
    tokens: int
    data: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "bytes": self.nbytes,
            "ways": [{**way.to_dict(), "missed": self.missed.get(way.name)} for way in self.ways],
            "way": self.way,
            "tokens": self.tokens,
            "data": self.data,
        }


@dataclass(frozen=True)
class JoinPlan:
    """What a job would write.

    Attributes:
        nbytes: of the weight files.
        composition: with the operations of every way.
    """

    nbytes: int
    composition: Composition


def plan_stitch(first: str | Path, second: str | Path, options: StitchOptions) -> JoinPlan:
    """Return what `stitch_folders` would write, from headers alone.

    Raises:
        UserError: if the models do not fit each other, or there is no such joint.
    """
    with open_parents(first, second) as parents:
        composition = _composition(parents, options, identify=False)
        stored = Composed(parents, composition, {}).stored()
        return JoinPlan(plan_layout(stored, parse_size(options.max_shard_size)).total_bytes, composition)


def stitch_folders(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    options: StitchOptions | None = None,
    *,
    resume: bool = False,
    record: Record | None = None,
    progress: Progress = SILENT,
) -> StitchResult:
    """Write two models that are stitched together, with the loss of every stitch.

    Args:
        first: the model that is entered; in the paper the faster one.
        second: the model that is left.
        out: the folder to make.
        options: where they are joined, and the text.
        resume: continue an interrupted run.
        record: makes `steelyard.json` of its sections; without it none is written.
        progress: advanced by blocks and batches.

    Raises:
        UserError: if the models do not fit each other, there is no such joint, or no text.

    Source: Pan et al. 2023, arXiv 2302.06586. Each stitch has a map of its own; where the paper trains the anchors
        along with their stitches, here they stay as they are.
    """
    options = options or StitchOptions()
    with open_parents(first, second) as parents:
        path = check_output(out, parents.first.model.checkpoint.folder, resume)
        check_output(out, parents.second.model.checkpoint.folder, resume)
        composition = _composition(parents, options, identify=True)
        model = model_of(parents.second)
        longest = min(model.max_length, model_of(parents.first).max_length)
        fitted_on, measured_on = windows(model, options, longest, progress)
        fitted = fit(parents, composition.joints, fitted_on, progress)
        made = Composed(parents, composition, _tensors(composition, fitted))
        history: list[float] = []
        if options.steps:
            from steelyard.edits.stitch.training import train

            trained, history = train(made, fitted_on, options, progress)
            made = Composed(parents, composition, trained)
        composition = _measured(made, measured_on, options, progress)
        stitched = [way for way in composition.ways if way.name not in PARENTS]
        best = min(stitched, key=lambda way: (np.inf if way.loss is None else way.loss, way.flops)).name
        chosen = best if options.flops is None else composition.within(options.flops)
        composition = composition.switched(chosen)
        missed = {joint_name(j): one.missed for j, one in zip(composition.joints, fitted, strict=True)}
        notes = {
            "missed": missed,
            "history": history,
            "fitted_on": fitted_on.description,
            "measured_on": measured_on.description,
        }
        final = made.with_composition(composition)
        folder, nbytes = write(final, parents, path, "stitch", options, notes, resume, record)
    return StitchResult(
        folder,
        nbytes,
        composition.ways,
        composition.way,
        missed,
        composition.tokens,
        measured_on.description,
    )


def _composition(parents: Parents, options: StitchOptions, *, identify: bool) -> Composition:
    first, second = (parent.config for parent in parents)
    origins = (parents.first.origin(identify), parents.second.origin(identify))
    plain = Composition("stitch", (first, second), origins, ())
    joints = (
        named(options.at, plain.depths, entered_from=0) if options.at else stitches(*plain.depths, options.window)
    )
    if not joints:
        raise UserError("models of so few blocks have no stitch of their own accord; name one with --at 1:0")
    plain = replace(plain, joints=joints, tokens=options.sequence_length, way=joint_name(joints[0]))
    names = [*PARENTS, *map(joint_name, joints)]
    ways = [Way(name, way_flops(plain, name, plain.tokens)) for name in names]
    return replace(plain, ways=tuple(sorted(ways, key=lambda way: (way.flops, way.name))))


def _tensors(composition: Composition, fitted: list[Fitted]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for number, one in enumerate(fitted):
        place = composition.place("stitch", number)
        found |= {f"layers.{place}.weight": one.weight, f"layers.{place}.bias": one.bias}
    return found


def _measured(made: Composed, data: TokenSet, options: StitchOptions, progress: Progress) -> Composition:
    """Return the composition with the loss of every way."""
    from steelyard.measure.evaluate import Evaluator

    base = model_of_composed(made)
    ways = []
    for way in made.composition.ways:
        source = made.with_composition(made.composition.switched(way.name))
        with Evaluator(base.with_source(source, way.name), data, settings(options), progress) as evaluator:
            loss = evaluator.measure_base().loss
        ways.append(replace(way, loss=None if loss is None else loss.value))
    return replace(made.composition, ways=tuple(ways))


def model_of_composed(made: Composed) -> Any:
    """Return a composition as measurement needs it; its tokenizer is the parents'."""
    model = model_of(made.parents.second)
    return model.with_source(made, "the composed model")
