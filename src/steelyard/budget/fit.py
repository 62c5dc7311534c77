"""The `fit` job: give it a model and a budget; it returns the best model that fits, with the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.budget.choose import ChosenFormat, choose_format
from steelyard.budget.curves import DamageTable
from steelyard.budget.describe import certificates_of, request_of, sizes_of, tensors_of
from steelyard.budget.dry_run import DryRun, check_plain
from steelyard.budget.estimate import estimate
from steelyard.budget.evaluation import Evaluation, evaluate_fit
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import Learned, learn
from steelyard.budget.options import FitOptions
from steelyard.budget.planning import PlannedFit, Planner
from steelyard.budget.produce import Staged, produce
from steelyard.budget.request import Budget, resolve_budget
from steelyard.budget.workspace import Workspace
from steelyard.jobs import OpenModel, open_model
from steelyard.progress import SILENT, Progress
from steelyard.report import ReportData
from steelyard.report import write as write_report
from steelyard.weights import check_output


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Attributes:
        out: the folder.
        report: everything the report shows.
    """

    out: Path
    report: ReportData

    @property
    def nbytes(self) -> int:
        """Bytes of the weight files."""
        return self.report.sizes.written

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"out": str(self.out), **self.report.to_dict()}


def fit_folder(
    model: str | Path,
    out: str | Path,
    options: FitOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> FitResult:
    """Fit a model to a budget and write it.

    An impossible budget and an existing output are refused before any work. What the job learns is kept beside the
    output until it is finished, so that `resume` continues an interrupted run and ends in the same bytes.

    Raises:
        UserError: for a damaged model, an impossible budget, data that cannot be used, a full disk.
        VerificationError: if what was written is not what was planned; the folder does not take its name.
    """
    with open_model(model) as opened:
        path = check_output(out, opened.checkpoint.folder, resume)
        budget = budget_of(opened, options)
        chosen = choose_format(opened, options, budget, progress)
        with (
            Workspace(path, opened.identity(), options, resume) as work,
            learn(opened, options, work.folder, progress) as learned,
        ):
            knowledge = KnowledgeBase(learned.calibration, opened.spec.ties)
            planned = _plan(chosen.planner, knowledge, {}, budget, progress)
            report: list[ReportData] = []

            def describe(staged: Staged) -> Mapping[str, Any]:
                found = evaluate_fit(opened, options, chosen, planned, knowledge, learned, staged, progress)
                report.append(_report(opened, options, budget, chosen, planned, learned, staged, found))
                write_report(staged.folder, report[0])
                return {"report": report[0].to_dict()}

            made = produce(
                planned.plan,
                opened,
                chosen.planner.format,
                knowledge,
                path,
                resume=resume,
                describe=describe,
                progress=progress,
            )
    return FitResult(made.folder, report[0])


def dry_run(
    model: str | Path, options: FitOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan a fit from the weights alone, without torch and without writing anything.

    Raises:
        UserError: as `fit_folder` does before it begins to work.
        CannotPlan: after a step whose output it cannot know.
    """
    check_plain(before)
    with open_model(model) as opened:
        budget = budget_of(opened, options)
        quick = options.model_copy(update={"effort": "quick"})
        chosen = choose_format(opened, quick, budget, progress)
        chosen.planner.learn(KnowledgeBase(None), {}, progress)
        planned = chosen.planner.plan(budget.nbytes, {})
        return DryRun(
            model=str(model),
            budget=budget.nbytes,
            asked=budget.asked,
            format=chosen.planner.format.name,
            smallest=chosen.planner.smallest_size(),
            nbytes=planned.solution.nbytes,
            tensors=planned.plan.labels(),
            resources=estimate(opened.spec, options),
            notes=(*chosen.notes, "planned from the weights alone; a calibrated plan spends the same bytes better"),
            leaves="other" if chosen.planner.format.name == "dense" else "codes",
        )


def budget_of(opened: OpenModel, options: FitOptions) -> Budget:
    """Return the budget that the options ask for."""
    return resolve_budget(
        opened.spec,
        opened.checkpoint.weight_bytes,
        size=options.size,
        bits=options.bits,
        ratio=options.ratio,
        memory=options.memory,
        context=options.context,
        batch=options.batch,
    )


def _plan(
    planner: Planner,
    knowledge: KnowledgeBase,
    known: DamageTable,
    budget: Budget,
    progress: Progress,
) -> PlannedFit:
    planner.learn(knowledge, known, progress)
    return planner.plan(budget.nbytes, {"verb": "fit", **planner.options.model_dump(mode="json")})


def _report(
    opened: OpenModel,
    options: FitOptions,
    budget: Budget,
    chosen: ChosenFormat,
    planned: PlannedFit,
    learned: Learned,
    staged: Staged,
    found: Evaluation,
) -> ReportData:
    format = chosen.planner.format
    return ReportData(
        request=request_of(opened, options, budget.asked, learned.description, found.description),
        sizes=sizes_of(opened, planned, format, staged),
        metrics=found.metrics,
        damage=found.damage,
        predicted=planned.solution.damage if learned.calibration is not None else None,
        tensors=tensors_of(opened, planned.plan, format, staged.errors),
        curve=found.curve,
        formats=found.formats,
        certificates=certificates_of(staged, found.certificates),
        loads_in=_LOADS_IN[format.name],
        notes=(*chosen.notes, *learned.notes, *found.notes, *opened.spec.notes),
    )


_LOADS_IN = {
    "compressed-tensors": "plain transformers",
    "dense": "plain transformers",
    "gguf": "llama.cpp and what is built on it",
    "steelyard": "transformers after `import steelyard`",
}
