"""Training in low precision: what products see, what gradients pass, and what the exported folders hold."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.reference.options import TrainOptions

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

KINDS = {
    "e4m3": (torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn, 448.0),
    "e5m2": (torch.float8_e5m2, ml_dtypes.float8_e5m2, 57344.0),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("magnitude", [1e-30, 3e-4, 1.0, 447.0, 448.0, 449.0, 1e20])
def test_float8_scales_by_the_largest_power_of_two_that_does_not_overflow(kind: str, magnitude: float) -> None:
    from steelyard.reference.linears import to_float8

    torch_type, numpy_type, largest = KINDS[kind]
    x = np.random.default_rng(0).standard_normal((7, 33)).astype(np.float32)
    x *= np.float32(magnitude) / np.abs(x).max()
    extreme = float(np.abs(x).max())
    scale = 1.0
    while extreme * scale * 2 <= largest:
        scale *= 2
    while extreme * scale > largest:
        scale /= 2
    expected = (x.astype(np.float64) * scale).astype(np.float32).astype(numpy_type).astype(np.float64) / scale
    found = to_float8(torch.from_numpy(x), torch_type).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)


def test_zeros_stay_zeros_and_what_is_not_finite_is_left_to_be_reported() -> None:
    from steelyard.reference.linears import to_float8

    assert not to_float8(torch.zeros(3, 3), torch.float8_e4m3fn).any()
    assert torch.isnan(to_float8(torch.tensor([1.0, float("nan")]), torch.float8_e4m3fn)[1])


def test_both_products_of_the_backward_pass_take_the_rounded_gradient() -> None:
    from steelyard.reference.linears import install, to_float8

    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"a": torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(6, 5)])})}
    )
    map_ = model["a"]["layers"][0]
    install(model, "float8")
    x = torch.randn(2, 3, 6, requires_grad=True)
    y = map_(x)
    incoming = torch.randn(2, 3, 5)
    y.backward(incoming)
    e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2
    rounded, seen = to_float8(x.detach(), e4m3), to_float8(map_.weight.detach(), e4m3)
    gradient = to_float8(incoming, e5m2)
    torch.testing.assert_close(y.detach(), torch.einsum("bti,oi->bto", rounded, seen) + map_.bias.detach())
    torch.testing.assert_close(x.grad, torch.einsum("bto,oi->bti", gradient, seen))
    torch.testing.assert_close(map_.weight.grad, torch.einsum("bto,bti->oi", gradient, rounded))
    torch.testing.assert_close(map_.bias.grad, incoming.sum((0, 1)))


def test_ternary_weights_are_the_rounded_quotient_by_their_mean_magnitude() -> None:
    from steelyard.reference.linears import install, to_ternary

    torch.manual_seed(1)
    model = torch.nn.ModuleDict(
        {"a": torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(8, 4)])})}
    )
    map_ = model["a"]["layers"][0]
    install(model, "ternary")
    weight = map_.weight.detach().numpy().astype(np.float64)
    scale = float(np.float32(np.abs(weight).mean() + 1e-5).astype(ml_dtypes.bfloat16))
    expected = scale * np.sign(weight) * (np.abs(weight) / scale > 0.5)
    np.testing.assert_allclose(to_ternary(map_.weight).detach().numpy(), expected, rtol=1e-6)
    x = torch.randn(3, 8)
    incoming = torch.randn(3, 4)
    map_(x).backward(incoming)
    # Straight through: as if the weight had been its own ternary value.
    torch.testing.assert_close(map_.weight.grad, incoming.T @ x)


@pytest.mark.parametrize("linears", ["ternary", "float8"])
def test_the_packed_folder_decodes_to_the_exported_one(
    linears: str, tiny: TrainOptions, sources: Path, tmp_path: Path
) -> None:
    from steelyard.formats.logical import LogicalCheckpoint
    from steelyard.reference.export import export, export_packed
    from steelyard.reference.train import Run

    options = tiny.model_copy(update={"linears": linears, "steps": 3, "decay_steps": 1})
    run = Run(tmp_path / "run", options, sources=sources)
    run.train()
    export(tmp_path / "run", tmp_path / "dense", options)
    nbytes = export_packed(tmp_path / "dense", tmp_path / "packed", options)
    assert nbytes < (tmp_path / "dense" / "model.safetensors").stat().st_size
    dense, packed = LogicalCheckpoint.open(tmp_path / "dense"), LogicalCheckpoint.open(tmp_path / "packed")
    assert sorted(dense.names) == sorted(packed.names)
    for name in dense.names:
        np.testing.assert_array_equal(np.float32(packed.tensor(name)), np.float32(dense.tensor(name)), name)
    trits = np.float32(dense.tensor("model.layers.0.mlp.up_proj.weight"))
    assert len(np.unique(np.abs(trits))) == 2 if linears == "ternary" else len(np.unique(trits)) <= 256


def test_floats_have_no_codec_of_their_own(tiny: TrainOptions, tmp_path: Path) -> None:
    from steelyard.reference.export import export_packed

    with pytest.raises(UserError, match="float32 have no codec"):
        export_packed(tmp_path, tmp_path / "packed", tiny)


def test_packing_is_asked_for_with_what_it_needs(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from steelyard.cli.train_reference import command

    for asked in (["--linears", "ternary"], ["--export", str(tmp_path / "model")]):
        done = CliRunner().invoke(
            command, [str(tmp_path / "run"), "--export-packed", str(tmp_path / "packed"), *asked]
        )
        assert isinstance(done.exception, UserError) and "--linears ternary or float8" in str(done.exception)
        assert not (tmp_path / "run").exists()
