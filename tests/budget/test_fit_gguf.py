"""`fit --format gguf`: within the budget to the byte of the file, loaded by transformers, read by Steelyard."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader

import steelyard
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
