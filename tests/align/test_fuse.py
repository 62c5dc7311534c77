"""Fusion: plans against linear programs, copies that give the original back, fits against plain least squares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.optimize import linprog

from steelyard.cli.fuse import command
from steelyard.edits.align.forward import run
from steelyard.edits.align.fuse import fuse_folder
from steelyard.edits.align.moments import Moments
from steelyard.edits.align.opened import open_two
from steelyard.edits.align.options import FuseOptions
from steelyard.edits.align.pleas import LeastSquares, Partial, fully, join
from steelyard.edits.align.transport import transport
from steelyard.errors import UserError
from steelyard.jobs import open_model

from .networks import FAMILIES, draw, family, write
from .test_weights import shuffle


def best_cost(cost: np.ndarray) -> float:
    """The optimum of the linear program that defines a plan."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    right = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    found = linprog(cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=right, bounds=(0, None))
    return float(found.fun)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_an_exact_plan_costs_what_the_linear_program_says(n: int, m: int, seed: int) -> None:
    if n != m:
        pytest.importorskip("ot")
    cost = np.random.default_rng(seed).random((n, m))
    plan = transport(cost)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / n)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / m)
    assert plan.min() >= 0 and (plan * cost).sum() == pytest.approx(best_cost(cost))


def test_an_entropic_plan_is_that_of_pot_and_nears_the_exact_one() -> None:
    cost = np.random.default_rng(3).random((6, 4))
    costs = []
    for regularization in (1.0, 0.1, 0.01):
        plan = transport(cost, regularization, rounds=20_000)
        np.testing.assert_allclose(plan.sum(axis=0), 1 / 4, atol=1e-8)
        np.testing.assert_allclose(plan.sum(axis=1), 1 / 6, atol=1e-8)
        costs.append(float((plan * cost).sum()))
    assert costs[0] > costs[1] > costs[2] >= best_cost(cost) - 1e-9
    assert costs[2] == pytest.approx(best_cost(cost), rel=0.01)
    ot = pytest.importorskip("ot")
    theirs = ot.sinkhorn(np.full(6, 1 / 6), np.full(4, 1 / 4), cost / cost.mean(), 0.1, stopThr=1e-12)
    np.testing.assert_allclose(transport(cost, 0.1), theirs, atol=1e-7)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("method", ["otfusion", "pleas"])
def test_a_shuffled_copy_gives_the_original_back(tmp_path: Path, name: str, method: str) -> None:
    original = family(tmp_path / "original", name)
    copy, _ = shuffle(tmp_path / "copy", name, seed=3)
    options = FuseOptions.model_validate({"method": method, "fit": False, "sweeps": 2})
    fuse_folder(original, copy, tmp_path / "one", options)
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("original", "one"))
    assert set(ours) == set(theirs)
    for key in ours:
        np.testing.assert_allclose(theirs[key], ours[key], atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("method", ["otfusion", "pleas"])
def test_a_shuffled_copy_matched_and_fitted_on_text_gives_the_original_back(
    tmp_path: Path, name: str, method: str
) -> None:
    pytest.importorskip("torch")
    original = family(tmp_path / "original", name)
    copy, _ = shuffle(tmp_path / "copy", name, seed=3)
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(3, 96, 1200))
    text = {"data": str(tmp_path / "tokens.npy"), "sequences": 16, "sequence_length": 32}
    options = FuseOptions.model_validate({"method": method, "match": "activations", **text})
    done = fuse_folder(original, copy, tmp_path / "one", options)
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("original", "one"))
    for key in ours:
        np.testing.assert_allclose(theirs[key], ours[key], atol=1e-4)
    if method == "pleas":
        assert done.residuals is not None and max(done.residuals) < 1e-6


@pytest.mark.parametrize("reads", ["sum", "mean"])
def test_a_feed_forward_of_twins_is_fused_into_one_of_half_the_width(tmp_path: Path, reads: str) -> None:
    pytest.importorskip("ot")
    narrow = family(tmp_path / "narrow", "gpt2", n_inner=16)
    tensors = load_file(narrow / "model.safetensors")
    twins = {}
    for name, tensor in tensors.items():
        axis = {"c_fc.weight": 1, "c_fc.bias": 0}.get(".".join(name.split(".")[-2:]))
        if ".mlp." in name and axis is not None:
            tensor = np.repeat(tensor, 2, axis=axis)
        elif name.endswith("mlp.c_proj.weight"):
            tensor = np.repeat(tensor, 2, axis=0) / 2
        twins[name] = tensor
    wide = write(tmp_path / "wide", {**FAMILIES["gpt2"], "n_inner": 32}, twins)
    fuse_folder(narrow, wide, tmp_path / "one", FuseOptions.model_validate({"share": 1.0, "reads": reads}))
    fused = load_file(tmp_path / "one/model.safetensors")
    name = "transformer.h.0.mlp.c_proj.weight"
    expected = tensors[name] / (1 if reads == "sum" else 2)
    np.testing.assert_allclose(fused[name], expected, atol=1e-6)
    np.testing.assert_allclose(
        fused["transformer.h.1.mlp.c_fc.weight"], tensors["transformer.h.1.mlp.c_fc.weight"], atol=1e-6
    )
    back = fuse_folder(wide, narrow, tmp_path / "two", FuseOptions(share=1.0))
    assert back.ffn == 32
    np.testing.assert_allclose(load_file(tmp_path / "two/model.safetensors")[name], twins[name], atol=1e-6)


def test_models_of_other_widths_are_fused_into_the_first_ones_shape(tmp_path: Path) -> None:
    first = family(tmp_path / "first", "llama", 1)
    second = family(tmp_path / "second", "llama", 2, hidden_size=32, intermediate_size=28)
    done = fuse_folder(first, second, tmp_path / "one", FuseOptions(regularization=0.05))
    fused, ours = load_file(tmp_path / "one/model.safetensors"), load_file(first / "model.safetensors")
    assert {name: t.shape for name, t in fused.items()} == {name: t.shape for name, t in ours.items()}
    assert all(np.isfinite(t).all() for t in fused.values()) and done.ffn == 20
    with pytest.raises(UserError, match="do not fit each other"):
        fuse_folder(first, second, tmp_path / "two", FuseOptions(method="pleas", fit=False))
    with pytest.raises(UserError, match="heads of attention"):
        other = family(tmp_path / "other", "llama", 2, num_attention_heads=12, num_key_value_heads=4, head_dim=4)
        fuse_folder(first, other, tmp_path / "two")


def test_a_fit_is_that_of_plain_least_squares(tmp_path: Path) -> None:
    """Down of a block with inner channels partly joined: rows and columns as numpy's lstsq has them."""
    folders = [family(tmp_path / str(seed), "llama", seed) for seed in (1, 2)]
    random = np.random.default_rng(0)
    x, y = random.standard_normal((300, 20)) + 0.3, random.standard_normal((300, 20))
    y[:, :8] += x[:, 3:11]
    with open_two(*folders, same_size=True) as two:
        spaces = {space: fully(random.permutation(size)) for space, size in two.symmetry.sizes.items()}
        space = "layer.0.ffn"
        spaces[space] = join(random.permutation(20), random.random((20, 20)), 30)
        name = "model.layers.0.mlp.down_proj.weight"
        moments = {"model.layers.0.mlp.down_proj": Moments.of(x, y)}
        squares = LeastSquares(two, spaces, moments, ridge=0.0)
        found, start = squares.tensor(name), squares.mean(name)
        w, v = two.read_first(name).astype(np.float64), two.read_second(name).astype(np.float64)
    part, stream = spaces[space], spaces["stream"]
    assert found.shape == (24, 30) and len(part.joined_first) == 10
    z = np.concatenate(
        [(x[:, part.joined_first] + y[:, part.joined_second]) / 2, x[:, part.first], y[:, part.second]], axis=1
    )
    put = ((x @ w.T)[:, stream.joined_first] + (y @ v.T)[:, stream.joined_second]) / 2
    expected = np.linalg.lstsq(z, put, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, atol=1e-8)
    before, after = squares.residuals[name]
    power = (put**2).sum()
    assert before == pytest.approx(((put - z @ start.T) ** 2).sum() / power)
    assert after == pytest.approx(((put - z @ expected.T) ** 2).sum() / power) and after < before


def test_kept_units_see_nothing_of_the_other_model(tmp_path: Path) -> None:
    """Both sides partly joined, with a bias: each group of outputs fitted on the inputs it may see."""
    folders = [family(tmp_path / str(seed), "gpt2", seed) for seed in (1, 2)]
    random = np.random.default_rng(0)
    x, y = random.standard_normal((400, 24)) + 0.5, random.standard_normal((400, 24)) - 0.2
    with open_two(*folders, same_size=True) as two:
        spaces = {space: fully(np.arange(size)) for space, size in two.symmetry.sizes.items()}
        spaces["stream"] = join(random.permutation(24), random.random((24, 24)), 30)
        spaces["layer.1.ffn"] = join(random.permutation(96), random.random((96, 96)), 100)
        name = "transformer.h.1.mlp.c_fc"
        squares = LeastSquares(two, spaces, {name: Moments.of(x, y)}, ridge=0.0)
        weight, bias = squares.tensor(f"{name}.weight").T, squares.tensor(f"{name}.bias")
        maps = [
            (r(f"{name}.weight").astype(np.float64).T, r(f"{name}.bias")) for r in (two.read_first, two.read_second)
        ]
    reads, writes = spaces["stream"], spaces["layer.1.ffn"]
    z = np.concatenate(
        [(x[:, reads.joined_first] + y[:, reads.joined_second]) / 2, x[:, reads.first], y[:, reads.second]], axis=1
    )
    puts = [v @ w.T + b for v, (w, b) in zip((x, y), maps, strict=True)]
    own = len(reads.joined_first) + np.arange(6)
    joined = np.arange(len(reads.joined_first))
    groups = (
        ((puts[0][:, writes.joined_first] + puts[1][:, writes.joined_second]) / 2, [*joined, *own, *(own + 6)]),
        (puts[0][:, writes.first], [*joined, *own]),
        (puts[1][:, writes.second], [*joined, *(own + 6)]),
    )
    start = 0
    for put, columns in groups:
        taken = np.concatenate([z[:, columns], np.ones((len(z), 1))], axis=1)
        expected = np.linalg.lstsq(taken, put, rcond=None)[0].T
        rows = slice(start, start + put.shape[1])
        np.testing.assert_allclose(weight[rows][:, columns], expected[:, :-1], atol=1e-8)
        np.testing.assert_allclose(bias[rows], expected[:, -1], atol=1e-7)
        hidden = np.setdiff1d(np.arange(z.shape[1]), columns)
        assert np.array_equal(weight[rows][:, hidden], np.zeros((put.shape[1], len(hidden))))
        start += put.shape[1]
    assert start == 100


def test_twice_the_width_holds_both_feed_forwards(tmp_path: Path) -> None:
    """Models that differ in their feed-forwards alone: the result adds the mean of what both add."""
    config = {**FAMILIES["llama"], "num_hidden_layers": 1}
    first, other = draw(config, 1), draw(config, 2)
    second = {name: other[name] if ".mlp." in name else tensor for name, tensor in first.items()}
    folders = write(tmp_path / "a", config, first), write(tmp_path / "b", config, second)
    options = FuseOptions(method="pleas", width=2.0, fit=False, sweeps=1)
    with open_two(*folders, same_size=True) as two:
        plain = {space: fully(np.arange(size)) for space, size in two.symmetry.sizes.items()}
        plain["layer.0.ffn"] = join(np.arange(20), np.eye(20), 40)
        squares = LeastSquares(two, plain, {})
        block = "model.layers.0.mlp."
        gate, up, down = (squares.mean(f"{block}{part}_proj.weight") for part in ("gate", "up", "down"))
    x = np.random.default_rng(0).standard_normal((5, 24))

    def through(gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        inner = x @ gate.T
        return np.asarray((inner / (1 + np.exp(-inner)) * (x @ up.T)) @ down.T)

    both = [through(*(t[f"{block}{part}_proj.weight"] for part in ("gate", "up", "down"))) for t in (first, second)]
    np.testing.assert_allclose(through(gate, up, down), (both[0] + both[1]) / 2, atol=1e-6)
    done = fuse_folder(*folders, tmp_path / "one", options)
    assert done.ffn == 40 and done.joined == 0


def test_a_width_between_is_met_and_loads(tmp_path: Path) -> None:
    folders = [family(tmp_path / str(seed), "qwen3", seed) for seed in (1, 2)]
    result = CliRunner().invoke(
        command,
        [
            *map(str, folders),
            "--out",
            str(tmp_path / "one"),
            "--method",
            "pleas",
            "--width",
            "1.3",
            "--no-fit",
            "--json",
        ],
    )
    told = json.loads(result.output)
    assert told["ffn"] == 26 and told["joined"] == 14
    config = json.loads((tmp_path / "one/config.json").read_text())
    assert config["intermediate_size"] == 26
    with open_model(tmp_path / "one") as opened, open_model(folders[0]) as one:
        assert opened.spec.parameter_count() == told["parameters"] == one.spec.parameter_count() + 3 * 6 * 24
        logits = run(opened.spec, opened.checkpoint.tensor, np.arange(12)[None])
    assert np.isfinite(logits).all()
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.float64)
    with torch.no_grad():
        theirs = model(torch.arange(12)[None]).logits.numpy()
    np.testing.assert_allclose(theirs, logits, atol=1e-4)


def test_parts_of_a_space() -> None:
    part = join(np.array([2, 0, 1]), np.diag([0.0, 0, 0]) + np.array([[0, 0, 5.0], [1, 0, 0], [0, 3, 0]]), 4)
    assert part.joined_first.tolist() == [0, 2] and part.joined_second.tolist() == [2, 1]
    assert part.first.tolist() == [1] and part.second.tolist() == [0] and part.size == 4
    assert part.read(0).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert part.written(1).tolist() == [[0, 0, 0.5], [0, 0.5, 0], [0, 0, 0], [1, 0, 0]]
    assert isinstance(part, Partial) and part.of(1).tolist() == [True, True, False, True]


def test_all_heads_of_both_give_the_mean_of_what_their_attentions_give(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    config = {**FAMILIES["llama"], "num_hidden_layers": 1, "attention_bias": False}
    first, other = draw(config, 1), draw(config, 2)
    second = {name: other[name] if ".self_attn." in name else tensor for name, tensor in first.items()}
    folders = write(tmp_path / "a", config, first), write(tmp_path / "b", config, second)
    options = FuseOptions(method="pleas", width=2.0, heads=True, fit=False)
    done = fuse_folder(*folders, tmp_path / "one", options)
    assert done.kv_heads == 4
    given = torch.from_numpy(np.random.default_rng(0).integers(0, 96, (2, 9)))
    found = []
    for folder in (*folders, tmp_path / "one"):
        model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(loading.values())
        seen = []
        model.model.layers[0].self_attn.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out[0]))
        model(given)
        found.append(seen[0].detach().numpy())
    assert np.abs(found[0] - found[1]).max() > 0.1
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, atol=1e-5)


@pytest.mark.parametrize(("width", "kv_heads"), [(1.0, 2), (1.5, 3), (1.7, 3), (2.0, 4)])
def test_so_many_heads_as_the_width_says(tmp_path: Path, width: float, kv_heads: int) -> None:
    original = family(tmp_path / "original", "qwen3")
    copy, _ = shuffle(tmp_path / "copy", "qwen3", seed=3)
    done = fuse_folder(
        original, copy, tmp_path / "one", FuseOptions(method="pleas", width=width, heads=True, fit=False)
    )
    assert done.kv_heads == kv_heads
    # What is kept of a copy beside the original reads and writes half of what the original does, twice.
    with open_model(original) as one, open_model(tmp_path / "one") as two:
        tokens = np.random.default_rng(0).integers(0, 96, (1, 12))
        logits = [run(m.spec, lambda name, m=m: m.checkpoint.tensor(name), tokens) for m in (one, two)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def test_heads_that_transformers_would_not_load(tmp_path: Path) -> None:
    folders = [family(tmp_path / str(seed), "llama", seed) for seed in (1, 2)]
    with pytest.raises(UserError, match="makes 9 heads, and transformers loads a llama of 24 channels only with"):
        fuse_folder(*folders, tmp_path / "one", FuseOptions(method="pleas", width=1.5, heads=True, fit=False))


def test_heads_that_share_the_width_of_the_model(tmp_path: Path) -> None:
    folders = [family(tmp_path / str(seed), "gpt2", seed) for seed in (1, 2)]
    with pytest.raises(
        UserError, match="is a gpt2, whose heads share the width of the model; only llama, mistral, qwen3"
    ):
        fuse_folder(*folders, tmp_path / "one", FuseOptions(method="pleas", heads=True, fit=False))
