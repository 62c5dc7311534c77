"""`steelyard experts`, from the command line to the merged folder, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors.numpy import save_file
from tests.merge.experts import load, write_experts
from tests.tiny_llama import write_tiny

from steelyard.cli import application
from steelyard.edits.merge.inputs import StoredModel
from steelyard.edits.merge.zoo import cluster, likeness
from steelyard.errors import UserError

LENGTH = ["--sequences", "4", "--sequence-length", "16"]


def call(*arguments: str | Path) -> Any:
    """Run a command and return what it printed as JSON."""
    result = CliRunner().invoke(application, ["experts", *map(str, arguments)], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], Path]:
    folder = tmp_path_factory.mktemp("models")
    base, experts = write_experts(folder, count=2, dtype="float32", size=0.3)
    tokens = folder / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 60, 400))
    return base, experts, tokens


def test_search_writes_the_best_recipe_it_measured(
    models: tuple[Path, dict[str, str], Path], tmp_path: Path
) -> None:
    _, experts, tokens = models
    recipe = tmp_path / "recipe.yaml"
    entries = [{"model": place, "parameters": {"weight": 0.5}} for place in experts.values()]
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": entries}))
    found = call(
        "search", recipe, "--search", "weight=0.1:1", "--data", f"t={tokens}", "--evaluations", "7", *LENGTH,
        "--out", tmp_path / "found.yaml", "--json",
    )  # fmt: skip
    scores = [each["score"] for each in found["evaluations"]]
    assert len(scores) == 7 and scores[0] == 1 and found["best"] == int(np.argmin(scores))
    written = yaml.safe_load((tmp_path / "found.yaml").read_text())
    assert written == found["recipe"]
    best = found["evaluations"][found["best"]]["numbers"]
    assert [each["parameters"]["weight"] for each in written["models"]] == best
    assert set(found["before"]) == {"t"}
    more = ["--search", "weight=0.1:1", "--data", f"t={tokens}", "--evaluations", "8", *LENGTH, "--resume"]
    again = CliRunner().invoke(
        application, ["experts", "search", str(recipe), *more, "--out", str(tmp_path / "found.yaml")]
    )
    assert again.exit_code == 0 and "8 recipes measured (7 before)" in again.output


def test_merge_searches_before_it_merges(models: tuple[Path, dict[str, str], Path], tmp_path: Path) -> None:
    _, experts, tokens = models
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    entries = [{"model": place, "parameters": {"weight": 0.5}} for place in experts.values()]
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": entries}))
    more = ["--tune", "weight=0.1:1", "--data", str(tokens), "--evaluations", "3"]
    ran = CliRunner().invoke(application, ["merge", str(recipe), str(out), *more])
    assert ran.exit_code == 0, ran.output
    models_ = yaml.safe_load((tmp_path / "out.yaml").read_text())["models"]
    weights = np.array([each["parameters"]["weight"] for each in models_])
    first, second = (load(place) for place in experts.values())
    for name, value in load(out).items():
        expected = (weights[0] * first[name] + weights[1] * second[name]) / weights.sum()
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    refused = CliRunner().invoke(application, ["merge", str(recipe), str(tmp_path / "x"), "--tune", "weight=0:1"])
    assert isinstance(refused.exception, UserError) and "give both" in str(refused.exception)


def test_learned_coefficients_are_a_recipe(models: tuple[Path, dict[str, str], Path], tmp_path: Path) -> None:
    base, experts, tokens = models
    found = call(
        "learn", base, *experts.values(), "--data", f"t={tokens}", "--steps", "3", *LENGTH,
        "--out", tmp_path / "learned.yaml", "--json",
    )  # fmt: skip
    assert found["coefficients"] == 2 * len(load(base)) and len(found["losses"]) == 3
    assert found["before"]["t"] != found["after"]["t"]


def test_greedy_soup_from_the_command_line(models: tuple[Path, dict[str, str], Path], tmp_path: Path) -> None:
    _, experts, tokens = models
    places = list(experts.values())
    found = call(
        "soup",
        *places,
        "--kind",
        "greedy",
        "--data",
        f"t={tokens}",
        *LENGTH,
        "--out",
        tmp_path / "s.yaml",
        "--json",
    )
    assert found["losses"]["t"] <= min(found["alone"].values())
    assert found["barriers"][0]["models"] == places
    with pytest.raises(UserError, match="--kind greedy needs --data"):
        call("soup", *places, "--data", f"t={tokens}", "--out", tmp_path / "x.yaml")


def test_packed_experts_unpack(models: tuple[Path, dict[str, str], Path], tmp_path: Path) -> None:
    base, experts, tokens = models
    named = [f"{task}={place}" for task, place in experts.items()]
    data = [part for task in experts for part in ("--data", f"{task}={tokens}")]
    found = call(
        "pack", base, *named, *data, "--thresholds", "0.2,0.6", "--dtype", "float32", *LENGTH,
        "--out", tmp_path / "store", "--json",
    )  # fmt: skip
    assert set(found["thresholds"]) == set(experts)
    result = CliRunner().invoke(
        application, ["experts", "unpack", str(tmp_path / "store"), "task1", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    vectors = {task: {n: v - load(base)[n] for n, v in load(place).items()} for task, place in experts.items()}
    lam = np.float32(found["thresholds"]["task1"])
    for name, value in load(tmp_path / "out").items():
        merged = vectors["task0"][name] + vectors["task1"][name]
        own = vectors["task1"][name]
        mask = np.abs(own) > lam * np.abs(merged - own)
        np.testing.assert_array_equal(value, load(base)[name] + mask * merged)
    with pytest.raises(UserError, match="name every expert once, as TASK=EXPERT"):
        call("pack", base, "nothing", "--out", tmp_path / "other")


def test_clusters_recover_the_bases(tmp_path: Path) -> None:
    first, experts = write_experts(tmp_path / "one", count=2, size=0.005)
    draw = np.random.default_rng(99)
    second = write_tiny(tmp_path / "two" / "base", dtype="bfloat16")
    weights = {name: draw.standard_normal(value.shape).astype(np.float32) for name, value in load(first).items()}
    save_file(weights, second / "model.safetensors", metadata={"format": "pt"})
    wider = write_tiny(tmp_path / "three", num_hidden_layers=1)
    places = [*experts.values(), str(second), str(first), str(wider)]
    opened = {place: StoredModel.open(place) for place in places}
    zoo = cluster(opened)
    assert [found.models for found in zoo.clusters] == [
        (*experts.values(), str(first)),
        (str(second),),
        (str(wider),),
    ]
    a, b = load(experts["task0"]), load(first)
    matrices = [name for name in a if ".layers." in name and a[name].ndim == 2]
    cosines = [
        np.mean((a[n] * b[n]).sum(0) / np.linalg.norm(a[n], axis=0) / np.linalg.norm(b[n], axis=0))
        for n in matrices
    ]
    assert likeness(opened[places[0]], opened[str(first)]) == pytest.approx(np.mean(cosines), rel=1e-5)
    for model in opened.values():
        model.close()


def test_a_zoo_becomes_recipes(models: tuple[Path, dict[str, str], Path], tmp_path: Path) -> None:
    _, experts, tokens = models
    places, other = list(experts.values()), str(write_tiny(tmp_path / "other", num_hidden_layers=1))
    found = call(
        "cluster",
        *places,
        other,
        "--threshold",
        "0.2",
        "--data",
        tokens,
        *LENGTH,
        "--out",
        tmp_path / "zoo",
        "--json",
    )
    assert [each["models"] for each in found["clusters"]] == [places, [other]]
    scores = found["strategies"][0]["scores"]
    assert set(scores) == {"best alone", "greedy soup", "linear", "karcher"}
    assert found["strategies"][0]["name"] == min(scores, key=scores.get)
    mixed = yaml.safe_load((tmp_path / "zoo" / "mixture.yaml").read_text())
    assert [each["source_model"] for each in mixed["experts"]] == [str(tmp_path / "zoo" / "cluster-1"), other]
    ran = CliRunner().invoke(
        application, ["merge", str(tmp_path / "zoo" / "cluster-1.yaml"), str(tmp_path / "zoo" / "cluster-1")]
    )
    assert ran.exit_code == 0 and sorted(load(tmp_path / "zoo" / "cluster-1")) == sorted(load(places[0]))
