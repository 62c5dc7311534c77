"""A local cluster of two workers writes what threads write; `make test-ray` runs these, in its own environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge.siblings import rewrite, weights, write_sibling
from steelyard.budget.merge import merge_file
from steelyard.edits.merge import cluster
from steelyard.edits.merge.options import MergeOptions
from steelyard.errors import UserError, WeightError
from tiny_llama import digest, write_tiny

METHODS = {
    "linear": "models: [{model: %s/one}, {model: %s/two}]\nmerge_method: linear\n",
    "dare_ties": (
        "models: [{model: %s/one, parameters: {density: 0.5}}, {model: %s/two, parameters: {density: 0.4}}]\n"
        "merge_method: dare_ties\nbase_model: %s/base\nparameters: {rescale: true}\n"
    ),
    "della": (
        "models: [{model: %s/one, parameters: {density: 0.5, epsilon: 0.1}}, {model: %s/two}]\n"
        "merge_method: della\nbase_model: %s/base\n"
    ),
    "arcee_fusion": "models: [{model: %s/one}]\nmerge_method: arcee_fusion\nbase_model: %s/base\n",
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    write_tiny(folder / "base", dtype="bfloat16")
    write_sibling(folder / "one", 1, dtype="bfloat16")
    write_sibling(folder / "two", 2, dtype="bfloat16")
    return folder


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[Any]:
    """Ray, with one cluster for all tests, as a user's would be."""
    found = pytest.importorskip("ray", reason="Ray is not installed; make test-ray runs these")
    found.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield found
    found.shutdown()


def recipe(folder: Path, method: str, family: Path) -> Path:
    path = folder / f"{method}.yml"
    path.write_text(METHODS[method].replace("%s", str(family)))
    return path


@pytest.mark.parametrize("method", METHODS)
def test_the_same_bytes_as_threads(
    family: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "UNIT", 1000)  # so that tensors are taken apart
    path = recipe(tmp_path, method, family)
    for name, engine in (("threads", "threads"), ("ray", "ray")):
        (tmp_path / name).mkdir()
        merge_file(path, tmp_path / name / "out", MergeOptions(engine=engine, workers=2, seed=3))
    assert digest(tmp_path / "ray" / "out") == digest(tmp_path / "threads" / "out")


def test_relative_paths_mean_what_they_mean_here(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(family)
    made = merge_file(
        {"models": [{"model": "one"}, {"model": "two"}], "merge_method": "linear"},
        tmp_path / "out",
        MergeOptions(engine="ray", workers=2),
    )
    assert made[0].nbytes == (tmp_path / "out" / "model.safetensors").stat().st_size


def test_a_value_that_is_not_finite_is_named(family: Path, tmp_path: Path) -> None:
    write_sibling(tmp_path / "bad", 4, dtype="bfloat16")
    held = weights(tmp_path / "bad")
    held["model.norm.weight"][5] = np.nan
    rewrite(tmp_path / "bad", held)
    models = [{"model": f"{family}/one"}, {"model": f"{tmp_path}/bad"}]
    with pytest.raises(WeightError, match=r"bad: model.norm.weight holds nan at \[5\]"):
        merge_file(
            {"models": models, "merge_method": "slerp", "base_model": f"{family}/one"},
            tmp_path / "out",
            MergeOptions(engine="ray", workers=2),
        )
    assert not (tmp_path / "out").exists()


def test_what_is_written_is_not_done_again(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted run goes on; the second hands out only what the first left."""
    path = recipe(tmp_path, "dare_ties", family)
    (tmp_path / "right").mkdir()
    merge_file(path, tmp_path / "right" / "out", MergeOptions(seed=1))
    taken: list[str] = []
    take = cluster._Driver._take

    def stops(self: Any, result: Any) -> None:
        if len(taken) == 9:
            raise KeyboardInterrupt
        taken.append("")
        take(self, result)

    monkeypatch.setattr(cluster._Driver, "_take", stops)
    with pytest.raises(KeyboardInterrupt):
        merge_file(path, tmp_path / "out", MergeOptions(seed=1, engine="ray", workers=2))
    taken.clear()

    def counts(self: Any, result: Any) -> None:
        taken.append("")
        take(self, result)

    monkeypatch.setattr(cluster._Driver, "_take", counts)
    merge_file(path, tmp_path / "out", MergeOptions(seed=1, engine="ray", workers=2), resume=True)
    assert len(taken) == 21 - 9
    assert digest(tmp_path / "out") == digest(tmp_path / "right" / "out")


def test_a_lost_worker_is_made_up_for(
    ray: Any, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_out = cluster._Driver._hand_out
    killed: list[Any] = []

    def kills(self: Any) -> None:
        hand_out(self)
        if not killed:
            killed.append(self._actors[0].handle)
            ray.kill(self._actors[0].handle)

    monkeypatch.setattr(cluster._Driver, "_hand_out", kills)
    path = recipe(tmp_path, "della", family)
    (tmp_path / "threads").mkdir()
    merge_file(path, tmp_path / "threads" / "out")
    merge_file(path, tmp_path / "out", MergeOptions(engine="ray", workers=2))
    assert killed and digest(tmp_path / "out") == digest(tmp_path / "threads" / "out")


def test_a_node_that_reads_other_models(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.MergePlan, "hash", lambda self: "another")
    with pytest.raises(UserError, match="storage that all nodes share"):
        merge_file(recipe(tmp_path, "linear", family), tmp_path / "out", MergeOptions(engine="ray", workers=1))


def test_no_cluster_at_an_address(ray: Any, family: Path, tmp_path: Path) -> None:
    ray.shutdown()
    try:
        with pytest.raises(UserError, match=r"no Ray cluster at 127.0.0.1:1 .*ray start --head"):
            merge_file(
                recipe(tmp_path, "linear", family),
                tmp_path / "out",
                MergeOptions(engine="ray", cluster="127.0.0.1:1"),
            )
    finally:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
