"""Every byte of a fit is accounted for: planned, written and under the budget, for many budgets and layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import steelyard as sy
from steelyard.budget.fit import FitResult, dry_run
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.options import FitOptions
from steelyard.budget.planning import Planner
from steelyard.errors import UserError
from steelyard.formats import get
from steelyard.jobs import open_model
from tiny_llama import CONFIG, image, shapes, weight_bytes


def fit(model: Path, out: Path, **options: Any) -> FitResult:
    return sy.fit(model, out=out, data="none", effort="quick", **options)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "steelyard.json").read_bytes())


def check_bytes(result: FitResult, budget: int) -> None:
    """The invariant: planned = written <= budget, and no improving step still fits."""
    sizes = result.report.sizes
    assert sizes.planned == sizes.written == weight_bytes(result.out) <= budget == sizes.budget
    assert record(result.out)["bytes"]["planned"] == sizes.written
    assert sizes.step is None or budget - sizes.written < sizes.step
    assert sum(row.new for row in sizes.roles) == sizes.written


@pytest.mark.parametrize("format", ["compressed-tensors", "steelyard"])
@pytest.mark.parametrize("name", ["tiny_llama", "tied_llama"])
def test_planned_bytes_are_written_bytes(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, format: str
) -> None:
    model = request.getfixturevalue(name)
    original = weight_bytes(model)
    for number, share in enumerate([0.9, 0.41]):
        result = fit(model, tmp_path / f"{number}", ratio=share, format=format)
        check_bytes(result, int(share * original))


@pytest.mark.parametrize("format", ["compressed-tensors", "steelyard"])
@pytest.mark.parametrize("name", ["tiny_llama", "tied_llama"])
def test_every_budget_is_used_and_never_exceeded(request: pytest.FixtureRequest, name: str, format: str) -> None:
    """Plans alone, for many budgets: the smallest, one byte more, one byte less, and drawn ones."""
    with open_model(request.getfixturevalue(name)) as opened:
        planner = Planner(opened, get(format), FitOptions(ratio=1, data="none", effort="quick"))
        planner.learn(KnowledgeBase(None), {})
        smallest, whole = planner.smallest_size(), opened.checkpoint.weight_bytes
        with pytest.raises(UserError, match=f"smallest feasible size is {smallest:,} bytes"):
            planner.plan(smallest - 1, {})

        @settings(max_examples=40, deadline=None)
        @given(st.integers(smallest, whole + 100), st.integers(0, 3000))
        def check(budget: int, more: int) -> None:
            low, high = planner.plan(budget, {}).solution, planner.plan(budget + more, {}).solution
            for spent, given_bytes in ((low, budget), (high, budget + more)):
                assert spent.nbytes <= given_bytes
                assert spent.slack == given_bytes - spent.nbytes
                assert spent.next_step is None or spent.slack < spent.next_step
            # Two budgets are solved apart; what the additive sizes miss is a few bytes of header.
            assert high.damage <= low.damage * (1 + 1e-9) or more < 64

        check()
        assert planner.plan(smallest, {}).solution.nbytes == smallest
        rich = planner.plan(10 * whole, {}).solution
        assert rich.damage == 0 and rich.nbytes <= whole + 8 and rich.next_step is None


def test_more_bytes_less_damage_on_disk(tmp_path: Path, tiny_llama: Path) -> None:
    """Predicted from the recorded errors of what was written, not from the solver's own sum."""
    damages = []
    for bits in (3.5, 5, 7.5):
        result = fit(tiny_llama, tmp_path / f"{bits}", bits=bits, format="steelyard")
        parameters = sum(int(np.prod(shape)) for shape in shapes().values())
        check_bytes(result, int(bits * parameters / 8))
        damages.append(sum(error**2 for error in record(result.out)["errors"].values()))
    assert damages[0] > damages[1] > damages[2] > 0


@pytest.mark.parametrize("format", ["compressed-tensors", "steelyard"])
def test_several_files_and_their_index_count(tmp_path: Path, tiny_llama: Path, format: str) -> None:
    out = tmp_path / "out"
    budget = 150_000
    result = fit(tiny_llama, out, size=budget, format=format, max_shard_size="40kB")
    check_bytes(result, budget)
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) >= 3 and all(path.stat().st_size <= 40_000 for path in shards)
    index = out / "model.safetensors.index.json"
    assert weight_bytes(out) == sum(path.stat().st_size for path in [*shards, index])
    # The reference reader finds every tensor where the index says, and nothing else.
    from safetensors import safe_open

    weight_map = json.loads(index.read_text())["weight_map"]
    found = {}
    for path in shards:
        with safe_open(path, "np") as file:
            found.update(dict.fromkeys(file.keys(), path.name))
    assert found == weight_map


def test_a_tied_table_written_apart(tmp_path: Path, tied_llama: Path) -> None:
    from safetensors.numpy import load_file

    with open_model(tied_llama) as opened:
        planner = Planner(
            opened, get("compressed-tensors"), FitOptions(ratio=1, data="none", effort="quick", format="auto")
        )
        smallest = planner.smallest_size()
    out = tmp_path / "out"
    check_bytes(fit(tied_llama, out, size=smallest + 64, format="compressed-tensors"), smallest + 64)
    config = json.loads((out / "config.json").read_bytes())
    stored = load_file(out / "model.safetensors")
    apart = "lm_head.weight_packed" in stored
    assert apart == (config["tie_word_embeddings"] is False)
    if apart:
        assert stored["model.embed_tokens.weight"].dtype == np.int8
    else:
        assert stored["model.embed_tokens.weight"].dtype.itemsize == 2


def test_a_tied_table_is_packed_once_in_our_format(tmp_path: Path, tied_llama: Path) -> None:
    from safetensors.numpy import load_file

    out = tmp_path / "out"
    check_bytes(fit(tied_llama, out, bits=4.6, format="steelyard"), int(4.6 / 8 * parameters_of(tied_llama)))
    assert not [name for name in load_file(out / "model.safetensors") if "lm_head" in name]
    config = json.loads((out / "config.json").read_bytes())
    assert config["tie_word_embeddings"] is True
    assert "model.embed_tokens.weight" in config["quantization_config"]["tensors"]


def parameters_of(model: Path) -> int:
    with open_model(model) as opened:
        return opened.spec.parameter_count()


def test_kept_tensors_stay_bit_for_bit(tmp_path: Path, tiny_llama: Path) -> None:
    from safetensors.numpy import load_file

    out = tmp_path / "out"
    fit(tiny_llama, out, ratio=0.6, keep=(r"layers\.1\.mlp\.down_proj", "o_proj", "norm"))
    before, after = load_file(tiny_llama / "model.safetensors"), load_file(out / "model.safetensors")
    kept = [name for name in before if "norm" in name or "o_proj" in name or "layers.1.mlp.down_proj" in name]
    assert len(kept) == 8
    for name in kept:
        np.testing.assert_array_equal(before[name], after[name], strict=True)
    assert "model.layers.0.mlp.down_proj.weight" in record(out)["errors"]


def test_a_budget_for_weights_and_cache(tmp_path: Path, tiny_llama: Path) -> None:
    # Keys and values of 2 layers, 2 heads of 16, 2 bytes each, for 3 sequences of 100 tokens.
    cache = 2 * 2 * 2 * 16 * 2 * 3 * 100
    memory = 150_000 + cache
    check_bytes(fit(tiny_llama, tmp_path / "out", memory=memory, context=100, batch=3), 150_000)
    options = FitOptions(memory=memory, context=100, batch=6, data="none", effort="quick")
    assert dry_run(tiny_llama, options).budget == 150_000 - cache


def test_a_dry_run_plans_what_a_run_writes(tmp_path: Path, tiny_llama: Path) -> None:
    before = image(tiny_llama)
    plan = dry_run(tiny_llama, FitOptions(ratio=0.4, data="none", effort="quick"))
    assert image(tiny_llama) == before
    result = fit(tiny_llama, tmp_path / "out", ratio=0.4)
    assert plan.nbytes == weight_bytes(result.out)
    written = {name: item["codec"] for name, item in record(result.out)["plan"]["tensors"].items()}
    assert set(plan.tensors) == set(written) == set(shapes())
    assert {name for name, label in plan.tensors.items() if label == "as stored"} == {
        name for name, codec in written.items() if codec is None
    }


def test_the_layers_own_shapes_are_those_of_the_config() -> None:
    """The builder of these tests is held against transformers once."""
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == shapes()
