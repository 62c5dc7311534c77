"""Merges from and to fsspec URLs: the same bytes, and no model under the name before all of it is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from command_line import Steelyard
from steelyard.budget.merge import merge_file
from steelyard.edits.merge.options import MergeOptions
from steelyard.errors import UserError
from steelyard.weights.delivery import local_of, url_of
from tiny_llama import image


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An empty store of objects; results pass through the current folder."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    monkeypatch.chdir(tmp_path)
    yield system
    system.store.clear()


def recipe(family: Path, tmp_path: Path, where: str = "") -> Path:
    path = tmp_path / "recipe.yml"
    first, second = (f"{where or family}/{name}" for name in ("one", "two"))
    path.write_text(f"models: [{{model: '{first}'}}, {{model: '{second}'}}]\nmerge_method: linear\n")
    return path


def stored(system: Any, root: str) -> dict[str, bytes]:
    return {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}


def test_the_folder_arrives_as_it_would_be_written_here(
    steelyard: Steelyard, family: Path, tmp_path: Path, memory: Any
) -> None:
    path = recipe(family, tmp_path)
    ended = steelyard("merge", path, "memory://models/out")
    assert ended.code == 0 and ended.out.startswith("memory://models/out: ")
    merge_file(path, tmp_path / "out")
    assert stored(memory, "/models/out") == image(tmp_path / "out")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "recipe.yml"]
    ended = steelyard("merge", path, "memory://models/out")
    assert ended.code == 2 and "memory://models/out already exists" in ended.err


def test_inputs_behind_urls_merge_to_the_same_numbers(family: Path, tmp_path: Path, memory: Any) -> None:
    for name in ("one", "two"):
        memory.put(str(family / name), f"/inputs/{name}", recursive=True)
    merge_file(recipe(family, tmp_path, "memory://inputs"), tmp_path / "remote")
    merge_file(recipe(family, tmp_path), tmp_path / "local")
    file = "model.safetensors"
    assert (tmp_path / "remote" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()


def test_a_file_url_is_a_folder_here(family: Path, tmp_path: Path) -> None:
    path = recipe(family, tmp_path, f"file://{family}")
    (made,) = merge_file(path, f"file://{tmp_path}/out")
    assert made.out == tmp_path / "out" and (tmp_path / "out" / "config.json").exists()


def test_the_config_comes_last_and_what_arrived_is_not_sent_again(
    family: Path, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(family, tmp_path)
    opened: list[str] = []
    dead = [True]
    original = type(memory).open

    def breaks(self: Any, target: str, mode: str = "rb", **settings: Any) -> Any:
        if mode == "wb":
            opened.append(target.rpartition("/")[2])
            if dead and opened[-1] == "model.safetensors":
                raise OSError("the line is dead")
        return original(self, target, mode, **settings)

    monkeypatch.setattr(type(memory), "open", breaks)
    with pytest.raises(UserError, match="cannot write memory://models/out: the line is dead"):
        merge_file(path, "memory://models/out")
    sent = list(opened)
    assert not memory.exists("/models/out/config.json") and memory.exists("/models/out/README.md")
    with pytest.raises(UserError, match="already exists"):
        merge_file(path, "memory://models/out")
    opened.clear()
    dead.clear()
    (made,) = merge_file(path, "memory://models/out", resume=True)
    assert made.out == "memory://models/out" and made.method == "linear" and made.tensors == 21
    assert opened[0] == "model.safetensors" and opened[-1] == "config.json"
    assert not set(sent[:-1]) & set(opened)
    merge_file(path, tmp_path / "out")
    assert stored(memory, "/models/out") == image(tmp_path / "out")
    with pytest.raises(UserError, match="nothing to resume"):
        merge_file(path, "memory://models/out", resume=True)


def test_a_format_and_a_url_go_together(family: Path, tmp_path: Path, memory: Any) -> None:
    path = recipe(family, tmp_path)
    (made,) = merge_file(path, "memory://models/small", MergeOptions(format="fp8", stage=str(tmp_path / "stage")))
    merge_file(path, tmp_path / "small", MergeOptions(format="fp8"))
    found = stored(memory, "/models/small")
    assert found["model.safetensors"] == (tmp_path / "small" / "model.safetensors").read_bytes()
    assert made.nbytes == len(found["model.safetensors"])
    assert list((tmp_path / "stage").iterdir()) == []


@pytest.mark.parametrize("url", ["memory://", "nosuch://bucket/model"])
def test_places_that_are_none(family: Path, tmp_path: Path, memory: Any, url: str) -> None:
    with pytest.raises(UserError, match=r"new folder|cannot write"):
        merge_file(recipe(family, tmp_path), url)
    assert [item.name for item in tmp_path.iterdir()] == ["recipe.yml"]


def test_urls_survive_paths() -> None:
    assert url_of(Path("s3://bucket/model")) == url_of("s3://bucket/model/") == "s3://bucket/model"
    assert url_of("out") is None and url_of(Path("a/b")) is None and url_of("file:///a/b") is None
    assert local_of("file:///a/b") == local_of(Path("file:///a/b")) == Path("/a/b")
    assert local_of("a/b") == Path("a/b")
    assert url_of("C:/models") is None
