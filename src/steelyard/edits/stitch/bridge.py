"""The `bridge` job: an anchor that attends to another model, both as they were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steelyard.edits.stitch.flops import bridge_flops
from steelyard.edits.stitch.options import BridgeOptions
from steelyard.edits.stitch.parents import Composed, Parents, open_parents
from steelyard.edits.stitch.places import bridges, named
from steelyard.edits.stitch.stitch import JoinPlan, model_of_composed
from steelyard.edits.stitch.texts import model_of, settings, windows
from steelyard.edits.stitch.writing import Record, write
from steelyard.errors import UserError
from steelyard.formats.native.composition import Composition, Way, bridges_in_order, joint_name
from steelyard.progress import SILENT, Progress
from steelyard.units import parse_size
from steelyard.weights import check_output, plan_layout


@dataclass(frozen=True)
class BridgeResult:
    """What `bridge` made.

    Attributes:
        out: the folder.
        nbytes: of its weight files.
        joints: where the bridges stand.
        trained: parameters of the bridges.
        flops: operations a token, of a prompt of `tokens` tokens.
        tokens: its length.
        losses: nats per token, held out: of the "anchor", the "augmenting" model and the "bridged" one.
        history: loss of every step of training.
        data: in words, the text that was measured on.
    """

    out: Path
    nbytes: int
    joints: tuple[str, ...]
    trained: int
    flops: int
    tokens: int
    losses: dict[str, float]
    history: tuple[float, ...]
    data: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        left = {key: value for key, value in vars(self).items() if key != "nbytes"}
        return {
            **left,
            "out": str(self.out),
            "bytes": self.nbytes,
            "joints": list(self.joints),
            "history": list(self.history),
        }


def plan_bridge(anchor: str | Path, augment: str | Path, options: BridgeOptions) -> JoinPlan:
    """Return what `bridge_folders` would write, from headers alone.

    Raises:
        UserError: if the models do not fit each other, or there is no such joint.
    """
    with open_parents(anchor, augment) as parents:
        composition = _composition(parents, options, identify=False)
        stored = Composed(parents, composition, {}).stored()
        return JoinPlan(plan_layout(stored, parse_size(options.max_shard_size)).total_bytes, composition)


def bridge_folders(
    anchor: str | Path,
    augment: str | Path,
    out: str | Path,
    options: BridgeOptions | None = None,
    *,
    resume: bool = False,
    record: Record | None = None,
    progress: Progress = SILENT,
) -> BridgeResult:
    """Write an anchor with trained bridges to an augmenting model.

    Of the augmenting model only the blocks up to its last bridge are kept, and no head.

    Args:
        anchor: the model that is given new abilities.
        augment: the model that has them.
        out: the folder to make.
        options: where the bridges stand, the text and the training.
        resume: continue an interrupted run.
        record: makes `steelyard.json` of its sections; without it none is written.
        progress: advanced by steps and batches.

    Raises:
        UserError: if the models do not fit each other, there is no such joint, or no text.

    Source: Bansal et al. 2024, arXiv 2401.02412.
    """
    options = options or BridgeOptions()
    with open_parents(anchor, augment) as parents:
        path = check_output(out, parents.first.model.checkpoint.folder, resume)
        check_output(out, parents.second.model.checkpoint.folder, resume)
        composition = _composition(parents, options, identify=True)
        model = model_of(parents.first)
        longest = min(model.max_length, model_of(parents.second).max_length)
        fitted_on, measured_on = windows(model, options, longest, progress)
        from steelyard.edits.stitch.training import train, untrained
        from steelyard.measure.evaluate import Evaluator

        made = Composed(parents, composition, untrained(composition, options.seed))
        trained, history = train(made, fitted_on, options, progress)
        made = Composed(parents, composition, trained)
        losses = {}
        measured = {"anchor": model, "augmenting": model_of(parents.second), "bridged": model_of_composed(made)}
        for name, each in measured.items():
            with Evaluator(each, measured_on, settings(options), progress) as evaluator:
                loss = evaluator.measure_base().loss
            assert loss is not None
            losses[name] = loss.value
        way = Way("bridged", bridge_flops(composition, composition.tokens), losses["bridged"])
        made = made.with_composition(replace(composition, ways=(way,)))
        notes = {
            "losses": losses,
            "history": history,
            "trained_on": fitted_on.description,
            "measured_on": measured_on.description,
        }
        folder, nbytes = write(made, parents, path, "bridge", options, notes, resume, record)
    return BridgeResult(
        folder,
        nbytes,
        tuple(joint_name(joint) for joint in composition.joints),
        sum(array.size for array in trained.values()),
        way.flops,
        composition.tokens,
        losses,
        tuple(history),
        measured_on.description,
    )


def _composition(parents: Parents, options: BridgeOptions, *, identify: bool) -> Composition:
    first, second = (parent.config for parent in parents)
    origins = (parents.first.origin(identify), parents.second.origin(identify))
    heads = options.heads or int(first["num_attention_heads"])
    plain = Composition("bridge", (first, second), origins, (), heads=heads, tokens=options.sequence_length)
    if plain.widths[0] % heads:
        raise UserError(
            f"{heads} heads do not divide the anchor's {plain.widths[0]} channels; choose other --heads"
        )
    asked = (
        named(options.at, plain.depths, entered_from=1) if options.at else bridges(*plain.depths, options.bridges)
    )
    joined = replace(plain, joints=bridges_in_order(asked))
    return replace(joined, ways=(Way("bridged", bridge_flops(joined, joined.tokens)),))
