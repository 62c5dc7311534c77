"""`fit --format gguf`: within the budget to the byte of the file, loaded by transformers, read by Steelyard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

import steelyard
from steelyard.budget.audit import audit
from steelyard.budget.evaluation import measure_folder
from steelyard.budget.fit import dry_run, fit_folder
from steelyard.budget.options import FitOptions
from steelyard.errors import UserError
from tiny_llama import write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bfloat16 Llama."""
    return write_tiny(tmp_path_factory.mktemp("model") / "llama", tied=True, dtype="bfloat16")


@pytest.mark.parametrize("ratio", [0.4, 0.7])
def test_the_file_meets_the_budget_and_spends_it(model: Path, tmp_path: Path, ratio: float) -> None:
    options = FitOptions(ratio=ratio, format="gguf", effort="quick", data="none", verify="load")
    result = fit_folder(model, tmp_path / "out", options)
    size = (tmp_path / "out" / "model.gguf").stat().st_size
    assert result.nbytes == size == result.report.sizes.planned <= result.report.sizes.budget
    step = result.report.sizes.step
    assert step is None or size + step > result.report.sizes.budget
    assert any(
        c.name == "loads in transformers" and "nothing missing" in c.detail for c in result.report.certificates
    )
    kinds = {tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert "F32" in kinds and len(kinds) > 1
    with steelyard.open(tmp_path / "out") as written:
        assert set(written.config) and "quantization_config" not in written.config
        assert all(written.tensor(name).shape == written.shape(name) for name in written.names)


def test_a_plan_counts_the_same_bytes(model: Path) -> None:
    options = FitOptions(ratio=0.6, format="gguf", effort="quick", data="none")
    planned = dry_run(model, options)
    assert planned.format == "gguf" and planned.smallest <= planned.nbytes <= planned.budget
    with pytest.raises(UserError, match="smallest"):
        dry_run(model, options.model_copy(update={"ratio": 0.05}))


def test_a_calibrated_fit_is_measured_and_loses_less(model: Path, tmp_path: Path) -> None:
    tokens = np.random.default_rng(1).integers(3, 120, 4000).astype(np.int32)
    np.save(tmp_path / "tokens.npy", tokens)
    settings = {"ratio": 0.4, "format": "gguf", "effort": "quick", "compare_formats": False}
    data = {"data": str(tmp_path / "tokens.npy"), "sequences": 12, "sequence_length": 64, "eval_sequences": 16}
    made = {
        name: fit_folder(model, tmp_path / name, FitOptions(**settings, **more))  # type: ignore[arg-type]
        for name, more in (("calibrated", data), ("blind", {"data": "none"}))
    }
    assert made["calibrated"].report.damage is not None and made["calibrated"].report.predicted is not None
    measured = {
        name: measure_folder(tmp_path / name, model, tmp_path / "tokens.npy", sequences=16).damage for name in made
    }
    first, second = measured["calibrated"], measured["blind"]
    assert first is not None and second is not None and first.value < second.value
    assert all(check.status == "pass" for check in audit(tmp_path / "calibrated", str(model)))
