"""The jobs `stitch` and `bridge`: as verbs, as steps of a recipe, and planned ahead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.budget.dry_run import CannotPlan, DryRun
from steelyard.budget.provenance import document, versions
from steelyard.edits.stitch.bridge import BridgeResult, bridge_folders, plan_bridge
from steelyard.edits.stitch.options import BridgeOptions, BridgeStepOptions, StitchOptions, StitchStepOptions
from steelyard.edits.stitch.stitch import JoinPlan, StitchResult, plan_stitch, stitch_folders
from steelyard.progress import SILENT, Progress


def stitch_models(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    options: StitchOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> StitchResult:
    """Stitch two models together, with a record beside the weights; as `stitch_folders`."""
    return stitch_folders(first, second, out, options, resume=resume, record=_record, progress=progress)


def bridge_models(
    anchor: str | Path,
    augment: str | Path,
    out: str | Path,
    options: BridgeOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> BridgeResult:
    """Give an anchor bridges to another model, with a record beside the weights; as `bridge_folders`."""
    return bridge_folders(anchor, augment, out, options, resume=resume, record=_record, progress=progress)


def stitch_step(
    model: str | Path,
    out: str | Path,
    options: StitchStepOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> StitchResult:
    """Carry out a step `stitch` of a recipe: the model is entered, the one it names is left."""
    return stitch_models(model, options.second, out, options, resume=resume, progress=progress)


def bridge_step(
    model: str | Path,
    out: str | Path,
    options: BridgeStepOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> BridgeResult:
    """Carry out a step `bridge` of a recipe: the model is the anchor, the one it names augments it."""
    return bridge_models(model, options.second, out, options, resume=resume, progress=progress)


def plan_stitching(first: str | Path, second: str | Path, options: StitchOptions) -> DryRun:
    """Return what `stitch_models` would do, from headers alone."""
    return _dry_run(first, second, plan_stitch(first, second, options), "stitched")


def plan_bridging(anchor: str | Path, augment: str | Path, options: BridgeOptions) -> DryRun:
    """Return what `bridge_models` would do, from headers alone."""
    return _dry_run(anchor, augment, plan_bridge(anchor, augment, options), "bridged")


def stitch_dry_run(
    model: str | Path, options: StitchStepOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan a step `stitch`.

    Raises:
        CannotPlan: after another step, whose model is not there yet.
    """
    _first(before)
    return plan_stitching(model, options.second, options)


def bridge_dry_run(
    model: str | Path, options: BridgeStepOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan a step `bridge`.

    Raises:
        CannotPlan: after another step, whose model is not there yet.
    """
    _first(before)
    return plan_bridging(model, options.second, options)


def _first(before: DryRun | None) -> None:
    if before is not None:
        raise CannotPlan("it reads a model that is not there yet")


def _dry_run(first: str | Path, second: str | Path, plan: JoinPlan, how: str) -> DryRun:
    tokens = plan.composition.tokens
    return DryRun(
        model=str(first),
        budget=plan.nbytes,
        asked=f"{first} and {second}, {how}",
        format="steelyard",
        smallest=plan.nbytes,
        nbytes=plan.nbytes,
        tensors={},
        resources="both models block by block"
        if how == "stitched"
        else "both models and their gradients in float32",
        notes=tuple(
            f"{way.name}: {way.flops:,} operations a token of a prompt of {tokens}" for way in plan.composition.ways
        ),
        leaves="other",
    )


def _record(sections: Mapping[str, Any]) -> bytes:
    return document(**sections, versions=versions())
