"""`quantize --rounding pd-quant`: the whole model is rounded by what it predicts, and written as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.budget.provenance import read
from steelyard.budget.quantize import QuantizeOptions, quantize_folder
from steelyard.edits.quantize import pd_quant
from steelyard.formats.logical import LogicalCheckpoint
from tiny_llama import write_tiny


def test_pd_quant_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny(tmp_path / "model", dtype="bfloat16")
    text = tmp_path / "tokens.npy"
    np.save(text, np.random.default_rng(0).integers(3, 128, 2000))
    outcomes = []
    plain = pd_quant.pd_quant

    def noted(*arguments: Any) -> pd_quant.Outcome:
        assert arguments[3] == pd_quant.PdQuantOptions(steps=4, shares=(), tokens=64)
        outcomes.append(plain(*arguments))
        return outcomes[-1]

    monkeypatch.setattr("steelyard.budget.predictions.pd_quant", noted)
    options = QuantizeOptions(
        bits=2,
        group_size=32,
        format="steelyard",
        rounding="pd-quant",
        settings=("steps=4", "shares=", "tokens=64"),
        data=str(text),
        sequences=4,
        sequence_length=16,
    )
    done = quantize_folder(folder, tmp_path / "out", options)
    assert done.calibrated_on
    (outcome,) = outcomes
    assert all(after <= before for before, after in zip(outcome.before, outcome.after, strict=True))
    assert len(outcome.rounded) == 14  # seven matrices in each of two blocks; the head keeps GPTQ's codes
    with LogicalCheckpoint.open(tmp_path / "out") as written:
        for name, rounded in outcome.rounded.items():
            np.testing.assert_array_equal(np.asarray(written.tensor(name), np.float32), rounded.decode())
    plan = read(tmp_path / "out" / "steelyard.json")["plan"]
    assert "pd-quant" in str(plan)


def test_settings_are_those_of_pd_quant() -> None:
    given = QuantizeOptions(rounding="pd-quant", settings=("steps=3", "shares=0.8:1.2", "prediction=false"))
    assert given.predictions() == pd_quant.PdQuantOptions(steps=3, shares=(0.8, 1.2), prediction=False)
    for settings, message in ((("stepz=3",), "stepz: no such option"), (("steps",), "name=value, not 'steps'")):
        with pytest.raises(ValueError, match=message):
            QuantizeOptions(rounding="pd-quant", settings=settings)
    with pytest.raises(ValueError, match="settings are those of pd-quant; gptq has none"):
        QuantizeOptions(rounding="gptq", settings=("steps=3",))


@pytest.mark.parametrize("values", [{"data": "none"}, {"bias_correction": True}, {"codec": "nf4"}])
def test_what_pd_quant_does_not_go_with(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"pd-quant"):
        QuantizeOptions.model_validate({"rounding": "pd-quant", **values})
