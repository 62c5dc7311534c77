"""Targets match what they were made for under every spelling, and are read as compressed-tensors reads them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.conftest import Build
from formats.folders import KINDS
from steelyard.formats.targets import make_targets, matching, module_name, spellings


def test_a_target_names_its_layers_and_leaves_the_prefix_open(written: Build) -> None:
    spec = written("llama", "float32", "dense").spec
    modules = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "model.embed_tokens", "lm_head"]
    assert make_targets(spec, modules) == [
        r"re:(model\.)?layers\.(0|1)\.mlp\.up_proj$",
        r"re:(model\.)?embed_tokens$",
        "lm_head",
    ]


def test_a_headless_file_is_matched_under_a_head(written: Build) -> None:
    spec = written("bert", "float32", "dense").spec
    (target,) = make_targets(spec, ["encoder.layer.1.output.dense"])
    assert target == r"re:(bert\.)?encoder\.layer\.(1)\.output\.dense$"
    assert spellings(spec, "encoder.layer.1.output.dense")[1] == "bert.encoder.layer.1.output.dense"


def test_the_head_is_called_what_the_model_calls_it(written: Build) -> None:
    spec = written("gpt_neox", "float32", "dense").spec
    assert "embed_out.weight" in spec.tensors
    assert module_name(spec, "embed_out.weight") == "lm_head"
    assert make_targets(spec, ["lm_head"]) == ["lm_head"]


@pytest.mark.parametrize("kind", list(KINDS))
@settings(deadline=None)
@given(data=st.data())
def test_targets_match_their_modules_and_no_others(written: Build, kind: str, data: st.DataObject) -> None:
    spec = written(kind, "float32", "steelyard").spec
    names = [name for name, tensor in spec.tensors.items() if tensor.kind in ("linear", "embedding")]
    modules = [module_name(spec, name) for name in names]
    chosen = data.draw(st.lists(st.sampled_from(modules), unique=True, min_size=1))
    targets = make_targets(spec, chosen)
    for module in modules:
        for spelling in spellings(spec, module):
            assert len(matching(targets, spelling)) == int(module in chosen)


_WORDS = st.sampled_from(
    ["Linear", "Embedding", "a.0.up", "a.1.up", "lm_head", "re:a", "re:.*up$", r"re:(m\.)?a\.(0|1)\.up$"]
)


@settings(deadline=None)
@given(
    targets=st.lists(_WORDS, unique=True),
    name=st.sampled_from(["a.0.up", "a.1.up", "m.a.0.up", "lm_head", "b"]),
    kind=st.sampled_from(["Linear", "Embedding"]),
)
def test_targets_are_matched_in_the_loaders_order(targets: list[str], name: str, kind: str) -> None:
    match = pytest.importorskip("compressed_tensors.utils.match")
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(1, 1) if kind == "Linear" else torch.nn.Embedding(1, 1)
    assert matching(targets, name, kind) == match.match_targets(name, module, targets)
