"""`quantize --rounding NAME`: it calibrates where the method needs it, and what it writes loses less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from steelyard.budget.encoding import ABSMAX, methods_for
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.options import FitOptions
from steelyard.budget.plan import plan_files
from steelyard.budget.planning import Planner
from steelyard.budget.quantize import QuantizeOptions, quantize_folder
from steelyard.codecs import DenseCodec, EntropyCodec, IntegerCodec
from steelyard.errors import UserError
from steelyard.formats import get as get_format
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import open_model
from tiny_llama import image, write_tiny


def test_every_method_for_plain_integers_is_on_offer() -> None:
    integers = {"rtn", "hqq", "gptq", "decoupleq", "sign-gradient"}
    assert set(methods_for(IntegerCodec(4))) >= integers
    for name in (ABSMAX, *integers):
        assert QuantizeOptions(rounding=name).rounding == name
    assert methods_for(EntropyCodec(IntegerCodec(4))) == methods_for(IntegerCodec(4))
    assert methods_for(DenseCodec("F16")) == ()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rounding": "hqq", "data": "text.txt"}, "hqq uses no data"),
        ({"rank": 4, "format": "compressed-tensors"}, "no place for a low-rank correction"),
        ({"rounding": "gtpq"}, "no rounding 'gtpq'; available: .*gptq"),
        ({"codec": "nf4", "rounding": "gptq"}, "nf4 b64 is not rounded by 'gptq'"),
        ({"codec": "nf4", "bits": 3}, "bits is for integers"),
        ({"codec": "nf44"}, "did you mean nf4"),
        ({"codec": "nf4:blok=64"}, "no field 'blok'"),
        ({"codec": "nf4:block"}, "not an option"),
        ({"codec": "entropy:base=(int4"}, "parenthesis"),
        ({"rank": 4, "format": "steelyard", "rounding": "hqq"}, "fitted to GPTQ"),
    ],
)
def test_options_that_contradict_each_other(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QuantizeOptions.model_validate(values)


def test_without_data_the_calibrated_methods_round_to_nearest(tmp_path: Path) -> None:
    write_tiny(tmp_path / "model", dtype="bfloat16")
    written = {}
    for name in ("rtn", "gptq"):
        options = QuantizeOptions(rounding=name, group_size=32, data="none" if name == "gptq" else None)
        done = quantize_folder(tmp_path / "model", tmp_path / name, options)
        assert done.calibrated_on == ""
        written[name] = image(tmp_path / name)["model.safetensors"]
    assert written["rtn"] == written["gptq"]


def test_calibrated_rounding_loses_less_on_its_texts(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from steelyard.measure import Calibration

    write_tiny(tmp_path / "model", dtype="bfloat16")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(3, 128, 4000))
    kept = tmp_path / "calibration.safetensors"
    about: dict[str, object] = {"bits": 3, "group_size": 32, "format": "steelyard", "calibration": str(kept)}
    about |= {"data": str(tmp_path / "tokens.npy"), "sequences": 16, "sequence_length": 32}
    lost = {}
    for name, extra in (("rtn", {}), ("gptq", {}), ("decoupleq", {}), ("sign-gradient", {}), ("gptq", {"rank": 4})):
        options = QuantizeOptions.model_validate({**about, "rounding": name, **extra})
        key = name + "".join(extra)
        done = quantize_folder(tmp_path / "model", tmp_path / key, options)
        assert "tokens" in done.calibrated_on or "tokens.npy" in done.calibrated_on
        assert not (tmp_path / f".{key}.work").exists()
        with (
            open_model(tmp_path / "model") as base,
            LogicalCheckpoint.open(tmp_path / key) as made,
            Calibration.open(kept) as calibration,
        ):
            lost[key] = sum(
                calibration.damage(
                    n, made.tensor(n).astype(np.float32) - base.checkpoint.tensor(n).astype(np.float32)
                )
                for n in base.spec.tensors
                if base.spec.tensors[n].kind == "linear" and n in calibration
            )
    assert lost["decoupleq"] < lost["gptq"] < lost["sign-gradient"] < lost["rtn"]
    assert lost["gptqrank"] < lost["gptq"]


def test_a_failed_calibration_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_tiny(tmp_path / "model")
    options = QuantizeOptions(rounding="gptq", data=str(tmp_path / "absent.txt"))
    with pytest.raises(UserError, match=r"absent\.txt"):
        quantize_folder(tmp_path / "model", tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


class _Calibrated(KnowledgeBase):
    calibrated = True


def test_corrected_biases_keep_the_mean_of_every_output(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from steelyard.measure import Calibration

    write_tiny(tmp_path / "model", model_type="qwen2", architectures=["Qwen2ForCausalLM"], sliding_window=None)
    tensors = load_file(tmp_path / "model/model.safetensors")
    draw = np.random.default_rng(2)
    for name in [name for name in tensors if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj")]:
        tensors[name.replace(".weight", ".bias")] = draw.standard_normal(len(tensors[name])).astype(np.float32)
    save_file(tensors, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    np.save(tmp_path / "tokens.npy", draw.integers(3, 128, 4000))
    kept = tmp_path / "calibration.safetensors"
    options = QuantizeOptions(
        bits=3,
        group_size=32,
        rounding="hqq",
        bias_correction=True,
        data=str(tmp_path / "tokens.npy"),
        calibration=str(kept),
        sequences=8,
        sequence_length=32,
    )
    assert quantize_folder(tmp_path / "model", tmp_path / "out", options).encoded == 15 + 6
    with open_model(tmp_path / "model") as opened:
        # At best effort `fit` corrects them too, in the bytes that it planned.
        native, options = (
            get_format("steelyard"),
            FitOptions(bits=3, effort="best", keep=("mlp", "embed")),
        )
        planner = Planner(opened, native, options)
        planner.learn(_Calibrated(None, opened.spec.ties), {})
        planned = planner.plan(planner.smallest_size() + 500, {})
        corrected = {n for n, item in planned.plan.tensors.items() if item.rounding == "bias-correction"}
        assert corrected == {n for n in planned.plan.tensors if n.endswith(".bias")} and len(corrected) == 6
        assert plan_files(planned.plan, opened.spec, native).total_bytes == planned.solution.nbytes
    moved = 0
    with LogicalCheckpoint.open(tmp_path / "out") as made, Calibration.open(kept) as calibration:
        assert made.config["dtype"] == "float32"
        for name, weight in tensors.items():
            bias = name.replace(".weight", ".bias")
            if bias == name or bias not in tensors:
                assert name.endswith(".bias") or bias not in tensors
                continue
            assert made.tensor(bias).dtype == np.float32
            mean = calibration.input_mean(name).astype(float)
            before = weight.astype(float) @ mean + tensors[bias]
            uncorrected = made.tensor(name).astype(float) @ mean + tensors[bias]
            after = made.tensor(name).astype(float) @ mean + made.tensor(bias)
            np.testing.assert_allclose(after, before, atol=1e-5)
            moved += int(np.abs(uncorrected - before).max() > 1e-3)
    assert moved == 6
