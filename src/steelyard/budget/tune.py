"""The `tune` job: train the codes and scales of a quantized model; what it takes to store stays, to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.budget.dry_run import DryRun, check_plain
from steelyard.budget.execute import matrix_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import texts_of
from steelyard.budget.plan import Plan
from steelyard.budget.produce import Staged, produce
from steelyard.budget.provenance import FILE_NAME, read
from steelyard.budget.quantize import QuantizeOptions, quantize_folder
from steelyard.budget.quantize import dry_run as quantize_plan
from steelyard.budget.tune_options import TuneOptions
from steelyard.budget.workspace import Workspace
from steelyard.edits.tune import registry
from steelyard.edits.tune.trainable import Start, Trainable
from steelyard.errors import UserError
from steelyard.formats import get as get_format
from steelyard.formats.container import bound
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import OpenModel, open_model, resolve
from steelyard.progress import SILENT, Progress
from steelyard.weights import check_output

if TYPE_CHECKING:
    from steelyard.edits.tune.loop import History, Run
    from steelyard.measure.measurement import Measurement
    from steelyard.measure.model import Model
    from steelyard.measure.texts import Corpora


@dataclass(frozen=True)
class TuneResult:
    """What `tune` made.

    Attributes:
        out: the folder.
        nbytes: bytes of its weight files, those of the folder it began with.
        trained: names of the trained tensors.
        before: how the folder it began with does beside the teacher, on held-out text.
        after: how the result does, on the same text.
        history: losses in training.
        notes: what the method has to tell, means over the trained tensors.
        trained_on: in words, the texts.
    """

    out: Path
    nbytes: int
    trained: tuple[str, ...]
    before: Measurement
    after: Measurement
    history: History
    notes: Mapping[str, float]
    trained_on: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "bytes": self.nbytes,
            "trained": list(self.trained),
            "before": _plain(self.before),
            "after": _plain(self.after),
            "losses": list(self.history.losses),
            "notes": dict(self.notes),
            "trained_on": self.trained_on,
        }


def tune_folder(
    model: str | Path,
    out: str | Path,
    options: TuneOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> TuneResult:
    """Train the codes of a quantized folder towards the model it was made from.

    Args:
        model: a folder that `fit` or `quantize` wrote or, with `options.bits`, a plain model.
        out: the folder to make.
        options: see `TuneOptions`.
        resume: continue an interrupted run from its last checkpoint.
        progress: receives how far the work is.

    Raises:
        UserError: for a folder without a record, another teacher than the one it was made from, codecs that the
            method cannot train, data that cannot be used, an existing output.
        VerificationError: if what was written is not what was trained; the folder does not take its name.
    """
    method = registry.get(options.method)
    settings = method.settings(options.settings)
    with open_model(options.teacher or model) as teacher:
        path = check_output(out, teacher.checkpoint.folder, resume)
        with Workspace(path, _identity(model, teacher), options, resume) as work:
            start = _begin(model, options, work.folder, progress)
            with LogicalCheckpoint.open(start) as fitted:
                plan = _plan_of(start, teacher, options, progress)
                trained = {
                    name: method.function(_start(name, plan, teacher, fitted, options.seed), settings)
                    for name in _trainable(method, plan, fitted, start)
                }
                job = _Job(teacher, fitted, plan, options, trained, work.folder, progress)
                return job.finish(path, resume)


def dry_run(
    model: str | Path, options: TuneOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Return the plan of what it begins with: training changes numbers, never bytes.

    Raises:
        UserError: for a folder without a record.
        CannotPlan: after a step whose output it cannot know.
    """
    registry.get(options.method).settings(options.settings)
    if options.bits is not None:
        begun = quantize_plan(model, _first_codes(options), progress, before)
    elif before is not None and before.leaves == "codes":
        begun = before
    else:
        check_plain(before)
        begun = _as_recorded(Path(resolve(model)))
    asked = f"{options.steps} steps of {options.method} on {begun.asked}"
    took = f"{options.steps * options.batch} sequences, forward and back, with the model twice in float32"
    return replace(begun, asked=asked, budget=begun.nbytes, smallest=begun.nbytes, resources=took, notes=())


def _as_recorded(folder: Path) -> DryRun:
    plan, size = Plan.from_dict(_record_of(folder)["plan"]), sum(_record_of(folder)["bytes"]["files"].values())
    return DryRun(str(folder), size, "what is there", plan.format, size, size, plan.labels(), "", ())


def _record_of(folder: Path) -> Mapping[str, Any]:
    """Return the record of a quantized folder.

    Raises:
        UserError: if it has none.
    """
    record = folder / FILE_NAME
    if not record.is_file():
        raise UserError(
            f"{record} is missing; tune takes folders that steelyard quantized, or a plain model with bits"
        )
    return read(record)


@dataclass(frozen=True)
class _Job:
    """One run: opened folders, what is trained, and where its state is kept."""

    teacher: OpenModel
    fitted: LogicalCheckpoint
    plan: Plan
    options: TuneOptions
    trained: Mapping[str, Trainable]
    work: Path
    progress: Progress

    def finish(self, out: Path, resume: bool) -> TuneResult:
        """Train, write, measure."""
        from steelyard.measure.evaluate import EvaluationOptions, Evaluator, held_out_windows
        from steelyard.measure.model import open_model as open_measured

        base = open_measured(self.teacher.checkpoint.location)
        corpora = texts_of(base, self.options, self.progress)
        run = self._run(base, corpora)
        history = run.train(self.progress)
        measured: list[Measurement] = []
        notes = _means([trainable.report() for trainable in self.trained.values()])

        def describe(staged: Staged) -> Mapping[str, Any]:
            evaluation = EvaluationOptions(sequences=self.options.eval_sequences, seed=self.options.seed)
            data = held_out_windows(base, corpora.held_out, evaluation)
            with Evaluator(base, data, evaluation, self.progress) as evaluator:
                measured.append(evaluator.measure(self.fitted, self.progress, name="before"))
                with LogicalCheckpoint.open(staged.folder) as written:
                    measured.append(evaluator.measure(written, self.progress, name="the result"))
            return {
                "tuning": {
                    "options": self.options.model_dump(mode="json"),
                    "trained": list(self.trained),
                    "trained_on": run.data.description,
                    "losses": history.losses,
                    "notes": notes,
                    "before": _plain(measured[0]),
                    "after": _plain(measured[1]),
                }
            }

        made = produce(
            self.plan,
            self.teacher,
            bound(get_format(self.plan.format), self.teacher.checkpoint, self.teacher.spec),
            KnowledgeBase(None),
            out,
            resume=resume,
            describe=describe,
            progress=self.progress,
            made=self._parts,
        )
        return TuneResult(
            made.folder,
            made.layout.total_bytes,
            tuple(self.trained),
            measured[0],
            measured[1],
            history,
            notes,
            run.data.description,
        )

    def _run(self, base: Model, corpora: Corpora) -> Run:
        from steelyard.edits.tune._network import Network
        from steelyard.edits.tune.loop import Run, Settings
        from steelyard.measure.windows import cut

        options = self.options
        data = cut(
            corpora.calibration,
            base.tokenizer,
            base.task,
            base.vocabulary,
            sequences=options.steps * options.batch,
            length=min(options.sequence_length, base.max_length),
            seed=options.seed,
            location=self.teacher.location,
        )
        spec = self.teacher.spec
        transposed = frozenset(n for n in self.trained if spec.tensors[self.plan.tensors[n].source].transposed)
        student = Network(base.with_source(self.fitted, "the student"), frozenset(self.trained))
        settings = Settings(
            steps=options.steps,
            batch=options.batch,
            rate=options.rate,
            step_rate=options.step_rate,
            loss=options.loss,
            save_every=options.save_every,
            seed=options.seed,
        )
        return Run(
            student,
            Network(base) if options.loss == "kl" else None,
            self.trained,
            transposed,
            data,
            settings,
            self.work / "training.safetensors",
        )

    def _parts(self, name: str) -> Mapping[str, np.ndarray]:
        if name in self.trained:
            return self.trained[name].parts()
        if name in self.fitted.entries:
            return self.fitted.parts(name)
        codec = self.plan.tensors[name].codec
        assert codec is not None
        stored = self.fitted.tensor(name)
        source = self.plan.tensors[name].source
        return codec.encode(stored.T if self.teacher.spec.tensors[source].transposed else stored, name)


def _identity(model: str | Path, teacher: OpenModel) -> list[str]:
    """Return what tells the inputs of two runs apart."""
    record = Path(resolve(model)) / FILE_NAME
    return [teacher.identity(), record.read_text() if record.is_file() else ""]


def _begin(model: str | Path, options: TuneOptions, work: Path, progress: Progress) -> Path:
    """Return the quantized folder to begin with, made here from a plain model if bits are asked for."""
    if options.bits is None:
        return Path(model)
    start = work / "start"
    if not start.exists():
        quantize_folder(model, start, _first_codes(options), resume=True, progress=progress)
    return start


def _first_codes(options: TuneOptions) -> QuantizeOptions:
    """Return how a plain model is quantized before it is trained."""
    values = options.model_dump(
        include={
            *("bits", "group_size", "symmetric", "rounding", "format", "embeddings"),
            *("data", "calibration", "sequences", "sequence_length", "seed"),
        }
    )
    if options.rounding == "rtn":
        values["data"] = "none"
    return QuantizeOptions(**values)


def _plan_of(start: Path, teacher: OpenModel, options: TuneOptions, progress: Progress) -> Plan:
    """Return how a quantized folder is stored, with this run as its request.

    Raises:
        UserError: if it has no record, or was made from another model.
    """
    sections = _record_of(start)
    found = teacher.checkpoint.content_hash(progress)
    for name, digest in sections["inputs"].items():
        if found.get(name) != digest:
            raise UserError(f"{teacher.location} is not the model {start} was made from: {name} differs")
    plan = Plan.from_dict(sections["plan"])
    request = {"verb": "tune", **options.model_dump(mode="json"), "from": dict(plan.request)}
    tensors = {n: replace(item, rounding=options.method if item.codec else "") for n, item in plan.tensors.items()}
    return Plan(plan.format, tensors, plan.max_shard_size, request)


def _trainable(method: registry.Tuner, plan: Plan, fitted: LogicalCheckpoint, start: Path) -> list[str]:
    """Return the names of the tensors that a method can train.

    Raises:
        UserError: if there are none.
    """
    names = [n for n, item in plan.tensors.items() if n in fitted.entries and method.takes(item.codec)]
    if not names:
        labels = ", ".join(sorted({codec.label for codec in plan.codecs().values()})) or "plain numbers"
        raise UserError(f"{start} has no tensor that {method.name} can train; they are stored as {labels}")
    return names


def _start(name: str, plan: Plan, teacher: OpenModel, fitted: LogicalCheckpoint, seed: int) -> Start:
    item = plan.tensors[name]
    assert item.codec is not None
    weight = matrix_of(teacher.checkpoint, teacher.spec, item.source)
    return Start(name, item.codec, fitted.parts(name), np.ascontiguousarray(weight, np.float32), seed)


def _means(reports: list[dict[str, float]]) -> dict[str, float]:
    names = {name for report in reports for name in report}
    return {name: float(np.mean([report[name] for report in reports if name in report])) for name in sorted(names)}


def _plain(measured: Measurement) -> dict[str, Any]:
    return {name: estimate.to_dict() for name, estimate in measured.estimates().items()}
