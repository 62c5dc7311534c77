"""compressed-tensors folders in plain transformers, in a process that cannot import steelyard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from formats.conftest import Build, class_of
from formats.folders import KINDS

pytest.importorskip("compressed_tensors")

TIED = ("llama-tied", "gpt2", "bert-masked")
CASES = [(kind, dtype, False) for kind in KINDS for dtype in ("float32", "bfloat16")]
CASES += [(kind, "float32", True) for kind in TIED] + [("llama-tied", "bfloat16", True)]


def name_of(kind: str, dtype: str, apart: bool) -> str:
    return f"{kind} {dtype}{' apart' if apart else ''}"


@pytest.fixture(scope="module")
def loaded(written: Build, load_plainly: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    jobs = {
        name_of(kind, dtype, apart): (written(kind, dtype, "compressed-tensors", apart), class_of(kind))
        for kind, dtype, apart in CASES
    }
    # Without its head a model calls its modules otherwise.
    for kind in ("llama", "llama-tied", "qwen3", "gpt_neox"):
        jobs[f"{kind} headless"] = (written(kind, "bfloat16", "compressed-tensors"), "AutoModel")
    jobs["bert headed"] = (written("bert", "bfloat16", "compressed-tensors"), "BertForSequenceClassification")
    for kind in ("llama", "bert"):
        jobs[f"{kind} dense"] = (written(kind, "float32", "dense"), class_of(kind))
    return load_plainly(jobs)


@pytest.mark.parametrize(("kind", "dtype", "apart"), CASES)
def test_loads_to_the_very_numbers_that_were_decoded(
    loaded: dict[str, Any], kind: str, dtype: str, apart: bool
) -> None:
    result = loaded[name_of(kind, dtype, apart)]
    assert "error" not in result, result["error"]
    assert result == {
        "missing": [],
        "unexpected": [],
        "mismatched": [],
        "differing": [],
        "difference": 0.0,
        "dtype": f"torch.{dtype}",
    }


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen3", "gpt_neox"])
def test_a_model_without_its_head_gets_its_own_weights(loaded: dict[str, Any], kind: str) -> None:
    result = loaded[f"{kind} headless"]
    assert "error" not in result, result["error"]
    assert (result["missing"], result["differing"], result["difference"]) == ([], [], 0.0)
    assert all(name.startswith(("lm_head.", "embed_out.")) for name in result["unexpected"])


def test_a_model_with_a_new_head_gets_the_weights_of_its_body(loaded: dict[str, Any]) -> None:
    result = loaded["bert headed"]
    assert set(result["missing"]) == {"classifier.weight", "classifier.bias"}
    assert set(result["differing"]) <= {"classifier.weight", "classifier.bias"}
    assert result["unexpected"] == []


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_dense_folders_load(loaded: dict[str, Any], kind: str) -> None:
    result = loaded[f"{kind} dense"]
    assert (result["missing"], result["unexpected"], result["differing"]) == ([], [], [])
    assert result["difference"] == 0.0
